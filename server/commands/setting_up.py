"""`podium setup`: install the pinned qwen, find a model endpoint, try it, write the settings."""

import asyncio
import os
import shlex
import shutil
from contextlib import suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
from rich.console import Console

from server.addresses import fault_of, is_plain, is_remote
from server.agents.installation import NODE_HINT, find_node, install_directory
from server.agents.qwen_runner import QwenRunner
from server.commands.doctor.examine import show, tried_models
from server.commands.shared import UNAVAILABLE
from server.commands.terminal import clean
from server.ports import AgentUnavailable, ModelEndpoint, Probe
from server.settings import Settings, default_file, load
from server.settings.file import Added, add_endpoint, section
from server.settings.sources import FLAGS
from server.world import SystemClock

USUAL_PORTS = {
    "Ollama": "http://127.0.0.1:11434/v1",
    "llama.cpp": "http://127.0.0.1:8080/v1",
    "vLLM": "http://127.0.0.1:8000/v1",
    "LM Studio": "http://127.0.0.1:1234/v1",
}
GIVEN = "given"
NAME = "default"
KEY_VARIABLE = "OPENAI_API_KEY"
EXAMPLE = "https://models.example.org/v1"
INSTALL_SECONDS = 600.0
LOCK = "package-lock.json"


class Found(NamedTuple):
    """An endpoint that can be used."""

    endpoint: ModelEndpoint
    probe: Probe


async def set_up(console: Console, settings: Settings, *, base_url: str | None, model: str) -> int:
    """Do all of it and say each step; returns the exit code. Doing it again changes nothing."""
    try:
        await install_qwen(console)
        agent = QwenRunner(settings.directory, clock=SystemClock())
        console.print(f"✓ qwen {await agent.check()}")
        candidates = {GIVEN: base_url} if base_url else await _listening()
        if not candidates:
            raise AgentUnavailable(
                "no_endpoint",
                f"no model server answers on the usual ports ({', '.join(USUAL_PORTS)})",
                hint="start one, or give its address: podium setup --url URL --model NAME",
            )
        found = await _first_usable(console, agent, candidates, model=model)
    except AgentUnavailable as error:
        console.print(clean(f"✗ {error.message}"), markup=False)
        if error.hint:
            console.print(f"  → {error.hint}", markup=False)
        return UNAVAILABLE
    await _write_settings(console, found)
    if not await _list_models(console, agent, settings.data):
        return UNAVAILABLE
    where = f" --data {shlex.quote(settings.data)}" if settings.source("data") == FLAGS else ""
    console.print(f"\nnow: podium run{where} /code-review", markup=False, soft_wrap=True)
    return 0


async def install_qwen(console: Console) -> None:
    """Install the pinned qwen where this podium looks for it, unless it is there."""
    target = install_directory()
    package = resources.files("server.agents").joinpath("qwen")
    files = await asyncio.to_thread(_files_of, package)
    if await asyncio.to_thread(_is_installed, target, files):
        return
    node = (await asyncio.to_thread(find_node)).named
    path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    npm = await asyncio.to_thread(shutil.which, "npm", path=path)
    if npm is None:
        raise AgentUnavailable("npm_missing", "npm is not installed", hint=NODE_HINT)
    await asyncio.to_thread(_lay_out, target, files)
    console.print("installing the pinned qwen …")
    await _npm_install(npm, node, target)
    await asyncio.to_thread(_let_search_run, target)


def _files_of(package: Traversable) -> dict[str, bytes]:
    return {name: package.joinpath(name).read_bytes() for name in ("package.json", LOCK)}


def _lay_out(target: Path, files: dict[str, bytes]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (target / name).write_bytes(content)


def _is_installed(target: Path, files: dict[str, bytes]) -> bool:
    """Whether the wanted packages are there. npm writes its own lock last: without it an install
    was cut short."""
    try:
        same = (target / LOCK).read_bytes() == files[LOCK]
    except FileNotFoundError:
        return False
    return same and (target / "node_modules" / ".package-lock.json").exists()


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
    says = f"it did not end within {INSTALL_SECONDS:.0f} s"
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(INSTALL_SECONDS):
                _, errors = await process.communicate()
                says = errors.decode(errors="replace")[-500:].strip()
    finally:
        await _end(process)
    if process.returncode:
        raise AgentUnavailable(
            "install_failed",
            f"npm could not install qwen: {says}",
            hint=f"try it by hand: cd {target} && npm ci --ignore-scripts",
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it, unless it has ended."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


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
) -> Found:
    """Try the endpoints as an agent would use them; raises what the last one lacks, and says what
    the others do."""
    failure: AgentUnavailable | None = None
    for name, url in candidates.items():
        if failure is not None:
            console.print(clean(f"✗ {failure.message}"), markup=False)
        given = name == GIVEN
        console.print(f"trying {url if given else f'{name} at {url}'} …", markup=False)
        try:
            return await _usable(agent, url.rstrip("/"), model=model, given=given)
        except AgentUnavailable as error:
            failure = error
    assert failure is not None
    raise failure


async def _usable(agent: QwenRunner, url: str, *, model: str, given: bool) -> Found:
    """Try one. The key of the environment goes only to an address that a person gave, and only
    when it is asked for."""
    _check_address(url)
    endpoint = ModelEndpoint(name=NAME, base_url=url, api_key="", model=model)
    key = os.environ.get(KEY_VARIABLE, "")
    try:
        return Found(endpoint, await agent.probe(endpoint))
    except AgentUnavailable as error:
        if error.reason != "endpoint_refused_key" or not (given and key):
            raise
    endpoint = msgspec.structs.replace(endpoint, api_key=key)
    return Found(endpoint, await agent.probe(endpoint))


def _check_address(url: str) -> None:
    fault = fault_of(url)
    if fault is not None:
        raise AgentUnavailable("bad_address", f"the address {fault}", hint=f"as {EXAMPLE}")
    if is_remote(url) and is_plain(url):
        raise AgentUnavailable(
            "plaintext",
            f"{url} is beyond this machine and not encrypted",
            hint=f"use https, or write it into {default_file()} with `remote = true` and"
            " `plaintext = true` when everyone on the way may read along",
        )


async def _write_settings(console: Console, found: Found) -> None:
    """Put the endpoint into the settings file, unless that names one already."""
    fields: dict[str, str | bool] = {
        "base_url": found.endpoint.base_url,
        "model": found.probe.public.model,
    }
    if found.endpoint.api_key:
        fields["api_key_env"] = KEY_VARIABLE
    if is_remote(found.endpoint.base_url):
        fields["remote"] = True
    path = default_file()
    match await asyncio.to_thread(add_endpoint, path, NAME, fields):
        case Added.WRITTEN:
            says = f"✓ wrote {path}"
        case Added.THERE:
            says = f"✓ {path} names it already"
        case Added.BY_HAND:
            says = f"– {path} is left as it is; put this into it:\n\n{section(NAME, fields)}"
    console.print(clean(says), markup=False, highlight=False, soft_wrap=True)


async def _list_models(console: Console, agent: QwenRunner, data: str) -> bool:
    """What the settings now come to; False when some launch could not run."""
    settings = await asyncio.to_thread(load, {"data": data}, os.environ)
    well = True
    async for diagnosis in tried_models(agent, settings):
        well &= show(console, diagnosis)
    return well
