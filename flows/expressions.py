"""Conditions of a flow: a small language that is parsed, never executed as code.

    inputs.base        signals.data            band >= medium
    steps.merge.output.corrective              steps.validate.status == "completed"
    count(x)  any(x, …)  all(x, …)             success()  failure()  always()
    and  or  not  ( )  == != < <= > >=         12  0.5  "text"  true  false  null

What is missing is null, and null is false: an expression that parses always has a value. As in
GitHub Actions, a condition that asks for no status function means `success() and (condition)`.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, assert_never

from msgspec import Struct

from flows.facts import StepFact
from protocol.commands import Band
from protocol.ids import StepId

MAX_LENGTH = 500
MAX_DEPTH = 24

ROOTS = ("inputs", "signals", "steps", "band")
STATUS_FUNCTIONS = frozenset({"success", "failure", "always"})
LIST_FUNCTIONS = frozenset({"count", "any", "all"})
CONSTANTS: Mapping[str, Any] = {"true": True, "false": False, "null": None} | {
    band.value: band for band in Band
}
BANDS = tuple(Band)
BAND_NAMES = tuple(band.value for band in Band)

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)(?![\w.])"
    r"|(?P<name>[A-Za-z_]\w*(?:\.\w+)*)"
    r"|(?P<string>\"[^\"]*\"|'[^']*')"
    r"|(?P<mark>==|!=|<=|>=|<|>|\(|\)|,)"
    r"|(?P<end>$)|(?P<bad>.))",
    re.DOTALL | re.ASCII,
)


class ExpressionError(ValueError):
    """The text is no expression. `column` counts from 1."""

    def __init__(self, message: str, *, column: int) -> None:
        super().__init__(f"column {column}: {message}")
        self.message = message
        self.column = column


class Literal(Struct, frozen=True):
    value: Any


class Path(Struct, frozen=True):
    parts: tuple[str, ...]


class Call(Struct, frozen=True):
    function: str
    arguments: tuple["Node", ...]


class Not(Struct, frozen=True):
    operand: "Node"


class And(Struct, frozen=True):
    operands: tuple["Node", ...]


class Or(Struct, frozen=True):
    operands: tuple["Node", ...]


class Compare(Struct, frozen=True):
    operator: str
    left: "Node"
    right: "Node"


Node = Literal | Path | Call | Not | And | Or | Compare


class Expression(Struct, frozen=True):
    text: str
    root: Node


class Scope(Struct, frozen=True, kw_only=True):
    """What an expression can see. `succeeded` and `failed` speak of the step's own needs."""

    inputs: Mapping[str, Any] = {}
    signals: Mapping[str, int] = {}
    """Hits of the signals that are present."""
    band: Band | None = None
    steps: Mapping[StepId, StepFact] = {}
    succeeded: bool = True
    failed: bool = False


class Names(Struct, frozen=True):
    """What an expression refers to, for validation."""

    paths: frozenset[str]
    functions: frozenset[str]


def parse(text: str) -> Expression:
    """Parse `text`, or raise ExpressionError with the column of the first thing wrong."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters", column=MAX_LENGTH + 1)
    parser = _Parser(_tokens(text))
    root = parser.disjunction(0)
    parser.expect_end()
    return Expression(text, root)


def evaluate(expression: Expression, scope: Scope) -> Any:
    """Return the value of `expression`; a missing value is None."""
    return _value(expression.root, scope)


def holds(expression: Expression, scope: Scope) -> bool:
    """Say whether a condition holds, with `success()` implied when it asks for no status."""
    if not names(expression).functions & STATUS_FUNCTIONS and not scope.succeeded:
        return False
    return _truth(evaluate(expression, scope))


def names(expression: Expression) -> Names:
    """Return the dotted paths and the functions that `expression` uses."""
    nodes = list(_walk(expression.root))
    return Names(
        frozenset(".".join(node.parts) for node in nodes if isinstance(node, Path)),
        frozenset(node.function for node in nodes if isinstance(node, Call)),
    )


# ── parsing ──────────────────────────────────────────────────────────────────────────────────────


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


def _tokens(text: str) -> list[_Token]:
    found = []
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        assert match is not None, "the pattern matches anything"
        assert match.lastgroup is not None, "every alternative has a name"
        token = _Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1)
        if token.kind == "bad":
            raise ExpressionError(f"unexpected {token.text!r}", column=token.column)
        found.append(token)
        if token.kind == "end":
            return found
        at = match.end()


class _Parser:
    """Recursive descent; one method per level of binding, loosest first."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def expect_end(self) -> None:
        if self._next.kind != "end":
            raise self._unexpected()

    def disjunction(self, depth: int) -> Node:
        operands = [self._conjunction(depth)]
        while self._take("or"):
            operands.append(self._conjunction(depth))
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _conjunction(self, depth: int) -> Node:
        operands = [self._negation(depth)]
        while self._take("and"):
            operands.append(self._negation(depth))
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _negation(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ExpressionError("nested too deeply", column=self._next.column)
        if self._take("not"):
            return Not(self._negation(depth + 1))
        return self._comparison(depth)

    def _comparison(self, depth: int) -> Node:
        left = self._operand(depth)
        for operator in ("==", "!=", "<=", ">=", "<", ">"):
            if self._take(operator):
                return Compare(operator, left, self._operand(depth))
        return left

    def _operand(self, depth: int) -> Node:
        if self._take("("):
            inner = self.disjunction(depth + 1)
            self._expect(")")
            return inner
        token = self._next
        self._at += 1
        match token.kind:
            case "number":
                return Literal(float(token.text) if "." in token.text else int(token.text))
            case "string":
                return Literal(token.text[1:-1])
            case "name" if token.text not in ("and", "or", "not"):
                return self._named(token, depth)
        self._at -= 1
        raise self._unexpected()

    def _named(self, token: _Token, depth: int) -> Node:
        if self._take("("):
            return self._call(token, depth)
        if token.text in CONSTANTS:
            return Literal(CONSTANTS[token.text])
        parts = tuple(token.text.split("."))
        if parts[0] not in ROOTS or (len(parts) == 1) != (parts[0] == "band"):
            raise ExpressionError(f"unknown name {token.text!r}", column=token.column)
        return Path(parts)

    def _call(self, token: _Token, depth: int) -> Node:
        if token.text not in STATUS_FUNCTIONS | LIST_FUNCTIONS:
            raise ExpressionError(f"unknown function {token.text!r}", column=token.column)
        arguments: list[Node] = []
        while not self._take(")"):
            if arguments:
                self._expect(",")
            arguments.append(self.disjunction(depth + 1))
        if (token.text in STATUS_FUNCTIONS) == bool(arguments):
            wanted = "no argument" if arguments else "an argument"
            raise ExpressionError(f"{token.text}() takes {wanted}", column=token.column)
        if token.text == "count" and len(arguments) > 1:
            raise ExpressionError("count() takes one argument", column=token.column)
        return Call(token.text, tuple(arguments))

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, text: str) -> bool:
        found = self._next.kind in ("name", "mark") and self._next.text == text
        self._at += found
        return found

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._unexpected(f", expected {text!r}")

    def _unexpected(self, expected: str = "") -> ExpressionError:
        what = "end of expression" if self._next.kind == "end" else repr(self._next.text)
        return ExpressionError(f"unexpected {what}{expected}", column=self._next.column)


# ── evaluation ───────────────────────────────────────────────────────────────────────────────────


def _walk(node: Node) -> list[Node]:
    match node:
        case Literal() | Path():
            return [node]
        case Call(arguments=children) | And(operands=children) | Or(operands=children):
            return [node, *(inner for child in children for inner in _walk(child))]
        case Not(operand=operand):
            return [node, *_walk(operand)]
        case Compare(left=left, right=right):
            return [node, *_walk(left), *_walk(right)]
    assert_never(node)


def _value(node: Node, scope: Scope) -> Any:
    match node:
        case Literal(value=value):
            return value
        case Path(parts=parts):
            return _look_up(parts, scope)
        case Call(function=function, arguments=arguments):
            return _call_value(function, [_value(argument, scope) for argument in arguments], scope)
        case Not(operand=operand):
            return not _truth(_value(operand, scope))
        case And(operands=operands):
            return all(_truth(_value(operand, scope)) for operand in operands)
        case Or(operands=operands):
            return any(_truth(_value(operand, scope)) for operand in operands)
        case Compare(operator=operator, left=left, right=right):
            return _compare(operator, _value(left, scope), _value(right, scope))
    assert_never(node)


def _call_value(function: str, values: list[Any], scope: Scope) -> Any:
    match function:
        case "success":
            return scope.succeeded
        case "failure":
            return scope.failed
        case "count":
            return len(values[0]) if isinstance(values[0], list | tuple | dict | str) else 0
        case "any":
            return any(_truth(value) for value in _flat(values))
        case "all":
            return all(_truth(value) for value in _flat(values))
    return True  # always()


def _flat(values: list[Any]) -> list[Any]:
    """The elements of lists among `values`, and the other values as they are."""
    return [
        inner
        for value in values
        for inner in (value if isinstance(value, list | tuple) else [value])
    ]


def _look_up(parts: tuple[str, ...], scope: Scope) -> Any:
    root, rest = parts[0], parts[1:]
    match root:
        case "inputs":
            return _dig(scope.inputs, rest)
        case "signals":
            return _dig(scope.signals, rest)
        case "steps":
            return _step_value(rest, scope.steps)
    return scope.band


def _step_value(parts: tuple[str, ...], steps: Mapping[StepId, StepFact]) -> Any:
    """Resolve `id.status` or `id.output.path`; ids contain dots, so the longest one wins."""
    for length in range(len(parts), 0, -1):
        fact = steps.get(StepId(".".join(parts[:length])))
        if fact is None:
            continue
        match parts[length:]:
            case ("status",):
                return fact.status.value
            case ("output", *path):
                return _dig(fact.output, tuple(path))
        return None
    return None


def _dig(value: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _truth(value: Any) -> bool:
    return bool(value)


def _compare(operator: str, left: Any, right: Any) -> bool:
    """Compare like with like; anything else is unequal, and neither smaller nor greater."""
    if isinstance(left, Band) or isinstance(right, Band):
        left, right = _rank(left), _rank(right)
    alike = type(left) is type(right) or (_numeric(left) and _numeric(right))
    if operator in ("==", "!="):
        return (alike and left == right) == (operator == "==")
    if not alike or not (_numeric(left) or isinstance(left, str)):
        return False
    match operator:
        case "<":
            return bool(left < right)
        case "<=":
            return bool(left <= right)
        case ">":
            return bool(left > right)
    return bool(left >= right)


def _rank(value: Any) -> int | None:
    """The place of a band, or of its name, among the bands."""
    return BANDS.index(Band(value)) if value in BAND_NAMES else None


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
