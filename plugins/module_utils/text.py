"""Make text from an app, a repository or a visitor safe to print in a terminal."""

import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.credentials import without_credentials

LINE, TEXT = 2000, 65536
# Terminal escape sequences (colours, cursor movements, titles). Each ends at the next control character, so matching takes linear time.
SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x00-\x1f\x7f-\x9f]*(?:\x07|\x1b\\|\x9c)|\x1b[ -/]*[0-~]")
# Other control characters (C0, C1), characters that reorder or break a line (bidi, U+2028, U+2029), and surrogates, which represent bytes
# that are not UTF-8
CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
CONTROL = re.compile(f"[{CONTROLS}]")
# characters that a setting or command on a single line must not contain
FORBIDDEN_IN_LINE = re.compile(f"[{CONTROLS}\t\n\r]")


def printable(data):
    """Remove escape sequences, and replace control characters (except newlines and tabs) and invalid UTF-8 with U+FFFD."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = SEQUENCE.sub("", text)
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def printable_values(value):
    """Apply `printable` to every string in a structure, such as the result of a module."""
    if isinstance(value, (str, bytes)):
        return printable(value)
    if isinstance(value, dict):
        return {printable_values(key): printable_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable_values(item) for item in value]
    return value


def one_line(data, size=400):
    """Return the printable text on one line, truncated to a size."""
    return cut(" ".join(printable(data).split()), size)


def cut(line, size=LINE):
    return line if len(line) <= size else f"{line[:size]} [… {len(line) - size} more characters]"


def shortened(text, line=LINE, size=TEXT):
    """Return the end of a text, where the cause of a failure usually is, with long lines truncated.

    Credentials are removed first, because they cannot be recognized in a truncated URL.
    """
    length = len(text)
    if length > 2 * size:
        # drop the truncated first word
        text = re.sub(r"\A\S+", "", text[-2 * size :])
    text = without_credentials(text)[-size:]
    if length > size:
        text = f"[… {length - len(text)} characters omitted]\n{text}"
    return "\n".join(cut(one, line) for one in text.split("\n"))
