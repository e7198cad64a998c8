"""What is under review: odd names, secrets that moved, shallow and strange repositories."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protocol.plan import LineRange
from server.agents.copies import changes
from server.agents.copies.changes import BadScope, find_changes
from server.agents.copies.snapshot import pin
from tests.repositories import IDENTITY
from tests.server.test_snapshot import Shop, names, shop, state_of

__all__ = ["shop"]

ODD = (
    "café.py", 'quo"te.py', "new\nline.py", "sp ace.py", "tab\t.py", "back\\slash.py", "-dash.py",
    "[glob]*.py", "😀.py", "git~1",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_file_of_any_name_has_its_patch(shop: Shop, name: str) -> None:
    shop.commit(a_py="1\n")
    (shop.path / name).write_text("one\n")
    shop.git("-c", "core.protectNTFS=false", "add", "-A")
    shop.git("commit", "-qm", "odd")
    (shop.path / name).write_text("one\ntwo\n")
    found = shop.scope()
    assert [(file.path, file.added) for file in found.files] == [(name, [LineRange(2, 2)])]
    assert list(found.patches or {}) == [name]


def test_renamed_added_deleted(shop: Shop) -> None:
    shop.commit(old_py="".join(f"line {n}\n" for n in range(20)), gone_py="1\n")
    (shop.path / "old.py").rename(shop.path / "café new.py")
    (shop.path / "gone.py").unlink()
    (shop.path / "empty.py").write_text("")
    found = shop.scope()
    assert {file.path: file.status for file in found.files} == {
        "café new.py": "renamed", "empty.py": "added",
    }  # fmt: skip
    assert found.deleted == ("gone.py",)
    assert "café new.py" in (found.patches or {})


@pytest.mark.parametrize("text", ["a\fb\n", "a\x85b\n", "a\u2028 +b\n", "a\r +b\n", "a\f+b\n"])
def test_only_a_newline_ends_an_added_line(shop: Shop, text: str) -> None:
    shop.commit(a_py="1\n")
    (shop.path / "a.py").write_text(f"{text}1\nlast\n", newline="")
    (file,) = shop.scope().files
    assert file.added == [LineRange(1, 1), LineRange(3, 3)]


@pytest.mark.parametrize("committed", [True, False])
def test_a_secret_is_not_the_source_of_a_rename(shop: Shop, *, committed: bool) -> None:
    """Git sees an excluded file as deleted, and likes to call its example a renamed copy."""
    keys = "".join(f"SETTING_{n}=value\n" for n in range(20))
    shop.commit(a_py="1\n")
    (shop.path / ".env").write_text(f"{keys}KEY=hush\n")
    (shop.path / "private.txt").write_text(f"{keys}KEY=hush2\nother\n" * 2)
    (shop.path / ".podiumignore").write_text("private.txt\n")
    shop.git("add", "-A")
    shop.git("commit", "-qm", "oh no")
    if committed:
        shop.git("rm", "-q", ".env", "private.txt")
    (shop.path / ".env.example").write_text(f"{keys}KEY=\n")
    (shop.path / "public.txt").write_text(f"{keys}KEY=\nother\n" * 2)
    found = shop.scope()
    assert {file.path: file.status for file in found.files} == {
        ".env.example": "added", "public.txt": "added",
    }  # fmt: skip
    assert "hush" not in str(found)
    assert set(found.patches or {}) == {".env.example", "public.txt"}
    assert found.files[0].added == [LineRange(1, 21)]


def test_podiumignore_counts_from_the_projects_own_folder(shop: Shop) -> None:
    shop.commit(inner__a_py="1\n", inner__private__b_py="2\n", inner__deep__private__c_py="3\n")
    (shop.path / "inner" / ".podiumignore").write_text("# mine\n/private/\n*.log\n!keep.log\n")
    for name in ("x.log", "keep.log"):
        (shop.path / "inner" / name).write_text("log")
    wanted = [".podiumignore", "a.py", "deep/private/c.py", "keep.log"]
    assert names(pin(shop.path / "inner", shop.data)) == wanted


def test_podiumignore_without_git(shop: Shop) -> None:
    shop.write(a_py="1\n", private__b_py="2\n")
    (shop.path / ".podiumignore").write_text("private/\n")
    assert names(shop.pin()) == [".podiumignore", "a.py"]
    assert shop.pin().left_out_counts() == {"podiumignore": 1}


def test_a_shallow_clone_ends_where_it_ends(shop: Shop, tmp_path: Path) -> None:
    shop.commit(a_py="1\n", b_py="1\n")
    shop.commit(a_py="2\n")
    shop.commit(a_py="3\n")
    clone = tmp_path / "clone"
    source = f"file://{shop.path}"
    subprocess.run(["git", "clone", "-q", "--depth=1", source, clone], check=True)
    found = find_changes(pin(clone, shop.data), base=None, paths=[], exclude=[])
    assert found.kind == "tree"
    subprocess.run(["git", "fetch", "-q", "--depth=2"], cwd=clone, check=True)
    found = find_changes(pin(clone, shop.data), base=None, paths=[], exclude=[])
    assert (found.kind, [file.path for file in found.files]) == ("head", ["a.py"])


def test_a_worktree_and_a_clone_that_borrows(shop: Shop, tmp_path: Path) -> None:
    shop.commit(a_py="1\n")
    tree, clone = tmp_path / "worktree", tmp_path / "clone"
    shop.git("worktree", "add", "-q", str(tree))
    subprocess.run(["git", "clone", "-q", "--shared", shop.path, clone], check=True)
    for place in (tree, clone):
        (place / "a.py").write_text("2\n")
        before = state_of(place), state_of(shop.path)
        found = find_changes(pin(place, shop.data), base=None, paths=[], exclude=[])
        assert (found.kind, [file.path for file in found.files]) == ("uncommitted", ["a.py"])
        assert (state_of(place), state_of(shop.path)) == before


@pytest.mark.parametrize("name", ["with:colon", 'quo"te', "new\nline", "back\\slash", "é ü", '"x'])
def test_a_project_folder_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    here = Shop(tmp_path / name)
    here.commit(a_py="1\n", b_py="1\n")
    here.write(a_py="2\n")
    found = here.scope()
    assert (found.kind, [file.path for file in found.files]) == ("uncommitted", ["a.py"])


def test_a_broken_link_to_a_repository_is_a_folder(shop: Shop) -> None:
    shop.write(a_py="1\n", inner__b_py="1\n")
    (shop.path / ".git").write_text("gitdir: /nowhere/at/all\n")
    (shop.path / "inner" / ".git").write_text("gitdir: /nowhere/at/all\n")
    pinned = shop.pin()
    assert names(pinned) == ["a.py", "inner/b.py"]
    assert "taken as a folder" in pinned.notes[0]


@pytest.mark.parametrize("commits", [True, False])
def test_nested_repositories_are_left_out(shop: Shop, *, commits: bool) -> None:
    shop.commit(a_py="1\n")
    subprocess.run(["git", "init", "-q", shop.path / "nested"], check=True)
    (shop.path / "nested" / "b.py").write_text("1\n")
    if commits:
        for words in (["add", "-A"], [*IDENTITY, "commit", "-qm", "x"]):
            subprocess.run(["git", *words], cwd=shop.path / "nested", check=True)
    pinned = shop.pin()
    assert names(pinned) == ["a.py"]
    assert pinned.left_out == (("nested/", "nested_repository"),)
    if commits:
        shop.git("add", "nested")
        assert shop.pin().left_out == (("nested", "submodule"),)


def test_a_folder_that_became_a_file_or_a_link(shop: Shop, tmp_path: Path) -> None:
    shop.commit(x__a_py="1\n", y__b_py="1\n", z_py="1\n")
    for name in ("x", "y"):
        (shop.path / name / ("a.py" if name == "x" else "b.py")).unlink()
        (shop.path / name).rmdir()
    (shop.path / "x").write_text("now a file\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.py").write_text("outside\n")
    (shop.path / "y").symlink_to(tmp_path / "elsewhere")
    pinned = shop.pin()
    assert names(pinned) == ["x", "z.py"]
    assert dict(pinned.left_out) == {"y": "link", "y/b.py": "link"}
    assert shop.scope().deleted == ("x/a.py",)


def test_first_pins_at_once_agree(shop: Shop) -> None:
    shop.commit(a_py="1\n", b_py="1\r\n")
    with ThreadPoolExecutor(8) as pool:
        pinned = list(pool.map(lambda _: shop.pin().tree_id, range(8)))
    assert set(pinned) == {shop.git("rev-parse", "HEAD^{tree}").strip()}
    leftovers = [it.name for it in (shop.data / "git").iterdir() if not it.name.endswith(".git")]
    assert leftovers == []


def test_a_large_patch_is_cut_and_its_lines_are_still_known(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "PATCH_BYTES", 400)
    monkeypatch.setattr(changes, "TOTAL_PATCH_BYTES", 500)
    shop.commit(a_py="1\n", b_py="1\n", c_py="1\n")
    shop.write(**{name: "".join(f"line {n}\n" for n in range(99)) for name in ("a_py", "b_py")})
    shop.write(c_py="1\n2\n")
    found = shop.scope()
    assert [file.added for file in found.files] == [
        [LineRange(1, 99)], [LineRange(1, 99)], [LineRange(2, 2)],
    ]  # fmt: skip
    patches = found.patches or {}
    assert patches["a.py"].endswith(changes.CUT)
    assert sum(map(len, patches.values())) < 1_000


def test_paths_globs_and_exclusions(shop: Shop) -> None:
    shop.commit(src__a_py="1\n", src__deep__b_py="1\n", c_py="1\n", srcs__d_py="1\n")
    for wanted, found in {
        ("src",): ["src/a.py", "src/deep/b.py"],
        ("./src/",): ["src/a.py", "src/deep/b.py"],
        ("src/deep/b.py", "c.py"): ["c.py", "src/deep/b.py"],
        ("*.py",): ["c.py", "src/a.py", "src/deep/b.py", "srcs/d.py"],
        (".",): ["c.py", "src/a.py", "src/deep/b.py", "srcs/d.py"],
    }.items():
        assert [file.path for file in shop.scope(*wanted).files] == found
    shop.write(src__a_py="2\n", c_py="2\n")
    narrow = shop.scope("src", base="HEAD")
    assert (narrow.kind, [file.path for file in narrow.files]) == ("branch", ["src/a.py"])
    without = shop.scope(exclude=("src/",))
    assert [file.path for file in without.files] == ["c.py"]
    assert list(without.patches or {}) == ["c.py"]


def test_a_path_that_is_none_may_be_a_misspelt_band(shop: Shop) -> None:
    shop.commit(a_py="1\n")
    with pytest.raises(BadScope) as refused:
        shop.scope("smal")
    assert refused.value.hint == "did you mean small? bands: small, medium, large"
    with pytest.raises(BadScope) as second:
        shop.scope("a.py", "smal")
    assert second.value.hint is None, "only the first word can be the band"


@pytest.mark.parametrize("base", ["a\0b", "", " ", "HEAD~99", "refs/heads/none", "\ud800", "x y"])
def test_a_base_that_is_none(shop: Shop, base: str) -> None:
    shop.commit(a_py="1\n")
    with pytest.raises(BadScope) as refused:
        shop.scope(base=base)
    assert refused.value.field == "base"


@pytest.mark.parametrize("worktree", ["/", "..", "/etc", "../elsewhere"])
def test_a_work_tree_elsewhere_shows_nothing_of_it(
    shop: Shop, tmp_path: Path, worktree: str
) -> None:
    shop.commit(a_py="1\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "outside.py").write_text("1\n")
    shop.git("config", "core.worktree", worktree)
    before = state_of(shop.path)
    assert [name for name in names(shop.pin()) if not name.startswith(".git/")] == ["a.py"]
    assert state_of(shop.path) == before
