#!/usr/bin/python
"""What a host has, and what stands in the way of a release; it changes nothing."""

DOCUMENTATION = r"""
module: host_report
short_description: What a host has, and what stands in the way of a release
description:
  - Changes nothing. The action plugin of the same name adds what the controller sees of the host, and judges.
author: The Flaskhost authors (@flaskhost)
options:
  paths:
    description: Where there has to be room; those that are not there yet are left out.
    type: list
    elements: path
    required: true
  certificate:
    description: The site's certificate, beside which C(problem.json) tells why it was not renewed.
    type: path
    required: true
  domain:
    description: The name by which nginx is asked for the certificate that it serves.
    type: str
    required: true
  services:
    description: Services that have to run.
    type: list
    elements: str
    required: true
  backup:
    description: The app whose backups to look at; empty for none.
    type: str
    default: ''
  domains:
    description: Names that should lead to the host. The action plugin asks the controller's DNS for them.
    type: list
    elements: str
    default: []
  ports:
    description: Ports that should be open. The action plugin connects to them from the controller.
    type: list
    elements: int
    default: []
"""

EXAMPLES = r"""
- name: Report what the host has
  flaskhost.flaskhost.host_report:
    paths: [/, /srv, /var/lib]
    certificate: /etc/ssl/flaskhost/shop/certificate.pem
    domain: shop.example.com
    services: [nginx, ssh]
    backup: shop
    domains: [shop.example.com, www.shop.example.com]
    ports: [80, 443]
  register: report
"""

RETURN = r"""
time: {description: "The host's clock, in seconds since 1970.", type: float, returned: always}
synchronized: {description: Whether a time daemon keeps it right., type: bool, returned: always}
python: {description: "The distribution's Python.", type: str, returned: always}
disks: {description: "By path: C(free_mb), C(total_mb), C(free_inodes_percent), C(read_only).", type: dict, returned: always}
memory: {description: "C(total_mb), C(available_mb) (with free swap), C(swap_mb).", type: dict, returned: always}
apt: {description: "C(held_by), the program that holds the lock; C(broken), packages that are half installed.", type: dict, returned: always}
certificate:
  description: >-
    C(begins), C(ends), in seconds since 1970 (0 is none); C(self_signed); C(names); C(served), whether it is the one that nginx
    serves; C(problem), why it was not renewed (C(found), C(cure)), if it wasn't.
  type: dict
  returned: always
services: {description: What systemd says of each service., type: dict, returned: always}
failed_units: {description: Units that have failed., type: list, returned: always}
firewall: {description: Whether ufw is active., type: bool, returned: always}
lists: {description: Whether the kernel has the firewall's lists., type: bool, returned: always}
opened: {description: "Ports that the firewall lets in: C(first), C(last), C(proto).", type: list, returned: always}
listening: {description: "What listens, and not on loopback only: C(port), C(proto), C(program).", type: list, returned: always}
reboot_for: {description: "Packages whose upgrade asks for a reboot.", type: list, returned: always}
outdated: {description: "Units that still run what an upgrade has replaced.", type: list, returned: always}
backup:
  description:
    - C(since) when they are to be made, C(timer) and C(result) as systemd says, C(words) of the last that failed; C(places) by name, each with
      its C(url), and the C(id) of the last that was made there, C(at) when, and its C(warnings), which are the C(count) and the C(first) of
      the files that were left out or may not be consistent. Empty if none was asked for.
  type: dict
  returned: always
addresses: {description: The host's own addresses., type: list, returned: always}
away:
  description: "Why the host can't be reached: C(found), C(cure). Nothing else is returned then. Empty if it can."
  type: dict
  returned: always
ahead: {description: By how many seconds the host's clock is ahead of the controller's., type: float, returned: if the host can be reached}
host_addresses:
  description: What the controller's DNS says of the host.
  type: list
  elements: str
  returned: if the host can be reached
domain_addresses: {description: The same of each of O(domains)., type: dict, returned: if the host can be reached}
closed_ports: {description: "Why a port can't be reached, by port.", type: dict, returned: if the host can be reached}
"""

import fcntl
import json
import os
import platform
import re
import socket
import ssl
import struct
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.command import run
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import one_line, printable_values

SETTINGS = "/etc/flaskhost"
BACKUPS = "/var/lib/flaskhost"
LISTENER = re.compile(r"^(tcp|udp) +(?:LISTEN|UNCONN) +\d+ +\d+ +(\S+):(\d+) +\S+:\S+(.*)", re.MULTILINE)
LOOPBACK = re.compile(r"127\.|\[::1\]|.*%lo$")
KEEP_BYTES = 2**20
COMMAND_SECONDS = 120
NO_BACKUP = {"id": "", "at": 0, "warnings": {"count": 0, "first": []}}
DPKG_LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock")


def main():
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "required": True},
            "certificate": {"type": "path", "required": True},
            "domain": {"type": "str", "required": True},
            "services": {"type": "list", "elements": "str", "required": True},
            "backup": {"type": "str", "default": ""},
            # of the action plugin
            "domains": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
        },
        supports_check_mode=True,
    )

    module.exit_json(**printable_values({"changed": False, **report(module.params)}))


def report(params):
    return {
        "time": time.time(),
        "synchronized": output("timedatectl", "show", "--value", "--property=NTPSynchronized") == "yes",
        "python": platform.python_version(),
        "disks": {path: disk(path) for path in params["paths"] if os.path.isdir(path)},
        "memory": memory(),
        "apt": {
            "held_by": next(filter(None, map(lock_holder, DPKG_LOCKS)), ""),
            "broken": re.findall(r"^ (\S+)", output("dpkg", "--audit"), re.MULTILINE),
        },
        "certificate": certificate(params["certificate"], params["domain"], output),
        "services": {name: output("systemctl", "is-active", name) or "unknown" for name in params["services"]},
        "failed_units": re.findall(r"^(\S+)", output("systemctl", "--failed", "--no-legend", "--plain"), re.MULTILINE),
        "backup": backup(params["backup"], output) if params["backup"] else {},
        "firewall": output("ufw", "status").startswith("Status: active"),
        "lists": bool(output("nft", "list", "table", "inet", "flaskhost")),
        "opened": opened(output("ufw", "show", "added")),
        "listening": listening(output("ss", "--no-header", "--listening", "--numeric", "--processes", "--tcp", "--udp")),
        "reboot_for": reboot_for(),
        "outdated": re.findall(r"^NEEDRESTART-SVC: (\S+)", output("needrestart", "-b", "-l", "-r", "l"), re.MULTILINE),
        "addresses": re.findall(r"inet6? ([0-9a-f.:]+)", output("ip", "-oneline", "address", "show", "scope", "global")),
    }


def output(*command):
    try:
        return run(command, KEEP_BYTES, COMMAND_SECONDS, {"LC_ALL": "C.UTF-8"})[1].strip()
    except OSError:
        return ""  # the program is not installed, which the findings tell in their own way


def backup(app, output):
    """Nothing is asked of the places themselves: each backup leaves a note."""
    settings, made = f"{SETTINGS}/backup-{app}.json", read_json(f"{BACKUPS}/{app}/made.json")
    places = read_json(settings).get("places", {})
    unit = f"{app}-backup.service"
    result, run = (output("systemctl", "show", "--value", f"--property={name}", unit) for name in ("Result", "InvocationID"))
    words = output("journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_INVOCATION_ID={run}") if result != "success" else ""
    return {
        "since": os.stat(settings).st_mtime if places else 0,
        "timer": output("systemctl", "is-active", f"{app}-backup.timer"),
        "result": result,
        "words": " ".join(words.split())[-400:],
        "places": {name: {"url": url.removeprefix("s3:"), **NO_BACKUP, **made.get(name, {})} for name, url in places.items()},
    }


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def disk(path):
    found = os.statvfs(path)
    return {
        "free_mb": found.f_bavail * found.f_frsize // 2**20,
        "total_mb": found.f_blocks * found.f_frsize // 2**20,
        # some file systems make inodes as they need them, and count none
        "free_inodes_percent": 100 * found.f_favail // found.f_files if found.f_files else 100,
        "read_only": bool(found.f_flag & os.ST_RDONLY),
    }


def memory():
    with open("/proc/meminfo") as table:
        found = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in table}
    return {
        "total_mb": found["MemTotal"],
        "available_mb": found["MemAvailable"] + found["SwapFree"],
        "swap_mb": found["SwapTotal"],
    }


def lock_holder(path):
    """The program that holds a lock, found without taking it (fcntl(2), F_GETLK); empty if nobody does."""
    try:
        with open(path) as handle:
            asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _whence, _start, _length, pid = struct.unpack("hhqqi", fcntl.fcntl(handle, fcntl.F_GETLK, asked))
    except OSError:
        return ""
    if kind == fcntl.F_UNLCK:
        return ""
    try:
        with open(f"/proc/{pid}/comm", "rb") as handle:
            return f"{one_line(handle.read())} ({pid})"
    except OSError:
        return f"process {pid}"


def opened(rules):
    """What `ufw show added` tells of ports that are let in, for everyone or for some."""
    found = re.findall(r"^ufw (?:allow|limit) (?:.* port )?(\d+)(?::(\d+))?(?:/| proto )(tcp|udp)", rules, re.MULTILINE)
    return [{"first": int(first), "last": int(last or first), "proto": proto} for first, last, proto in found]


def listening(table):
    """What `ss` tells, without what waits for DHCP's answers. A program's name is the program's choice, and may hold a newline."""
    found = set()
    for proto, address, port, process in LISTENER.findall(table):
        if not LOOPBACK.match(address) and (proto, port) not in (("udp", "68"), ("udp", "546")):
            program = re.search(r'"([^"]+)', process)
            found.add((int(port), proto, one_line(program[1]) if program else "the kernel"))
    return [{"port": port, "proto": proto, "program": program} for port, proto, program in sorted(found)]


def reboot_for():
    try:
        with open("/run/reboot-required.pkgs") as handle:
            return sorted({line.strip() for line in handle})
    except OSError:
        return ["an upgrade"] if os.path.exists("/run/reboot-required") else []


def certificate(path, domain, output):
    if not os.path.exists(path):
        return {"begins": 0, "ends": 0, "self_signed": False, "names": [], "served": False, "problem": {}}
    shown = ("-startdate", "-enddate", "-subject", "-issuer", "-ext", "subjectAltName")
    text = output("openssl", "x509", "-in", path, "-noout", *shown)
    found = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"(not\w+|subject|issuer)=", line))
    return {
        "begins": ssl.cert_time_to_seconds(found["notBefore"]) if found else 0,
        "ends": ssl.cert_time_to_seconds(found["notAfter"]) if found else 0,
        "self_signed": found.get("subject") == found.get("issuer"),
        "names": re.findall(r"DNS:([^,\s]+)", text),
        "served": is_served(path, domain),
        "problem": problem(os.path.join(os.path.dirname(path), "problem.json")),
    }


def is_served(path, domain, at=("127.0.0.1", 443)):
    """Whether nginx serves this one, by asking it as a visitor does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with open(path) as handle:
            first = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", handle.read(), re.DOTALL)
        with socket.create_connection(at, 5) as tcp, context.wrap_socket(tcp, server_hostname=domain) as tls:
            return tls.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(first[0])
    except (OSError, ValueError, TypeError):
        return False


def problem(path):
    try:
        with open(path) as handle:
            return json.load(handle)
    except (OSError, ValueError):
        return {}


if __name__ == "__main__":
    main()
