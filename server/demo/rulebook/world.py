"""Plain rules about what the code meets: attackers, tests, stored data, builds, peers that fail."""

from flows.outputs import Action
from protocol.report import Severity
from server.demo.rulebook.code import SWALLOWED
from server.demo.rules import PYTHON, SCRIPT, Rule, line, whole_file

_BUILD = ("Dockerfile", ".dockerfile", ".yml", ".yaml", ".sh", "Makefile", ".mk")
_TESTS = r"(^|/)test_\w+\.py$|\.(test|spec)\.(ts|tsx|js|jsx)$"

SECURITY = (
    Rule(
        id="dynamic-code",
        what="text that is run as code",
        find=line(r"(^|[^.\w])(eval|exec)\(", suffixes=(*PYTHON, *SCRIPT)),
        grep=r"\b(eval|exec)\(",
        severity=Severity.CRITICAL,
        category="injection",
        topics=("inject", "input", "code", "execution"),
        impact="1. Somebody brings text to this call. 2. It runs with the program's own rights.",
        fix="Parse the text, or choose from a table of what is allowed.",
    ),
    Rule(
        id="through-the-shell",
        what="a command that goes through the shell",
        find=line(r"shell\s*=\s*True|os\.(system|popen)\(", suffixes=PYTHON),
        grep=r"shell\s*=\s*True|os\.(system|popen)\(",
        severity=Severity.CRITICAL,
        category="injection",
        topics=("inject", "command", "input", "execution"),
        impact="1. A value with shell signs gets into the command. 2. The shell runs what it says.",
        fix="Give the program and its arguments as a list, without a shell.",
    ),
    Rule(
        id="unsafe-loading",
        what="loading of a format that can run code",
        find=line(
            r"yaml\.load\(|\b(pickle|marshal|dill)\.loads?\(", unless="SafeLoader", suffixes=PYTHON
        ),
        grep=r"yaml\.load\(|(pickle|marshal|dill)\.loads?\(",
        severity=Severity.CRITICAL,
        category="deserialisation",
        topics=("deserial", "serial", "inject", "input", "data"),
        impact="1. Somebody changes the stored bytes. 2. Loading them runs what they name.",
        fix="Use the safe loader, or a format that holds only data.",
    ),
    Rule(
        id="secret-in-code",
        what="a secret that is written into the code",
        find=line(
            r"(?i)(password|passwd|secret|token|api_?key)\w*\s*[:=]\s*[\"'][^\"'\s{}$<>]{8,}[\"']",
            unless=r"(?i)example|placeholder|environ|changeme",
        ),
        grep=r"(password|passwd|secret|token|api_?key)\w*\s*[:=]\s*[\"']",
        severity=Severity.CRITICAL,
        category="secrets",
        topics=("secret", "credential", "auth"),
        impact="1. Anybody with the source reads it. 2. They use it until it is changed.",
        fix="Read it from the environment or a secret store, and change the one that was here.",
    ),
    Rule(
        id="raw-markup",
        what="markup that is set without escaping",
        find=line(r"\.(innerHTML|outerHTML)\s*=|dangerously[S]etInnerHTML|unsafeHTML\("),
        grep=r"(innerHTML|outerHTML)\s*=|dangerously[S]etInnerHTML|unsafeHTML\(",
        severity=Severity.WARNING,
        category="injection",
        topics=("xss", "inject", "output", "input"),
        impact="1. Text of a user gets into the markup. 2. The browser of another user runs it.",
        fix="Set text, or let the template escape it.",
    ),
    Rule(
        id="unverified-peer",
        what="a connection whose certificate is not checked",
        find=line(r"verify\s*=\s*False|CERT_[N]ONE|rejectUnauthorized:\s*false"),
        grep=r"verify\s*=\s*False|CERT_[N]ONE|rejectUnauthorized:\s*false",
        severity=Severity.CRITICAL,
        category="transport",
        topics=("transport", "tls", "crypto", "network"),
        impact="1. Somebody on the way answers instead of the peer. 2. They read and change all.",
        fix="Check the certificate; give a private authority as a file.",
    ),
)

TESTS = (
    Rule(
        id="test-without-assert",
        what="a test file that asserts nothing",
        find=whole_file(
            r"def test_|\b(it|test)\(", lacks=r"\bassert|expect\(|raises\(", path=_TESTS
        ),
        grep=r"def test_|\b(it|test)\(",
        severity=Severity.WARNING,
        category="assertions",
        topics=("assert", "quality", "strength", "coverage"),
        impact="It passes whatever the code does, short of an exception.",
        fix="Assert what the call promises.",
        action=Action.ADD,
    ),
    Rule(
        id="test-left-out",
        what="a test that does not run",
        find=line(r"@pytest\.mark\.skip\b|pytest\.skip\(|\b(it|test|describe)\.(skip|only)\("),
        grep=r"mark\.skip|pytest\.skip\(|(it|test|describe)\.(skip|only)\(",
        severity=Severity.SUGGESTION,
        category="coverage",
        topics=("coverage", "gap", "skip"),
        impact="What it was written for is not checked.",
        fix="Mend it or remove it; where a host cannot run it, say which host does.",
    ),
    Rule(
        id="sleep-in-test",
        what="a wait for time instead of an event",
        find=line(r"\b(time|asyncio)\.sleep\(\s*[0-9.]*[1-9]", suffixes=PYTHON),
        grep=r"(time|asyncio)\.sleep\(",
        severity=Severity.SUGGESTION,
        category="flakiness",
        topics=("flak", "determin", "speed", "reliab", "isolation"),
        impact="It is too short on a busy machine and too long on every other.",
        fix="Wait for what is to happen, with a timeout.",
    ),
)

DATA = (
    Rule(
        id="built-query",
        what="a query that is put together from text",
        find=line(
            r"(execute|executemany|executescript|query|raw)\(\s*(f[\"']|[\"'].*[\"']\s*(%|\+|\.format))"
        ),
        grep=r"(execute|executemany|executescript|query|raw)\(\s*f?[\"']",
        severity=Severity.CRITICAL,
        category="queries",
        topics=("quer", "inject", "sql", "integrity"),
        impact="A value with a quote sign in it changes what the query does.",
        fix="Give the values as parameters.",
    ),
    Rule(
        id="every-column",
        what="a query for every column",
        find=line(r"(?i)\bSELECT\s+\*", suffixes=(*PYTHON, *SCRIPT, ".sql")),
        grep=r"(SELECT|select)\s+\*",
        severity=Severity.SUGGESTION,
        category="queries",
        topics=("quer", "schema", "performance", "migration"),
        impact="A column that is added later travels along and can change the order.",
        fix="Name the columns.",
    ),
    Rule(
        id="dropped-data",
        what="a statement that drops stored data",
        find=line(
            r"(?i)\b(DROP\s+(TABLE|COLUMN)|TRUNCATE\s+TABLE)\b", suffixes=(*PYTHON, *SCRIPT, ".sql")
        ),
        grep=r"(DROP|drop)\s+(TABLE|table|COLUMN|column)|(TRUNCATE|truncate)\s",
        severity=Severity.WARNING,
        category="migrations",
        topics=("migration", "integrity", "loss", "retention", "schema"),
        impact="The rows are gone when the step before it was wrong.",
        fix="Keep them one release longer, and take a copy before.",
    ),
)

DEVOPS = (
    Rule(
        id="unpinned-image",
        what="an image or action without a fixed version",
        find=line(
            r"^\s*FROM\s+[^\s:@]+(:latest)?(\s|$)|^\s*image:\s*[^\s:@]+(:latest)?\s*$"
            r"|uses:\s*\S+@(main|master)\b",
            suffixes=_BUILD,
        ),
        grep=r"FROM |image:|uses:",
        severity=Severity.WARNING,
        category="reproducibility",
        topics=("reprod", "pin", "supply", "build", "depend", "deploy"),
        impact="The same source builds something else tomorrow.",
        fix="Name a version, best with its digest.",
    ),
    Rule(
        id="piped-installer",
        what="a script from the network that runs unread",
        find=line(r"(curl|wget)\b.*\|\s*(sudo\s+)?(ba|z)?sh\b", suffixes=(*_BUILD, ".md")),
        grep=r"(curl|wget) .*sh",
        severity=Severity.WARNING,
        category="supply chain",
        topics=("supply", "build", "depend", "security", "deploy"),
        impact="Whoever answers the request decides what runs here.",
        fix="Fetch a named version, check its hash, then run it.",
    ),
    Rule(
        id="unpinned-package",
        what="an install of a package without a version",
        find=line(
            r"\b(pip3?|uv pip|pipx) install\s+[A-Za-z]|\bnpm (install|i)\s+(-g\s+)?[a-z@]",
            unless=r"==|@[0-9]|\s-r\s|-e\s|\.\[|--require-hashes|\.whl",
            suffixes=_BUILD,
        ),
        grep=r"(pip3?|pipx) install|npm (install|i) ",
        severity=Severity.SUGGESTION,
        category="reproducibility",
        topics=("reprod", "pin", "depend", "supply", "build"),
        impact="The build takes whatever is newest on that day.",
        fix="Install from the lock file, or name the version.",
    ),
)

ON_CALL = (
    SWALLOWED,
    Rule(
        id="request-without-timeout",
        what="a network call without a timeout",
        find=line(
            r"\b(requests\.(get|post|put|patch|delete)|urlopen)\(|timeout\s*=\s*None\b",
            unless=r"timeout\s*=\s*[^N\s]|def ",
            suffixes=PYTHON,
        ),
        grep=r"requests\.(get|post|put|patch|delete)\(|urlopen\(|timeout\s*=\s*None",
        severity=Severity.WARNING,
        category="timeouts",
        topics=("timeout", "resilien", "hang", "latency", "depend"),
        impact="A peer that never answers holds this caller for ever.",
        fix="Give every wait a timeout, and say what happens when it passes.",
    ),
    Rule(
        id="endless-loop",
        what="a loop that names no end",
        find=line(r"^\s*while\s+(True|1)\s*:|\bwhile\s*\(\s*true\s*\)|for\s*\(\s*;;\s*\)"),
        grep=r"while\s+(True|1)\s*:|while\s*\(\s*true\s*\)",
        severity=Severity.SUGGESTION,
        category="limits",
        topics=("retr", "limit", "loop", "resilien", "capacity", "load"),
        impact="Where it tries something again, it tries for ever and loads what is already down.",
        fix="Bound it by a count or a deadline, with a growing pause between tries.",
    ),
)
