"""A repository with every trick that makes git run a command or read elsewhere: podium does
neither, and each trick is shown to work on git as people use it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from server.agents.copies import git, listing
from server.agents.copies.changes import find_changes
from server.agents.copies.git import GitError
from server.agents.copies.pinned import Pinned
from server.agents.copies.seen import look
from server.agents.copies.snapshot import Snapshots, pin
from tests.repositories import IDENTITY
from tests.server.test_snapshot import Shop, names, shop, state_of

__all__ = ["shop"]


class Trap:
    """A repository with a change of every kind, and a script that leaves a canary."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.path = shop.path
        self.canary = shop.path.parent / "canary"
        self.script = shop.path.parent / "evil.sh"
        self.script.write_text(f"#!/bin/sh\ntouch '{self.canary}'\nexit 1\n")
        self.script.chmod(0o755)
        shop.commit(a_py="1\n2\n3\n", b_py="1\n", gone_py="gone\n")
        shop.git("checkout", "-qb", "feature")
        shop.commit(a_py="1\ntwo\n3\n")

    def config(self, key: str, value: str | None = None) -> None:
        self.shop.git("config", key, value if value is not None else str(self.script))

    def attribute(self, words: str) -> None:
        (self.path / ".gitattributes").write_text(f"* {words}\n")

    def hook(self, name: str) -> None:
        (self.path / ".git" / "hooks" / name).write_text(self.script.read_text())
        (self.path / ".git" / "hooks" / name).chmod(0o755)

    def naive(self, *words: str) -> None:
        """What people and tools type, whatever comes of it."""
        env = {**os.environ, "GIT_ALLOW_PROTOCOL": "ext:git:ssh:file:http"}
        command = ["git", *IDENTITY, *words]
        asked = b"protocol=https\nhost=none.invalid\n\n"
        subprocess.run(
            command,
            cwd=self.path,
            env=env,
            input=asked,
            capture_output=True,
            timeout=30,
            check=False,
        )


class Trick(NamedTuple):
    name: str
    arm: Callable[[Trap], object]
    naive: tuple[str, ...]


def set_to_script(key: str) -> Callable[[Trap], object]:
    return lambda trap: trap.config(key)


def filtering(kind: str) -> Callable[[Trap], object]:
    def arm(trap: Trap) -> None:
        trap.config(f"filter.evil.{kind}")
        trap.attribute("filter=evil")

    return arm


def diffing(kind: str) -> Callable[[Trap], object]:
    def arm(trap: Trap) -> None:
        trap.config(f"diff.evil.{kind}")
        trap.attribute("diff=evil")

    return arm


def merging(trap: Trap) -> None:
    trap.config("merge.evil.driver")
    trap.attribute("merge=evil")
    trap.shop.git("add", "-A")
    trap.shop.git("commit", "-qm", "attributes")
    trap.shop.git("checkout", "-q", "-b", "other", "main")
    trap.shop.commit(a_py="1\nzwei\n3\n")
    trap.shop.git("checkout", "-q", "feature")


def included(trap: Trap, key: str = "include.path") -> None:
    extra = trap.path.parent / "included"
    extra.write_text(f"[core]\n\tfsmonitor = {trap.script}\n")
    trap.config(key, str(extra))


def signed(trap: Trap) -> None:
    """HEAD is a commit with a signature, which `log.showSignature` has checked."""
    trap.config("gpg.program")
    trap.config("log.showSignature", "true")
    text = trap.shop.git("cat-file", "commit", "HEAD")
    head, _, message = text.partition("\n\n")
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----"
    commit = trap.path.parent / "commit"
    commit.write_text(f"{head}\n{signature}\n\n{message}")
    name = trap.shop.git("hash-object", "-t", "commit", "-w", str(commit)).strip()
    trap.shop.git("update-ref", "refs/heads/feature", name)


def promised(trap: Trap) -> None:
    """The old side of the change is missing; a promisor remote runs a command to fetch it."""
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "protocol.ext.allow": "always",
        "remote.origin.url": f"ext::{trap.script}",
        "remote.origin.promisor": "true",
    }.items():
        trap.config(key, value)
    blob = trap.shop.git("rev-parse", "HEAD~1:a.py").strip()
    (trap.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()


def nested(trap: Trap) -> None:
    """A submodule with a monitor of its own."""
    inner = Shop.__new__(Shop)
    inner.path, inner.data = trap.path / "inner", trap.shop.data
    inner.path.mkdir()
    inner.commit(c_py="1\n")
    trap.shop.git("add", "inner")
    trap.shop.git("commit", "-qm", "inner")
    inner.git("config", "core.fsmonitor", str(trap.script))


def hooked(name: str) -> Callable[[Trap], object]:
    return lambda trap: trap.hook(name)


def hooked_elsewhere(trap: Trap) -> None:
    hooks = trap.path.parent / "hooks"
    hooks.mkdir()
    shutil.copy(trap.script, hooks / "post-index-change")
    trap.config("core.hooksPath", str(hooks))


def renamed_command(trap: Trap) -> None:
    trap.config("alias.st", f"!{trap.script}")


def remote(url: str, *keys: str) -> Callable[[Trap], object]:
    def arm(trap: Trap) -> None:
        trap.config("remote.origin.url", url)
        for key in keys:
            trap.config(key)

    return arm


def external(trap: Trap) -> None:
    trap.config("protocol.ext.allow", "always")
    trap.config("remote.origin.url", f"ext::{trap.script}")


def updating(trap: Trap) -> None:
    nested(trap)
    trap.shop.git("-C", "inner", "config", "--unset", "core.fsmonitor")
    (trap.path / ".gitmodules").write_text('[submodule "inner"]\n\tpath = inner\n\turl = ./inner\n')
    trap.config("submodule.inner.url", str(trap.path / "inner"))
    trap.config("submodule.inner.update", f"!{trap.script}")
    trap.shop.git("-C", "inner", "commit", "-qm", "moved", "--allow-empty")


TRICKS = [
    Trick("fsmonitor", set_to_script("core.fsmonitor"), ("status",)),
    Trick("filter clean", filtering("clean"), ("diff",)),
    Trick("filter smudge", filtering("smudge"), ("checkout", "HEAD~1", "--", "a.py")),
    Trick("filter process", filtering("process"), ("add", "-A")),
    Trick("external diff", set_to_script("diff.external"), ("diff",)),
    Trick("diff command", diffing("command"), ("diff",)),
    Trick("textconv", diffing("textconv"), ("diff",)),
    Trick("merge driver", merging, ("merge", "other")),
    Trick("hook, index", hooked("post-index-change"), ("add", "-A")),
    Trick("hook, checkout", hooked("post-checkout"), ("checkout", "-f", "main")),
    Trick("hook, references", hooked("reference-transaction"), ("update-ref", "refs/x", "HEAD")),
    Trick("hook, commit", hooked("pre-commit"), ("commit", "-am", "x")),
    Trick("hooks elsewhere", hooked_elsewhere, ("add", "-A")),
    Trick("include", included, ("status",)),
    Trick("include if", lambda it: included(it, "includeIf.gitdir:/**.path"), ("status",)),
    Trick("signature", signed, ("log", "-1")),
    Trick("lazy fetch", promised, ("log", "-p", "-2")),
    Trick("submodule's monitor", nested, ("status",)),
    Trick("submodule's update", updating, ("submodule", "update")),
    Trick("alias", renamed_command, ("st",)),
    Trick("ssh command", remote("ssh://none.invalid/x", "core.sshCommand"), ("fetch",)),
    Trick("git proxy", remote("git://none.invalid/x", "core.gitProxy"), ("fetch",)),
    Trick("upload pack", remote("/nowhere", "remote.origin.uploadpack"), ("fetch",)),
    Trick("remote helper", external, ("fetch",)),
    Trick("editor", set_to_script("core.editor"), ("commit", "-a")),
    Trick(
        "sequence editor",
        set_to_script("sequence.editor"),
        ("rebase", "-i", "--autostash", "HEAD~1"),
    ),
    Trick("credential helper", set_to_script("credential.helper"), ("credential", "fill")),
    Trick("askpass", set_to_script("core.askPass"), ("credential", "fill")),
]


def everything(trap: Trap) -> Pinned:
    """All that podium ever asks of a repository."""
    snapshots = Snapshots(trap.shop.data)
    pinned = snapshots.pin(trap.path)
    for base in (None, "main", "HEAD~1"):
        try:
            find_changes(pinned, base=base, paths=[], exclude=[])
        except Exception as error:
            # An object that is missing is an error, and nothing that git may mend.
            assert "git" in type(error).__name__.lower(), error
    look(pinned.path, trap.path)
    look(pinned.path, trap.path)
    return snapshots.pin(trap.path)


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)
def test_no_trick_runs_a_command_or_writes(shop: Shop, trick: Trick) -> None:
    trap = Trap(shop)
    trick.arm(trap)
    (trap.path / "a.py").write_text("1\n$Id$\n3\n")
    (trap.path / "gone.py").unlink()
    (trap.path / "new.py").write_text("new\n")
    trap.canary.unlink(missing_ok=True)
    before = state_of(trap.path)
    pinned = everything(trap)
    assert not trap.canary.exists()
    assert state_of(trap.path) == before
    assert (pinned.path / "a.py").read_text() == "1\n$Id$\n3\n"
    assert {"a.py", "b.py", "new.py"} <= set(names(pinned))
    # The negative control: the same repository bites whoever asks naively.
    trap.naive(*trick.naive)
    assert trap.canary.exists()


# --- reading elsewhere --------------------------------------------------------------------------


class Victim(NamedTuple):
    """Another repository on the same machine, with a secret in its history."""

    path: Path
    git: Path
    commit: str


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    (tmp_path / "victim").mkdir()
    other = Shop(tmp_path / "victim")
    other.commit(a_py="hush\n")
    other.commit(a_py="public\n")
    other.git("worktree", "add", "-q", str(tmp_path / "victim" / "linked"), "HEAD~1")
    return Victim(other.path, other.path / ".git", other.git("rev-parse", "HEAD~1").strip())


def git_file(shop: Shop, victim: Victim) -> None:
    (shop.path / ".git").write_text(f"gitdir: {victim.git}\n")


def git_link(shop: Shop, victim: Victim) -> None:
    (shop.path / ".git").symlink_to(victim.git)


def linked_work_tree(shop: Shop, victim: Victim) -> None:
    (shop.path / ".git").write_text(f"gitdir: {victim.git / 'worktrees' / 'linked'}\n")


def own(shop: Shop, victim: Victim) -> Path:
    shop.git("init", "-q", "-b", "main")
    (shop.path / ".git" / "refs" / "heads" / "main").write_text(f"{victim.commit}\n")
    return shop.path / ".git"


def common_folder(shop: Shop, victim: Victim) -> None:
    (own(shop, victim) / "commondir").write_text(f"{victim.git}\n")


def objects_link(shop: Shop, victim: Victim) -> None:
    git = own(shop, victim)
    shutil.rmtree(git / "objects")
    (git / "objects").symlink_to(victim.git / "objects")


def fan_links(shop: Shop, victim: Victim) -> None:
    git = own(shop, victim)
    for place in (victim.git / "objects").iterdir():
        if len(place.name) == 2:
            (git / "objects" / place.name).symlink_to(place)


def pack_link(shop: Shop, victim: Victim) -> None:
    git = own(shop, victim)
    subprocess.run(["git", "repack", "-qad"], cwd=victim.path, check=True)
    subprocess.run(["git", "prune-packed"], cwd=victim.path, check=True)
    for place in (victim.git / "objects" / "pack").iterdir():
        (git / "objects" / "pack" / place.name).symlink_to(place)


def borrowed(shop: Shop, victim: Victim) -> None:
    (own(shop, victim) / "objects" / "info" / "alternates").write_text(f"{victim.git}/objects\n")


def borrowed_in_turn(shop: Shop, victim: Victim) -> None:
    middle = shop.path / "middle"
    (middle / "info").mkdir(parents=True)
    (middle / "info" / "alternates").write_text(f"{victim.git}/objects\n")
    (own(shop, victim) / "objects" / "info" / "alternates").write_text("../../middle\n")


ELSEWHERE = [
    git_file, git_link, linked_work_tree, common_folder, objects_link, fan_links, pack_link,
    borrowed, borrowed_in_turn,
]  # fmt: skip


@pytest.mark.parametrize("arm", ELSEWHERE)
def test_no_trick_shows_another_repository(
    shop: Shop, victim: Victim, arm: Callable[[Shop, Victim], None]
) -> None:
    arm(shop, victim)
    shop.write(a_py="mine\n")
    before = state_of(shop.path), state_of(victim.path)
    # With roots, as on a server for several people.
    pinned = Snapshots(shop.data, roots=[shop.path]).pin(shop.path)
    changes = find_changes(pinned, base=None, paths=[], exclude=[])
    assert "a.py" in names(pinned)
    assert "hush" not in str(changes)
    assert look(pinned.path, shop.path).tree
    assert (state_of(shop.path), state_of(victim.path)) == before
    # The negative control: git itself shows it.
    shown = subprocess.run(
        ["git", "-c", "safe.directory=*", "diff", "--no-ext-diff", victim.commit],
        cwd=shop.path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "-hush" in shown.stdout


def test_a_borrowed_store_is_named_where_it_is_used(shop: Shop, victim: Victim) -> None:
    borrowed(shop, victim)
    shop.write(a_py="mine\n")
    store = victim.git / "objects"
    assert shop.pin().notes == (f"objects are borrowed from {store}",)
    pinned = Snapshots(shop.data, roots=[shop.path]).pin(shop.path)
    assert pinned.notes == (f"objects in {store} are not used: it is below no project root",)


@pytest.mark.parametrize("kind", ["replace", "graft"])
def test_a_history_that_is_told_otherwise(shop: Shop, kind: str) -> None:
    """Replacements and grafts change what git shows of a commit; podium shows what it is."""
    shop.commit(a_py="1\n", b_py="1\n")
    shop.commit(a_py="2\n")
    shop.commit(b_py="2\n")
    head, parent, first = shop.git("rev-list", "HEAD").split()
    if kind == "replace":
        shop.git("replace", "--graft", head, first)
    else:
        (shop.path / ".git" / "info" / "grafts").write_text(f"{head} {first}\n")
    naive = shop.git("diff", "--name-only", "HEAD~1", "HEAD").split()
    assert naive == ["a.py", "b.py"], "the negative control"
    found = shop.scope()
    assert (found.kind, [file.path for file in found.files]) == ("head", ["b.py"])
    assert found.base == parent


def test_a_split_index_is_read_and_not_touched(shop: Shop) -> None:
    shop.commit(a_py="1\n", b_py="1\n")
    shop.git("config", "core.splitIndex", "true")
    shop.git("update-index", "--split-index")
    shop.write(c_py="1\n")
    shop.git("add", "c.py")
    for shared in (shop.path / ".git").glob("sharedindex.*"):
        os.utime(shared, (1_000_000_000, 1_000_000_000))
    before = state_of(shop.path)
    pinned = shop.pin()
    look(pinned.path, shop.path)
    assert names(pinned) == ["a.py", "b.py", "c.py"]
    assert state_of(shop.path) == before
    shop.git("ls-files")
    assert state_of(shop.path) != before, "the negative control: git touches the shared index"


def test_an_index_with_every_extension(shop: Shop) -> None:
    shop.commit(a_py="1\n", deep__b_py="1\n", out__c_py="1\n")
    shop.git("update-index", "--untracked-cache")
    shop.git("sparse-checkout", "set", "--cone", "--sparse-index", "deep")
    shop.write(deep__new_py="1\n")
    shop.git("status")
    before = state_of(shop.path)
    pinned = shop.pin()
    assert names(pinned) == ["a.py", "deep/b.py", "deep/new.py"]
    assert pinned.left_out == (("out/", "not_checked_out"),)
    assert shop.scope().deleted == ()
    look(pinned.path, shop.path)
    assert state_of(shop.path) == before
    shop.git("sparse-checkout", "reapply", "--no-sparse-index")
    assert shop.pin().left_out == (("out/c.py", "not_checked_out"),)
    assert shop.scope().deleted == ()


def test_a_repository_of_somebody_else(shop: Shop) -> None:
    """Git itself refuses it, because its configuration could run commands; that is not read."""
    shop.commit(a_py="1\n")
    shop.git("config", "core.fsmonitor", str(shop.path.parent / "evil.sh"))
    if os.geteuid() == 0:
        for place in (shop.path, *shop.path.rglob("*")):
            os.chown(place, 4_242, 4_242)
        with pytest.raises(subprocess.CalledProcessError):
            shop.git("status")
    pinned = shop.pin()
    assert (names(pinned), pinned.repository is not None) == (["a.py"], True)


@pytest.mark.parametrize("name", ["index", "info/exclude", "config", "HEAD", "packed-refs"])
@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_a_part_of_git_that_is_no_file(shop: Shop, name: str, kind: str) -> None:
    """Opening a FIFO would wait for ever, following a link would read elsewhere."""
    shop.commit(a_py="1\n")
    place = shop.path / ".git" / name
    content = place.read_bytes() if place.exists() else b""
    place.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(place)
    else:
        (shop.path.parent / "elsewhere").write_bytes(content)
        place.symlink_to(shop.path.parent / "elsewhere")
    assert "a.py" in names(pin(shop.path, shop.data))


# --- files without end --------------------------------------------------------------------------


def holes(place: Path, size: int) -> None:
    with place.open("ab") as file:
        file.truncate(size)


def test_git_takes_no_more_memory_than_it_may(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git reads a `.gitignore` whole, whatever its size; one of holes costs nothing to bring."""
    shop.commit(a_py="1\n")
    holes(shop.path / ".gitignore", 96 * 1024**2)
    assert names(pin(shop.path, shop.data)) == ["a.py"], "it is read"
    monkeypatch.setattr(git, "MEMORY", 48 * 1024**2)
    with pytest.raises(GitError, match=r"(?i)out of memory"):
        pin(shop.path, shop.data)


def test_a_reference_without_end_ends(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.commit(a_py="1\n")
    monkeypatch.setattr(git, "MEMORY", 64 * 1024**2)
    (shop.path / ".git" / "refs" / "heads" / "endless").symlink_to("/dev/zero")
    pinned = pin(shop.path, shop.data)
    assert names(pinned) == ["a.py"]
    assert look(pinned.path, shop.path).tree == look(pinned.path, shop.path).tree


@pytest.mark.parametrize("size", [2 * 1024**3, 1 << 40])
def test_an_index_of_any_size_is_not_read_whole(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    shop.commit(a_py="1\n")
    monkeypatch.setattr(listing, "INDEX_BYTES", 8 * 1024**2)
    holes(shop.path / ".git" / "index", size)
    with pytest.raises(GitError, match="index is too large"):
        pin(shop.path, shop.data)


@pytest.mark.parametrize("name", [".gitignore", "folder/.gitignore"])
def test_a_pipe_that_git_opens_is_not_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shop.commit(a_py="1\n")
    place = shop.path / name
    place.parent.mkdir(exist_ok=True)
    (place.parent / "x.py").write_text("1\n")
    os.mkfifo(place)
    monkeypatch.setattr(git, "LOOK_SECONDS", 0.05)
    with pytest.raises(GitError, match="no plain file"):
        pin(shop.path, shop.data)
    monkeypatch.setattr(git, "IDLE_LOOKS", 1_000_000)
    monkeypatch.setattr(git, "TIMEOUT", 1.0)
    with pytest.raises(GitError, match="took more than"):
        pin(shop.path, shop.data)
