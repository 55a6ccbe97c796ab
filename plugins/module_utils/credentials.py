"""Text without the credentials of its URLs."""

import re

# user:password@host without a scheme, as one forgets it; git@host:path is no secret, and neither is image:tag@sha256:…
NO_SCHEME = re.compile(r"[^\s@:]*:[^\s@]*@(?!sha256:)")
PARAMETER = re.compile(r"([?&;#])([^\s=?&;#]*)=([^\s?&;#'\"<>]*)")
SECRET_NAMES = ("token", "secret", "password", "passwd", "pwd", "auth", "key", "sig", "credential", "code")


def without_credentials(text):
    """The same text, with … in the place of anything that could be a credential in its URLs: the part before an @, and parameters with such names."""
    return re.sub(r"\S+", lambda word: without_credential(word[0]), str(text))


def without_credential(word):
    """Of one word, from its first :// to its last @, for a password that nobody has encoded may hold / and @ itself."""
    for scheme_end, user_end in ("://", "@"), ("%3a%2f%2f", "%40"):
        lower = word.lower()
        begin, end = lower.find(scheme_end), lower.rfind(user_end)
        user = begin + len(scheme_end)
        # ssh takes no password: a word alone there is a user name, such as git
        is_name = lower[:begin].endswith("ssh") and re.fullmatch(r"[\w.-]+", word[user:end])
        if 0 <= begin < end and not is_name:
            word = f"{word[:user]}…{word[end:]}"
    if "://" not in word and NO_SCHEME.match(word):
        word = "…" + word[word.rfind("@") :]
    return PARAMETER.sub(without_parameter, word)


def without_parameter(found):
    is_secret = any(part in found[2].lower() for part in SECRET_NAMES)
    return f"{found[1]}{found[2]}=…" if is_secret else found[0]
