"""What a host's report comes to: the filters `findings` and `host_status`.

Both take what `host_report` returns, and: `releases` (what `release_info` returns), `behind` (services that run
an older configuration than the one on disk), `limits` (`disk_mb`, `inodes_percent`, `certificate_days`, `clock_seconds`, `backup_hours`).

`findings` gives a list of {what, state, found, cure}. `state` is "ok", "note" (look at it) or "bad" (the site, or the next
release, is at risk). `host_status` gives a dictionary; its keys are those of `status` below.
"""

import time

DAY = 86400


class FilterModule:
    def filters(self):
        return {"findings": findings, "host_status": host_status}


def host_status(report, releases, behind, limits):
    if report["away"]:
        return {"live": "", "health": report["away"]["found"], "releases": []}
    live, left = releases["live"], [entry["found"] for entry in leftovers(releases, behind)]
    ends = report["certificate"]["ends"]
    fullest = min(report["disks"], key=lambda path: report["disks"][path]["free_mb"])
    return {
        "live": live,
        "since": releases["activation"].get("at", ""),
        "by": releases["activation"].get("by", ""),
        "previous": releases["previous"],
        "health": ["nothing is live", *(entry["found"] for entry in site(releases))][bool(live)],
        "processes": ", ".join([*releases["processes"], *(f"{name} (scheduled)" for name in releases["schedule"])]),
        "runs": "; ".join(left).replace("none", "none at work, none left half-done"),
        "disk_fullest": fullest,
        "disk_free_mb": report["disks"][fullest]["free_mb"],
        "memory_available_mb": report["memory"]["available_mb"],
        "memory_app_mb": releases["memory_mb"],
        "backup": "; ".join(told(entry) for entry in backup(report, limits)),
        "certificate_days": int((ends - report["time"]) // DAY) if ends else None,
        "certificate": certificate_line(report),
        "releases": [kept(name, live, **releases["releases"][name]) for name in releases["built"]],
    }


def told(entry):
    return f"ALERT: {entry['found']}. {entry['cure']}" if entry["state"] == "bad" else entry["found"]


def kept(name, live, manifest, bad):
    """A line of the table of releases."""
    state = "live" if name == live else "bad" if bad else "kept"
    return {"id": name, "state": state, **{key: manifest.get(key, "") for key in ("built", "by", "version")}, "bad": bad}


def ok(what, found):
    return {"what": what, "state": "ok", "found": found, "cure": ""}


def note(what, found, cure):
    return {"what": what, "state": "note", "found": found, "cure": cure}


def bad(what, found, cure):
    return {"what": what, "state": "bad", "found": found, "cure": cure}


def findings(report, releases, behind, limits):
    if report["away"]:
        return [bad("ssh", **report["away"])]
    found = [*clock(report, limits), *disks(report, limits), *memory(report, releases), *apt(report), *upgrades(report)]
    found += [ok("python", report["python"])]
    if not releases["live"]:
        return [*found, *leftovers(releases, behind), note("site", "nothing is deployed here yet", "Run deploy.yml.")]
    found += [*services(report), *listening(report), *certificate(report, limits), *leftovers(releases, behind), *site(releases)]
    found += backup(report, limits)
    return [*found, *dns(report), *ports(report)]


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


def certificate_line(report):
    there = report["certificate"]
    if not there["ends"]:
        return "none"
    left = there["ends"] - report["time"]
    words = [f"{int(left // DAY)} days left" if left > 0 else "has ended"]
    words += ["self-signed"] if there["self_signed"] else []
    words += ["not the one that nginx serves"] if not there["served"] else []
    words += [f"not renewed: {there['problem']['found']}"] if there["problem"] else []
    return "; ".join(words)


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


def certificate(report, limits):
    there = report["certificate"]
    left = there["ends"] - report["time"]
    days = int(left // DAY)
    # one that lasts a week only, say, is good to its last quarter
    ends_soon = left < min(limits["certificate_days"] * DAY, (there["ends"] - there["begins"]) / 4)
    missing = [name for name in report["domain_addresses"] if not any(covers(pattern, name) for pattern in there["names"])]
    if not there["ends"]:
        yield bad("certificate", "there is none", "Run provision.yml.")
    elif report["services"].get("nginx") == "active" and not there["served"]:
        yield bad("certificate", "nginx serves another one than the one on the disk", "Run deploy.yml; what nginx says is in `nginx -t`.")
    elif there["problem"] and (there["self_signed"] or missing or ends_soon):
        yield bad("certificate", **{key: there["problem"][key] for key in ("found", "cure")})
    elif ends_soon:
        when = f"ends in {days} days" if days >= 0 else "has ended"
        yield bad("certificate", when, "Run deploy.yml; with tls_source: provided, put a new one where tls_certificate_file says.")
    elif missing:
        yield bad(
            "certificate", f"not for {', '.join(missing)}", "Run deploy.yml; with tls_source: provided, get one for all of app_domains."
        )
    elif there["problem"]:
        yield note("certificate", f"ends in {days} days, and was not renewed: {there['problem']['found']}", there["problem"]["cure"])
    elif there["self_signed"]:
        yield note("certificate", f"self-signed, ends in {days} days", "Browsers warn of it: see tls_source.")
    else:
        yield ok("certificate", f"ends in {days} days")


def covers(pattern, name):
    return pattern == name or (pattern.startswith("*.") and pattern[1:] == name[name.find(".") :])


def leftovers(releases, behind):
    """What a run that died midway has left: the next run deals with all of it."""
    left = []
    held = releases["lock_holder"]
    if held:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(held["since"]))
        words = f"{held['who']} since {since}: {held['what']}"
        if held["dead"]:
            left.append(f"the lock of {words}")
        else:
            yield note("run", f"at work: {words}", "If that run has died, the lock ends by itself (release_lock_expires_seconds).")
    left += [f"{name}, half built" for name in releases["unfinished"]]
    left += [f"{name}, still running" for name in releases["running"] if name != releases["live"] and not held]
    left += [f"{name} runs an older configuration than the one on disk" for name in behind]
    if releases["edited"]:
        cure = "They go with the next release; put what they are to be into the app's source, or its settings."
        yield note("edited", f"files of the live release, by hand: {', '.join(releases['edited'])}", cure)
    if left:
        yield note("leftovers", "; ".join(left), "A run ended midway. Run deploy.yml: it finishes what that one began.")
    else:
        yield ok("leftovers", "none")


def site(releases):
    cure = "Run deploy.yml: it is built, started or brought back, whichever is needed."
    if releases["dangling"]:
        yield bad("site", f"the live release {releases['live']} has no folder", cure)
    elif releases["live"] not in releases["running"]:
        yield bad("site", f"the live release {releases['live']} does not run", cure)
    elif releases["health"]:
        yield bad(
            "site",
            releases["health"],
            "`journalctl --namespace=+APP -t APP` on the host tells why (APP is app_name); `make rollback` rolls back to the previous release.",
        )
    elif releases["restarts"]:
        times = f"well, but systemd started it again {releases['restarts']} times"
        yield note("site", times, "`journalctl --namespace=+APP -t APP` on the host tells why it ended (APP is app_name).")
    else:
        yield ok("site", "well")
    for process in releases["missing"].get(releases["live"], []):
        if process != "web" and not releases["lock_holder"]:
            yield bad(f"process {process}", "is not up, or would not be at boot", cure)


def backup(report, limits):
    """That one can't be written is no note: it is noticed when it is too late."""
    there = report["backup"]
    if not there:
        return
    if not there["places"] or there["timer"] != "active":
        yield bad("backup", "none is made", "Run provision.yml; if it says this again, see `systemctl status 'APP-backup*'` on the host.")
        return
    if there["result"] not in ("success", ""):
        words = f"the last was not made: {there['words'] or there['result']}"
        yield bad("backup", words, "Mend it, and run playbooks/backup.yml; `journalctl -u APP-backup` on the host has it all.")
    for place in there["places"].values():
        hours = (report["time"] - (place["at"] or there["since"])) / 3600
        if hours > limits["backup_hours"]:
            words = f"the last to {place['url']} is {hours:.0f} hours old" if place["at"] else f"there is none in {place['url']}"
            yield bad("backup", words, "Run playbooks/backup.yml, which says why.")
        elif place["at"] and place["warnings"]["count"]:
            words = f"{place['id']}, {hours:.0f} hours ago, to {place['url']}, with {place['warnings']['count']} warnings: "
            cure = "See `journalctl -u APP-backup` on the host. Remove those files, give them to the app's user, or name them in backup_exclude."
            yield note("backup", words + "; ".join(place["warnings"]["first"][:3]), cure)
        elif place["at"]:
            yield ok("backup", f"{place['id']}, {hours:.0f} hours ago, to {place['url']}")
        elif there["result"] == "success":
            yield ok("backup", f"the first to {place['url']} is yet to come")


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
