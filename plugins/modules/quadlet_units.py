#!/usr/bin/python
"""What podman's own generator, quadlet, makes of a release's containers."""

DOCUMENTATION = r"""
module: quadlet_units
short_description: Systemd's units for a release's containers
description:
  - Gives each source (podman-systemd.unit(5)) to quadlet, and returns the unit that it makes. Nothing is installed.
  - In a source C(${user}) stands for the ids of the app's user and its group for nginx, C(${group}) for that of its own group,
    C(${number}) for the number in the unit's name.
author: The Flaskhost authors (@flaskhost)
options:
  app:
    description: The app; its user bears this name.
    type: str
    required: true
  units:
    description: The sources, by the file that the unit is to be; one without a section C([Container]) is a unit already.
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
units: {description: "The units, by file.", type: dict, returned: success}
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
    # a release's unit has its id for an instance; that of a scheduled command has none
    stem = "app@" if "%i" in source else "app"
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, f"{stem}.container"), "w") as handle:
            handle.write(source)
        made = os.path.join(folder, "made")
        os.mkdir(made)
        code, _out, err = module.run_command([QUADLET, "--no-kmsg-log", made], environ_update={"QUADLET_UNIT_DIRS": folder})
        path = os.path.join(made, f"{stem}.service")
        # it passes over what it does not understand, with a word of it
        if code != 0 or not os.path.exists(path) or "unsupported" in err:
            module.fail_json(msg=f"quadlet can't make {name} (container_options, systemd_service_lines?): {err.strip()}")
        with open(path) as handle:
            # of a file that is gone again, systemd would say for ever that it has changed
            return "".join(line for line in handle if not line.startswith("SourcePath="))


if __name__ == "__main__":
    main()
