#!/usr/bin/python
"""The running kernel's settings, as sysctl names them."""

DOCUMENTATION = r"""
module: kernel_settings
short_description: The running kernel's settings
description:
  - Compares what the kernel has now with what it should have, and sets what differs. What holds after a reboot is a file
    in C(/etc/sysctl.d), which is another's concern, made of what this one returns.
  - In a container the kernel is the machine's. There, only the network is the host's own, and all else is left alone.
  - Settings that this kernel hasn't got are passed over. One that it refuses is told of.
author: The Flaskhost authors (@flaskhost)
options:
  settings:
    description: Values by name; a C(*) in a name stands for every network interface, as it does in C(/etc/sysctl.d).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Set what the kernel should have
  flaskhost.flaskhost.kernel_settings:
    settings:
      kernel.kptr_restrict: 2
      net.ipv4.conf.*.rp_filter: 1
  register: kernel

- name: Keep it after a reboot
  ansible.builtin.copy:
    dest: /etc/sysctl.d/99-example.conf
    content: |
      {% for name, value in kernel.settings.items() %}
      {{ name }} = {{ value }}
      {% endfor %}
    mode: "0644"
"""

RETURN = r"""
settings: {description: Those that are this host's to set., type: dict, returned: success}
"""

import glob
import os
import re

from ansible.module_utils.basic import AnsibleModule

ROOT = "/proc/sys"
OF_A_CONTAINER = re.compile(r"net\.ipv[46]\.")


def main():
    module = AnsibleModule(argument_spec={"settings": {"type": "dict", "required": True}}, supports_check_mode=True)
    in_container = module.run_command(["systemd-detect-virt", "--container", "--quiet"])[0] == 0
    settings = own(module.params["settings"], in_container)
    done = []
    for path, before, after in differences(settings):
        try:
            if not module.check_mode:
                write(path, after)
            done.append((name(path), before, after))
        except OSError as error:
            module.warn(
                f"{name(path)} stays {before}, for the kernel refuses {after} ({error.strerror}). hardening_sysctl can leave it out."
            )
    diff = {
        "before": listing(done, 1),
        "after": listing(done, 2),
        "before_header": "the running kernel",
        "after_header": "the running kernel",
    }
    module.exit_json(changed=bool(done), settings=settings, diff=diff)


def own(settings, in_container):
    return {name: value for name, value in settings.items() if not in_container or OF_A_CONTAINER.match(name)}


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
        return None  # some can only be written


def write(path, value):
    with open(path, "w") as handle:
        handle.write(f"{value}\n")


def name(path):
    return os.path.relpath(path, ROOT).replace("/", ".")


def listing(entries, column):
    return "".join(f"{entry[0]} = {entry[column]}\n" for entry in entries)


if __name__ == "__main__":
    main()
