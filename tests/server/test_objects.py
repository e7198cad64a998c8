"""Ids, packs and the index, against git itself."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.agents.copies.git import PrivateGit
from server.agents.copies.objects import (
    BLOB,
    PLAIN,
    RUNNABLE,
    TREE,
    Leaf,
    Object,
    object_id,
    trees_of,
)
from server.agents.copies.stat_index import Indexed, signature_of, write_index

NAMES = st.lists(
    st.sampled_from(["a", "a.b", "a-b", "ab", "b", "é", "a b"]), min_size=1, max_size=3
)
FILES = st.dictionaries(
    NAMES.map("/".join), st.tuples(st.binary(max_size=40), st.booleans()), max_size=12
)


@given(files=FILES, object_format=st.sampled_from(["sha1", "sha256"]))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_trees_packs_and_index_are_gits_own(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, tuple[bytes, bool]],
    object_format: str,
) -> None:
    place = tmp_path_factory.mktemp("objects")
    private = PrivateGit(place / "private.git", object_format=object_format)
    work = place / "work"
    work.mkdir()
    kept: dict[str, tuple[bytes, bool]] = {}
    for path, (content, runnable) in sorted(files.items()):
        try:
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_bytes(content)
        except OSError:
            continue  # a file where another path has a folder
        (work / path).chmod(0o755 if runnable else 0o644)
        kept[path] = content, runnable
    leaves, blobs = [], {}
    for path, (content, runnable) in sorted(kept.items()):
        blob = object_id(BLOB, content, object_format)
        blobs[blob] = Object(BLOB, content)
        leaves.append(Leaf(path.encode(), RUNNABLE if runnable else PLAIN, blob))
    name, trees = trees_of(leaves, object_format)
    private.add([*blobs.items(), *trees.items()])
    listed = git(private, "ls-tree", "-r", "-z", name.hex()).split("\0")
    assert [entry.partition("\t")[2] for entry in listed if entry] == sorted(kept, key=os.fsencode)
    # What git writes from an index of ours has the same name.
    index = place / "index"
    entries = [
        Indexed(
            leaf.path, leaf.mode, leaf.blob, signature_of(os.lstat(work / os.fsdecode(leaf.path)))
        )
        for leaf in leaves
    ]
    write_index(index, entries, object_format)
    extra = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(work)}
    assert git(private, "write-tree", extra=extra).strip() == name.hex()
    asked = git(private, "ls-files", "-m", "-d", "-o", extra=extra, cwd=work)
    assert asked == "", "nothing is changed, gone or new"
    assert git(private, "fsck", "--strict", "--no-dangling", extra=extra) == ""


def git(
    private: PrivateGit, *words: str, extra: dict[str, str] | None = None, cwd: Path | None = None
) -> str:
    env = {**os.environ, "GIT_DIR": str(private.directory), **(extra or {})}
    done = subprocess.run(
        ["git", *words], cwd=cwd or private.directory, env=env, capture_output=True, check=True
    )
    return done.stdout.decode()


def test_the_empty_tree_is_the_one_that_git_knows() -> None:
    assert object_id(TREE, b"", "sha1").hex() == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
    assert trees_of([], "sha1")[0] == object_id(TREE, b"", "sha1")


def test_a_command_that_writes_is_refused(tmp_path: Path) -> None:
    """In a private directory the references are links to the repository's own."""
    private = PrivateGit(tmp_path / "private.git", object_format="sha1")
    for command in ("update-ref", "gc", "commit", "fetch", "symbolic-ref"):
        with pytest.raises(AssertionError):
            private.start(command)
