"""The contracts with every client, as texts: made from the Structs of `protocol`, never by hand.

Making one takes some 50 ms; a process makes those of an address once.
"""

import inspect
from collections.abc import Callable
from functools import lru_cache

import msgspec

from protocol import commands, errors, frames, plan, report, resources, rest, states, users
from protocol.asyncapi import asyncapi
from protocol.field_docs import Docs, docs_of
from protocol.openapi import openapi
from protocol.schema import wire_schema
from protocol.typescript import typescript
from server import __version__
from server.http.public import SessionCookie

NOWHERE = "http://127.0.0.1:8765"
"""The usual address, for a document that no server has served."""

MODULES = (commands, errors, frames, plan, report, resources, rest, states, users)


def field_docs() -> Docs:
    """What the sources of the wire say beside each field; nothing where only bytecode is installed.
    It reads files."""
    try:
        return docs_of(inspect.getsource(module) for module in MODULES)
    except OSError:
        return {}


def json_schema() -> bytes:
    return _json(wire_schema(field_docs()))


@lru_cache(maxsize=8)
def openapi_json(url: str = "") -> bytes:
    """`url` is where browsers ask this server; empty: where the document comes from."""
    cookie = _cookie(url)
    return _json(openapi(build=__version__, cookie=cookie, url=url, docs=field_docs()))


@lru_cache(maxsize=8)
def asyncapi_json(url: str = NOWHERE) -> bytes:
    """AsyncAPI has no word for the place where a document comes from: it needs an address."""
    cookie = _cookie(url)
    return _json(asyncapi(build=__version__, cookie=cookie, url=url, docs=field_docs()))


def types() -> bytes:
    return typescript(field_docs()).encode()


CONTRACTS: dict[str, Callable[[], bytes]] = {
    "json-schema": json_schema,
    "openapi": openapi_json,
    "asyncapi": asyncapi_json,
    "typescript": types,
}
"""What `podium schema` prints, by name."""


def _cookie(url: str) -> str:
    return SessionCookie(url).public.name


def _json(document: object) -> bytes:
    return msgspec.json.encode(document)
