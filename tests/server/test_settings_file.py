"""Setup adds an endpoint to the settings file, for its owner only, and loses nothing."""

import stat
from pathlib import Path

import pytest

from server.settings import load
from server.settings.file import Added, add_endpoint, section

FIELDS: dict[str, str | bool] = {
    "base_url": "https://gpu.example.com/v1",
    "model": 'a "quoted" model',
    "api_key_env": "KEY",
    "remote": True,
}
OLD = '# mine\nport = 1   # kept\n\n[roles]\nsecurity = "default"\n'


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "podium" / "podium.toml"
    assert add_endpoint(file, "default", FIELDS) is Added.WRITTEN
    assert mode(file) == 0o600
    assert file.read_text() == section("default", FIELDS)
    endpoint = load({}, {"KEY": "k"}, file=file).endpoints["default"]
    assert (endpoint.model, endpoint.remote, endpoint.api_key) == ('a "quoted" model', True, "k")
    assert add_endpoint(file, "default", FIELDS) is Added.THERE


def test_what_is_there_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "podium.toml"
    real.write_text(OLD)
    real.chmod(0o644)
    link.symlink_to(real)
    assert add_endpoint(link, "default", FIELDS) is Added.WRITTEN
    assert link.is_symlink(), "a link stays a link"
    assert real.read_text() == f"{OLD}\n{section('default', FIELDS)}"
    assert mode(real) == 0o600
    assert sorted(it.name for it in tmp_path.iterdir()) == ["podium.toml", "real.toml"]


@pytest.mark.parametrize(
    "old",
    [
        '[endpoints.default]\nbase_url = "http://127.0.0.1/v1"\n',
        "endpoints = {}\n",
        '[endpoints.gpu]\nbase_url = "http://127.0.0.1/v1"\n',
        "[",
        "\udcff = 1",
    ],
)
def test_what_names_an_endpoint_or_cannot_be_read_is_left_alone(tmp_path: Path, old: str) -> None:
    file = tmp_path / "podium.toml"
    file.write_bytes(old.encode("utf-8", "surrogateescape"))
    before = file.read_bytes()
    assert add_endpoint(file, "default", FIELDS) is Added.BY_HAND
    assert file.read_bytes() == before


def test_a_name_that_toml_cannot_hold_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "podium.toml"
    assert add_endpoint(file, "default", FIELDS | {"model": "a\x7fb"}) is Added.BY_HAND
    assert not file.exists()


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "podium.toml"
    file.write_text(OLD)

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        add_endpoint(file, "default", FIELDS)
    assert file.read_text() == OLD
    assert [it.name for it in tmp_path.iterdir()] == ["podium.toml"]
