#!/usr/bin/python
"""Set sysctl parameters of the running kernel."""

DOCUMENTATION = r"""
module: kernel_settings
short_description: Set sysctl parameters of the running kernel
description:
  - Compares the parameters of the running kernel with the wanted values, and sets those that differ. It does not make them persistent. To
    do that, write the returned settings to a file in C(/etc/sysctl.d).
  - In a container, the kernel belongs to the machine, and the module sets only network parameters, which belong to the container.
  - Parameters that the kernel does not have are skipped. If the kernel rejects a value, the module prints a warning.
author: The Flaskhost authors (@flaskhost)
options:
  settings:
    description: Parameters and their values. In a name, C(*) stands for every network interface, as in C(/etc/sysctl.d).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Set kernel parameters
  flaskhost.flaskhost.kernel_settings:
    settings:
      kernel.kptr_restrict: 2
      net.ipv4.conf.*.rp_filter: 1
  register: kernel

- name: Make the parameters persistent
  ansible.builtin.copy:
    dest: /etc/sysctl.d/99-example.conf
    content: |
      {% for name, value in kernel.settings.items() %}
      {{ name }} = {{ value }}
      {% endfor %}
    mode: "0644"
"""

RETURN = r"""
settings: {description: The wanted settings that apply to this host., type: dict, returned: success}
"""

import glob
import os
import re

from ansible.module_utils.basic import AnsibleModule

ROOT = "/proc/sys"
CONTAINER_SETTINGS = re.compile(r"net\.ipv[46]\.")


def main():
    module = AnsibleModule(argument_spec={"settings": {"type": "dict", "required": True}}, supports_check_mode=True)
    in_container = module.run_command(["systemd-detect-virt", "--container", "--quiet"])[0] == 0
    settings = applicable(module.params["settings"], in_container)
    done = []
    for path, before, after in differences(settings):
        try:
            if not module.check_mode:
                write(path, after)
            done.append((name(path), before, after))
        except OSError as error:
            module.warn(
                f"{name(path)} stays {before}: the kernel rejects {after} ({error.strerror}). You can exclude it in hardening_sysctl."
            )
    diff = {
        "before": listing(done, 1),
        "after": listing(done, 2),
        "before_header": "the running kernel",
        "after_header": "the running kernel",
    }
    module.exit_json(changed=bool(done), settings=settings, diff=diff)


def applicable(settings, in_container):
    return {name: value for name, value in settings.items() if not in_container or CONTAINER_SETTINGS.match(name)}


def differences(settings):
    for setting, value in settings.items():
        for path in sorted(glob.glob(os.path.join(ROOT, setting.replace(".", "/")))):
            now = read(path)
            if now is not None and now.split() != str(value).split():
                yield path, " ".join(now.split()), str(value)


def read(path):
    try:
        with open(path) as handle:
            return handle.read()
    except OSError:
        return None  # some parameters are write-only


def write(path, value):
    with open(path, "w") as handle:
        handle.write(f"{value}\n")


def name(path):
    return os.path.relpath(path, ROOT).replace("/", ".")


def listing(entries, column):
    return "".join(f"{entry[0]} = {entry[column]}\n" for entry in entries)


if __name__ == "__main__":
    main()
