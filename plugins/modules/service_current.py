#!/usr/bin/python
"""A service that is up, starts at boot, and runs the configuration that is on disk."""

DOCUMENTATION = r"""
module: service_current
short_description: A service that runs the configuration on disk
description:
  - Starts and enables a systemd service, and reloads or restarts it if a configuration file on disk is newer than the
    last time the service started or reloaded.
  - A service whose socket systemd holds (Ubuntu's ssh) is neither started nor enabled; systemd does so when it is needed.
  - It compares, where a handler remembers. A run that died after it wrote a file and before its handler leaves a daemon
    that runs old settings for ever; this notices, in the next run.
  - The configuration is checked first. If the check fails, the service goes on with what it runs.
options:
  name:
    description: The service, with its suffix if that is not C(.service).
    type: str
    required: true
  config:
    description: Files and folders (with all below them) that the service reads when it starts or reloads.
    type: list
    elements: path
    required: true
  check:
    description: Command that exits with 0 if the configuration on disk is good.
    type: list
    elements: str
    default: []
  by:
    description: How the service takes up new configuration.
    type: str
    choices: [reload, restart]
    default: reload
"""

RETURN = r"""
did: {description: "What was done: C(start), C(enable), C(reload), C(restart).", type: list, returned: success}
"""

import os
from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "config": {"type": "list", "elements": "path", "required": True},
            "check": {"type": "list", "elements": "str", "default": []},
            "by": {"type": "str", "choices": ["reload", "restart"], "default": "reload"},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    unit = properties(module, name)
    if unit.get("LoadState") != "loaded":
        if module.check_mode:
            module.exit_json(changed=True, did=["enable", "start"])
        module.fail_json(msg=f"{name} is not installed on this host")
    steps = []
    up, on_demand = unit.get("ActiveState") in ("active", "reloading"), started_on_demand(module, unit)
    if unit.get("UnitFileState") == "disabled" and not on_demand:
        steps.append("enable")
    if not up and not on_demand:
        steps.append("start")
    elif up and newest_change(module.params["config"]) > int(unit.get("StateChangeTimestampMicroseconds", 0)):
        steps.append(module.params["by"])
    if steps and not module.check_mode:
        carry_out(module, name, steps)
    module.exit_json(changed=bool(steps), did=steps)


def properties(module, name):
    wanted = ("LoadState", "UnitFileState", "ActiveState", "StateChangeTimestamp", "TriggeredBy")
    command = ["systemctl", "show", "--timestamp=us+utc", *(f"--property={key}" for key in wanted), name]
    out = module.run_command(command, check_rc=True, environ_update={"LC_ALL": "C.UTF-8"})[1]
    unit = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    unit["StateChangeTimestampMicroseconds"] = microseconds(unit.get("StateChangeTimestamp", ""))
    return unit


def started_on_demand(module, unit):
    sockets = [name for name in unit.get("TriggeredBy", "").split() if name.endswith(".socket")]
    return bool(sockets) and module.run_command(["systemctl", "is-active", "--quiet", *sockets])[0] == 0


def microseconds(text):
    """`Sat 2026-11-21 02:30:00.123456 UTC` as systemd prints it."""
    words = text.split()
    if len(words) < 3:
        return 0
    moment = datetime.strptime(f"{words[1]} {words[2]}", "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1_000_000)


def newest_change(paths):
    """When a file's content, owner or mode last changed, or one came or went; in microseconds."""
    newest = 0
    for path in paths:
        for parent, _folders, names in [(path, [], []), *os.walk(path)]:
            for entry in [parent, *(os.path.join(parent, name) for name in names)]:
                try:
                    newest = max(newest, os.lstat(entry).st_ctime_ns // 1000, os.stat(entry).st_ctime_ns // 1000)
                except OSError:
                    continue
    return newest


def carry_out(module, name, steps):
    check = module.params["check"]
    if check:
        code, out, err = module.run_command(check)
        if code != 0:
            module.fail_json(
                msg=f"{name}: the configuration on disk is not valid, so {name} goes on with the one it runs. "
                f"{' '.join(check)} said: {(err or out).strip()}"
            )
    for step in steps:
        command = ["systemctl", step, name]
        code, out, err = module.run_command(command)
        if code != 0:
            log = module.run_command(["journalctl", "--unit", name, "--lines=10", "--no-pager", "--output=cat"])[1]
            module.fail_json(msg=f"`{' '.join(command)}` failed: {(err or out).strip()}\n{log.strip()}")


if __name__ == "__main__":
    main()
