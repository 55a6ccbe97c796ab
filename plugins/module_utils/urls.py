"""What the URL of a database says, without its credentials."""

import difflib
from urllib.parse import parse_qs, urlsplit

SCHEMES = ("postgresql", "mysql", "mariadb", "mssql", "oracle", "sqlite", "mongodb", "redis", "rediss")
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521, "mongodb": 27017, "redis": 6379, "rediss": 6379}


def database_address(url):
    """Where it leads to over the network: C({kind, host, port}); empty for a file, a socket, or no URL at all."""
    if not url or database_problem(url):
        return {}
    parts = urlsplit(url)
    kind = scheme(parts)
    if not parts.hostname or kind not in PORTS or is_by_other_ways(parts):
        return {}
    return {"kind": kind, "host": parts.hostname, "port": parts.port or PORTS[kind]}


def database_problem(url):
    """Why it can be none; empty if it can. It never names any part that may be secret."""
    try:
        parts = urlsplit(url)
        _port = is_by_other_ways(parts) or parts.port  # reading it is the check
    except ValueError:
        return "what stands for its port is none. In a password, write / as %2F, # as %23, ? as %3F, @ as %40 and : as %3A."
    kind = scheme(parts)
    near = difflib.get_close_matches(kind, SCHEMES, n=1, cutoff=0.8)
    if "://" not in url:
        return "it is no URL. Write postgresql://USER:PASSWORD@HOST:5432/DATABASE."
    if kind not in SCHEMES and near:
        return f"it begins with {kind}://. Did you mean {near[0]}://?"
    if kind in ("postgresql", "mysql", "mariadb"):
        if not parts.hostname and not {"host", "unix_socket", "service"} & {*parse_qs(parts.query)}:
            return "it names no host. Write postgresql://USER:PASSWORD@HOST:5432/DATABASE."
        if not parts.path.strip("/") and not {"dbname", "service"} & {*parse_qs(parts.query)}:
            return "it names no database. Write postgresql://USER:PASSWORD@HOST:5432/DATABASE."
    return ""


def is_by_other_ways(parts):
    """A list of hosts, names that DNS has records of another kind for (mongodb+srv), or a socket's path in the place of a host."""
    place = parts.netloc.rpartition("@")[2]
    return "," in place or "%2f" in place.lower() or parts.scheme.endswith("+srv")


def scheme(parts):
    """Its kind, without the driver that SQLAlchemy lets one name."""
    kind = parts.scheme.partition("+")[0]
    return "postgresql" if kind == "postgres" else kind
