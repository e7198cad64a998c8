"""A file for its owner only, put in the place of another one in one step."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_private(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file (0600) that is whole or not there, whoever reads or replaces it meanwhile.
    `durable`: also after a power cut. Blocks; raises OSError, and then the old file stays."""
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh)
        raise
