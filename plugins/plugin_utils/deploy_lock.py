"""The controller side of the deploy lock: identify this run, and detect whether another run on this controller has died.

module_utils/deploy_lock.py describes the lock.
"""

import getpass
import os
import socket
import time


def held_message(other, args):
    since = time.strftime("%H:%M:%S UTC", time.gmtime(other["since"]))
    minutes = int(args.get("lock_expires_seconds", 1800)) // 60
    return (
        f"{other['who']} has held the deploy lock since {since}: {other['what']}. Nothing was changed. Wait until that run ends, and "
        f"run this again. If that run has died, its lock expires {minutes} minutes after it was acquired. If you are sure that it "
        f"has died, you can remove {args['root']}/lock on the host."
    )


def holder():
    # the playbook's process, because this code runs in a fork of it
    pid = os.getppid()
    return {
        "who": f"{getpass.getuser()}@{socket.gethostname()}",
        "controller": controller(),
        "pid": pid,
        "token": f"{controller()}:{pid}:{started(pid)}",
    }


def controller():
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        if os.path.exists(path):
            with open(path) as handle:
                name = handle.read().strip()
            if name:
                return name
    return socket.gethostname()


def started(pid):
    """Return when a process started, in clock ticks since boot. It distinguishes the process from a later one with the same ID."""
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def is_dead(other):
    return other["controller"] == controller() and other["token"].rpartition(":")[2] != started(other["pid"])
