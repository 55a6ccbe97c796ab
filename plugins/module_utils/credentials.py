"""Remove credentials from URLs in a text."""

import re

# user:password@host, where the scheme was forgotten. git@host:path and image:tag@sha256:… contain no secret.
NO_SCHEME = re.compile(r"[^\s@:]*:[^\s@]*@(?!sha256:)")
PARAMETER = re.compile(r"([?&;#])([^\s=?&;#]*)=([^\s?&;#'\"<>]*)")
SECRET_NAMES = ("token", "secret", "password", "passwd", "pwd", "auth", "key", "sig", "credential", "code")


def without_credentials(text):
    """Replace everything in the text's URLs that may be a credential with …: the part before an @, and parameters named like secrets."""
    return re.sub(r"\S+", lambda word: without_credential(word[0]), str(text))


def without_credential(word):
    """Replace the credentials in one word: the text between the first :// and the last @, because a password may contain / and @."""
    for scheme_end, user_end in ("://", "@"), ("%3a%2f%2f", "%40"):
        lower = word.lower()
        begin, end = lower.find(scheme_end), lower.rfind(user_end)
        user = begin + len(scheme_end)
        # ssh URLs contain no password, so a single word is a user name, such as git
        is_name = lower[:begin].endswith("ssh") and re.fullmatch(r"[\w.-]+", word[user:end])
        if 0 <= begin < end and not is_name:
            word = f"{word[:user]}…{word[end:]}"
    if "://" not in word and NO_SCHEME.match(word):
        word = "…" + word[word.rfind("@") :]
    return PARAMETER.sub(without_parameter, word)


def without_parameter(found):
    is_secret = any(part in found[2].lower() for part in SECRET_NAMES)
    return f"{found[1]}{found[2]}=…" if is_secret else found[0]
