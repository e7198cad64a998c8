"""The tables of errors and close codes, and what the exceptions carry."""

import pytest

from protocol.errors import CLOSE_RULES, BadMessage, CloseCode, ErrorCode, MessageTooLarge

COME_BACK = {1001, 1006, 1012, 1013, 4408, 4429}
STAY_AWAY = {4400, 4401, 4403, 4406, 4413}


def test_every_close_code_says_whether_to_come_back() -> None:
    assert set(CLOSE_RULES) == set(CloseCode)
    assert {code for code, rule in CLOSE_RULES.items() if rule.reconnect} == COME_BACK
    assert {code for code, rule in CLOSE_RULES.items() if not rule.reconnect} == STAY_AWAY


@pytest.mark.parametrize("code", list(CloseCode))
def test_a_close_reason_fits_a_close_frame(code: CloseCode) -> None:
    """RFC 6455: 125 bytes with the code."""
    assert 0 < len(CLOSE_RULES[code].reason.encode()) <= 123


def test_the_error_codes_are_those_of_the_wire() -> None:
    assert [code.value for code in ErrorCode] == [
        "bad_message",
        "unauthenticated",
        "forbidden",
        "not_found",
        "unknown_flow",
        "bad_arguments",
        "key_conflict",
        "already_terminal",
        "busy",
        "rate_limited",
        "too_large",
        "agent_unavailable",
        "read_only_unproven",
        "store_unavailable",
        "internal",
    ]


def test_the_exceptions_carry_what_a_client_needs() -> None:
    bad = BadMessage("no", id="m1", field="band", hint="one of small")
    assert (bad.code, bad.id, bad.field, bad.hint) == (
        ErrorCode.BAD_MESSAGE, "m1", "band", "one of small"
    )  # fmt: skip
    large = MessageTooLarge(70_000, 65_536, id="m2")
    assert (large.code, large.id) == (ErrorCode.TOO_LARGE, "m2")
    assert "70000" in str(large)
    assert "65536" in str(large)
