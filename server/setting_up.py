"""`podium setup`: install the pinned qwen, find a model endpoint, try it, write the settings."""

import asyncio
import json
import os
import shutil
from importlib import resources
from pathlib import Path

import httpx
from rich.console import Console

from server.agents.installation import NODE_HINT, find_node, install_directory
from server.agents.qwen_runner import QwenRunner
from server.ports import AgentUnavailable, ModelEndpoint, Probe
from server.settings import default_data, default_file
from server.world import SystemClock

USUAL_PORTS = {
    "Ollama": "http://127.0.0.1:11434/v1",
    "llama.cpp": "http://127.0.0.1:8080/v1",
    "vLLM": "http://127.0.0.1:8000/v1",
    "LM Studio": "http://127.0.0.1:1234/v1",
}
INSTALL_SECONDS = 600.0
UNAVAILABLE = 4


async def set_up(console: Console, *, base_url: str | None, model: str) -> int:
    """Do all of it and say each step; returns the exit code. Doing it again changes nothing."""
    try:
        await install_qwen(console)
        agent = QwenRunner(default_data(), clock=SystemClock())
        console.print(f"✓ qwen {await agent.check()}")
        candidates = {"given": base_url} if base_url else await _listening()
        if not candidates:
            raise AgentUnavailable(
                "no_endpoint",
                f"no model server answers on the usual ports ({', '.join(USUAL_PORTS)})",
                hint="start one, or give its address: podium setup --url URL --model NAME",
            )
        endpoint, probe = await _first_usable(console, agent, candidates, model=model)
    except AgentUnavailable as error:
        console.print(f"✗ {error.message}", markup=False)
        if error.hint:
            console.print(f"  → {error.hint}", markup=False)
        return UNAVAILABLE
    _write_settings(console, endpoint, probe)
    return 0


async def install_qwen(console: Console) -> None:
    """Install the pinned qwen where this podium looks for it, unless it is there."""
    target = install_directory()
    package = resources.files("server.agents").joinpath("qwen")
    wanted = package.joinpath("package-lock.json").read_bytes()
    lock = target / "package-lock.json"
    if lock.exists() and lock.read_bytes() == wanted and (target / "node_modules").exists():
        return
    node = (await asyncio.to_thread(find_node)).named
    npm = shutil.which("npm", path=f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if npm is None:
        raise AgentUnavailable("npm_missing", "npm is not installed", hint=NODE_HINT)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        (target / name).write_bytes(package.joinpath(name).read_bytes())
    console.print("installing the pinned qwen …")
    await _npm_install(npm, node, target)
    await asyncio.to_thread(_let_search_run, target)


def _let_search_run(target: Path) -> None:
    """The package ships its search tool without the right to be run."""
    for tool in target.glob("node_modules/@qwen-code/qwen-code/vendor/ripgrep/*/rg"):
        tool.chmod(0o755)


async def _npm_install(npm: str, node: Path, target: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        npm,
        "ci",
        "--ignore-scripts",
        "--fetch-retries=2",
        "--no-audit",
        "--no-fund",
        cwd=target,
        env={**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(INSTALL_SECONDS):
        _, errors = await process.communicate()
    if process.returncode:
        raise AgentUnavailable(
            "install_failed",
            f"npm could not install qwen: {errors.decode(errors='replace')[-500:].strip()}",
            hint=f"try it by hand: cd {target} && npm ci --ignore-scripts",
        )


async def _listening() -> dict[str, str]:
    """The usual local model servers that answer."""
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as http:

        async def answers(url: str) -> bool:
            try:
                return (await http.get(f"{url}/models")).status_code < 500
            except httpx.HTTPError:
                return False

        found = await asyncio.gather(*(answers(url) for url in USUAL_PORTS.values()))
    return {name: url for (name, url), here in zip(USUAL_PORTS.items(), found, strict=True) if here}


async def _first_usable(
    console: Console, agent: QwenRunner, candidates: dict[str, str], *, model: str
) -> tuple[ModelEndpoint, Probe]:
    """Try the endpoints as an agent would use them; raises what the last one lacks."""
    failure: AgentUnavailable | None = None
    for name, url in candidates.items():
        endpoint = ModelEndpoint(
            name="default",
            base_url=url.rstrip("/"),
            api_key=os.environ.get("OPENAI_API_KEY", ""),
            model=model,
        )
        console.print(f"trying {name} at {url} …", markup=False)
        try:
            return endpoint, await agent.probe(endpoint)
        except AgentUnavailable as error:
            console.print(f"✗ {name}: {error.message}", markup=False)
            failure = error
    assert failure is not None
    raise failure


def _write_settings(console: Console, endpoint: ModelEndpoint, probe: Probe) -> None:
    """Write the endpoint into the settings file; what else is in it is kept by name."""
    path = default_file()
    console.print(
        f"✓ {probe.public.model} at {probe.public.host}: streams, calls tools, {probe.slots} slots",
        markup=False,
    )
    text = (
        "[endpoints.default]\n"
        f"base_url = {json.dumps(endpoint.base_url)}\n"
        f"model = {json.dumps(probe.public.model)}\n"
    )
    if path.exists() and path.read_text("utf-8") != text:
        console.print(f"{path} exists; put this into it:\n\n{text}", markup=False)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    console.print(f"✓ wrote {path}\n\nnow: podium run /code-review", markup=False)
