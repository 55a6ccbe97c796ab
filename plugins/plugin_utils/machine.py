"""Checks of the host itself: clock, disks, memory, packages, services, firewall, DNS. Each yields findings from the host's report."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.finding import bad, note, ok


def clock(report, limits):
    ahead = report["ahead"]
    if abs(ahead) > limits["clock_seconds"]:
        offset = f"{abs(ahead):.0f} seconds {'ahead of' if ahead > 0 else 'behind'} the controller's clock"
        yield bad("clock", offset, "Check `timedatectl` on both. Certificates and package lists are rejected if the clock is wrong.")
    elif not report["synchronized"]:
        fix = "Run provision.yml. If this message remains, check `timedatectl` on the host."
        yield note("clock", "correct, but not synchronized", fix)
    else:
        yield ok("clock", "correct and synchronized")


def disks(report, limits):
    for path, disk in report["disks"].items():
        size = f"{disk['free_mb']} of {disk['total_mb']} MB are free"
        if disk["read_only"]:
            fix = (
                "Linux remounts a file system read-only when a disk fails. Check `dmesg` on the host, repair the disk, and mount it again."
            )
            yield bad(f"disk {path}", "read-only", fix)
        elif disk["free_mb"] < limits["disk_mb"]:
            fix = "Check `du -xh --max-depth=2 /` on the host. With a lower release_keep, each release removes more old releases."
            yield bad(f"disk {path}", size, fix)
        elif disk["free_inodes_percent"] < limits["inodes_percent"]:
            inodes = f"{disk['free_inodes_percent']} % of its inodes are free"
            yield bad(f"disk {path}", inodes, "There are too many small files. Check `du --inodes -x --max-depth=2 /` on the host.")
        else:
            yield ok(f"disk {path}", size)


def memory(report, releases):
    available, used = report["memory"]["available_mb"], releases["memory_mb"]
    usage = f"{available} MB are available, the app uses {used} MB"
    if available < used:
        fix = "During a release, the old and the new release run at the same time. Add memory or swap (base_swap_mb), or run fewer workers."
        yield bad("memory", usage, fix)
    else:
        yield ok("memory", usage)


def apt(report):
    held, broken = report["apt"]["held_by"], report["apt"]["broken"]
    if broken:
        fix = "Run `dpkg --configure -a && apt-get install --fix-broken` on the host."
        yield bad("packages", f"partially installed: {', '.join(broken)}", fix)
    elif held:
        yield note("packages", f"{held} holds the lock of apt", "A run waits up to base_apt_lock_seconds for it.")
    else:
        yield ok("packages", "none partially installed, apt is not locked")


def upgrades(report):
    """Report upgrades that are installed but not yet in use."""
    if report["reboot_for"]:
        fix = "Reboot the host at a suitable time (the site is down meanwhile), or set base_reboot_time to let it reboot automatically."
        yield note("upgrades", f"reboot required by {', '.join(report['reboot_for'])}", fix)
    elif report["outdated"]:
        fix = "Run `systemctl restart` for each on the host. The next release replaces the processes of the live release."
        yield note("upgrades", f"still running code from before the upgrade: {', '.join(report['outdated'])}", fix)
    else:
        yield ok("upgrades", "all in use")


def services(report):
    for name, state in report["services"].items():
        if state == "active":
            yield ok(name, "running")
        else:
            yield bad(name, state, f"Run provision.yml to start it. If it does not stay up, `journalctl -u {name}` on the host shows why.")
    if report["firewall"] and report["lists"]:
        yield ok("firewall", "active")
    elif report["firewall"]:
        problem = "its address lists are not loaded: no address is blocked, and every address can connect to the open ports"
        yield bad("firewall", problem, "Run provision.yml.")
    else:
        yield bad("firewall", "not active: every port is open", "Run provision.yml.")
    for unit in report["failed_units"]:
        yield note("unit", f"{unit} has failed", f"`systemctl status {unit}` on the host shows why.")


def listening(report):
    """Compare the ports that programs listen on with the ports that the firewall allows."""
    for entry in report["occupied"]:
        yield bad("listening", entry["found"], f"{entry['fix']} Then run provision.yml.")
    ports = {f"{entry['port']}/{entry['proto']}": entry for entry in report["listening"]}
    blocked = [f"{port} ({entry['program']})" for port, entry in ports.items() if not any(allows(rule, entry) for rule in report["opened"])]
    unused = [rule for rule in report["opened"] if not any(allows(rule, entry) for entry in report["listening"])]
    if blocked:
        fix = "Only the firewall protects these ports. Stop the program, let it listen on 127.0.0.1, or allow the port in ufw_rules."
        yield note("listening", f"on ports that the firewall blocks: {first_of(blocked)}", fix)
    if unused:
        allowed = ", ".join(f"{rule['first']}/{rule['proto']}" for rule in unused)
        fix = "Remove the rule from ufw_rules, or start the program that should listen there."
        yield note("listening", f"no program listens on ports that the firewall allows: {allowed}", fix)
    if not blocked and not unused and not report["occupied"]:
        yield ok("listening", first_of([f"{port} {entry['program']}" for port, entry in ports.items()]))


def first_of(names, count=10):
    """Join the first names on one line: an app can listen on thousands of ports."""
    more = [f"and {len(names) - count} more"] if len(names) > count else []
    return ", ".join(names[:count] + more)


def allows(rule, entry):
    return rule["proto"] == entry["proto"] and rule["first"] <= entry["port"] <= rule["last"]


def dns(report):
    own = {*report["addresses"], *report["host_addresses"]}
    for name, found in report["domain_addresses"].items():
        if not found:
            yield bad(f"name {name}", "no DNS record", f"Add an A record that points to {' or '.join(report['host_addresses'])}.")
        elif not own & {*found}:
            fix = "Correct its A and AAAA records. If a load balancer or a CDN is in front of the host, this is expected."
            yield note(f"name {name}", f"resolves to {', '.join(found)}, which is not this host", fix)
        else:
            yield ok(f"name {name}", f"resolves to {', '.join(found)}")


def ports(report):
    for port, why in report["closed_ports"].items():
        fix = "Check that no firewall in front of the host, such as the cloud provider's, blocks it, and that provision.yml has run."
        yield bad(f"port {port}", f"unreachable from the controller: {why}", fix)
    if not report["closed_ports"]:
        yield ok("ports", "reachable from the controller")
