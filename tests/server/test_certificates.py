"""The command line believes the authorities that the system believes, a private one as well, and
reads none where there is no TLS."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from server.agents.probe import Prober
from server.certificates import authorities
from server.client import Client, Unreachable
from server.demo.app import scripted
from server.local import _answers
from server.ports import AgentUnavailable, ModelEndpoint
from server.world import SystemClock
from tests.fakes.model import FakeModel, serving
from tests.server.harness import TOKEN, house

pytestmark = pytest.mark.timeout(90)


def openssl(place: Path, *words: str) -> str:
    done = subprocess.run(["openssl", *words], cwd=place, capture_output=True, check=True)
    return done.stdout.decode().strip()


class Authority:
    """One that nobody knows, and the server that it vouches for."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
               "-nodes", "-days", "2"]  # fmt: skip
        openssl(place, *new, "-subj", "/CN=a private authority", "-keyout", "ca.key",
                "-out", "ca.pem")  # fmt: skip
        openssl(place, *new, "-subj", "/CN=podium", "-addext", "subjectAltName=IP:127.0.0.1",
                "-addext", "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey",
                "ca.key", "-keyout", "server.key", "-out", "server.pem")  # fmt: skip
        self.file = place / "ca.pem"
        self.folder = place / "folder"
        self.folder.mkdir()
        digest = openssl(place, "x509", "-hash", "-noout", "-in", "ca.pem")
        (self.folder / f"{digest}.0").write_bytes(self.file.read_bytes())
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(place / "server.pem", place / "server.key")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def behind_tls(url: str, trust: ssl.SSLContext) -> AsyncIterator[str]:
    """The same server, behind TLS."""
    port = urlsplit(url).port

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=trust)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Ended(NamedTuple):
    code: int | None
    out: str


async def podium(*words: str, **environment: str) -> Ended:
    kept = {name: it for name, it in os.environ.items() if not name.startswith("SSL_CERT_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", *words,
        env={**kept, "PODIUM_TOKEN": TOKEN, **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return Ended(process.returncode, out.decode())


async def test_a_private_authority_is_believed_when_it_is_named(
    tmp_path: Path, authority: Authority
) -> None:
    """By the routes and by the socket. Unnamed it is not: the control."""
    async with house(tmp_path) as home, behind_tls(home.url, authority.server) as url:
        run = ["run", "/code-review small src", "--project", str(tmp_path / "project")]
        ended = await podium(*run, "--url", url, SSL_CERT_FILE=str(authority.file))
        assert ended.code == 0, ended.out
        assert "## Coverage" in ended.out
        listed = await podium("runs", "--url", url, SSL_CERT_DIR=str(authority.folder))
        assert (listed.code, "completed" in listed.out) == (0, True), listed.out
        refused = await podium("runs", "--url", url)
        assert refused.code == 1
        assert "certificate verify failed" in refused.out
        assert "SSL_CERT_FILE=FILE names another" in refused.out
        assert "Traceback" not in refused.out


async def test_a_model_behind_a_private_authority_is_found_when_that_is_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeModel(scripted(pace=0))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    async with serving(model.app) as url, behind_tls(url, authority.server) as tls:
        there = ModelEndpoint(name="m", base_url=f"{tls}/v1", api_key="", model="podium-demo")
        with pytest.raises(AgentUnavailable) as refused:
            await Prober(SystemClock(), seconds=60).probe(there)
        assert refused.value.hint is not None
        assert "SSL_CERT_FILE" in refused.value.hint
        assert model.requests == [], "not a byte of what is asked"
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        found = await Prober(SystemClock(), seconds=60).probe(there)
    assert found.public.model == "podium-demo"


class Read(Exception):
    """Somebody has read certificates."""


@pytest.fixture
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*args: object, **kwargs: object) -> None:
        raise Read

    for name in ("load_verify_locations", "load_default_certs", "set_default_verify_paths"):
        monkeypatch.setattr(ssl.SSLContext, name, read)


@pytest.mark.usefixtures("no_certificates")
async def test_without_tls_no_certificate_is_read(home_url: str) -> None:
    async with Client(home_url, TOKEN) as client:
        assert (await client.get("/api/session"))["kind"] == "operator"
    assert await _answers(home_url)
    with pytest.raises(Read):  # the control
        async with Client(home_url.replace("http", "https"), TOKEN):
            pass


@pytest.fixture
async def home_url(tmp_path: Path) -> AsyncIterator[str]:
    async with house(tmp_path) as home:
        yield home.url


def test_what_vouches_for_nobody_lets_nobody_in() -> None:
    """The context of a plain address, were it ever used for TLS."""
    trust = authorities("http://127.0.0.1")
    assert trust.verify_mode is ssl.CERT_REQUIRED
    assert trust.check_hostname
    assert trust.get_ca_certs() == []


async def test_a_system_without_authorities_has_those_of_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = ssl.DefaultVerifyPaths("", "", "SSL_CERT_FILE", "", "SSL_CERT_DIR", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    assert (await asyncio.to_thread(authorities, "https://x")).get_ca_certs()


async def test_who_is_not_vouched_for_says_so_with_the_way_out(
    tmp_path: Path, authority: Authority
) -> None:
    async with (
        house(tmp_path) as home,
        behind_tls(home.url, authority.server) as url,
        Client(url, TOKEN) as client,
    ):
        with pytest.raises(Unreachable) as refused:
            await client.get("/api/session")
    assert refused.value.hint is not None
    assert "SSL_CERT_FILE" in refused.value.hint
