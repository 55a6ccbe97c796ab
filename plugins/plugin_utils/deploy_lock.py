"""The controller's half of the deploy lock: who this run is, and whether another holder on this controller has died.

The lock itself is described in module_utils/deploy_lock.py.
"""

import getpass
import os
import socket
import time


def held_message(other, args):
    since = time.strftime("%H:%M:%S UTC", time.gmtime(other["since"]))
    minutes = int(args.get("lock_expires_seconds", 1800)) // 60
    return (
        f"{other['who']} has been at work here since {since}: {other['what']}. Nothing was touched. Wait for that "
        f"run to end, then run this again. The lock of a run that died expires {minutes} minutes after it "
        f"was acquired; if you are sure that it died, remove {args['root']}/lock on the host."
    )


def holder():
    # the playbook's process: this code runs in one of its forks
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
    """When a process started, in clock ticks since boot: the same number may be another process by now."""
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def is_dead(other):
    return other["controller"] == controller() and other["token"].rpartition(":")[2] != started(other["pid"])
