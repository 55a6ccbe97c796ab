"""Read requirements files as pip and uv do, to find their inputs: included files, and parts of the source that they install."""

import re

from packaging.requirements import InvalidRequirement, Requirement

INCLUDE = re.compile(r"(?:-r|-c|--requirements?|--constraints?)(?:\s*=?\s*)(\S+)")
LINKS = re.compile(r"(?:-f|--find-links)(?:\s*=?\s*)(\S+)")
EDITABLE = re.compile(r"(?:-e|--editable)(?:\s*=?\s*)(.+)")
REMOTE = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# what follows a requirement on its line: --hash=… and other options, and a comment
REST = re.compile(r" (--[a-z-]+([ =].*)?|#.*)$")


def lines(text):
    """Yield each requirement or option as (first line in the file, whole text without comment and line breaks)."""
    first, parts = None, []
    for line in text.splitlines():
        first = line if first is None else first
        parts.append(line.removesuffix("\\"))
        if line.endswith("\\"):
            continue
        # single spaces, because the source is not trusted, and long runs of them make the expressions above slow
        if whole := re.sub(r"(^| )#.*", "", " ".join(" ".join(parts).split())).strip():
            yield first, whole
        first, parts = None, []
    if whole := " ".join(" ".join(parts).split()):
        yield first, whole


def included(line):
    """Return the name of the file that an option includes, or an empty string."""
    found = INCLUDE.fullmatch(line)
    return found[1] if found and not REMOTE.match(found[1]) else ""


def linked_directory(line):
    """Return the directory of the source in which an option lets pip look for packages, or an empty string."""
    found = LINKS.fullmatch(line)
    return path_of(found[1]) if found and not REMOTE.match(found[1]) else ""


def local_path(line):
    """Return the path in the source that a line installs. Return None if it installs from an index or a server, or is an option.

    A line that is not understood counts as a path, so that the venv depends on too much rather than on too little.
    """
    if found := EDITABLE.fullmatch(line):
        line = found[1]
    elif line.startswith("-"):
        return None
    line = REST.sub("", line).strip()
    if REMOTE.match(line):
        return None
    try:
        url = Requirement(line).url
    except InvalidRequirement:
        return path_of(line)
    return None if not url or REMOTE.match(url) else path_of(url)


def path_of(text):
    """Return the path in `NAME @ file:PATH[EXTRA] ; MARKER`."""
    text = re.sub(r"^[\w.-]+(\[[^]]*\])?\s*@\s*", "", text.partition(";")[0].strip())
    text = re.sub(r"^file:(//)?", "", text)
    # without extras
    return (text.rpartition("[")[0] if text.endswith("]") else text).strip("'\" ") or "."


def uses_git(line):
    return "git+" in line


def is_safe(line):
    """Return whether a line that was made from a lock file is one requirement, and no option that the lock file smuggles in."""
    return line.isprintable() and not re.match(r"\s*-", line)


def with_extras(name, extras):
    return f"{name}[{','.join(sorted(extras))}]" if extras else name
