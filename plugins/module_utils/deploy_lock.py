"""The deploy lock, ROOT/lock. It prevents concurrent runs from the first task of a release to the last.

The lock is a file, because it must outlive the modules of a run. (The lock in lock.py ends with its process; each step of a release holds
it.) The file identifies its holder. Only the controller can identify a run and detect whether another run on the same controller has died.
The action plugins do this in plugin_utils/deploy_lock.py, and pass the results as `holder` and `dead_holder`.
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
    """Acquire the lock, or fail the module. Return the dead holder whose lock was taken over, or an empty dictionary."""
    params, path = module.params, layout.lock_file
    holder = dict(params["holder"], what=params["lock_purpose"], since=int(time.time()))
    if not os.path.isdir(layout.root):
        module.fail_json(msg=f"{layout.root} is missing. Run provision.yml or deploy.yml first.")
    other = {}
    for _attempt in range(3):
        try:
            if create(path, holder):
                return other
        except OSError as error:
            module.fail_json(
                msg=f"{layout.root} is not writable: {error.strerror}. Nothing was changed. On the host, check `df -h` and `df -i` for a "
                "full disk, and `dmesg` for a failed disk, which Linux remounts read-only. Fix the cause, and run this again."
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
    """Return the holder of the lock, or an empty dictionary if it is free or the file is not valid JSON."""
    found = read_object(path)
    if not found:
        return {}
    texts = {key: str(found.get(key, "")) for key in ("who", "what", "controller", "token")}
    return {**texts, **{key: natural_number(found.get(key)) for key in ("pid", "since")}}


def natural_number(value):
    """Return the value if it can be a process ID or a time in seconds, otherwise 0."""
    return value if isinstance(value, int) and 0 <= value < 2**33 else 0


def create(path, holder):
    """Create the lock atomically: write the content to a temporary file, then link it. Return whether the lock was created."""
    temporary = f"{path}.{os.getpid()}"
    try:
        # only root may read who deploys what
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
    """Remove the lock of a dead holder. If two runs do this at once, the slower one may move a new lock, and must move it back."""
    aside = f"{path}.dead"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if read_lock(aside).get("token") != holder.get("token"):
        os.rename(aside, path)
    else:
        os.unlink(aside)
