"""Which files are never sent to an agent, by name."""

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

SECRETS = (
    ".env",
    ".env.*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    ".netrc",
    ".pgpass",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    ".htpasswd",
    "credentials",
    "credentials.json",
    "secrets.json",
    "secrets.toml",
    "secrets.yaml",
    "secrets.yml",
)
HARMLESS = (".env.example", ".env.sample", ".env.template", "*.pub")

IGNORED_FOLDERS = frozenset(
    ".git .hg .svn .tox .venv venv node_modules __pycache__ .mypy_cache .pytest_cache .ruff_cache"
    " dist build target".split()
)
"""Of a project without git, where nothing says what is ignored."""


def is_secret(path: str) -> bool:
    """Whether the name looks like one of a file with secrets."""
    name = PurePosixPath(path).name.lower()
    if any(fnmatchcase(name, pattern) for pattern in HARMLESS):
        return False
    return any(fnmatchcase(name, pattern) for pattern in SECRETS)
