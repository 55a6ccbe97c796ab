"""Text that an app, a repository or a visitor can write, made safe to show in a terminal."""

import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.credentials import without_credentials

LINE, TEXT = 2000, 65536
# What a terminal obeys: colours, cursor movements, titles. Each ends at the next control character, so that the time is linear.
SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x00-\x1f\x7f-\x9f]*(?:\x07|\x1b\\|\x9c)|\x1b[ -/]*[0-~]")
# The other control characters (C0, C1), those that reorder or break a line (bidi, U+2028, U+2029), and halves of surrogate pairs,
# which stand for bytes that are no UTF-8
CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
CONTROL = re.compile(f"[{CONTROLS}]")
# what a setting or a command of one line has none of
NOT_IN_A_LINE = re.compile(f"[{CONTROLS}\t\n\r]")


def printable(data):
    """As text without control characters but newlines and tabs; bytes that are no UTF-8 become U+FFFD, as do control characters."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = SEQUENCE.sub("", text)
    return CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def printable_values(value):
    """The same for every string in a structure, such as what a module returns."""
    if isinstance(value, (str, bytes)):
        return printable(value)
    if isinstance(value, dict):
        return {printable_values(key): printable_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable_values(item) for item in value]
    return value


def one_line(data, size=400):
    """The same on one line, cut to a size."""
    return cut(" ".join(printable(data).split()), size)


def cut(line, size=LINE):
    return line if len(line) <= size else f"{line[:size]} [… {len(line) - size} more characters]"


def shortened(text, line=LINE, size=TEXT):
    """The end of a text, where the reason is, with long lines cut.

    Without credentials: of what is left of a URL that was cut, nobody could tell any more which part is one.
    """
    length = len(text)
    if length > 2 * size:
        # the first word has lost its beginning
        text = re.sub(r"\A\S+", "", text[-2 * size :])
    text = without_credentials(text)[-size:]
    if length > size:
        text = f"[… {length - len(text)} characters before]\n{text}"
    return "\n".join(cut(one, line) for one in text.split("\n"))
