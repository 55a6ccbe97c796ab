"""Directories that another user has filled."""

# pylint: disable=ansible-bad-function  # a failure must raise, so that the caller removes what is unfinished
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

# a process that was killed may close its files a moment after it is gone
CLOSING_SECONDS = 2


def remove(*paths):
    """However deep they are; it follows no link, and stays on each path's file system."""
    done = subprocess.run(["rm", "-rf", "--one-file-system", "--", *paths], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise OSError(f"`rm` failed: {done.stderr.decode(errors='replace').strip()[-500:]}")


def seal(top, group):
    """Root owns all of it, the group may read it, and nobody can change it any more, also not by a descriptor that he has open.

    The processes that have filled it are gone, and only root can enter its parent. Pipes, sockets and devices are removed.
    """
    # the kernel sends it to who has a lease when somebody else opens the file to write
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    files = list(take_over(top, group))
    for path in files:
        end_writing(path, os.path.relpath(path, top))


def take_over(top, group):
    """Gives the regular files. A directory is root's before it is read: from then on nobody else adds, moves or replaces an entry."""
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
    """Neither a new owner nor a new mode ends what is open already. The kernel grants a lease only on a file that nobody can write to."""
    end = time.monotonic() + CLOSING_SECONDS
    while True:
        try:
            # a process that holds a lease on the file would make root wait for 45 seconds
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                # it ends with the descriptor
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            finally:
                os.close(file)
            return
        except OSError as error:
            if error.errno == errno.EINVAL:
                # this file system has no leases
                replace_by_copy(path)
                return
            if error.errno != errno.EAGAIN:
                raise
        if time.monotonic() > end:
            raise OSError(
                f"{name!r} is still open for writing by another process, which could change it later. Let the build pass no open file to "
                "other processes, and stop the app if it was taken over."
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
        # compiled code knows its source by its time; what is written later changes that
        target.flush()
        os.utime(target.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
    os.rename(copy, path)


def walk(top):
    """os.walk, which calls itself for each level before Python 3.12."""
    if sys.getrecursionlimit() < 20_000:
        sys.setrecursionlimit(20_000)
    return os.walk(top)
