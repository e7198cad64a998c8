"""What is this machine is decided by spelling, and every odd spelling is somewhere else."""

import pytest

from server.addresses import fault_of, host_of, is_loopback, is_remote


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.8.7", "::1", "[::1]", "localhost", "LocalHost"]
)
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "", "0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "::ffff:127.0.0.1", "127.1", "0x7f.0.0.1",
        "2130706433", "017700000001", "localhost.", "localhost.example.com", "127.0.0.1.nip.io",
        "::1%eth0", "127.0.0.1 ",
    ],
)  # fmt: skip
def test_everything_else(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/v1", "file:///etc/passwd", "127.0.0.1:1/v1", "http://", "http:///v1",
        "http://user@127.0.0.1/v1", "http://a:b@127.0.0.1/v1", "http://127.0.0.1@evil.example/v1",
        "http://127.0.0.1\\@evil.example/v1", "http://127.0.0.1/v1?key=k", "http://127.0.0.1/v1#x",
        "http://evil.example#@127.0.0.1", "http://127.0.0.1\n.evil.example/v1", "http://a b/v1",
        "http://127.0.0.1:0/v1", "http://127.0.0.1:99999/v1", "http://127.0.0.1:x/v1",
        "http://[::1/v1", "http://ⅼocalhost/v1", "http://-a/v1", "",
    ],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    assert fault_of(url)


@pytest.mark.parametrize(
    ("url", "remote", "host"),
    [
        ("http://127.0.0.1:11434/v1", False, "127.0.0.1:11434"),
        ("http://[::1]:8080", False, "[::1]:8080"),
        ("http://LOCALHOST/v1/", False, "LOCALHOST"),
        ("https://models.example.com/team_a/v1", True, "models.example.com"),
        ("http://my_gpu:8000/v1", True, "my_gpu:8000"),
    ],
)
def test_addresses(url: str, *, remote: bool, host: str) -> None:
    assert fault_of(url) is None
    assert is_remote(url) is remote
    assert host_of(url) == host
