#!/usr/bin/python
"""Make ufw's rules exactly those that are asked for."""

DOCUMENTATION = r"""
module: ufw_rules
short_description: Make ufw's rules exactly those that are asked for
description:
  - Reads ufw's rules once, adds what is missing, removes what nobody asks for any more, and enables the firewall.
  - The port by which this very ssh session came in is always allowed, before anything else changes.
  - C(lists), a file of nftables' own, says to whom the open ports are open. It is loaded if the kernel hasn't got it as it is
    on disk; at boot, and whenever ufw starts, its C(before.init) sees to that.
options:
  rules:
    description:
      - What is let in (or not), in this order. Each has C(port) (a number, or a range such as C(6000:6007)), and may have
        C(proto) (V(tcp), V(udp); default V(tcp)), C(from) (address or network; default anywhere) and C(rule)
        (V(allow), V(deny), V(reject), V(limit); default V(allow)).
    type: list
    elements: dict
    required: true
  keep_others:
    description: Leave rules that nobody asks for.
    type: bool
    default: false
  lists:
    description:
      - A file that nft reads, of the table C(inet flaskhost). An empty chain in it, C(is_DIGEST), names what it holds, so that
        one question tells whether the kernel has it.
    type: path
"""

RETURN = r"""
loaded: {description: Whether the lists were loaded., type: bool, returned: always}
added: {description: Rules that were added., type: list, returned: always}
removed: {description: Rules that were removed., type: list, returned: always}
ssh_port: {description: The port by which this session came in; 0 if it came by other means than ssh., type: int, returned: always}
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
    if ssh_port and not any(lets_ssh_in(rule, ssh_port) for rule in wanted):
        wanted.append(f"allow {ssh_port}/tcp")

    # two apps of one host may be deployed at once, and share this: each waits for its turn
    try:
        acquire("host", "changing the firewall")
    except LockTimeout as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    ufw = Ufw(module)
    have = ufw.rules()
    removed = [] if module.params["keep_others"] else [rule for rule in have if rule not in wanted]
    added = [rule for rule in wanted if rule not in have]
    lists = module.params["lists"]
    load = bool(lists) and not ufw.has_lists(lists)
    policy = ufw.needs_policy()
    enable = not ufw.enabled()
    if not module.check_mode:
        # what lets people in first, then the walls, then the cleaning up
        for rule in added:
            ufw(*rule.split())
        if load:
            ufw.run("nft", "-f", lists)
        for rule in removed:
            ufw("delete", *rule.split())
        for words in policy:
            ufw(*words)
        if enable:
            ufw("--force", "enable")
    module.exit_json(
        changed=bool(added or removed or load or policy or enable),
        loaded=load,
        added=added,
        removed=removed,
        ssh_port=ssh_port,
        diff={"before": listing(have), "after": listing(wanted)},
    )


class Ufw:
    def __init__(self, module):
        self.module = module
        self.path = module.get_bin_path("ufw")
        if not self.path and not module.check_mode:
            module.fail_json(msg="ufw is not installed on this host")

    def __call__(self, *words):
        return self.run("ufw", *words)

    def run(self, program, *words):
        command = [self.module.get_bin_path(program, required=True), *words]
        code, out, err = self.module.run_command(command, environ_update={"LC_ALL": "C"})
        if code != 0:
            self.module.fail_json(msg=f"`{program} {' '.join(words)}` failed: {(err or out).strip()}")
        return out

    def rules(self):
        """As `ufw show added` tells them, comments dropped."""
        if not self.path:
            return []
        lines = [line for line in self("show", "added").splitlines() if line.startswith("ufw ")]
        return [re.sub(r" comment '.*'$", "", line[len("ufw ") :]) for line in lines]

    def has_lists(self, path):
        """Whether the kernel has them: someone may have flushed them by hand."""
        nft, mark = self.module.get_bin_path("nft"), re.search(r"^ *chain (is_\w+)", read(path), re.MULTILINE)
        return bool(nft and mark) and self.module.run_command([nft, "list", "chain", "inet", "flaskhost", mark[1]])[0] == 0

    def enabled(self):
        """Asked for at boot, and in force now: someone may have flushed it by hand."""
        return "ENABLED=yes" in read(CONFIG) and self.path and "Status: active" in self("status")

    def needs_policy(self):
        settings = read(DEFAULTS)
        wanted = {"INPUT": ("DROP", "deny", "incoming"), "OUTPUT": ("ACCEPT", "allow", "outgoing")}
        return [
            ("default", word, direction)
            for chain, (value, word, direction) in wanted.items()
            if f'DEFAULT_{chain}_POLICY="{value}"' not in settings
        ]


def lets_ssh_in(rule, port):
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
