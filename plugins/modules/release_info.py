#!/usr/bin/python
"""What an app's releases are on a host: live, former, kept, running, bad."""

DOCUMENTATION = r"""
module: release_info
short_description: What an app's releases are on a host
description: Reads what M(release_folder) keeps, and which instances of the app's unit run. Changes nothing.
options:
  root:
    description: The app's folder, such as C(/srv/APP).
    type: path
    required: true
  unit:
    description: Name of the app's template unit, without C(@.service).
    type: str
    required: true
"""

RETURN = r"""
live: {description: The live release; empty if there is none., type: str, returned: always}
former: {description: "The release that rollback goes to: the last one live before this one that is kept and not bad. Empty if there is none.", type: str, returned: always}
complete: {description: "Releases that are completely built, newest cut-over first, the never used last.", type: list, returned: always}
releases: {description: "For each kept release its manifest, and C(bad): why it must not be used, else empty.", type: dict, returned: always}
running: {description: Releases whose unit is active., type: list, returned: always}
enabled: {description: Releases whose unit starts at boot., type: list, returned: always}
unit_digest: {description: Digest of the app's unit; empty if there is none., type: str, returned: always}
history: {description: "The last cut-overs, oldest first.", type: list, returned: always}
"""

import glob
import hashlib
import json
import os
import re

from ansible.module_utils.basic import AnsibleModule

SYSTEM_UNITS = "/etc/systemd/system"


def main():
    module = AnsibleModule(
        argument_spec={"root": {"type": "path", "required": True}, "unit": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    root, unit = module.params["root"], module.params["unit"]
    live = read_link(os.path.join(root, "live"))
    history = read_history(os.path.join(root, "history"))
    releases = {name: describe(root, name) for name in list_folder(os.path.join(root, "releases"))}
    last_live = {line["id"]: number for number, line in enumerate(history)}
    complete = sorted(
        (name for name, release in releases.items() if release["manifest"]),
        key=lambda name: (last_live.get(name, -1), releases[name]["manifest"].get("built", "")),
        reverse=True,
    )
    usable = [name for name in complete if name in last_live and name != live and not releases[name]["bad"]]
    instances = re.compile(re.escape(unit) + r"@(.+)\.service$")
    dummy, listed, dummy2 = module.run_command(
        ["systemctl", "list-units", "--plain", "--no-legend", "--full", "--state=active,activating,reloading,deactivating", f"{unit}@*.service"]
    )
    running = [line.split()[0] for line in listed.splitlines() if line.split()]
    enabled = glob.glob(f"{SYSTEM_UNITS}/multi-user.target.wants/{glob.escape(unit)}@*.service")
    module.exit_json(
        changed=False,
        live=live,
        former=usable[0] if usable else "",
        complete=complete,
        releases=releases,
        running=[found[1] for found in map(instances.search, running) if found],
        enabled=[found[1] for found in map(instances.search, enabled) if found],
        unit_digest=digest(f"{SYSTEM_UNITS}/{unit}@.service"),
        history=history[-20:],
    )


def describe(root, name):
    try:
        with open(os.path.join(root, "releases", name, "manifest.json")) as handle:
            manifest = json.load(handle)
    except (OSError, ValueError):
        manifest = {}
    try:
        with open(os.path.join(root, "bad", name)) as handle:
            bad = handle.read().strip()
    except OSError:
        bad = ""
    return {"manifest": manifest, "bad": bad}


def read_history(path):
    lines = []
    try:
        with open(path) as handle:
            for line in handle:
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    continue  # a line cut short by a crash
    except OSError:
        pass
    return lines


def list_folder(path):
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def read_link(path):
    return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""


def digest(path):
    try:
        with open(path, "rb") as handle:
            return hashlib.sha256(handle.read()).hexdigest()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
