"""What a URL says, without its credentials: the filters `database_address` and `without_credentials`."""

import difflib
import re
from urllib.parse import parse_qs, urlsplit

SCHEMES = ("postgresql", "mysql", "mariadb", "mssql", "oracle", "sqlite", "mongodb", "redis", "rediss")
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521, "mongodb": 27017, "redis": 6379, "rediss": 6379}
# user:password@host without a scheme, as one forgets it; git@host:path is no secret, and neither is image:tag@sha256:…
NO_SCHEME = re.compile(r"[^\s@:]*:[^\s@]*@(?!sha256:)")
PARAMETER = re.compile(r"([?&;#])([^\s=?&;#]*)=([^\s?&;#'\"<>]*)")
SECRET_NAMES = ("token", "secret", "password", "passwd", "pwd", "auth", "key", "sig", "credential", "code")


class FilterModule:
    def filters(self):
        return {"database_address": database_address, "without_credentials": without_credentials}


def without_credentials(text):
    """The same text, with … for whatever could be a credential in its URLs: what stands before an @, and parameters of such names."""
    return re.sub(r"\S+", lambda word: without_credential(word[0]), str(text))


def without_credential(word):
    """Of one word, from its first :// to its last @, for a password that nobody has encoded may hold / and @ itself."""
    for scheme_end, user_end in ("://", "@"), ("%3a%2f%2f", "%40"):
        lower = word.lower()
        begin, end = lower.find(scheme_end), lower.rfind(user_end)
        user = begin + len(scheme_end)
        # ssh takes no password: what stands alone there is a name, such as git
        is_name = lower[:begin].endswith("ssh") and re.fullmatch(r"[\w.-]+", word[user:end])
        if 0 <= begin < end and not is_name:
            word = f"{word[:user]}…{word[end:]}"
    if "://" not in word and NO_SCHEME.match(word):
        word = "…" + word[word.rfind("@") :]
    return PARAMETER.sub(without_parameter, word)


def without_parameter(found):
    is_secret = any(part in found[2].lower() for part in SECRET_NAMES)
    return f"{found[1]}{found[2]}=…" if is_secret else found[0]


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
