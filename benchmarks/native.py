"""The programs in C: the limit, and the readers of everything. Compiled at the start of a run."""

import shutil
import subprocess
from pathlib import Path

from benchmarks.options import Missing

SOURCES = Path(__file__).with_name("c")
COMPILERS = ("cc", "gcc", "clang")


def compiled(name: str, folder: Path) -> Path:
    """The program, built below `folder` when it is not there; raises Missing."""
    program = folder / name
    if program.exists():
        return program
    compiler = next((found for it in COMPILERS if (found := shutil.which(it))), None)
    if compiler is None:
        raise Missing("no C compiler: install one (Debian: gcc and libc6-dev)")
    command = [compiler, "-O2", "-o", str(program), str(SOURCES / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"`{Path(compiler).name}` cannot build {name}.c: {done.stderr.strip()[:300]}")
    return program
