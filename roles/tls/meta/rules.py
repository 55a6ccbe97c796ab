"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

RENAMED = {"tls_folder": "tls_directory"}

# public CAs issue no certificates for names in these domains
INTERNAL_DOMAINS = ("example", "internal", "invalid", "local", "localhost", "test")

tls_acme_directory = checks.matches(r"https://\S+", "it must be the https:// URL of the CA's ACME directory.")
tls_acme_ca_file = checks.file_on_controller
tls_acme_email = checks.matches(r"[^@\s,:]+@[^@\s,:]+", "it must be one address, such as you@example.com, or empty.", or_empty=True)


def tls_source(value, settings):
    if value != "letsencrypt":
        return None
    names = [str(name).lower() for name in settings.get("tls_domains") or settings.get("app_domains") or []]
    wildcards = [name for name in names if name.startswith("*.")]
    if wildcards:
        return f"the HTTP-01 challenge can't validate the wildcard '{wildcards[0]}'. List each name, or use provided."
    internal = [name for name in names if "." not in name or name.rpartition(".")[2] in INTERNAL_DOMAINS]
    if internal and not settings.get("tls_acme_directory"):
        return f"'{internal[0]}' is not a public domain name, so Let's Encrypt issues no certificate for it. Use self_signed or provided."
    return None


def tls_acme_eab_id(_value, settings):
    both = bool(settings.get("tls_acme_eab_id")) == bool(settings.get("tls_acme_eab_secret"))
    return None if both else "set both tls_acme_eab_id and tls_acme_eab_secret, or neither."


tls_acme_eab_secret = tls_acme_eab_id


def tls_certificate_file(value, settings):
    needed = settings.get("tls_source") == "provided"
    return f"with tls_source: provided {checks.FILE}" if needed and not checks.is_file(value, settings) else None


tls_key_file = tls_certificate_file
