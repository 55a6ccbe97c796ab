#!/usr/bin/python
"""Manage the complete set of ufw rules."""

DOCUMENTATION = r"""
module: ufw_rules
short_description: Manage the complete set of ufw rules
description:
  - Reads ufw's rules, adds missing ones, removes all others, and enables the firewall.
  - The port of the current SSH session is always allowed, before anything else changes.
  - The file O(lists) defines which addresses can connect to the open ports. The module loads it into the kernel if the kernel does not have
    its current content. When ufw starts, such as at boot, its C(before.init) loads the file.
author: The Flaskhost authors (@flaskhost)
options:
  rules:
    description:
      - The rules, in order. Each must have C(port) (a number, or a range such as C(6000:6007)), and can have C(proto) (V(tcp) or V(udp), by
        default V(tcp)), C(from) (an address or network, by default any) and C(rule) (V(allow), V(deny), V(reject) or V(limit), by default
        V(allow)).
    type: list
    elements: dict
    required: true
  keep_others:
    description: Whether to keep existing rules that are not in O(rules).
    type: bool
    default: false
  lists:
    description:
      - A file for C(nft) with the table C(inet flaskhost). It must contain an empty chain C(is_DIGEST), where C(DIGEST) identifies the
        content. The module uses it to check whether the kernel has this content.
    type: path
"""

EXAMPLES = r"""
- name: Open SSH, HTTP, HTTPS and PostgreSQL, and close all other ports
  flaskhost.flaskhost.ufw_rules:
    rules:
      - { port: 22, rule: limit }
      - { port: 80 }
      - { port: 443 }
      - { port: 5432, from: 10.0.0.0/8 }
"""

RETURN = r"""
loaded: {description: Whether O(lists) was loaded., type: bool, returned: always}
added: {description: Rules that were added., type: list, returned: always}
removed: {description: Rules that were removed., type: list, returned: always}
ssh_port: {description: The port of the current SSH session. 0 if there is none., type: int, returned: always}
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import LockTimeout, acquire
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.networks import port_rule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.session import ssh_session

DEFAULTS = "/etc/default/ufw"
CONFIG = "/etc/ufw/ufw.conf"


def main():
    module = AnsibleModule(
        argument_spec={
            "rules": {"type": "list", "elements": "dict", "required": True},
            "keep_others": {"type": "bool", "default": False},
            "lists": {"type": "path"},
        },
        supports_check_mode=True,
    )
    ssh_port = ssh_session()[1]
    try:
        wanted = unique([port_rule(rule) for rule in module.params["rules"]])
    except ValueError as error:
        module.fail_json(msg=str(error))
    if ssh_port and not any(allows_ssh(rule, ssh_port) for rule in wanted):
        wanted.append(f"allow {ssh_port}/tcp")

    # two apps on one host may be deployed at the same time, and the firewall is shared
    try:
        acquire("host", "changing the firewall")
    except LockTimeout as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    ufw = Ufw(module)
    current = ufw.rules()
    removed = [] if module.params["keep_others"] else [rule for rule in current if rule not in wanted]
    added = [rule for rule in wanted if rule not in current]
    lists = module.params["lists"]
    load = bool(lists) and not ufw.has_lists(lists)
    policy = ufw.needs_policy()
    enable = not ufw.enabled()
    if not module.check_mode:
        # add rules first, so that allowed connections keep working, and enable the firewall last
        for rule in added:
            ufw(*rule.split())
        if load:
            ufw.run("nft", "-f", lists)
        for rule in removed:
            ufw("delete", *rule.split())
        for command in policy:
            ufw(*command)
        if enable:
            ufw("--force", "enable")
    module.exit_json(
        changed=bool(added or removed or load or policy or enable),
        loaded=load,
        added=added,
        removed=removed,
        ssh_port=ssh_port,
        diff={"before": listing(current), "after": listing(wanted)},
    )


class Ufw:
    def __init__(self, module):
        self.module = module
        self.path = module.get_bin_path("ufw")
        if not self.path and not module.check_mode:
            module.fail_json(msg="ufw is not installed on this host. Run provision.yml.")

    def __call__(self, *arguments):
        return self.run("ufw", *arguments)

    def run(self, program, *arguments):
        command = [self.module.get_bin_path(program, required=True), *arguments]
        code, out, err = self.module.run_command(command, environ_update={"LC_ALL": "C"})
        if code != 0:
            self.module.fail_json(msg=f"`{program} {' '.join(arguments)}` failed: {(err or out).strip()}")
        return out

    def rules(self):
        """Return the rules in the syntax of `ufw show added`, without comments."""
        if not self.path:
            return []
        lines = [line for line in self("show", "added").splitlines() if line.startswith("ufw ")]
        return [re.sub(r" comment '.*'$", "", line[len("ufw ") :]) for line in lines]

    def has_lists(self, path):
        """Return whether the kernel has the lists: an operator may have flushed them."""
        nft, mark = self.module.get_bin_path("nft"), re.search(r"^ *chain (is_\w+)", read(path), re.MULTILINE)
        return bool(nft and mark) and self.module.run_command([nft, "list", "chain", "inet", "flaskhost", mark[1]])[0] == 0

    def enabled(self):
        """Return whether ufw is enabled at boot and active now: an operator may have flushed its rules."""
        return "ENABLED=yes" in read(CONFIG) and self.path and "Status: active" in self("status")

    def needs_policy(self):
        settings = read(DEFAULTS)
        wanted = {"INPUT": ("DROP", "deny", "incoming"), "OUTPUT": ("ACCEPT", "allow", "outgoing")}
        return [
            ("default", policy, direction)
            for chain, (value, policy, direction) in wanted.items()
            if f'DEFAULT_{chain}_POLICY="{value}"' not in settings
        ]


def allows_ssh(rule, port):
    return rule in (f"allow {port}/tcp", f"limit {port}/tcp")


def unique(rules):
    return list(dict.fromkeys(rules))


def listing(rules):
    return "".join(f"{rule}\n" for rule in rules)


def read(path):
    try:
        with open(path) as handle:
            return handle.read()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
