#!/usr/bin/python
"""Activate the previous release again, because another host could not activate the new one."""

DOCUMENTATION = r"""
module: release_revert
short_description: Activate the previous release again, because another host could not activate the new one
description:
  - Moves the link C(ROOT/live) back to O(to), starts the workers of that release again, stops the release O(id), and installs the scheduled
    jobs of O(to). A mark of O(to) as bad is removed.
  - Does nothing if O(id) is not live, or if it was already live before the run.
  - M(flaskhost.flaskhost.release_activate) itself reverts a release that is unhealthy on its own host.
  - In check mode, only reports a change.
author: The Flaskhost authors (@flaskhost)
options:
  id:
    description: The release to leave.
    type: str
    required: true
  to:
    description: The release that was live before.
    type: str
    required: true
  by:
    description: The operator to record in C(ROOT/history).
    type: str
    default: ''
extends_documentation_fragment: [flaskhost.flaskhost.release]
seealso:
  - module: flaskhost.flaskhost.release_activate
"""

EXAMPLES = r"""
- name: Activate the previous release again
  flaskhost.flaskhost.release_revert:
    app: shop
    root: /srv/shop
    id: 3f2a91c0de-7b1d22aa
    to: 91b0c44e02-7b1d22aa
    by: ann@laptop
"""

RETURN = r"""
reason: {description: Why the previous release could not be activated., type: str, returned: failure}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.activation import install_schedule, revert
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.release import RELEASE_OPTIONS, ReleaseError, run_step


def main():
    module = AnsibleModule(
        argument_spec={**RELEASE_OPTIONS, "to": {"type": "str", "required": True}, "by": {"type": "str", "default": ""}},
        supports_check_mode=True,
    )
    run_step(module, "revert", revert_to_previous)


def revert_to_previous(release, params):
    if release.layout.live() != release.id or params["to"] == release.id:
        return {"changed": False}
    if params["to"] not in release.layout.built():
        raise ReleaseError(f"release {params['to']} no longer exists")
    revert(release, params["to"], params["by"])
    install_schedule(release, params["to"])
    return {"changed": True}


if __name__ == "__main__":
    main()
