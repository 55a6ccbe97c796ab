#!/usr/bin/python
"""A service that is up, starts at boot, and runs the configuration that is on disk."""

DOCUMENTATION = r"""
module: service_current
short_description: A service that runs the configuration on disk
description:
  - Starts and enables a systemd service, and reloads or restarts it if a configuration file on disk is newer than the
    last time the service started or reloaded.
  - If systemd has not read the service's own unit or drop-ins, below C(/etc/systemd/system), since they changed, it is made to.
  - A service whose socket systemd holds (as Ubuntu has it for ssh) is neither started nor enabled; systemd starts it when
    it is needed. If that socket's own configuration is newer than the socket, systemd is made to listen anew.
  - It compares, where a handler remembers. A run that died after it wrote a file and before its handler leaves a daemon
    that runs old settings for ever; this notices, in the next run.
  - The configuration is checked first. If the check fails, the service goes on with what it runs.
  - Where the host's clock was wrong, a time that is still to come tells nothing; the service takes up what is on disk.
author: The Flaskhost authors (@flaskhost)
options:
  name:
    description: The service, without its suffix.
    type: str
    required: true
  config:
    description: Files and folders (with all below them) that the service reads when it starts or reloads.
    type: list
    elements: path
    required: true
  socket_config:
    description: Files and folders that tell systemd where to listen for the service.
    type: list
    elements: path
    default: []
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
  start:
    description:
      - Enable and start the service where it isn't running.
      - V(false) is for one that other units start when they need it. It reads its configuration then.
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
did: {description: "What was done: C(daemon-reload), C(start), C(enable), C(reload), C(restart), C(listen).", type: list, returned: success}
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
    # two apps of one host may be deployed at once, and share this: each waits for its turn
    try:
        acquire("host", "bringing a service up to date")
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
    # one that is stopped for its socket reads its configuration when it starts again
    if "listen" not in steps and service.is_up and is_behind(current_since, module.params["config"]):
        steps.append(module.params["by"])
    if steps and not module.check_mode:
        carry_out(module, name, steps)
    module.exit_json(changed=bool(steps), did=steps)


class Unit:
    """What systemd knows of a unit; times are in microseconds."""

    def __init__(self, module, name):
        wanted = ("LoadState", "UnitFileState", "ActiveState", "ActiveEnterTimestamp", "StateChangeTimestamp")
        found = show(module, wanted, name)
        self.is_loaded = found.get("LoadState") == "loaded"
        self.is_disabled = found.get("UnitFileState") == "disabled"
        self.is_up = found.get("ActiveState") in ("active", "reloading")
        self.up_since = microseconds(found.get("ActiveEnterTimestamp", ""))
        self.changed = microseconds(found.get("StateChangeTimestamp", ""))


def is_stale(module, unit):
    """Whether systemd has yet to read the unit's files below /etc."""
    file, drop_ins = f"{UNITS}/{unit}", f"{UNITS}/{unit}.d"
    read = show(module, ("UnitsLoadTimestamp", "UnitsLoadStartTimestamp"))
    if "UnitsLoadTimestamp" in read:
        return is_behind(max(map(microseconds, read.values())), [file, drop_ins])
    # Before version 250 (Ubuntu 22.04) systemd doesn't say when it last did. Its own word for a stale unit misses files that are new.
    found = show(module, ("NeedDaemonReload", "FragmentPath", "DropInPaths"), unit)
    known = {found.get("FragmentPath"), *found.get("DropInPaths", "").split()}
    new = {path for path in [file, *glob.glob(f"{drop_ins}/*.conf")] if os.path.exists(path)} - known
    return found.get("NeedDaemonReload") == "yes" or bool(new)


def show(module, wanted, *unit):
    command = ["systemctl", "show", "--timestamp=us+utc", *(f"--property={key}" for key in wanted), *unit]
    out = module.run_command(command, check_rc=True, environ_update={"LC_ALL": "C.UTF-8"})[1]
    return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)


def microseconds(text):
    """`Sat 2026-11-21 02:30:00.123456 UTC` as systemd prints it."""
    words = text.split()
    if len(words) < 3:
        return 0
    moment = datetime.strptime(f"{words[1]} {words[2]}", "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1_000_000)


def is_behind(since, paths):
    """Whether what the service took up at this time may be older than what is on disk. Where nothing is, nothing is to be taken up."""
    now = time.time_ns() // 1000
    newest = max(map(changed_at, entries(paths)), default=0)
    return newest > 0 and (since > now or newest > since)


def entries(paths):
    """The paths, and all below them."""
    for path in paths:
        yield path
        for parent, _folders, names in os.walk(path):
            yield from [parent, *(os.path.join(parent, name) for name in names)]


def changed_at(path):
    """When its content, owner or mode last changed, or something in it came or went; in microseconds."""
    try:
        return max(os.lstat(path).st_ctime_ns, os.stat(path).st_ctime_ns) // 1000
    except OSError:
        return 0


def note_change(paths):
    """Their change is now: of what a clock that was wrong dated into the future, and of what a service didn't take up."""
    for path in paths:
        if os.path.exists(path):
            seen = os.stat(path)
            os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def carry_out(module, name, steps):
    config = module.params["config"] + module.params["socket_config"]
    now = time.time_ns() // 1000
    note_change(path for path in entries(config) if changed_at(path) > now)
    check = module.params["check"]
    if check:
        code, out, err = module.run_command(check)
        if code != 0:
            module.fail_json(
                msg=f"{name}: the configuration on disk is not valid, so {name} goes on with the one it runs. "
                f"{' '.join(check)} said: {(err or out).strip()}"
            )
    for step in steps:
        if step == "listen":
            listen_anew(module, name)
        elif step == "daemon-reload":
            run(module, name, "systemctl", step)
        else:
            run(module, name, "systemctl", step, name)


def listen_anew(module, name):
    """A socket can't start while its service is up; sessions of sshd go on without their parent."""
    run(module, name, "systemctl", "daemon-reload")
    run(module, name, "systemctl", "stop", f"{name}.socket", f"{name}.service")
    code, out, err = module.run_command(["systemctl", "start", f"{name}.socket"])
    if code != 0:
        run(module, name, "systemctl", "start", f"{name}.service")
        module.fail_json(msg=f"systemd can't listen for {name} ({(err or out).strip()}); {name} itself does so now")


def run(module, name, *command):
    code, out, err = module.run_command(list(command))
    if code != 0:
        # to systemd, a reload that failed is a change of state like any other; the next run must not take it for a good one
        note_change(module.params["config"])
        log = module.run_command(["journalctl", "--unit", name, "--lines=10", "--no-pager", "--output=cat"])[1]
        module.fail_json(msg=f"`{' '.join(command)}` failed: {(err or out).strip()}\n{printable(shortened(log.strip()))}")


if __name__ == "__main__":
    main()
