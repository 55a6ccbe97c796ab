"""Locks with a timeout whose error message names the holder.

Only root can open the lock files of a host, so no app can hold such a lock.
"""

import contextlib
import fcntl
import json
import os
import time

DIRECTORY = "/run/flaskhost"
WAIT_SECONDS = 300
PAUSE_SECONDS = 0.1


class LockTimeout(Exception):
    """The message names the holder and the remedy."""


def acquire(name, purpose, seconds=WAIT_SECONDS, directory=DIRECTORY):
    """Hold the host's lock NAME until this process ends. Wait for another holder for at most `seconds`."""
    os.makedirs(directory, exist_ok=True)
    # nginx must be able to traverse the directory to the apps' sockets, regardless of the session's umask
    os.chmod(directory, 0o755)
    return open_locked(os.path.join(directory, f"{name}.lock"), purpose, seconds)


@contextlib.contextmanager
def locked(path, purpose, seconds):
    """Hold the lock of a file on the controller. Wait for another holder for at most `seconds`."""
    handle = open_locked(path, purpose, seconds)
    try:
        yield
    finally:
        os.close(handle)


def open_locked(path, purpose, seconds):
    # close-on-exec, so that a process started by a step cannot hold the lock after the step ends
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(handle, 0o600)
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                raise LockTimeout(
                    f"{holder(handle)} has held {path} for more than {seconds:g} seconds. "
                    "Wait until it ends, or stop it, and run this again."
                ) from None
            time.sleep(PAUSE_SECONDS)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid(), "purpose": purpose}).encode(), 0)
    return handle


def holder(handle):
    """Return the holder that is recorded in the file. Programs that hold the lock with flock(1) do not record themselves."""
    with contextlib.suppress(ValueError, OSError, TypeError):
        found = json.loads(os.pread(handle, 4096, 0))
        if os.path.exists(f"/proc/{found['pid']}"):
            return f"process {found['pid']} ({found['purpose']})"
    return "another process (`fuser -v` on the file shows it)"
