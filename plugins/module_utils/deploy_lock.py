"""The deploy lock, ROOT/lock: it keeps other runs out from the first task of a release to the last.

It is a file, so that it outlives the modules, which each end after a moment. (The lock in lock.py ends with its process; each step
of a release holds it.) It names its holder. What the holder is, and whether another holder on the same controller has died, only the
controller knows: plugin_utils/deploy_lock.py, whose action plugins fill in `holder` and `dead_holder`.
"""

import contextlib
import json
import os
import time

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import read_object
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable_values

HOLDER_OPTION = {"holder": {"type": "dict", "default": {}}}
OPTIONS = {
    "lock_purpose": {"type": "str"},
    "lock_expires_seconds": {"type": "int", "default": 1800},
    "dead_holder": {"type": "str", "default": ""},
    **HOLDER_OPTION,
}


def acquire(module, layout):
    """Acquire the lock, or fail the module. Returns the dead holder whose lock was taken over; empty if there was none."""
    params, path = module.params, layout.lock_file
    holder = dict(params["holder"], what=params["lock_purpose"], since=int(time.time()))
    if not os.path.isdir(layout.root):
        module.fail_json(msg=f"{layout.root} is missing. Run provision.yml (or deploy.yml, which does it all) first.")
    other = {}
    for _attempt in range(3):
        try:
            if create(path, holder):
                return other
        except OSError as error:
            module.fail_json(
                msg=f"{layout.root} can't be written to: {error.strerror}. Nothing was touched. On the host, `df -h` and `df -i` "
                "show whether its disk is full; Linux makes one read-only when it fails (`dmesg` shows it). Fix it, and run this again."
            )
        other = read_lock(path)
        age = time.time() - other.get("since", 0)
        if other.get("token") == holder["token"]:
            return {}
        if other.get("token", "") != params["dead_holder"] and 0 <= age < params["lock_expires_seconds"]:
            break
        set_aside(path, other)
    module.fail_json(msg="Another run holds the deploy lock.", lock_holder=printable_values(other))


def release(module, layout):
    """Release the lock if this run holds it."""
    if read_lock(layout.lock_file).get("token") == module.params["holder"]["token"]:
        os.unlink(layout.lock_file)


def read_lock(path):
    """The lock's holder, whatever the file holds; empty if nobody holds it."""
    found = read_object(path)
    if not found:
        return {}
    texts = {key: str(found.get(key, "")) for key in ("who", "what", "controller", "token")}
    return {**texts, **{key: natural_number(found.get(key)) for key in ("pid", "since")}}


def natural_number(value):
    """The ID of a process, or a time in seconds; 0 for anything else."""
    return value if isinstance(value, int) and 0 <= value < 2**33 else 0


def create(path, holder):
    """Create the lock with its content or not at all: the file gets its content before its name. Returns whether it was created."""
    temporary = f"{path}.{os.getpid()}"
    try:
        # only root needs to know who deploys what
        with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as handle:
            json.dump(holder, handle)
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def set_aside(path, holder):
    """Of two runs that both find a dead lock, one moves it away. If what it moved is another lock by then, it moves it back."""
    aside = f"{path}.dead"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if read_lock(aside).get("token") != holder.get("token"):
        os.rename(aside, path)
    else:
        os.unlink(aside)
