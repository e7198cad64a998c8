"""A server whose agent has children that try to outlive it. Run in a process of its own."""

import asyncio
import sys
from pathlib import Path

from tests.fakes.scripted import allowed, marked, scripted, until

HIDING = """
const { spawn } = require('node:child_process');
const sh = (script) => spawn('/bin/sh', ['-c', script], { stdio: 'ignore', detached: true });
sh('sleep 600');                                              // a session of its own
sh('(sleep 601 &) ; exit 0');                                 // its parent ends
sh('trap "" TERM HUP INT; sleep 602; sleep 602');             // deaf to what can be ignored
const stopped = spawn('sleep', ['603'], { stdio: 'ignore' });
stopped.on('spawn', () => stopped.kill('SIGSTOP'));
sh('(setsid sh -c "(setsid sleep 604 &)" &) ; exit 0');       // all of it at once
setInterval(() => {}, 1000);
"""


def serve() -> None:
    place, mark, kind = sys.argv[1:]
    found = allowed() if kind == "contained" else None

    async def main() -> None:
        async with scripted(Path(place)) as here:
            launch = here.launch(HIDING, found=found, mark=mark)
            if kind == "unguarded":
                launch = launch._replace(guarded=False)
            await here.start_launch(launch)
            await until(lambda: {*_commands(mark)} >= {f"sleep 60{n}" for n in range(5)})
            print("ready", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())


def _commands(mark: str) -> list[str]:
    found = []
    for pid in marked(mark):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        found.append(" ".join(word.decode() for word in words if word))
    return found
