#!/usr/bin/python
"""Generate the units of a release's containers with quadlet, the generator of podman."""

DOCUMENTATION = r"""
module: quadlet_units
short_description: Generate systemd units for a release's containers
description:
  - Passes each source (podman-systemd.unit(5)) to quadlet, and returns the unit that it generates. Nothing is installed.
  - In a source, the module replaces C(${user}) with the IDs of the app's user and of its group for nginx, C(${group}) with the ID of the
    app's own group, and C(${number}) with the number in the unit's name.
author: The Flaskhost authors (@flaskhost)
options:
  app:
    description: The name of the app and of its user.
    type: str
    required: true
  units:
    description: The sources by file name of the unit. A source without a section C([Container]) is returned as a unit.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Generate the units of a release
  flaskhost.flaskhost.quadlet_units:
    app: shop
    units:
      shop@1a2b3c.service: |
        [Container]
        Image=localhost/shop:1a2b3c
        User=${user}
  register: made
"""

RETURN = r"""
units: {description: The units by file name., type: dict, returned: success}
"""

import grp
import os
import pwd
import re
import tempfile

from ansible.module_utils.basic import AnsibleModule

QUADLET = "/usr/libexec/podman/quadlet"


def main():
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "units": {"type": "dict", "required": True},
        },
    )
    params = module.params
    user = pwd.getpwnam(params["app"])
    known = {
        "user": f"{user.pw_uid}:{grp.getgrnam(params['app'] + '-web').gr_gid}",
        "group": str(grp.getgrnam(params["app"]).gr_gid),
    }
    units = {}
    for name, source in params["units"].items():
        number = re.search(r"\.(\d+)\.service$", name)
        filled = fill(source, dict(known, number=number[1] if number else ""))
        units[name] = make(module, name, filled) if "\n[Container]\n" in source else source
    module.exit_json(changed=False, units=units)


def fill(source, known):
    return re.sub(r"\$\{(\w+)\}", lambda found: known.get(found[1], found[0]), source)


def make(module, name, source):
    # the unit of a release has its ID as the instance name; the unit of a scheduled job has no instance
    stem = "app@" if "%i" in source else "app"
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, f"{stem}.container"), "w") as handle:
            handle.write(source)
        made = os.path.join(directory, "made")
        os.mkdir(made)
        code, _out, err = module.run_command([QUADLET, "--no-kmsg-log", made], environ_update={"QUADLET_UNIT_DIRS": directory})
        path = os.path.join(made, f"{stem}.service")
        # quadlet skips unsupported lines with a message
        if code != 0 or not os.path.exists(path) or "unsupported" in err:
            module.fail_json(msg=f"quadlet cannot generate {name} ({err.strip()}). Check container_options and systemd_service_lines.")
        with open(path) as handle:
            # the source file is temporary, and systemd would always report that it has changed
            return "".join(line for line in handle if not line.startswith("SourcePath="))


if __name__ == "__main__":
    main()
