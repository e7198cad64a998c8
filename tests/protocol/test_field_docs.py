"""What the sources say beside a field comes into every document."""

from textwrap import dedent
from typing import Any

from protocol.field_docs import docs_for, docs_of, prose
from protocol.frames import FlowRunStepTool, StepFrame
from protocol.schema import wire_schema
from server.contracts import field_docs

SOURCE = '''
class A:
    """Of the class."""

    one: int
    """Of one,
    on two lines."""
    two: int = 2
    three: str
    """Of three."""


class B(StrEnum):
    ONE = "one"
    """Of ONE."""
    TWO = "two"

    def f(self) -> None:
        """Of a method."""
'''


def test_the_text_below_a_field_is_read() -> None:
    assert docs_of([dedent(SOURCE)]) == {
        "A": {"one": "Of one, on two lines.", "three": "Of three."},
        "B": {"ONE": "Of ONE."},
    }


def test_a_class_has_the_texts_of_its_bases_unless_it_has_its_own() -> None:
    docs = {"Frame": {"seq": "s", "at": "a"}, "StepFrame": {"at": "b"}, "Other": {"x": "x"}}
    assert docs_for(StepFrame, docs) == {"seq": "s", "at": "b"}
    assert docs_for(FlowRunStepTool, docs) == {"seq": "s", "at": "b"}


def test_a_docstring_is_one_line_a_paragraph() -> None:
    assert prose("One,\n    two.\n\n    Three.\n    ") == "One, two.\nThree."


def test_they_stand_in_the_schema() -> None:
    found: dict[str, Any] = wire_schema(field_docs())["$defs"]
    assert found["FlowRunStepTool"]["properties"]["args"]["description"] == (
        "JSON, at most 2 KiB of it."
    )
    assert found["Detail"]["description"] == "`outline`: Without delta and tool frames."
    assert found["Finding"]["description"].startswith("One claim about the code, with its")
    assert "\n    " not in found["Finding"]["description"]
    bare = wire_schema()["$defs"]
    assert "description" not in bare["FlowRunStepTool"]["properties"]["args"]
    assert bare.keys() == found.keys()
