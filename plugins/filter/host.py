"""What a host's report comes to: the filters `findings` and `host_status`.

Both take what `host_report` returns, and: `releases` (what `release_info` returns), `behind` (services that run
an older configuration than the one on disk), `limits` (`disk_mb`, `inodes_percent`, `certificate_days`, `clock_seconds`, `backup_hours`).

`findings` gives a list of {what, state, found, cure}. `state` is "ok", "note" (look at it) or "bad" (the site, or the next
release, is at risk). `host_status` gives a dictionary; its keys are those of `status` below.
"""

import time

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import machine
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.finding import bad, note, ok

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


def findings(report, releases, behind, limits):
    if report["away"]:
        return [bad("ssh", **report["away"])]
    found = [
        *machine.clock(report, limits),
        *machine.disks(report, limits),
        *machine.memory(report, releases),
        *machine.apt(report),
        *machine.upgrades(report),
    ]
    found += [ok("python", report["python"])]
    if not releases["live"]:
        return [*found, *leftovers(releases, behind), note("site", "nothing is deployed here yet", "Run deploy.yml.")]
    found += [
        *machine.services(report),
        *machine.listening(report),
        *certificate(report, limits),
        *leftovers(releases, behind),
        *site(releases),
    ]
    found += backup(report, limits)
    return [*found, *machine.dns(report), *machine.ports(report)]


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
