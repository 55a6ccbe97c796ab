#!/usr/bin/python
"""Run a command of a release, such as its migrations, in the app's sandbox."""

DOCUMENTATION = r"""
module: release_job
short_description: Run a command of a release in the app's sandbox
description:
  - Runs the command in a transient systemd unit, C(APP-NAME.service), with the lines in O(sandbox). All of its processes end with it.
  - Holds the app's lock, so that no other step of a release runs at the same time. The module fails if it cannot acquire the lock in time.
author: The Flaskhost authors (@flaskhost)
options:
  app:
    description: The name of the app.
    type: str
    required: true
  name:
    description: The name of the command, such as V(release-command). It is the last part of the unit's name.
    type: str
    required: true
  command:
    description: The command and its arguments.
    type: list
    elements: str
    required: true
  sandbox:
    description: Lines for the [Service] section of the unit.
    type: list
    elements: str
    required: true
  seconds:
    description: Maximum run time of the command in seconds. After that, systemd kills it, and the module fails.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Run the release command
  flaskhost.flaskhost.release_job:
    app: shop
    name: release-command
    command: [/srv/shop/releases/1a2b3c/release-command]
    sandbox: [User=shop, ProtectSystem=strict]
    seconds: 600
"""

RETURN = r"""
rc: {description: The command's exit code., type: int, returned: always}
stdout: {description: "The end of the command's stdout, at most 64 KiB.", type: str, returned: always}
stderr: {description: "The end of the command's stderr, at most 64 KiB.", type: str, returned: always}
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import LockTimeout, acquire
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.sandbox import SandboxError, failure, run


def main():
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "sandbox": {"type": "list", "elements": "str", "required": True},
            "seconds": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=True)
    try:
        acquire(params["app"], params["name"])
        started = time.monotonic()
        code, out, err = run(f"{params['app']}-{params['name']}", params["sandbox"], params["command"], params["seconds"])
    except (LockTimeout, SandboxError) as error:
        module.fail_json(msg=str(error))
    if code:
        module.fail_json(msg=failure(code, params["seconds"], time.monotonic() - started), rc=code, stdout=out, stderr=err)
    module.exit_json(changed=True, rc=code, stdout=out, stderr=err)


if __name__ == "__main__":
    main()
