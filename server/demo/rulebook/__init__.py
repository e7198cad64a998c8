"""The plain rules, by the kind of role that uses them.

Honest and few: a line that matches a pattern, now and then two lines or a length. They find what
anybody can check by looking, and they miss nearly everything that a review is for. A pattern that
would match itself has one letter in brackets: a review of podium reads these files too.
"""

from server.demo.rulebook.code import BEHAVIOUR, CONCURRENCY, EDGE, GENERAL, STRUCTURE
from server.demo.rulebook.world import DATA, DEVOPS, ON_CALL, SECURITY, TESTS
from server.demo.rules import Rule

_BY_ROLE: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    ("security", SECURITY),
    ("concurren", CONCURRENCY),
    ("on-call", ON_CALL),
    ("oncall", ON_CALL),
    ("devops", DEVOPS),
    ("edge", EDGE),
    ("struct", STRUCTURE),
    ("behav", BEHAVIOUR),
    ("data", DATA),
    ("test", TESTS),
)


def rules_for(role: str) -> tuple[Rule, ...]:
    """The rules of the kind of role that its name tells; the general ones for every other."""
    name = role.lower().replace("_", "-")
    return next((rules for word, rules in _BY_ROLE if word in name), GENERAL)
