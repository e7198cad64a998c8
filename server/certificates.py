"""Whose word is taken for a server's name."""

import ssl

import httpx


def authorities(url: str = "https://") -> ssl.SSLContext:
    """Those that this machine trusts, as curl does: the system's, or what SSL_CERT_FILE and
    SSL_CERT_DIR name; httpx's own where the system has none. Nobody for what is no https://, which
    has nothing to be vouched for: reading them all takes tens of milliseconds. Reads files."""
    if not url.lower().startswith("https://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    known = ssl.get_default_verify_paths()
    if not known.cafile and not known.capath:
        return httpx.create_ssl_context(trust_env=False)
    return ssl.create_default_context()


def way_out(error: httpx.TransportError) -> str | None:
    """For a person whose server is vouched for by nobody here; None when that is not the cause."""
    if "CERTIFICATE_VERIFY_FAILED" not in str(error):
        return None
    return "its authority is not one of this machine's: SSL_CERT_FILE=FILE names another"
