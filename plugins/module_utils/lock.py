"""Locks that are waited for with an end, and whose holder is named.

Those of a host have their files in a directory of root's and closed to everybody else, so that no app can hold one.
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
    """Its text names the holder, and says what to do."""


def acquire(name, purpose, seconds=WAIT_SECONDS, directory=DIRECTORY):
    """Hold the host's lock NAME until this process ends. Wait for another holder, but not for longer than `seconds`."""
    os.makedirs(directory, exist_ok=True)
    # nginx passes through to the apps' sockets, whatever the session's umask is
    os.chmod(directory, 0o755)
    return open_locked(os.path.join(directory, f"{name}.lock"), purpose, seconds)


@contextlib.contextmanager
def locked(path, purpose, seconds):
    """Hold the lock of this file, on the controller. Wait for another holder, but not for longer than `seconds`."""
    handle = open_locked(path, purpose, seconds)
    try:
        yield
    finally:
        os.close(handle)


def open_locked(path, purpose, seconds):
    # the descriptor is closed in every child: what a step starts must not hold the lock after the step
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
    """Who wrote himself into the file; programs that hold it by flock(1) write nothing."""
    with contextlib.suppress(ValueError, OSError, TypeError):
        found = json.loads(os.pread(handle, 4096, 0))
        if os.path.exists(f"/proc/{found['pid']}"):
            return f"process {found['pid']} ({found['purpose']})"
    return "another process (`fuser -v` on the file shows it)"
