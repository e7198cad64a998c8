"""Measure an installed qwen against a scripted model, and say what differs from the pinned one.

`make bump-qwen VERSION=x` installs that version into a folder that is thrown away and calls this.
Nothing that podium does with an attempt is left out, and nothing here trusts the version: it gets
an empty folder, an empty home, and a model on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.briefing import Prompt
from protocol.ids import RunId, StepId
from server.agents import invocation
from server.agents.installation import Installation
from server.agents.invocation import Door, Places
from server.agents.profile import PINNED, Profile, encode
from server.demo.app import Behaviour
from server.ports import AgentOrder, AttemptLimits, AttemptRef, ModelEndpoint
from tests.fakes.model import FakeModel, calls, refuses, says, serving

SECONDS = 90.0
"""One start of the agent, on a slow machine."""
SIZE_TOLERANCE = 0.03
"""The first request holds the names of folders."""
SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string"}, "end": {"const": "complete"}},
    "required": ["word", "end"],
    "additionalProperties": False,
}
FILES = {"a.py": "A = 1\n"}
DELIVERS = calls("structured_output", {"word": "yes", "end": "complete"})


INIT = ("system", "init")


class Seen(NamedTuple):
    """What one start of the agent showed."""

    exit_code: int
    lines: list[dict[str, Any]]
    requests: list[bytes]
    """The bodies of all chat requests, in order."""
    request_tools: frozenset[str]
    """What the first of them offers."""

    @property
    def init(self) -> dict[str, Any]:
        lines = (it for it in self.lines if (it.get("type"), it.get("subtype")) == INIT)
        return next(lines, {})

    @property
    def request_bytes(self) -> int:
        return len(self.requests[0]) if self.requests else 0

    @property
    def init_tools(self) -> frozenset[str]:
        return frozenset(map(str, self.init.get("tools", [])))


class Measured(NamedTuple):
    profile: Profile
    """Its `tools` are what it offered, allowed or not."""
    notes: list[str]
    """What is strange in itself, whatever the pinned version does."""


# --- measuring ----------------------------------------------------------------------------------


async def measure(node: Path, cli: Path, version: str) -> Measured:
    """Start the agent a handful of times and write down what it does."""
    # The flags are those of the pinned profile: the question is what they still hold back.
    installed = Installation(node, cli, PINNED.version)
    bare = await start(installed, DELIVERS, change=_without_our_flags, deny=False)
    delivered = await start(installed, DELIVERS)
    others = {
        "plain_text": await start(installed, says("I would rather talk.")),
        "refused_key": await start(installed, refuses(401)),
        "turn_limit": await start(installed, *_reads(9), turns=2),
        "call_limit": await start(installed, *_reads(9), tool_calls=1),
    }
    everything = [delivered, *others.values()]
    offered = bare.init_tools | bare.request_tools
    tools = delivered.init_tools | delivered.request_tools
    profile = Profile(
        version=version,
        mode=str(delivered.init.get("permission_mode", "none")),
        tools=tools,
        excluded=PINNED.excluded,
        offered_by_default=offered,
        flags=frozenset(await help_flags(node, cli)) & PINNED.flags,
        init_keys=frozenset(delivered.init),
        events=frozenset(kind for seen in everything for kind in map(kind_of, seen.lines)),
        request_bytes=delivered.request_bytes,
        exit_codes={"delivered": delivered.exit_code}
        | {name: seen.exit_code for name, seen in others.items()},
    )
    return Measured(profile, list(_strange(delivered, version)))


def _strange(seen: Seen, version: str) -> Iterator[str]:
    said = seen.init.get("qwen_code_version")
    if said != version:
        yield f"its first line says version {said}, not {version}"
    if seen.init_tools != seen.request_tools:
        differing = ", ".join(sorted(seen.init_tools ^ seen.request_tools))
        yield f"the first line and the model request offer different tools: {differing}"
    if seen.init.get("mcp_servers") != []:
        yield f"it has tool servers: {seen.init.get('mcp_servers')}"


def _reads(times: int) -> list[Behaviour]:
    """Reads of different files: equal ones would end in the CLI's own loop detection."""
    return [calls("read_file", {"file_path": f"/nothing/{n}.py"}) for n in range(times)]


def _without_our_flags(words: list[str]) -> list[str]:
    return [*words[:2], "--approval-mode", PINNED.mode, "--output-format", "stream-json"]


async def start(
    installed: Installation,
    *behaviours: Behaviour,
    turns: int = 8,
    tool_calls: int = 20,
    change: Callable[[list[str]], list[str]] = lambda words: words,
    deny: bool = True,
    files: Mapping[str, str] = FILES,
    inside: bool = False,
) -> Seen:
    """Start the agent once, as an attempt does, and wait for its end.

    `change`, `deny` and `inside` (the tree as its working directory) take guards away.
    """
    model = FakeModel(*behaviours)
    recorder = Recorder(model.app)
    with tempfile.TemporaryDirectory(prefix="podium-bump-") as folder:
        async with serving(recorder) as url:  # type: ignore[arg-type]  # any ASGI app is served
            place = Path(folder)
            order = _order(place, url, turns=turns, tool_calls=tool_calls)
            places = Places(place / "attempt")
            settings = invocation.settings(installed, order)
            if not deny:
                del settings["permissions"]
            await asyncio.to_thread(_lay_out, places, order, settings, files)
            words = change(invocation.command(installed, order, places))
            environment = invocation.environment(installed, order, places, Door(url, "none"))
            cwd = order.tree if inside else places.cwd
            code = await _run(words, environment, places, cwd=cwd, prompt=order.prompt.user)
        lines = await asyncio.to_thread(_lines, places.stdout)
    first = model.requests[0].tools if model.requests else None
    tools = frozenset(tool.function.name for tool in first or [])
    return Seen(code, lines, recorder.bodies, tools)


def _order(place: Path, url: str, *, turns: int, tool_calls: int) -> AgentOrder:
    return AgentOrder(
        ref=AttemptRef(RunId("r"), StepId("s"), 1),
        session_id="11111111-1111-4111-8111-111111111111",
        prompt=Prompt(system="You are measured.", user="Say yes.\n"),
        schema=SCHEMA,
        tree=place / "tree",
        repository=place / "tree",
        endpoint=ModelEndpoint(name="d", base_url=url, api_key="none", model="fake"),
        limits=AttemptLimits(
            turns=turns,
            tool_calls=tool_calls,
            answer_tokens=777,
            context_tokens=None,
            total_seconds=SECONDS,
            first_byte_seconds=SECONDS,
            idle_seconds=SECONDS,
        ),
    )


def _lay_out(
    places: Places, order: AgentOrder, settings: dict[str, Any], files: Mapping[str, str]
) -> None:
    places.home.mkdir(parents=True)
    places.cwd.mkdir()
    for name, text in files.items():
        place = order.tree / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    places.settings.write_text(json.dumps(settings), "utf-8")
    places.schema.write_text(json.dumps(order.schema), "utf-8")


async def _run(
    words: Sequence[str],
    environment: dict[str, str],
    places: Places,
    *,
    cwd: Path,
    prompt: str,
) -> int:
    """Run to the end; what is still there after that, or after too long, is killed."""
    with places.stdout.open("wb") as stdout, places.stderr.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=cwd,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,  # a regular file: on a pipe the agent loses its last lines
            stderr=stderr,
            start_new_session=True,
        )
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                await process.communicate(prompt.encode())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = await process.wait()
    return code


def _lines(stdout: Path) -> list[dict[str, Any]]:
    return [_line(line) for line in stdout.read_bytes().split(b"\n") if line.strip()]


def _line(text: bytes) -> dict[str, Any]:
    """A line of stdout; what is no JSON object is a kind of its own, and so a difference."""
    with suppress(ValueError):
        read = json.loads(text)
        if isinstance(read, dict):
            return read
    return {"type": "broken"}


async def help_flags(node: Path, cli: Path) -> set[str]:
    """Every flag that `--help` names."""
    with tempfile.TemporaryDirectory(prefix="podium-bump-") as home:
        places = Places(Path(home))
        environment = {"HOME": home, "PATH": "/usr/bin:/bin", "QWEN_CODE_NO_RELAUNCH": "true"}
        words = [str(node), str(cli), "--help"]
        await _run(words, environment, places, cwd=places.directory, prompt="")
        said = await asyncio.to_thread(places.stdout.read_text, "utf-8", "replace")
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", said))


def kind_of(line: dict[str, Any]) -> str:
    """The kind of a line, as `system/init` or `stream_event/message_start`."""
    event = line.get("event")
    detail = event.get("type") if isinstance(event, dict) else line.get("subtype")
    return "/".join(str(part) for part in (line.get("type"), detail) if part)


class Recorder:
    """Passes everything on, and keeps the body of each chat request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""

        async def recorded() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        await self._app(scope, recorded, send)
        if scope["path"].endswith("/chat/completions"):
            self.bodies.append(body)


def draft(found: Profile) -> Profile:
    """Return the profile to start from when the version is to be pinned.

    Nothing that it offers beyond the pinned tools is allowed by it: whoever wants that has to write
    it there by hand.
    """
    seen = {*PINNED.excluded, *found.offered_by_default, *found.tools}
    return msgspec.structs.replace(
        found, tools=PINNED.tools, excluded=tuple(sorted(seen - PINNED.tools))
    )


# --- comparing ----------------------------------------------------------------------------------


def differences(pinned: Profile, found: Profile) -> list[str]:
    """Return what another version does differently, the most dangerous first; none is as good."""
    return [
        *_named("offered although our flags take it away", found.tools - pinned.tools),
        *_new_tools(pinned, found),
        *_named("no longer offered to our agents", pinned.tools - found.tools),
        *_named("a flag that is gone, and with it a guard", pinned.flags - found.flags),
        *([f"mode: {pinned.mode} → {found.mode}"] if pinned.mode != found.mode else []),
        *_codes(pinned, found),
        *_named("no longer in the first line", pinned.init_keys - found.init_keys),
        *_named("new in the first line", found.init_keys - pinned.init_keys),
        *_named("a line that no longer comes", pinned.events - found.events),
        *_named("a line of a new kind", found.events - pinned.events),
        *_named(
            "a tool that is gone by default", pinned.offered_by_default - found.offered_by_default
        ),
        *_size(pinned, found),
    ]


def _named(what: str, names: frozenset[str]) -> list[str]:
    return [f"{what}: {name}" for name in sorted(names)]


def _new_tools(pinned: Profile, found: Profile) -> Iterator[str]:
    told_already = found.tools - pinned.tools
    for name in sorted(found.offered_by_default - pinned.offered_by_default - told_already):
        known = name in pinned.tools or name in pinned.excluded
        yield f"a new tool by default: {name}{'' if known else ' (NOT EXCLUDED YET)'}"


def _codes(pinned: Profile, found: Profile) -> Iterator[str]:
    for case, code in pinned.exit_codes.items():
        if found.exit_codes.get(case) != code:
            yield f"exit code of {case}: {code} → {found.exit_codes.get(case)}"


def _size(pinned: Profile, found: Profile) -> Iterator[str]:
    change = found.request_bytes - pinned.request_bytes
    if abs(change) > SIZE_TOLERANCE * pinned.request_bytes:
        yield f"the first request: {pinned.request_bytes} → {found.request_bytes} bytes"


# --- the command --------------------------------------------------------------------------------


def main() -> None:
    """Print the differences; exit code 1 when there is one."""
    parser = argparse.ArgumentParser(description="Measure a qwen, and compare it with the pinned.")
    parser.add_argument("version")
    parser.add_argument("--node", type=Path, required=True)
    parser.add_argument("--cli", type=Path, required=True)
    parser.add_argument(
        "--write", type=Path, required=True, help="where a draft of its profile goes"
    )
    options = parser.parse_args()
    found = asyncio.run(measure(options.node, options.cli, options.version))
    options.write.parent.mkdir(parents=True, exist_ok=True)
    options.write.write_bytes(encode(draft(found.profile)))
    told = [*found.notes, *differences(PINNED, found.profile)]
    print(f"qwen {options.version} beside the pinned {PINNED.version}:")
    for line in told or ["no difference"]:
        print(f"  {'!' if told else '✓'} {line}")
    print(f"a draft of its profile: {options.write}")
    sys.exit(1 if told else 0)


if __name__ == "__main__":
    main()
