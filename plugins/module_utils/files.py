"""Files and directories of root's on a host: missing and broken ones count as empty, and a file is replaced as a whole."""

import contextlib
import json
import os

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import remove


def read(path):
    """A file's text, empty if it can't be read. Bytes that are not UTF-8 survive being written again; what a module returns is made printable."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            return handle.read()
    except OSError:
        return ""


def read_object(path):
    """The JSON object in a file, empty if there is none."""
    return parse_object(read(path))


def parse_object(text):
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_link(path):
    """The last part of a link's target, empty if it is not a link."""
    return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""


def write(path, text):
    """For everybody to read, whatever the session's umask is."""
    with open(f"{path}.new", "w") as handle:
        os.fchmod(handle.fileno(), 0o644)
        handle.write(text)
    os.rename(f"{path}.new", path)


def list_files(path):
    """The names of a directory's files. A link, such as the one to the app's socket, is a file wherever it leads."""
    return sorted(entry.name for entry in os.scandir(path) if not entry.is_dir(follow_symlinks=False)) if os.path.isdir(path) else []


def list_directories(path):
    """The names of a directory's subdirectories, without hidden ones: builds in progress."""
    entries = os.scandir(path) if os.path.isdir(path) else []
    return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))


def remove_tree(path):
    """Remove what can be removed; the next release removes the rest."""
    with contextlib.suppress(OSError):
        remove(path)
