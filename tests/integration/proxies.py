"""Debian's nginx with the files of deploy/nginx, on free ports of loopback, with TLS."""

import asyncio
import base64
import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.server.harness import WAIT_SECONDS

HOST = "tools.example.com"
RECIPES = Path(__file__).parents[2] / "deploy" / "nginx"
MAIN = """
daemon off;
pid {place}/nginx.pid;
worker_processes 1;
{user}
error_log {place}/error.log info;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    scgi_temp_path {place}/scgi;
    uwsgi_temp_path {place}/uwsgi;
    access_log off;
    include {place}/conf.d/*.conf;
}}
"""


class Certificate:
    """A fresh one for HOST, which vouches for itself."""

    def __init__(self, place: Path) -> None:
        self.file, self.key = place / "fullchain.pem", place / "privkey.pem"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}",
            "-keyout", str(self.key), "-out", str(self.file),
        )  # fmt: skip
        key = _openssl("x509", "-in", str(self.file), "-pubkey", "-noout")
        public = _openssl("pkey", "-pubin", "-outform", "der", given=key)
        self.fingerprint = base64.b64encode(hashlib.sha256(public).digest()).decode()
        """Of the public key, as Chromium takes it."""

    def trusted(self) -> ssl.SSLContext:
        """A client that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.file))


def _openssl(*words: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=given, capture_output=True, check=True).stdout


def listener() -> socket.socket:
    """A listening socket on a free port, which nginx takes over: nobody else can get it."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(512)
    return listening


def reserved() -> socket.socket:
    """A port that nobody else is given, for a server that begins to listen later, and again."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept


class Proxy:
    """What clients need to get through."""

    def __init__(self, place: Path, port: int, certificate: Certificate) -> None:
        self.place = place
        self.port = port
        self.certificate = certificate
        self.authority = f"{HOST}:{port}"
        self.origin = f"https://{self.authority}"

    def http(self, **headers: str) -> httpx.AsyncClient:
        """HOST is nowhere but here: it is said in TLS and in `Host`, and not looked up."""
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.port}",
            headers={"Host": self.authority, **headers},
            verify=self.certificate.trusted(),
            event_hooks={"request": [_name_the_host]},
            timeout=WAIT_SECONDS,
            trust_env=False,
        )

    def socket(self, path: str = "/podium/api/ws", **headers: str) -> connect:
        return connect(
            f"wss://{self.authority}{path}",
            host="127.0.0.1",
            port=self.port,
            ssl=self.certificate.trusted(),
            additional_headers=headers,
            subprotocols=["podium.v1"],  # type: ignore[list-item]
            proxy=None,
        )

    @property
    def browser_flags(self) -> list[str]:
        """Chromium finds HOST here, and trusts this one certificate."""
        return [
            f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
            f"--ignore-certificate-errors-spki-list={self.certificate.fingerprint}",
        ]

    def log(self, name: str) -> str:
        return (self.place / name).read_text()


async def _name_the_host(request: httpx.Request) -> None:
    request.extensions["sni_hostname"] = HOST


def rendered(text: str, changes: Mapping[str, str]) -> str:
    """A recipe with every line that a person would change changed; each must be there."""
    for before in changes:
        assert before in text, f"the recipe has no `{before}`"
    # In one go: what was put in is not to be changed again.
    return re.sub("|".join(map(re.escape, changes)), lambda found: changes[found[0]], text)


@asynccontextmanager
async def nginx(
    place: Path,
    listening: socket.socket,
    upstream: str,
    *,
    recipe: str = "podium.conf",
    changes: Mapping[str, str] | None = None,
) -> AsyncIterator[Proxy]:
    """nginx before the server at `upstream` (`127.0.0.1:PORT`), with a recipe of deploy/nginx."""
    port = listening.getsockname()[1]
    certificate = await asyncio.to_thread(Certificate, _folder(place))
    usual = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8765": upstream,
        "/etc/ssl/podium/": f"{place}/",
        "/var/log/nginx/": f"{place}/",
    }
    text = (RECIPES / recipe).read_text()
    (place / "conf.d" / recipe).write_text(rendered(text, usual | dict(changes or {})))
    shutil.copy(RECIPES / "podium-proxy.conf", place / "snippets")
    (place / "snippets" / "careless.conf").write_text("proxy_set_header Host $host;")
    user = "user root;" if os.geteuid() == 0 else ""  # who else could not read what a test makes
    (place / "nginx.conf").write_text(MAIN.format(place=place, user=user))
    process = await _started(place, listening)
    try:
        yield Proxy(place, port, certificate)
        assert process.returncode is None, (place / "error.log").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_SECONDS):
            await process.wait()


def _folder(place: Path) -> Path:
    for name in ("conf.d", "snippets"):
        (place / name).mkdir(parents=True)
    return place


async def _started(place: Path, listening: socket.socket) -> asyncio.subprocess.Process:
    """Whoever connects from now on is served: the socket listens already."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    words = [program, "-p", str(place), "-c", str(place / "nginx.conf"), "-e", "stderr"]
    tried = await asyncio.create_subprocess_exec(
        *words, "-t", stderr=asyncio.subprocess.PIPE, env={"NGINX": f"{listening.fileno()};"},
        pass_fds=[listening.fileno()],
    )  # fmt: skip
    _, said = await tried.communicate()
    assert tried.returncode == 0, said.decode()
    return await asyncio.create_subprocess_exec(
        *words, stderr=asyncio.subprocess.DEVNULL, env={"NGINX": f"{listening.fileno()};"},
        pass_fds=[listening.fileno()],
    )  # fmt: skip
