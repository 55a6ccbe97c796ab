"""What the types in argument_specs.yml can't express; plugin_utils/rules.py explains it."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

# no public CA issues a certificate for a name that ends like this
NOT_OF_THE_INTERNET = ("example", "internal", "invalid", "local", "localhost", "test")

tls_acme_directory = checks.matches(r"https://\S+", "it is the https:// URL of an ACME directory, as the CA gives it.")
tls_acme_ca_file = checks.file_on_controller
tls_acme_email = checks.matches(r"[^@\s,:]+@[^@\s,:]+", "it must be one address, such as you@example.com, or empty.", or_empty=True)


def tls_source(value, settings):
    if value != "letsencrypt":
        return None
    names = [str(name).lower() for name in settings.get("tls_domains") or settings.get("app_domains") or []]
    # by HTTP-01, which proves one name at a time
    stars = [name for name in names if name.startswith("*.")]
    if stars:
        return f"'{stars[0]}' can't have a certificate in this way, which proves one name after another. Name each, or use provided."
    inner = [name for name in names if "." not in name or name.rpartition(".")[2] in NOT_OF_THE_INTERNET]
    if inner and not settings.get("tls_acme_directory"):
        return f"'{inner[0]}' is no name of the internet, so Let's Encrypt gives no certificate for it. Use self_signed or provided."
    return None


def tls_acme_eab_id(_value, settings):
    both = bool(settings.get("tls_acme_eab_id")) == bool(settings.get("tls_acme_eab_secret"))
    return None if both else "tls_acme_eab_id and tls_acme_eab_secret go together."


tls_acme_eab_secret = tls_acme_eab_id


def tls_certificate_file(value, settings):
    needed = settings.get("tls_source") == "provided"
    return f"with tls_source: provided {checks.FILE}" if needed and not checks.is_file(value, settings) else None


tls_key_file = tls_certificate_file
