"""The checks of the host itself: clock, disks, memory, packages, services, firewall, DNS. Each yields its findings from a host's report."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.finding import bad, note, ok


def clock(report, limits):
    ahead = report["ahead"]
    if abs(ahead) > limits["clock_seconds"]:
        off = f"{abs(ahead):.0f} seconds {'ahead of' if ahead > 0 else 'behind'} this machine's"
        yield bad("clock", off, "See `timedatectl` on both: certificates and package lists are refused where the time is wrong.")
    elif not report["synchronized"]:
        yield note("clock", "right, but nothing keeps it so", "Run provision.yml; if it says this again, see `timedatectl` on the host.")
    else:
        yield ok("clock", "right, and kept so")


def disks(report, limits):
    for path, disk in report["disks"].items():
        size = f"{disk['free_mb']} of {disk['total_mb']} MB are free"
        if disk["read_only"]:
            yield bad(f"disk {path}", "read-only", "Linux makes it so when a disk fails: see `dmesg` on the host, mend it, mount it again.")
        elif disk["free_mb"] < limits["disk_mb"]:
            yield bad(f"disk {path}", size, "See `du -xh --max-depth=2 /` on the host; a lower release_keep frees some with each release.")
        elif disk["free_inodes_percent"] < limits["inodes_percent"]:
            few = f"{disk['free_inodes_percent']} % of its inodes are free"
            yield bad(f"disk {path}", few, "Too many small files: see `du --inodes -x --max-depth=2 /` on the host.")
        else:
            yield ok(f"disk {path}", size)


def memory(report, releases):
    left, needed = report["memory"]["available_mb"], releases["memory_mb"]
    words = f"{left} MB can be had, the app takes {needed} MB"
    if left < needed:
        cure = "In a release two run for a while. Add memory or swap (base_swap_mb), or have fewer workers."
        yield bad("memory", words, cure)
    else:
        yield ok("memory", words)


def apt(report):
    held, broken = report["apt"]["held_by"], report["apt"]["broken"]
    if broken:
        yield bad("packages", f"half installed: {', '.join(broken)}", "On the host: `dpkg --configure -a && apt-get install --fix-broken`.")
    elif held:
        yield note("packages", f"{held} is at work", "A run waits for it, base_apt_lock_seconds at most.")
    else:
        yield ok("packages", "none half installed, apt is free")


def upgrades(report):
    """What is installed and not yet in force."""
    if report["reboot_for"]:
        cure = "Reboot the host when it suits you (the site is away meanwhile), or let it do so by itself at base_reboot_time."
        yield note("upgrades", f"a reboot is asked for by {', '.join(report['reboot_for'])}", cure)
    elif report["outdated"]:
        cure = "`systemctl restart` each on the host; a release is started anew by the next one."
        yield note("upgrades", f"what they replaced still runs: {', '.join(report['outdated'])}", cure)
    else:
        yield ok("upgrades", "all in force")


def services(report):
    for name, state in report["services"].items():
        if state == "active":
            yield ok(name, "runs")
        else:
            yield bad(name, state, f"provision.yml starts it; if it does not stay up, `journalctl -u {name}` on the host tells why.")
    if report["firewall"] and report["lists"]:
        yield ok("firewall", "active")
    elif report["firewall"]:
        yield bad("firewall", "its lists are not loaded: nobody is blocked, and every address may use what is open", "Run provision.yml.")
    else:
        yield bad("firewall", "not active: every port is open", "Run provision.yml.")
    for unit in report["failed_units"]:
        yield note("unit", f"{unit} has failed", f"`systemctl status {unit}` on the host tells why.")


def listening(report):
    """What listens is let in, and what is let in listens."""
    heard = {f"{entry['port']}/{entry['proto']}": entry for entry in report["listening"]}
    shut = [f"{port} ({entry['program']})" for port, entry in heard.items() if not any(lets_in(door, entry) for door in report["opened"])]
    idle = [door for door in report["opened"] if not any(lets_in(door, entry) for entry in report["listening"])]
    if shut:
        cure = "Only the firewall keeps others out. Stop what nobody needs, let it listen on 127.0.0.1, or open it in ufw_rules."
        yield note("listening", f"and not let in: {first_of(shut)}", cure)
    if idle:
        ports = ", ".join(f"{door['first']}/{door['proto']}" for door in idle)
        yield note(
            "listening", f"nothing, though the firewall lets in: {ports}", "Take it out of ufw_rules, or start what should listen there."
        )
    if not shut and not idle:
        yield ok("listening", first_of([f"{port} {entry['program']}" for port, entry in heard.items()]))


def first_of(names, count=10):
    """On one line, however many there are: an app can listen on thousands of ports."""
    more = [f"and {len(names) - count} more"] if len(names) > count else []
    return ", ".join(names[:count] + more)


def lets_in(door, entry):
    return door["proto"] == entry["proto"] and door["first"] <= entry["port"] <= door["last"]


def dns(report):
    own = {*report["addresses"], *report["host_addresses"]}
    for name, found in report["domain_addresses"].items():
        if not found:
            yield bad(f"name {name}", "not in the DNS", f"Add an A record for it, to {' or '.join(report['host_addresses'])}.")
        elif not own & {*found}:
            cure = "Mend its A and AAAA records; where a balancer or a CDN stands before the host, it is right so."
            yield note(f"name {name}", f"leads to {', '.join(found)}, which is not this host", cure)
        else:
            yield ok(f"name {name}", f"leads to {', '.join(found)}")


def ports(report):
    for port, why in report["closed_ports"].items():
        cure = "See that no firewall before the host (the cloud's own) shuts it, and that provision.yml ran."
        yield bad(f"port {port}", f"can't be reached from this machine: {why}", cure)
    if not report["closed_ports"]:
        yield ok("ports", "open to this machine")
