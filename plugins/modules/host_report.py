#!/usr/bin/python
"""Collect the state of a host that matters for the site and its next release."""

DOCUMENTATION = r"""
module: host_report
short_description: Collect the state of a host
description:
  - Collects the state of a host that matters for the site and its next release. It changes nothing.
  - The action plugin with the same name adds what only the controller can measure.
  - The filters P(flaskhost.flaskhost.findings#filter) and P(flaskhost.flaskhost.host_status#filter) evaluate the result.
author: The Flaskhost authors (@flaskhost)
options:
  paths:
    description: Directories whose file systems to check for free space. Missing directories are skipped.
    type: list
    elements: path
    required: true
  certificate:
    description: The site's certificate. If its renewal failed, C(problem.json) in the same directory contains the reason.
    type: path
    required: true
  domain:
    description: The TLS server name for requesting the certificate that nginx serves.
    type: str
    required: true
  services:
    description: Services that must be running.
    type: list
    elements: str
    required: true
  backup:
    description: The app whose backups to check. If empty, backups are not checked.
    type: str
    default: ''
  domains:
    description: Domain names that should resolve to the host. The action plugin resolves them on the controller.
    type: list
    elements: str
    default: []
  ports:
    description: Ports that should be reachable. The action plugin connects to them from the controller.
    type: list
    elements: int
    default: []
"""

EXAMPLES = r"""
- name: Collect the state of the host
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
time: {description: "The time of the host's clock, in seconds since 1970.", type: float, returned: always}
synchronized: {description: Whether a time daemon synchronizes the clock., type: bool, returned: always}
python: {description: "The version of the Python that runs the module.", type: str, returned: always}
disks:
  description: For each path, C(free_mb), C(total_mb), C(free_inodes_percent) and C(read_only).
  type: dict
  returned: always
memory:
  description: C(total_mb), C(available_mb) (including free swap) and C(swap_mb).
  type: dict
  returned: always
apt:
  description: C(held_by) is the program that holds a lock of apt or dpkg, and C(broken) lists partially installed packages.
  type: dict
  returned: always
certificate:
  description: >-
    C(begins) and C(ends) are its validity in seconds since 1970, or 0 if there is no certificate. C(self_signed) tells whether it is
    self-signed, and C(served) whether nginx serves it. C(names) lists its domain names. C(problem) is why its renewal failed (C(found),
    C(fix)), or empty.
  type: dict
  returned: always
services: {description: The state of each service in systemd., type: dict, returned: always}
failed_units: {description: Units that have failed., type: list, returned: always}
firewall: {description: Whether ufw is active., type: bool, returned: always}
lists: {description: Whether the address lists of the firewall are loaded., type: bool, returned: always}
opened:
  description: Port ranges that the firewall allows, each with C(first), C(last) and C(proto).
  type: list
  returned: always
listening:
  description: Ports on which programs listen on other interfaces than loopback, each with C(port), C(proto) and C(program).
  type: list
  returned: always
occupied:
  description: Programs other than nginx on the site's ports, each with C(found) and C(fix).
  type: list
  elements: dict
  returned: always
reboot_for: {description: Packages whose upgrade requires a reboot., type: list, returned: always}
outdated: {description: Units that still run code from before an upgrade., type: list, returned: always}
backup:
  description:
    - The state of the backups, or empty if O(backup) is empty.
    - C(since) is when backups were configured, C(timer) the state of the timer, C(result) the result of the last run in systemd, and
      C(words) the end of its log if it failed.
    - C(places) has for each place its C(url), the C(id) and time (C(at)) of its last backup, and its C(warnings) about files that were
      skipped or may be inconsistent, with their C(count) and the C(first) of them.
  type: dict
  returned: always
addresses: {description: The IP addresses of the host., type: list, returned: always}
connection_problem:
  description: Why the host is unreachable, as C(found) and C(fix). No other value is returned then. Empty if the host is reachable.
  type: dict
  returned: always
ahead: {description: Seconds by which the host's clock is ahead of the controller's., type: float, returned: if the host is reachable}
host_addresses:
  description: The IP addresses that the controller resolves for the host.
  type: list
  elements: str
  returned: if the host is reachable
domain_addresses:
  description: The IP addresses that the controller resolves for each of O(domains).
  type: dict
  returned: if the host is reachable
closed_ports: {description: "The unreachable ports, each with the reason.", type: dict, returned: if the host is reachable}
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
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.listeners import SS, listeners, occupants, problem
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import one_line, printable_values

SETTINGS = "/etc/flaskhost"
BACKUPS = "/var/lib/flaskhost"
WEB_PORTS = ("80/tcp", "443/tcp")
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
            # used by the action plugin
            "domains": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
        },
        supports_check_mode=True,
    )

    module.exit_json(**printable_values({"changed": False, **report(module.params)}))


def report(params):
    table = output(*SS)
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
        "listening": listening(table),
        "occupied": [problem(entry) for entry in occupants(table, WEB_PORTS)],
        "reboot_for": reboot_for(),
        "outdated": re.findall(r"^NEEDRESTART-SVC: (\S+)", output("needrestart", "-b", "-l", "-r", "l"), re.MULTILINE),
        "addresses": re.findall(r"inet6? ([0-9a-f.:]+)", output("ip", "-oneline", "address", "show", "scope", "global")),
    }


def output(*command):
    try:
        return run(command, KEEP_BYTES, COMMAND_SECONDS, {"LC_ALL": "C.UTF-8"})[1].strip()
    except OSError:
        return ""  # the program is not installed; the findings report what follows from that


def backup(app, output):
    """Read the records that each backup leaves on the host, without connecting to the places that store the backups."""
    settings, made = f"{SETTINGS}/backup-{app}.json", read_json(f"{BACKUPS}/{app}/made.json")
    places = read_json(settings).get("places", {})
    unit = f"{app}-backup.service"
    result, run = (output("systemctl", "show", "--value", f"--property={name}", unit) for name in ("Result", "InvocationID"))
    log = output("journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_INVOCATION_ID={run}") if result != "success" else ""
    return {
        "since": os.stat(settings).st_mtime if places else 0,
        "timer": output("systemctl", "is-active", f"{app}-backup.timer"),
        "result": result,
        "words": " ".join(log.split())[-400:],
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
        # some file systems create inodes on demand, and report a total of 0
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
    """Return the program that holds a lock, or an empty string. F_GETLK (fcntl(2)) finds it without acquiring the lock."""
    try:
        with open(path) as handle:
            query = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _origin, _start, _length, pid = struct.unpack("hhqqi", fcntl.fcntl(handle, fcntl.F_GETLK, query))
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
    """Parse the allowed ports from the output of `ufw show added`, whether for all or for some addresses."""
    found = re.findall(r"^ufw (?:allow|limit) (?:.* port )?(\d+)(?::(\d+))?(?:/| proto )(tcp|udp)", rules, re.MULTILINE)
    return [{"first": int(first), "last": int(last or first), "proto": proto} for first, last, proto in found]


def listening(table):
    """Parse the output of `ss`, without DHCP clients. A program chooses its own name, which can contain a newline."""
    found = set()
    for entry in listeners(table):
        if not LOOPBACK.match(entry["address"]) and (entry["proto"], entry["port"]) not in (("udp", 68), ("udp", 546)):
            found.add((entry["port"], entry["proto"], entry["program"] or "the kernel"))
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
        "problem": renewal_problem(os.path.join(os.path.dirname(path), "problem.json")),
    }


def is_served(path, domain, at=("127.0.0.1", 443)):
    """Return whether nginx serves this certificate, by connecting to it like a visitor."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with open(path) as handle:
            first = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", handle.read(), re.DOTALL)
        with socket.create_connection(at, 5) as tcp, context.wrap_socket(tcp, server_hostname=domain) as tls:
            return tls.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(first[0])
    except (OSError, ValueError, TypeError):
        return False


def renewal_problem(path):
    try:
        with open(path) as handle:
            recorded = json.load(handle)
        # the file of an earlier version has no key `fix`
        return {"found": recorded["found"], "fix": recorded.get("fix", "")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


if __name__ == "__main__":
    main()
