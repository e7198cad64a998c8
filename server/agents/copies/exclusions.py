"""Which files are never sent to an agent, by name."""

NAMES = frozenset(
    # settings with secrets, and the stores of what one signs in with
    ".env .envrc .netrc _netrc .pgpass .my.cnf .mylogin.cnf .npmrc .yarnrc.yml .pypirc"
    " .git-credentials .htpasswd .dockercfg .s3cfg .boto .vault-token .vault_pass .terraformrc"
    " terraform.rc .fetchmailrc .ftpconfig .remote-sync.json sftp.json sftp-config.json .esmtprc"
    " .msmtprc .rclone.conf rclone.conf credentials credentials.json credentials.xml"
    " credentials.yaml credentials.yml credentials.toml credentials.ini credentials.csv"
    " secrets.json secrets.toml secrets.yaml secrets.yml secrets.ini secret.json secret.yaml"
    " secret.yml master.key application_default_credentials.json accesstokens.json"
    " azureprofile.json token.json tokens.json kubeconfig .kubeconfig local.settings.json"
    " wp-config.php google-services.json googleservice-info.plist shadow keystore.properties"
    # what somebody typed
    " .bash_history .zsh_history .sh_history .ksh_history .python_history .node_repl_history"
    " .psql_history .mysql_history .sqlite_history .rediscli_history .dbshell .irb_history"
    " .lesshst fish_history consolehost_history.txt"
    # keys without an ending
    " id_rsa id_dsa id_ecdsa id_ed25519 identity secring.gpg".split()
)
STARTS = (
    ".env.", ".env-", ".env_", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "client_secret",
    "service-account", "service_account", "serviceaccount", "terraform.tfstate",
)  # fmt: skip
ENDS = (
    ".env", ".pem", ".key", ".p8", ".p12", ".pfx", ".pkcs12", ".jks", ".keystore", ".bks", ".kdb",
    ".kdbx", ".ppk", ".asc", ".pgp", ".gpg", ".ovpn", ".tfstate", ".tfstate.backup", ".tfvars",
    ".tfvars.json", ".agekey", ".age", ".keytab", ".mobileprovision", ".publishsettings",
    ".netrc", ".htpasswd", "_history", "-service-account.json", "_service_account.json",
    "-credentials.json", "_credentials.json", "-firebase-adminsdk.json", ".rdp", ".snk",
)  # fmt: skip
PLACES = (
    "/.aws/credentials", "/.aws/config", "/.docker/config.json", "/.kube/config",
    "/.config/gh/hosts.yml", "/.config/hub", "/.gem/credentials", "/.cargo/credentials.toml",
    "/.cargo/credentials", "/.m2/settings.xml", "/.m2/settings-security.xml",
    "/.gradle/gradle.properties", "/.composer/auth.json", "/.nuget/nuget.config",
    "/.config/pip/pip.conf", "/.subversion/auth", "/.databrickscfg", "/.snowflake/config.toml",
)  # fmt: skip
FOLDERS = ("/.ssh/", "/.gnupg/", "/.password-store/", "/.azure/", "/.config/gcloud/", "/.aws/sso/")
"""Below them everything is left out."""

HARMLESS_ENDS = (
    ".pub", ".example", ".sample", ".template", ".dist", ".tmpl", "known_hosts",
    ".example.json", ".example.yml", ".example.yaml", ".example.toml", ".example.tfvars",
    ".sample.tfvars", ".template.json", ".sample.json",
)  # fmt: skip

IGNORED_FOLDERS = frozenset(
    ".git .hg .svn .tox .venv venv node_modules __pycache__ .mypy_cache .pytest_cache .ruff_cache"
    " .terraform dist build target".split()
)
"""Of a project without git, where nothing says what is ignored."""


def is_secret(path: str) -> bool:
    """Whether the name, or the place, looks like one of a file with secrets."""
    whole = "/" + path.lower()
    name = whole[whole.rindex("/") + 1 :]
    if not (
        name in NAMES
        or name.startswith(STARTS)
        or name.endswith(ENDS)
        or whole.endswith(PLACES)
        or any(folder in whole for folder in FOLDERS)
    ):
        return False
    return not name.endswith(HARMLESS_ENDS)
