#!/usr/bin/python
"""One deploy of an app at a time, on a host."""

DOCUMENTATION = r"""
module: release_lock
short_description: One deploy of an app at a time, on a host
description:
  - Takes or gives back the lock of an app. Its action plugin fills in who holds it.
  - The lock of a run that died is taken over, with a word about it. A run on the same controller is known to have died
    when its process is gone; one on another controller, when the lock is older than O(expires_seconds).
options:
  path:
    description: The lock's file on the host.
    type: path
    required: true
  state:
    description: Take it or give it back.
    type: str
    choices: [present, absent]
    default: present
  what:
    description: What the holder is doing, for those who wait.
    type: str
    default: ''
  expires_seconds:
    description: A lock older than this belongs to a run that died.
    type: int
    default: 1800
  holder:
    description: Filled in by the action plugin.
    type: dict
    default: {}
  dead:
    description: Filled in by the action plugin; the C(token) of a holder that is known to have died.
    type: str
    default: ''
"""

RETURN = r"""
taken_over: {description: The dead holder whose lock was taken over., type: dict, returned: when there was one}
held_by: {description: The other holder., type: dict, returned: failure}
"""

import json
import os
import time

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "what": {"type": "str", "default": ""},
            "expires_seconds": {"type": "int", "default": 1800},
            "holder": {"type": "dict", "default": {}},
            "dead": {"type": "str", "default": ""},
        },
    )
    path, mine = module.params["path"], dict(module.params["holder"], what=module.params["what"], since=int(time.time()))
    if module.params["state"] == "absent":
        ours = read(path).get("token") == mine["token"]
        if ours:
            os.unlink(path)
        # a lock is no part of the host's state: it never counts as a change
        module.exit_json(changed=False, released=ours)
    other = {}
    for dummy in range(3):
        if take(path, mine):
            module.exit_json(changed=False, **({"taken_over": other} if other else {}))
        other = read(path)
        if other.get("token") == mine["token"]:
            module.exit_json(changed=False)
        age = time.time() - other.get("since", 0)
        if other.get("token", "") != module.params["dead"] and 0 <= age < module.params["expires_seconds"]:
            break
        set_aside(path, other)
    module.fail_json(msg="the lock is held", held_by=other, age_seconds=int(time.time() - other.get("since", 0)))


def take(path, holder):
    """Whole or not at all: the file gets its content before it gets its name."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w") as handle:
        json.dump(holder, handle)
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)


def set_aside(path, holder):
    """Of two who both find a dead lock, one moves it away; what it moved is the dead one, or goes back."""
    aside = f"{path}.dead"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if read(aside).get("token") != holder.get("token"):
        os.rename(aside, path)
    else:
        os.unlink(aside)


def read(path):
    try:
        with open(path) as handle:
            return json.load(handle)
    except (OSError, ValueError):
        return {}


if __name__ == "__main__":
    main()
