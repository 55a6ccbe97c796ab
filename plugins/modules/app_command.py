#!/usr/bin/python
"""Run a command whose output is controlled by an app."""

DOCUMENTATION = r"""
module: app_command
short_description: Run a command whose output is controlled by an app
description:
  - Works like M(ansible.builtin.command), but is safe if the command prints any amount of output in any encoding.
  - Keeps only the end of stdout and stderr. Replaces bytes that are not valid UTF-8, control characters and terminal escape sequences.
author: The Flaskhost authors (@flaskhost)
options:
  argv:
    description: The command and its arguments.
    type: list
    elements: str
    required: true
  keep_kb:
    description: Maximum size in KiB to keep of stdout and of stderr.
    type: int
    default: 64
"""

EXAMPLES = r"""
- name: Show the current database revision
  flaskhost.flaskhost.app_command:
    argv: [/srv/shop/run, flask, --app, shop, db, current]
    keep_kb: 16
  register: revision
  changed_when: false
"""

RETURN = r"""
rc: {description: The command's exit code., type: int, returned: always}
stdout: {description: The end of the command's stdout., type: str, returned: always}
stderr: {description: The end of the command's stderr., type: str, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.command import run


def main():
    module = AnsibleModule(
        argument_spec={"argv": {"type": "list", "elements": "str", "required": True}, "keep_kb": {"type": "int", "default": 64}}
    )
    argv = module.params["argv"]
    try:
        code, out, err = run(argv, module.params["keep_kb"] * 1024)
    except OSError as error:
        module.fail_json(msg=f"cannot start {argv[0]}: {error.strerror}", rc=error.errno, stdout="", stderr="")
    result = {"changed": True, "rc": code, "stdout": out.rstrip("\n"), "stderr": err.rstrip("\n")}
    if code != 0:
        module.fail_json(msg=f"the command failed with exit code {code}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
