"""Ids of findings: how they are made, and how they are found in prose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.ids import cited_ids, finding_id, prefix_of
from flows.model import PREFIXES


def test_an_id_has_its_prefix_its_place_in_a_fan_out_and_two_digits() -> None:
    assert finding_id("SEC", None, 1) == "SEC-01"
    assert finding_id("JUN", 2, 1) == "JUN-2-01"
    assert finding_id("TST", None, 123) == "TST-123"


@given(
    st.sets(
        st.tuples(
            st.sampled_from(sorted(PREFIXES)),
            st.none() | st.integers(1, 40),
            st.integers(1, 300),
        )
    )
)
def test_ids_are_unique_and_found_again_in_prose(places: set[tuple[str, int | None, int]]) -> None:
    ids = [finding_id(*place) for place in sorted(places, key=str)]
    assert len(set(ids)) == len(places)
    assert cited_ids("see " + ", ".join(ids) + ".") == ids
    assert [prefix_of(id) for id in ids] == [prefix for prefix, *_ in sorted(places, key=str)]


@pytest.mark.parametrize(
    "prose",
    ["CVE-2024-01", "XSEC-01", "SEC-1", "sec-01", "SEC-01a", "SEC-01-x", "ISO-27001", "JUN-0-01"],
)
def test_what_only_looks_like_an_id_is_none(prose: str) -> None:
    assert cited_ids(prose) == []


def test_an_id_is_named_once() -> None:
    assert cited_ids("(DEV-01) and SEC-02's cause, DEV-01") == ["DEV-01", "SEC-02"]
