"""Which names are taken for secrets, and which harmless neighbours are not."""

import pytest

from server.agents.copies.exclusions import is_secret

SECRET = """
.env .ENV .env.local .env-prod prod.env .envrc deploy/.env server.pem a/b.KEY id_rsa id_rsa.bak
id_ed25519 AuthKey.p8 cert.pfx store.jks vault.kdbx putty.ppk .netrc .npmrc .pypirc .pgpass .my.cnf
.git-credentials .htpasswd credentials credentials.json my-credentials.json secrets.yaml
config/master.key service-account.json gcp_service_account.json service_account_prod.json
client_secret_123.apps.googleusercontent.com.json application_default_credentials.json
home/.aws/credentials .aws/config .docker/config.json .dockercfg .kube/config kubeconfig
terraform.tfstate terraform.tfstate.backup infra/prod.tfstate prod.tfvars prod.auto.tfvars
x.tfvars.json .terraformrc private.asc key.gpg .gnupg/trustdb .ssh/config .ssh/known
.bash_history .zsh_history .psql_history x/.python_history client.ovpn secring.gpg
.config/gcloud/access_tokens.db .azure/msal_token_cache.bin .config/gh/hosts.yml .vault-token
""".split()

HARMLESS = """
.env.example .env.sample .env.template prod.env.example .env.dist id_rsa.pub key.pem.example
environment.py env.py keys.py config.json docker/config.json kube/config aws/credentials.py
credentials.py secrets.py secret_test.go tokens.go history.py HISTORY.md README.asciidoc
terraform.tfvars.example example.tfvars.json.sample main.tf package.json tsconfig.json
src/keyboard.ts monkey.py public.asc.md .ssh-notes.md .github/config.yml identity.py
""".split()


@pytest.mark.parametrize("path", SECRET)
def test_a_secret_stays_at_home(path: str) -> None:
    assert is_secret(path)
    assert is_secret(f"deep/er/{path}")


@pytest.mark.parametrize("path", HARMLESS)
def test_a_harmless_neighbour_is_reviewed(path: str) -> None:
    assert not is_secret(path)
