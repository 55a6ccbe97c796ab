#!/usr/bin/python
"""Make sure that a service is enabled, running, and uses the configuration on disk."""

DOCUMENTATION = r"""
module: service_current
short_description: Make sure that a service uses the configuration on disk
description:
  - Enables and starts a systemd service. Reloads or restarts it if a configuration file on disk is newer than its last start or reload.
  - Reloads systemd if the service's unit or drop-ins in C(/etc/systemd/system) changed since systemd read them.
  - A socket-activated service, such as ssh on Ubuntu, is not enabled or started, because systemd starts it on demand. If the configuration
    of the socket is newer than the socket, the module restarts the socket.
  - Unlike a handler, the module compares timestamps. If a run is interrupted after it wrote a file and before its handler ran, the service
    would use the old settings forever. This module detects that in the next run.
  - The configuration is validated first. If the check fails, the service keeps running with its current configuration.
  - If a timestamp is in the future, because the host's clock was wrong, the service is reloaded or restarted.
author: The Flaskhost authors (@flaskhost)
options:
  name:
    description: The name of the service, without its suffix.
    type: str
    required: true
  config:
    description: Files and directories (recursively) that the service reads when it starts or reloads.
    type: list
    elements: path
    required: true
  socket_config:
    description: Files and directories that configure the socket of the service.
    type: list
    elements: path
    default: []
  check:
    description: A command that exits with 0 if the configuration on disk is valid.
    type: list
    elements: str
    default: []
  by:
    description: How to apply a new configuration.
    type: str
    choices: [reload, restart]
    default: reload
  start:
    description:
      - Whether to enable the service, and start it if it is not running.
      - Set it to V(false) for a service that other units start on demand.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Run nginx with the configuration on disk
  flaskhost.flaskhost.service_current:
    name: nginx
    config: [/etc/nginx]
    check: [nginx, -t]

- name: Restart PostgreSQL if its configuration has changed
  flaskhost.flaskhost.service_current:
    name: postgresql@17-main
    config: [/etc/postgresql/17/main]
    by: restart
"""

RETURN = r"""
did:
  description: The actions, from C(daemon-reload), C(enable), C(start), C(reload), C(restart) and C(listen) (restart the socket).
  type: list
  returned: success
"""

import glob
import os
import time
from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import LockTimeout, acquire
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable, shortened

UNITS = "/etc/systemd/system"


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "config": {"type": "list", "elements": "path", "required": True},
            "socket_config": {"type": "list", "elements": "path", "default": []},
            "check": {"type": "list", "elements": "str", "default": []},
            "by": {"type": "str", "choices": ["reload", "restart"], "default": "reload"},
            "start": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    # two apps on one host may be deployed at the same time, and the service is shared
    try:
        acquire("host", "updating a service")
    except LockTimeout as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    name = module.params["name"]
    service, socket = Unit(module, f"{name}.service"), Unit(module, f"{name}.socket")
    if not service.is_loaded:
        if module.check_mode:
            module.exit_json(changed=True, did=["enable", "start"])
        module.fail_json(msg=f"{name} is not installed on this host")
    steps = ["daemon-reload"] if is_stale(module, f"{name}.service") else []
    if not socket.is_up:
        steps += ["enable"] if module.params["start"] and service.is_disabled else []
        steps += ["start"] if module.params["start"] and not service.is_up else []
    elif is_behind(socket.up_since, module.params["socket_config"]):
        steps.append("listen")
    current_since = service.changed if module.params["by"] == "reload" else service.up_since
    # restarting the socket stops the service, which then reads its configuration when it starts again
    if "listen" not in steps and service.is_up and is_behind(current_since, module.params["config"]):
        steps.append(module.params["by"])
    if steps and not module.check_mode:
        run_steps(module, name, steps)
    module.exit_json(changed=bool(steps), did=steps)


class Unit:
    """The state of a unit in systemd, with times in microseconds."""

    def __init__(self, module, name):
        wanted = ("LoadState", "UnitFileState", "ActiveState", "ActiveEnterTimestamp", "StateChangeTimestamp")
        found = show(module, wanted, name)
        self.is_loaded = found.get("LoadState") == "loaded"
        self.is_disabled = found.get("UnitFileState") == "disabled"
        self.is_up = found.get("ActiveState") in ("active", "reloading")
        self.up_since = microseconds(found.get("ActiveEnterTimestamp", ""))
        self.changed = microseconds(found.get("StateChangeTimestamp", ""))


def is_stale(module, unit):
    """Return whether the unit's files in /etc changed since systemd read them."""
    file, drop_ins = f"{UNITS}/{unit}", f"{UNITS}/{unit}.d"
    read = show(module, ("UnitsLoadTimestamp", "UnitsLoadStartTimestamp"))
    if "UnitsLoadTimestamp" in read:
        return is_behind(max(map(microseconds, read.values())), [file, drop_ins])
    # Before version 250 (Ubuntu 22.04), systemd does not report when it last read its units, and NeedDaemonReload ignores new files.
    found = show(module, ("NeedDaemonReload", "FragmentPath", "DropInPaths"), unit)
    known = {found.get("FragmentPath"), *found.get("DropInPaths", "").split()}
    new = {path for path in [file, *glob.glob(f"{drop_ins}/*.conf")] if os.path.exists(path)} - known
    return found.get("NeedDaemonReload") == "yes" or bool(new)


def show(module, wanted, *unit):
    command = ["systemctl", "show", "--timestamp=us+utc", *(f"--property={key}" for key in wanted), *unit]
    out = module.run_command(command, check_rc=True, environ_update={"LC_ALL": "C.UTF-8"})[1]
    return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)


def microseconds(text):
    """Parse a timestamp of systemd, such as `Sat 2026-11-21 02:30:00.123456 UTC`."""
    parts = text.split()
    if len(parts) < 3:
        return 0
    moment = datetime.strptime(f"{parts[1]} {parts[2]}", "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1_000_000)


def is_behind(since, paths):
    """Return whether the configuration on disk may be newer than the given time. If no file exists, it is not."""
    now = time.time_ns() // 1000
    newest = max(map(changed_at, entries(paths)), default=0)
    return newest > 0 and (since > now or newest > since)


def entries(paths):
    """Yield the paths and everything below them."""
    for path in paths:
        yield path
        for parent, _directories, names in os.walk(path):
            yield from [parent, *(os.path.join(parent, name) for name in names)]


def changed_at(path):
    """Return when the content, owner, mode or directory entries last changed, in microseconds."""
    try:
        return max(os.lstat(path).st_ctime_ns, os.stat(path).st_ctime_ns) // 1000
    except OSError:
        return 0


def touch(paths):
    """Set the change time of the paths to now: for timestamps in the future, and for configuration that a service did not apply."""
    for path in paths:
        if os.path.exists(path):
            found = os.stat(path)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def run_steps(module, name, steps):
    config = module.params["config"] + module.params["socket_config"]
    now = time.time_ns() // 1000
    touch(path for path in entries(config) if changed_at(path) > now)
    check = module.params["check"]
    if check:
        code, out, err = module.run_command(check)
        if code != 0:
            module.fail_json(
                msg=f"{name}: the configuration on disk is not valid, so {name} keeps running with its current one. "
                f"Output of `{' '.join(check)}`: {(err or out).strip()}"
            )
    for step in steps:
        if step == "listen":
            restart_socket(module, name)
        elif step == "daemon-reload":
            run(module, name, "systemctl", step)
        else:
            run(module, name, "systemctl", step, name)


def restart_socket(module, name):
    """Stop the service too, because a socket cannot start while its service is running. Sessions of sshd survive the stop."""
    run(module, name, "systemctl", "daemon-reload")
    run(module, name, "systemctl", "stop", f"{name}.socket", f"{name}.service")
    code, out, err = module.run_command(["systemctl", "start", f"{name}.socket"])
    if code != 0:
        run(module, name, "systemctl", "start", f"{name}.service")
        module.fail_json(msg=f"systemd cannot start {name}.socket ({(err or out).strip()}). {name}.service was started instead.")


def run(module, name, *command):
    code, out, err = module.run_command(list(command))
    if code != 0:
        # systemd records a failed reload as a state change, which the next run must not mistake for a successful one
        touch(module.params["config"])
        log = module.run_command(["journalctl", "--unit", name, "--lines=10", "--no-pager", "--output=cat"])[1]
        module.fail_json(msg=f"`{' '.join(command)}` failed: {(err or out).strip()}\n{printable(shortened(log.strip()))}")


if __name__ == "__main__":
    main()
