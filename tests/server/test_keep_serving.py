"""Which link a run gives to whoever started it."""

import sys

import pytest

from protocol.ids import RunId
from server.commands.keep_serving import where_to_watch
from server.local import ServerFile

PLACE = ServerFile(url="http://127.0.0.1:8765", token="secret-of-the-operator", pid=1)


@pytest.mark.parametrize(
    ("lasting", "person", "said"),
    [
        (True, True, "watch it at http://127.0.0.1:8765/#token=secret-of-the-operator&run=r"),
        (True, False, "watch it at http://127.0.0.1:8765/#run=r"),
        (
            False,
            True,
            "watch it while it runs at http://127.0.0.1:8765/#token=secret-of-the-operator&run=r"
            " (--keep-serving: longer)",
        ),
        (False, False, "add --keep-serving to look at it in a browser, too"),
    ],
)
def test_a_link_is_given_where_somebody_can_open_it(
    monkeypatch: pytest.MonkeyPatch, lasting: bool, person: bool, said: str
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: person)
    assert where_to_watch(PLACE, RunId("r"), lasting=lasting) == said
