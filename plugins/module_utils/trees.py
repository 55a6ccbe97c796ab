"""Take over or remove directory trees that another user has written."""

# pylint: disable=ansible-bad-function  # a failure must raise an exception, so that the caller can clean up
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import time

# the files of a killed process may be closed a moment after it ends
CLOSING_SECONDS = 2


def remove(*paths):
    """Remove trees of any depth, without following links or leaving the file system of each path."""
    done = subprocess.run(["rm", "-rf", "--one-file-system", "--", *paths], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise OSError(f"`rm` failed: {done.stderr.decode(errors='replace').strip()[-500:]}")


def seal(top, group):
    """Give the tree to root, readable for the group, so that no other user can change it, not even through an open descriptor.

    The processes that wrote the tree must have ended, and only root may enter its parent. Pipes, sockets and devices are removed.
    """
    # the kernel sends SIGIO to the holder of a lease when another process opens the file for writing
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    files = list(take_over(top, group))
    for path in files:
        end_writing(path, os.path.relpath(path, top))


def take_over(top, group):
    """Give all entries to root, and yield the regular files. A directory is changed before it is read, so that entries cannot change."""
    directories = [top]
    while directories:
        directory = directories.pop()
        os.chown(directory, 0, group, follow_symlinks=False)
        os.chmod(directory, 0o750)
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode):
                directories.append(path)
            elif stat.S_ISLNK(mode):
                os.chown(path, 0, group, follow_symlinks=False)
            elif stat.S_ISREG(mode):
                os.chown(path, 0, group)
                os.chmod(path, 0o750 if mode & 0o111 else 0o640)
                yield path
            else:
                os.unlink(path)


def end_writing(path, name):
    """Wait until no process has the file open for writing, because a new owner or mode closes no descriptor.

    The kernel grants a read lease only on such a file.
    """
    end = time.monotonic() + CLOSING_SECONDS
    while True:
        try:
            # without O_NONBLOCK, a process that holds a lease on the file would block root for 45 seconds
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                # closing the descriptor releases the lease
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            finally:
                os.close(file)
            return
        except OSError as error:
            if error.errno == errno.EINVAL:
                # the file system does not support leases
                replace_by_copy(path)
                return
            if error.errno != errno.EAGAIN:
                raise
        if time.monotonic() > end:
            raise OSError(
                f"{name!r} is still open for writing by another process, which could change it later. Make sure that the build does not "
                "pass open files to other processes. Stop the app if it may be compromised."
            )
        time.sleep(0.05)


def replace_by_copy(path):
    copy = f"{path}.flaskhost-copy"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(copy)
    with open(path, "rb") as source, open(copy, "xb") as target:
        os.fchmod(target.fileno(), 0o600)
        shutil.copyfileobj(source, target)
        found = os.fstat(source.fileno())
        os.fchown(target.fileno(), found.st_uid, found.st_gid)
        os.fchmod(target.fileno(), stat.S_IMODE(found.st_mode))
        # compiled code records the modification time of its source; flush first, because a later write would change it
        target.flush()
        os.utime(target.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
    os.rename(copy, path)


def walk(top):
    """Call os.walk with a higher recursion limit, because it is recursive before Python 3.12."""
    if sys.getrecursionlimit() < 20_000:
        sys.setrecursionlimit(20_000)
    return os.walk(top)
