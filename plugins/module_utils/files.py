"""Read and write root's files on a host. Missing and broken files count as empty, and files are replaced atomically."""

import contextlib
import json
import os

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import remove


def read(path):
    """Return a file's text, or an empty string if it cannot be read. Bytes that are not UTF-8 are kept as surrogates."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            return handle.read()
    except OSError:
        return ""


def read_object(path):
    """Return the JSON object in a file, or an empty dictionary if there is none."""
    return parse_object(read(path))


def parse_object(text):
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_link(path):
    """Return the last component of a link's target, or an empty string if the path is not a link."""
    return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""


def write(path, text):
    """Write a file that everybody can read, regardless of the session's umask."""
    with open(f"{path}.new", "w") as handle:
        os.fchmod(handle.fileno(), 0o644)
        handle.write(text)
    os.rename(f"{path}.new", path)


def list_files(path):
    """Return the names of the files in a directory. Every link, such as the one to the app's socket, counts as a file."""
    return sorted(entry.name for entry in os.scandir(path) if not entry.is_dir(follow_symlinks=False)) if os.path.isdir(path) else []


def list_directories(path):
    """Return the names of the subdirectories, without hidden ones, which contain builds in progress."""
    entries = os.scandir(path) if os.path.isdir(path) else []
    return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))


def remove_tree(path):
    """Remove as much as possible. The next release removes the rest."""
    with contextlib.suppress(OSError):
        remove(path)
