"""`python -m server.demo`: the demo model as a child process. It ends when its stdin does."""

import argparse
import asyncio
import sys

from server.demo.app import PACE, serve


async def _parent_gone() -> None:
    """Return when stdin ends: the parent holds its other end and nothing is ever written to it."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    await reader.read()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pace", type=float, default=PACE, help="seconds between two pieces")
    options = parser.parse_args()
    asyncio.run(serve(port=options.port, pace=options.pace, stop=_parent_gone))


if __name__ == "__main__":
    main()
