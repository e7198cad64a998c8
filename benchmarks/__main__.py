"""`make bench`: measures what the design promises of speed and size, and prints one table.

Each figure is of this machine and this run. One JSON line per run goes to stdout's last line.
"""

import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.containment import containment_costs
from benchmarks.fan_out import Costs, fan_out
from benchmarks.relay import first_token
from benchmarks.replay import replay_rows
from benchmarks.rows import Row, millis, seconds, shares, show
from benchmarks.server import Bench, stand_in
from benchmarks.snapshot import snapshot_rows
from protocol.commands import Launch
from protocol.frames import FlowRunStepTool
from protocol.ids import ProjectId
from server.client import Client
from server.demo.process import DemoProcess
from server.local import read_server_file

FILES = 200
STARTS = 5


async def main() -> int:
    rows = [*await start_and_size(), await launch_to_process()]
    rows += await agent_to_socket(rate=50, name="agent writes → socket, 50 frames/s")
    rows += await agent_to_socket(rate=1_000, name="agent writes → socket, 1,000 frames/s")
    rows += await relay_rows()
    rows += [row for panes in (10, 100) for row in fan_out_rows(await fan_out(panes))]
    rows += await replay_rows()
    rows += await containing()
    rows += await asyncio.to_thread(snapshot_rows)
    show(rows)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"\n{machine}")
    print(json.dumps({"machine": machine, "rows": [row._asdict() for row in rows]}))
    return 0


# --- a server's start, size and stop ------------------------------------------------------------


async def start_and_size() -> list[Row]:
    """Five starts of `podium serve` on an empty DIR."""
    ready, sizes, stops = [], [], []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            process = serve(Path(folder))
            await answering(Path(folder), process)
            ready.append(time.perf_counter() - began)
            sizes.append(resident_mb(process.pid))
            began = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait)
            stops.append(time.perf_counter() - began)
    return [
        Row("start → /readyz", "≤ 1 s", seconds(ready), statistics.median(ready) <= 1),
        Row("idle server, resident", "≤ 80 MB", f"{max(sizes):.0f} MB", max(sizes) <= 80),
        Row("SIGTERM → ended (idle)", "≤ 15 s", seconds(stops), max(stops) <= 15),
    ]


def serve(data: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data", str(data)]
    return subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def answering(data: Path, process: subprocess.Popen[bytes]) -> Client:
    """Wait until the server of DIR is ready."""
    async with httpx.AsyncClient(trust_env=False) as http:
        while process.poll() is None:
            place = read_server_file(data)
            if place is not None and place.pid == process.pid:
                try:
                    if (await http.get(f"{place.url}/readyz")).is_success:
                        return Client(place.url, place.token)
                except httpx.TransportError:
                    pass
            await asyncio.sleep(0.002)
    raise RuntimeError("the server ended")


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


# --- from a launch to a process -----------------------------------------------------------------


async def launch_to_process() -> Row:
    """From the launch message to the first agent process, the endpoint being probed already."""
    took = []
    with tempfile.TemporaryDirectory() as folder:
        data, project = Path(folder) / "data", tree(Path(folder) / "project")
        async with DemoProcess(pace=0) as demo:
            process = serve(data, {"OPENAI_BASE_URL": demo.base_url, "OPENAI_MODEL": "podium-demo"})
            async with await answering(data, process) as client:
                registered = await client.post("/api/projects", {"path": str(project)})
                project_id = ProjectId(registered["id"])
                body = {"project_id": project_id, "command": "/code-review small"}
                await client.post("/api/plans", body)
                for number in range(STARTS):
                    took.append(await one_launch(client, process.pid, project_id, number))
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait)
    good = statistics.median(took) <= 0.3
    return Row(f"launch → first agent process, {FILES} files", "≤ 300 ms", millis(took), good)


async def one_launch(client: Client, pid: int, project_id: ProjectId, number: int) -> float:
    began = time.perf_counter()
    launch = Launch(
        id="1", key=f"bench-{number}", project_id=project_id, command="/code-review small"
    )
    launching = asyncio.create_task(client.launch(launch))
    while not agents_of(pid):
        await asyncio.sleep(0.001)
    took = time.perf_counter() - began
    run_id = await launching
    async for _ in client.follow(run_id):
        pass
    return took


def agents_of(pid: int) -> bool:
    """Whether the process has a child that is the agent."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        try:
            if b"cli.js" in Path(f"/proc/{child}/cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def tree(folder: Path) -> Path:
    """A repository of FILES files with one commit."""
    for number in range(FILES):
        place = folder / f"package{number % 20}" / f"module{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(f"value_{line} = {line}\n" for line in range(100)))
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


# --- from the agent's file to a socket ----------------------------------------------------------


async def agent_to_socket(*, rate: int, name: str) -> list[Row]:
    """One agent that writes at a rate; each frame carries the time it was written."""
    with tempfile.TemporaryDirectory() as folder:
        project = tree(Path(folder) / "project")
        async with stand_in(Path(folder) / "data", project, model=f"rate-{rate}-for-4") as bench:
            delays = await watched(bench)
    p50, p99 = statistics.median(delays), statistics.quantiles(delays, n=100)[98]
    measured = f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, {len(delays)} frames"
    return [Row(name, "≤ 100 ms", measured, p99 <= 0.1)]


async def watched(bench: Bench) -> list[float]:
    delays = []
    async with Client(bench.url, bench.token) as client:
        projects = (await client.get("/api/projects"))["projects"]
        launch = Launch(
            id="1",
            key="bench",
            project_id=ProjectId(projects[0]["id"]),
            command="/code-review small --only generalist",
        )
        async for frame in client.follow(await client.launch(launch)):
            if isinstance(frame, FlowRunStepTool) and frame.name == "glob" and frame.args:
                delays.append(time.time() - float(json.loads(frame.args)["at"]))
    return delays


# --- the relay ----------------------------------------------------------------------------------


async def relay_rows() -> list[Row]:
    return [
        Row(
            f"relay, added to the first token, {added.size // 1000} kB request",
            "≤ 2 ms",
            str(added),
            added.median <= 0.002,
        )
        for added in await first_token()
    ]


# --- a delivery ---------------------------------------------------------------------------------

LOOSE = 1 / 1.6
"""Of the design's bound; its target is 1/2."""


def fan_out_rows(costs: Costs) -> list[Row]:
    """CPU of one delivery as a share of `websocket.send` beside it."""
    single, joined = statistics.median(costs.single), statistics.median(costs.joined)
    name = f"delivery to {costs.panes} panes, of websocket.send"
    plain = f"; send takes {costs.microseconds:.1f} µs"
    return [
        Row(f"{name}: a write per frame", "≤ 1", shares(costs.single) + plain, single <= 1),
        Row(f"{name}: a write per tick", "≤ 0.5", shares(costs.joined), joined <= LOOSE),
    ]


# --- what holding an agent costs ----------------------------------------------------------------


async def containing() -> list[Row]:
    costs = await containment_costs()
    return [
        Row("containment and self-test, per attempt", "≤ 50 ms", costs.contained, costs.good),
        Row("guardian instead, per attempt", "none", costs.guarded, True),
    ]


sys.exit(asyncio.run(main()))
