#!/usr/bin/python
"""A command of a release, such as its migrations, in the app's sandbox."""

DOCUMENTATION = r"""
module: release_job
short_description: Run a command of a release in the app's sandbox
description:
  - The command is a transient unit of systemd's, C(APP-NAME.service), with the lines of the sandbox that it is given. All of its processes end
    with it. It holds the app's lock, so that no other step runs at the same time; waiting for that is bounded.
author: The Flaskhost authors (@flaskhost)
options:
  app:
    description: The app.
    type: str
    required: true
  name:
    description: What the command is, such as V(release-command); the end of the unit's name.
    type: str
    required: true
  command:
    description: The command and its arguments.
    type: list
    elements: str
    required: true
  sandbox:
    description: Lines of the unit's [Service] section.
    type: list
    elements: str
    required: true
  seconds:
    description: How long it may take; then systemd ends it, and it has failed.
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
stdout: {description: "The end of what it printed, at most 64 KiB.", type: str, returned: always}
stderr: {description: "The end of what it printed on stderr, at most 64 KiB.", type: str, returned: always}
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
