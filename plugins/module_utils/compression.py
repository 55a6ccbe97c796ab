"""Compress text files once, for all browsers that accept them compressed. The user APP-build does it: the files are not trusted."""

# pylint: disable=ansible-bad-function  # it runs as the user APP-build, in a process of its own
import filecmp
import gzip
import os
import shutil
import stat
import subprocess

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import walk

# compression makes these smaller; pictures, videos and most fonts are compressed already
TEXT = (".css", ".csv", ".htm", ".html", ".js", ".json", ".map", ".mjs", ".otf", ".svg", ".ttf", ".txt", ".wasm", ".webmanifest", ".xml")
# a smaller one fits into one packet as it is
PACKED_FROM_BYTES = 1024


def pack(folder, live):
    """Compress the files of a directory as much as possible, once instead of for each visitor; take over what the live release has compressed already."""
    for parent, _folders, names in walk(folder):
        for name in names:
            pack_file(os.path.normpath(os.path.join(parent, name)), live)


def pack_file(path, live):
    if not path.lower().endswith(TEXT) or not stat.S_ISREG(os.lstat(path).st_mode) or os.path.getsize(path) < PACKED_FROM_BYTES:
        return
    served = os.path.join(live, path)
    known = os.path.isfile(served) and filecmp.cmp(path, served, shallow=False)
    for ending, packer in PACKERS.items():
        # an app may bring its own
        if os.path.lexists(path + ending):
            continue
        if known and os.path.isfile(served + ending):
            shutil.copyfile(served + ending, path + ending)
        elif not packer(path, path + ending):
            continue
        # browsers ask whether it is newer than theirs
        shutil.copystat(path, path + ending)


def pack_gz(path, packed):
    with open(path, "rb") as plain, gzip.GzipFile(packed, "wb", compresslevel=9, mtime=0) as target:
        shutil.copyfileobj(plain, target)
    return True


def pack_br(path, packed):
    if not shutil.which("brotli"):
        return False
    done = subprocess.run(
        ["brotli", "--best", f"--output={packed}", "--", path], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise OSError(f"brotli can't pack {path}: {done.stderr.strip()}")
    return True


PACKERS = {".gz": pack_gz, ".br": pack_br}
