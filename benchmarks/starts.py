"""The rows about a server's start, size and stop, and about a launch."""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.options import Options
from benchmarks.rows import Bound, Row, bounded, millis, seconds
from protocol.commands import Launch
from protocol.ids import ProjectId
from server.client import Client
from server.demo.process import DemoProcess
from server.local import read_server_file
from tests.repositories import committed

FILES = 200
STARTS = 5


def start_rows(options: Options) -> list[Row]:
    starts = options.size(STARTS, 1)
    return [*asyncio.run(start_and_size(starts)), imports(starts)]


def launch_rows(options: Options) -> list[Row]:
    return [asyncio.run(launch_to_process(options.size(STARTS, 1)))]


def imports(count: int) -> Row:
    """CPU time of importing what `podium serve` imports, beyond Python's own start."""
    took = [spent("import server.serve, server.cli") - spent("pass") for _ in range(count)]
    return bounded("imports of `podium serve`, CPU", took, Bound(0.5, 1, "s"))


def spent(script: str) -> float:
    """CPU seconds of a Python that runs it; its files were read before."""
    process = subprocess.Popen([sys.executable, "-c", script])
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return usage.ru_utime + usage.ru_stime


async def start_and_size(starts: int) -> list[Row]:
    """Some starts of `podium serve` on an empty DIR."""
    ready, sizes, stops = [], [], []
    for _ in range(starts):
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
        bounded("start → /readyz", ready, Bound(1, 2, "s")),
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


async def launch_to_process(launches: int) -> Row:
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
                for number in range(launches):
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
    text = "".join(f"value_{line} = {line}\n" for line in range(100))
    names = (f"package{number % 20}/module{number}.py" for number in range(FILES))
    return committed(folder, dict.fromkeys(names, text))
