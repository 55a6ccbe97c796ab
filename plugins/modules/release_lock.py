#!/usr/bin/python
"""Acquire or release the deploy lock of an app."""

DOCUMENTATION = r"""
module: release_lock
short_description: Acquire or release the deploy lock of an app
description:
  - The deploy lock, C(ROOT/lock), keeps other runs out while a run releases, rolls back or restores. It outlives the task, and ends
    when the run that holds it releases it.
  - The lock of a run that died is taken over; see O(lock_expires_seconds).
  - A lock is no part of the host's state, so this module never reports a change.
  - M(flaskhost.flaskhost.release_info) can acquire the lock, and M(flaskhost.flaskhost.release_prune) release it, without a remote
    call of their own.
author: The Flaskhost authors (@flaskhost)
options:
  state:
    description: V(present) acquires the lock, V(absent) releases it if this run holds it.
    type: str
    choices: [present, absent]
    default: present
  lock_purpose:
    description: >-
      What this run is about to do, such as V(releasing v2). Other runs show it while they can't acquire the lock. Required if
      O(state=present).
    type: str
author: The Flaskhost authors (@flaskhost)
extends_documentation_fragment:
  - flaskhost.flaskhost.release
  - flaskhost.flaskhost.release.lock
  - flaskhost.flaskhost.release.holder
"""

EXAMPLES = r"""
- name: Acquire the deploy lock
  flaskhost.flaskhost.release_lock:
    app: shop
    root: /srv/shop
    lock_purpose: restoring a backup

- name: Release the deploy lock
  flaskhost.flaskhost.release_lock:
    app: shop
    root: /srv/shop
    state: absent
"""

RETURN = r"""
lock_taken_over:
  description: The dead holder whose lock was taken over, like RV(lock_holder); empty if there was none.
  type: dict
  returned: success and O(state=present)
lock_holder:
  description: >-
    The other run that holds the lock: C(who) (USER@CONTROLLER), C(what) (its purpose), C(since) (seconds since 1970), C(controller),
    C(pid), C(token).
  type: dict
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import deploy_lock
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import Layout
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.release import APP_OPTIONS, errors_reported
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable_values


def main():
    module = AnsibleModule(
        argument_spec={
            **APP_OPTIONS,
            **deploy_lock.OPTIONS,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["lock_purpose"])],
        supports_check_mode=True,
    )
    layout = Layout(module.params["root"], module.params["app"])
    if module.check_mode:
        module.exit_json(changed=False)
    with errors_reported(module):
        if module.params["state"] == "present":
            module.exit_json(changed=False, lock_taken_over=printable_values(deploy_lock.acquire(module, layout)))
        deploy_lock.release(module, layout)
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
