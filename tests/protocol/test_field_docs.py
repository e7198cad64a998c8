"""What the sources say beside a field comes into every document."""

import ast
import gc
import inspect
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest

from protocol.field_docs import Docs, docs_for, docs_of, prose
from protocol.frames import FlowRunStepTool, StepFrame
from protocol.schema import wire_schema
from server.contracts import MODULES, field_docs

SOURCE = '''
class A:
    """Of the class."""

    one: int
    """Of one,
    on two lines."""
    two: int = 2
    three: Annotated[
        str,
        Meta(min_length=1),
    ] = ""
    """Of three."""


class B(StrEnum):
    ONE = "one"
    """Of ONE."""
    TWO = "two"

    def f(self) -> None:
        """Of a method."""
'''


def test_the_text_below_a_field_is_read() -> None:
    assert docs_of([SOURCE]) == {
        "A": {"one": "Of one, on two lines.", "three": "Of three."},
        "B": {"ONE": "Of ONE."},
    }


def parsed(source: str) -> ast.Module:
    """Without the garbage collector, under which Python 3.11 may fail here."""
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        gc.enable()


def by_the_parser(source: str) -> Docs:
    """The same, found by Python's own parser."""
    docs: dict[str, dict[str, str]] = {}
    for node in parsed(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in pairwise(node.body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name))
                    | ast.Assign(targets=[ast.Name(id=name)]),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    docs.setdefault(node.name, {})[name] = prose(text)
    return docs


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_python_reads_the_sources_of_the_wire_alike(module: ModuleType) -> None:
    source = inspect.getsource(module)
    assert docs_of([source]) == by_the_parser(source)


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
