"""The three import names belong to this distribution alone, and the tree keeps its own rules."""

import importlib.metadata
import re
import subprocess
from pathlib import Path

import server

ROOT = Path(__file__).parent.parent
ROOMS = ("protocol", "flows", "server")


def test_the_rooms_belong_to_podium_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    for room in ROOMS:
        assert set(owners.get(room, ["podium-server"])) == {"podium-server"}


def test_one_version() -> None:
    assert importlib.metadata.version("podium-server") == server.__version__


def test_readme_shows_the_two_commands_first() -> None:
    readme = (ROOT / "README.md").read_text()
    first_block = readme.split("```")[1]
    assert "make run" in first_block
    assert "make test" in first_block
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_readme_names_every_command() -> None:
    from server.cli import main

    text = (ROOT / "README.md").read_text()
    unnamed = {name for name in main.commands if not re.search(rf"\b{name}\b", text)}
    assert unnamed <= {"demo"}


def test_nothing_tracked_names_a_place_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    leak = re.compile(r"(?<![\w.:])/(?:work|root)/\w")
    named = [
        name
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file() and not name.endswith(".png")
        if leak.search((ROOT / name).read_text("utf-8", "replace"))
    ]
    assert named == []
