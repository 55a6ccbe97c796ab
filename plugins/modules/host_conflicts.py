#!/usr/bin/python
"""Find what on a host is in the way of an app."""

DOCUMENTATION = r"""
module: host_conflicts
short_description: Find what on a host is in the way of an app
description:
  - Finds programs on the site's ports, nginx sites that would get its requests, users, groups and directories with the app's name that
    Flaskhost did not create, another firewall, and a C(/tmp) that is too small for builds. It changes nothing.
  - Must run as root. Otherwise it can't name all programs.
author: The Flaskhost authors (@flaskhost)
options:
  app:
    description: The name of the app.
    type: str
    required: true
  root:
    description: The app's directory on the host, such as C(/srv/APP).
    type: path
    required: true
  names:
    description: The names of the site.
    type: list
    elements: str
    required: true
  ports:
    description: The ports of the site, such as C(443/tcp).
    type: list
    elements: str
    default: [80/tcp, 443/tcp]
"""

EXAMPLES = r"""
- name: Look for conflicts on the host
  flaskhost.flaskhost.host_conflicts:
    app: shop
    root: /srv/shop
    names: [shop.example, www.shop.example]
  become: true
  register: conflicts
  failed_when: conflicts.problems | length > 0
"""

RETURN = r"""
problems: {description: "What is in the way, each with its remedy.", type: list, elements: str, returned: always}
ansible_facts:
  description: The fact RV(ansible_facts.host_has_ipv6).
  type: dict
  returned: always
  contains:
    host_has_ipv6: {description: Whether the kernel supports IPv6., type: bool, returned: always}
"""

import grp
import os
import pwd
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import listeners, nginx_sites
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import list_directories
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable_values

TMP_MB = 100
# rules that send a port to a container, in the output of iptables-save and of nft
FORWARD = re.compile(r"\b(tcp|udp)\b.*?dports? (\{[^}]*\}|[\d,:-]+).*?(?:-j DNAT --to-destination|dnat (?:ip6? )?to) (\S+)")
FIREWALLS = {
    "firewalld": "It would replace the rules of ufw, which Flaskhost uses. Disable it with `systemctl disable --now firewalld`.",
}


def main():
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "ports": {"type": "list", "elements": "str", "default": ["80/tcp", "443/tcp"]},
        },
        supports_check_mode=True,
    )

    def output(*command):
        path = module.get_bin_path(command[0])
        return module.run_command([path, *command[1:]], environ_update={"LC_ALL": "C"}, errors="replace")[1] if path else ""

    params = module.params
    problems = [
        *ports(output, params["ports"]),
        *nginx_sites.conflicts(params["app"], params["names"]),
        *users(params["app"], params["root"]),
        *firewalls(output),
        *temporary("/tmp"),
    ]
    for text in [*containers(output, params["ports"]), *noexec("/tmp")]:
        module.warn(text)
    facts = {"host_has_ipv6": os.path.exists("/proc/net/if_inet6")}
    module.exit_json(changed=False, problems=printable_values(problems), ansible_facts=facts)


def ports(output, wanted):
    """Report programs on the site's ports, and rules of containers, which get the packets before any program."""
    taken = set()
    for entry in listeners.occupants(output(*listeners.SS), wanted):
        taken.add(entry["on"])
        found = listeners.problem(entry)
        yield f"port {entry['port']}: {found['found']}. {found['fix']}"
    for port, target in forwarded(output).items():
        if port in wanted and port not in taken:
            yield (
                f"port {port.partition('/')[0]}: a firewall rule sends it to {target}, probably a container (`docker ps`, `podman ps`), so "
                "visitors would not reach nginx. Stop the container, or publish another port of it."
            )


def containers(output, wanted):
    others = sorted(set(forwarded(output)) - {*wanted})
    if others:
        yield (
            f"Containers publish ports of this host ({', '.join(others)}), and their packets bypass ufw: everyone can connect. "
            "Publish them on 127.0.0.1 only, as in `-p 127.0.0.1:5432:5432`, unless they are meant to be public."
        )


def forwarded(output):
    """Return the ports that rules forward, such as 443/tcp, with the destination."""
    rules = (
        output("iptables-save", "--table", "nat") + output("ip6tables-save", "--table", "nat") + output("nft", "--terse", "list", "ruleset")
    )
    # a port that is published on 127.0.0.1 only is no obstacle
    public = "\n".join(line for line in rules.splitlines() if not re.search(r"(-d|daddr) 127\.", line))
    return {f"{port}/{proto}": target for proto, found, target in FORWARD.findall(public) for port in re.findall(r"\d+", found)}


def users(app, root):
    """Report users, groups and directories with the app's name that a deploy would take over."""
    if "releases" in list_directories(root):
        return
    marks = {app: f"{app}, released by Flaskhost", f"{app}-build": f"builds of {app}"}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    foreign = [name for name, mark in marks.items() if name in names and names[name].pw_gecos.partition(",,")[0] != mark]
    ours = [name for name in marks if name in names and name not in foreign]
    rename = f"Choose another app_name, such as {app}_app"
    for name in foreign:
        entry = names[name]
        yield f"app_name: the user '{name}' (uid {entry.pw_uid}, {entry.pw_gecos or 'no comment'}) exists, and Flaskhost did not create it. {rename}."
    groups = {entry.gr_name: entry.gr_gid for entry in grp.getgrall()}
    for name in (app, f"{app}-web", f"{app}-build"):
        if name in groups and not ours and not foreign:
            yield (
                f"app_name: the group '{name}' (gid {groups[name]}) exists, and Flaskhost did not create it. The app would get its permissions. "
                f"{rename}."
            )
    for path in (root, f"/var/lib/{app}", f"/var/cache/{app}", f"/var/cache/{app}-build"):
        if not ours and os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
            setting = "app_root" if path == root else "app_name"
            yield f"{setting}: {path} exists, and Flaskhost did not create it. {rename}, or move {path} away."


def firewalls(output):
    for name, fix in FIREWALLS.items():
        if output("systemctl", "is-active", name).strip() == "active":
            yield f"firewall: {name} is active. {fix}"


def temporary(path):
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize // 2**20
    if free < TMP_MB:
        yield (
            f"{path} has {free} MB free, but a build needs at least {TMP_MB} MB there. Remove files from it, or enlarge it "
            f"(`mount -o remount,size=1G {path}`, and in /etc/fstab or `systemctl edit tmp.mount`)."
        )


def noexec(path):
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        yield (
            f"{path} is mounted with noexec, so a build that runs a program from it fails with 'Permission denied'. Wheels are not affected. If "
            f"a package has to be compiled on the host, run `mount -o remount,exec {path}`, and remove noexec from /etc/fstab."
        )


if __name__ == "__main__":
    main()
