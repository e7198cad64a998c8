"""The golden files: every frame and message as the bytes that clients out there rely on.

Write them anew with `PYTHONPATH=. python -m tests.protocol.golden`, read the difference, and keep
it only when it adds: inside `podium.v1` no field goes away and none changes its meaning. The
TypeScript types for the clients are written with them.
"""

from pathlib import Path

import msgspec

import server
from protocol.codec import encode_frame
from server.contracts import types
from tests.protocol.samples import COMMANDS, FRAMES

FOLDER = Path(__file__).parent.parent / "golden"
TYPES = Path(server.__file__).parent / "web" / "types.d.ts"


def frame_lines() -> list[bytes]:
    return [encode_frame(frame) for frame in FRAMES.values()]


def command_lines() -> list[bytes]:
    return [msgspec.json.encode(command) for command in COMMANDS.values()]


def stored_lines(name: str) -> list[bytes]:
    return (FOLDER / name).read_bytes().splitlines()


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "frames.jsonl").write_bytes(b"\n".join([*frame_lines(), b""]))
    (FOLDER / "commands.jsonl").write_bytes(b"\n".join([*command_lines(), b""]))
    TYPES.write_bytes(types())


if __name__ == "__main__":
    write()
