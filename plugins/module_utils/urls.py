"""Check and parse database URLs without exposing their credentials."""

import difflib
from urllib.parse import parse_qs, urlsplit

SCHEMES = ("postgresql", "mysql", "mariadb", "mssql", "oracle", "sqlite", "mongodb", "redis", "rediss")
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521, "mongodb": 27017, "redis": 6379, "rediss": 6379}


def database_address(url):
    """Return the network address in the URL as {kind, host, port}. It is empty for a file, a socket or an invalid URL."""
    if not url or database_problem(url):
        return {}
    parts = urlsplit(url)
    kind = scheme(parts)
    if not parts.hostname or kind not in PORTS or has_other_host(parts):
        return {}
    return {"kind": kind, "host": parts.hostname, "port": parts.port or PORTS[kind]}


def database_problem(url):
    """Return why the URL is not valid, or an empty string if it is. The text never contains a part that may be secret."""
    try:
        parts = urlsplit(url)
        _port = has_other_host(parts) or parts.port  # raises ValueError if invalid
    except ValueError:
        return "the port in the URL is not a number. In a password, write / as %2F, # as %23, ? as %3F, @ as %40 and : as %3A."
    kind = scheme(parts)
    near = difflib.get_close_matches(kind, SCHEMES, n=1, cutoff=0.8)
    if "://" not in url:
        return "it is not a URL. Write postgresql://USER:PASSWORD@HOST:5432/DATABASE."
    if kind not in SCHEMES and near:
        return f"it begins with {kind}://. Did you mean {near[0]}://?"
    if kind in ("postgresql", "mysql", "mariadb"):
        if not parts.hostname and not {"host", "unix_socket", "service"} & {*parse_qs(parts.query)}:
            return "it has no host. Write postgresql://USER:PASSWORD@HOST:5432/DATABASE."
        if not parts.path.strip("/") and not {"dbname", "service"} & {*parse_qs(parts.query)}:
            return "it has no database name. Write postgresql://USER:PASSWORD@HOST:5432/DATABASE."
    return ""


def has_other_host(parts):
    """Return whether the URL does not name a single host: a list of hosts, an SRV record (mongodb+srv), or the path of a socket."""
    host = parts.netloc.rpartition("@")[2]
    return "," in host or "%2f" in host.lower() or parts.scheme.endswith("+srv")


def scheme(parts):
    """Return the kind of database, without the driver that SQLAlchemy allows in the scheme."""
    kind = parts.scheme.partition("+")[0]
    return "postgresql" if kind == "postgres" else kind
