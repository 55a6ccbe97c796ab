"""Compress text files in advance for browsers that accept it. This runs as the user APP-build, because the files are not trusted."""

# pylint: disable=ansible-bad-function  # it runs as the user APP-build, in a separate process
import filecmp
import gzip
import os
import shutil
import stat
import subprocess

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import walk

# pictures, videos and most fonts are already compressed
TEXT = (".css", ".csv", ".htm", ".html", ".js", ".json", ".map", ".mjs", ".otf", ".svg", ".ttf", ".txt", ".wasm", ".webmanifest", ".xml")
# a smaller file fits into one packet without compression
PACKED_FROM_BYTES = 1024


def pack(directory, live):
    """Compress the files of a directory as much as possible. Copy the result from the live release if it has the same file."""
    for parent, _directories, names in walk(directory):
        for name in names:
            pack_file(os.path.normpath(os.path.join(parent, name)), live)


def pack_file(path, live):
    if not path.lower().endswith(TEXT) or not stat.S_ISREG(os.lstat(path).st_mode) or os.path.getsize(path) < PACKED_FROM_BYTES:
        return
    served = os.path.join(live, path)
    known = os.path.isfile(served) and filecmp.cmp(path, served, shallow=False)
    for ending, packer in PACKERS.items():
        # the app may provide its own compressed file
        if os.path.lexists(path + ending):
            continue
        if known and os.path.isfile(served + ending):
            shutil.copyfile(served + ending, path + ending)
        elif not packer(path, path + ending):
            continue
        # nginx sends the modification time to browsers, which use it to validate their caches
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
        raise OSError(f"brotli cannot compress {path}: {done.stderr.strip()}")
    return True


PACKERS = {".gz": pack_gz, ".br": pack_br}
