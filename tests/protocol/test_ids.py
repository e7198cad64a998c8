import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import is_uuid


@given(st.uuids())
def test_a_uuid_in_its_canonical_form(value: object) -> None:
    assert is_uuid(str(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0B5F3C9E-7A1D-4C52-9A51-0D6C2F1E8A01",
        "0b5f3c9e7a1d4c529a510d6c2f1e8a01",
        "{0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a01}",
        "0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a01\n",
        "0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a0g",
        "０b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a01",
        "../../etc/passwd",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert not is_uuid(text)
