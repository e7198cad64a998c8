"""A git repository of some files, with one commit: for tests and benchmarks."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.org")
"""Git commits for nobody who has no name."""


def committed(folder: Path, files: Mapping[str, str]) -> Path:
    """Write the files below `folder` and commit all of them, whatever they tell git to ignore."""
    for name, text in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    for words in (["init", "-q"], ["add", "-A", "-f"], [*IDENTITY, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    return folder
