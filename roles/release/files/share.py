"""Create what the app shares between its releases (app_shared) in its data directory. Managed by Flaskhost.

  share.py SEED DATA PATH…

SEED contains what the release's source has at these paths. A path that is missing in DATA is copied from there, once. A path that exists is
never changed, so that all releases use the app's own data. A path without a seed becomes an empty directory, or, if its name has an
extension, a file that the app creates.

The app's own user runs this before each process of a release. It can be killed at any moment: a copy gets its name when it is complete.
"""

import contextlib
import fcntl
import filecmp
import os
import re
import shutil
import sys
import tempfile

# SQLite creates these files beside a database (https://www.sqlite.org/tempfiles.html). A -shm file has no content of its own.
BESIDE = ("-wal", "-journal")
EXTENSION = re.compile(r".\.[A-Za-z]\w*$")


def main(seeds, data, *paths):
    os.umask(0o077)
    for path in paths:
        if not os.path.lexists(os.path.join(data, path)):
            with locked(data):
                create(os.path.join(seeds, path), os.path.join(data, path))


@contextlib.contextmanager
def locked(directory):
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # until this process ends, which closes the descriptor
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def create(seed, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):
        return  # another process was faster
    if os.path.isdir(seed):
        with copied(shutil.copytree, seed, target, symlinks=True, copy_function=copy_file) as copy:
            os.rename(copy, target)
    elif os.path.isfile(seed):
        copy_database(seed, target)
    elif not EXTENSION.search(os.path.basename(target)):
        os.mkdir(target)


def copy_database(seed, target):
    """Copy a file. If it is a database with a journal, only both are complete, so the journal is copied first."""
    for end in BESIDE:
        present = os.path.lexists(target + end)
        if present and not (os.path.isfile(seed + end) and filecmp.cmp(seed + end, target + end, shallow=False)):
            sys.exit(
                f"{target} is missing, but {target + end} exists. SQLite would write the content of this journal into another database. "
                f"Restore {target} from a backup, or remove the journal."
            )
        if os.path.isfile(seed + end) and not present:
            link(seed + end, target + end)
    link(seed, target)


def link(seed, target):
    with copied(copy_file, seed, target) as copy:
        # unlike a rename, it never replaces a file
        os.link(copy, target)


@contextlib.contextmanager
def copied(copy, seed, target, **options):
    """Copy to a temporary directory beside the target."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target), prefix=".flaskhost-") as directory:
        path = os.path.join(directory, "copy")
        copy(seed, path, **options)
        yield path


def copy_file(source, target):
    shutil.copyfile(source, target)
    os.chmod(target, 0o700 if os.stat(source).st_mode & 0o100 else 0o600)


if __name__ == "__main__":
    main(*sys.argv[1:])
