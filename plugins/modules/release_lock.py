#!/usr/bin/python
"""Acquire or release the deploy lock of an app."""

DOCUMENTATION = r"""
module: release_lock
short_description: Acquire or release the deploy lock of an app
description:
  - The deploy lock, C(ROOT/lock), prevents other runs while a run deploys, rolls back or restores. It stays locked after the task, until
    the run that holds it releases it.
  - The lock of a run that has died is taken over. See O(lock_expires_seconds).
  - The lock is not part of the host's state, so the module never reports a change. In check mode, it does not acquire or release the lock.
  - M(flaskhost.flaskhost.release_prune) can release the lock without an additional remote call.
author: The Flaskhost authors (@flaskhost)
options:
  state:
    description:
      - V(present) acquires the lock, and then returns the same values as M(flaskhost.flaskhost.release_info).
      - V(absent) releases the lock if this run holds it.
    type: str
    choices: [present, absent]
    default: present
  lock_purpose:
    description: >-
      The purpose of this run, such as V(releasing v2). A run that cannot acquire the lock reports it. Required if O(state=present).
    type: str
extends_documentation_fragment:
  - flaskhost.flaskhost.release
  - flaskhost.flaskhost.release.lock
  - flaskhost.flaskhost.release.holder
"""

EXAMPLES = r"""
- name: Acquire the deploy lock and read the host's releases
  flaskhost.flaskhost.release_lock:
    app: shop
    root: /srv/shop
    lock_purpose: releasing v2
  register: release_host

- name: Release the deploy lock
  flaskhost.flaskhost.release_lock:
    app: shop
    root: /srv/shop
    state: absent
"""

RETURN = r"""
lock_taken_over:
  description: The dead holder whose lock was taken over, in the form of RV(lock_holder). Empty if there was none.
  type: dict
  returned: success and O(state=present)
lock_holder:
  description: >-
    The run that holds the lock, with C(who) (USER@CONTROLLER), C(what) (its purpose), C(since) (seconds since 1970), C(controller), C(pid)
    and C(token).
  type: dict
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import deploy_lock, releases
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
    with errors_reported(module):
        if module.params["state"] == "absent":
            if not module.check_mode:
                deploy_lock.release(module, layout)
            module.exit_json(changed=False)
        taken_over = {} if module.check_mode else deploy_lock.acquire(module, layout)
        found = releases.read(module)
    module.exit_json(changed=False, **printable_values({**found, "lock_taken_over": taken_over}))


if __name__ == "__main__":
    main()
