"""Find the programs that listen on a port, from the output of ss, each with its systemd unit."""

import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import read
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import one_line

SS = ("ss", "--no-header", "--listening", "--numeric", "--processes", "--tcp", "--udp")
LISTENER = re.compile(r"^(tcp|udp) +(?:LISTEN|UNCONN) +\d+ +\d+ +(\S+):(\d+) +\S+:\S+(.*)", re.MULTILINE)
# programs that forward a port of the host to a container
PORT_FORWARDERS = ("docker-proxy", "rootlessport", "rootlesskit", "pasta", "pasta.avx2", "slirp4netns", "conmon")


def listeners(table):
    """Parse the output of ss. A program chooses its own name, which can contain a newline."""
    for proto, address, port, processes in LISTENER.findall(table):
        found = re.search(r'"([^"]+)(?:",pid=(\d+))?', processes)
        program, pid = (one_line(found[1]), int(found[2] or 0)) if found else ("", 0)
        yield {"proto": proto, "address": address, "port": int(port), "program": program, "pid": pid}


def occupants(table, ports, proc="/proc"):
    """Return the listeners on these ports (such as 443/tcp) that do not belong to nginx.service, one for each program and port."""
    found = {}
    for entry in listeners(table):
        name = f"{entry['port']}/{entry['proto']}"
        if name in ports:
            unit = unit_of(entry["pid"], proc)
            if unit != "nginx.service":
                found.setdefault((name, entry["program"], unit), {"on": name, "unit": unit, **entry})
    return list(found.values())


def unit_of(pid, proc="/proc"):
    """Return the systemd unit of a process, or an empty string."""
    lines = dict(line.split(":", 2)[1:] for line in read(f"{proc}/{pid}/cgroup").splitlines() if line.count(":") >= 2) if pid else {}
    path = lines.get("") or lines.get("name=systemd", "")
    units = [part for part in path.split("/") if part.endswith((".service", ".scope", ".socket"))]
    return units[-1] if units else ""


def problem(entry):
    """Return which program occupies the port, and what to do, as the keys `found` and `fix` of a finding."""
    program, unit = entry["program"], entry["unit"]
    details = ", ".join(filter(None, [f"process {entry['pid']}" if entry["pid"] else "", unit]))
    who = f"{program or 'a program that ss does not name'}{f' ({details})' if details else ''}"
    if program in PORT_FORWARDERS or re.match(r"(docker|libpod|cri-containerd)-", unit) or unit in ("docker.service", "containerd.service"):
        fix = "A container uses this port (`docker ps`, `podman ps`). Stop the container, or publish another port of it."
    elif entry["pid"] == 1:
        fix = "A systemd socket opens this port (`systemctl list-sockets`). Disable it with `systemctl disable --now NAME.socket`."
    elif unit.endswith(".service") and not unit.startswith("user@"):
        fix = f"Stop it with `systemctl disable --now {unit.removesuffix('.service')}`, or change its port."
    elif entry["pid"]:
        fix = f"Stop process {entry['pid']}, and prevent that it starts again, or change its port."
    else:
        fix = "The kernel or a container holds this port. Find and stop it, or change its port."
    return {"found": f"{who} listens on {entry['address']}:{entry['port']}, which nginx needs", "fix": fix}
