"""Evaluate the report of a host: the filters `findings` and `host_status`.

Both take the result of `host_report` and these arguments: `releases` (the result of `release_info`), `behind` (services that run an older
configuration than the one on disk) and `limits` (`disk_mb`, `inodes_percent`, `certificate_days`, `clock_seconds`, `backup_hours`).

`findings` returns a list of {what, state, found, fix}. `state` is "ok", "note" (needs attention) or "bad" (the site or the next release is
at risk). `host_status` returns a dictionary.
"""

import time

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import machine
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.finding import bad, note, ok

DAY = 86400


class FilterModule:
    def filters(self):
        return {"findings": findings, "host_status": host_status}


def host_status(report, releases, behind, limits):
    if report["connection_problem"]:
        return {"live": "", "health": report["connection_problem"]["found"], "releases": []}
    live, runs = releases["live"], [entry["found"] for entry in leftovers(releases, behind) if entry["state"] != "ok"]
    ends = report["certificate"]["ends"]
    fullest = min(report["disks"], key=lambda path: report["disks"][path]["free_mb"])
    return {
        "live": live,
        "since": releases["activation"].get("at", ""),
        "by": releases["activation"].get("by", ""),
        "previous": releases["previous"],
        "health": ["no live release", *(entry["found"] for entry in site(releases))][bool(live)],
        "processes": ", ".join([*releases["processes"], *(f"{name} (scheduled)" for name in releases["schedule"])]),
        "runs": "; ".join(runs) or "none in progress, none unfinished",
        "disk_fullest": fullest,
        "disk_free_mb": report["disks"][fullest]["free_mb"],
        "memory_available_mb": report["memory"]["available_mb"],
        "memory_app_mb": releases["memory_mb"],
        "backup": "; ".join(backup_line(entry) for entry in backup(report, limits)),
        "certificate_days": int((ends - report["time"]) // DAY) if ends else None,
        "certificate": certificate_line(report),
        "releases": [release_row(name, live, **releases["releases"][name]) for name in releases["built"]],
    }


def backup_line(entry):
    return f"ALERT: {entry['found']}. {entry['fix']}" if entry["state"] == "bad" else entry["found"]


def release_row(name, live, manifest, bad):
    """Return a row of the table of releases."""
    state = "live" if name == live else "bad" if bad else "kept"
    return {"id": name, "state": state, **{key: manifest.get(key, "") for key in ("built", "by", "version")}, "bad": bad}


def findings(report, releases, behind, limits):
    if report["connection_problem"]:
        return [bad("ssh", **report["connection_problem"])]
    found = [
        *machine.clock(report, limits),
        *machine.disks(report, limits),
        *machine.memory(report, releases),
        *machine.apt(report),
        *machine.upgrades(report),
    ]
    found += [ok("python", report["python"])]
    if not releases["live"]:
        return [*found, *leftovers(releases, behind), note("site", "nothing is deployed yet", "Run deploy.yml.")]
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
    current = report["certificate"]
    if not current["ends"]:
        return "none"
    left = current["ends"] - report["time"]
    parts = [f"{int(left // DAY)} days left" if left > 0 else "expired"]
    parts += ["self-signed"] if current["self_signed"] else []
    parts += ["not served by nginx"] if not current["served"] else []
    parts += [f"not renewed: {current['problem']['found']}"] if current["problem"] else []
    return "; ".join(parts)


def certificate(report, limits):
    current = report["certificate"]
    left = current["ends"] - report["time"]
    days = int(left // DAY)
    # a short-lived certificate, such as one for a week, is fine until the last quarter of its lifetime
    expires_soon = left < min(limits["certificate_days"] * DAY, (current["ends"] - current["begins"]) / 4)
    missing = [name for name in report["domain_addresses"] if not any(covers(pattern, name) for pattern in current["names"])]
    if not current["ends"]:
        yield bad("certificate", "missing", "Run provision.yml.")
    elif report["services"].get("nginx") == "active" and not current["served"]:
        fix = "Run deploy.yml. `nginx -t` on the host shows configuration errors."
        yield bad("certificate", "nginx does not serve the certificate on disk", fix)
    elif current["problem"] and (current["self_signed"] or missing or expires_soon):
        yield bad("certificate", **{key: current["problem"][key] for key in ("found", "fix")})
    elif expires_soon:
        when = f"expires in {days} days" if days >= 0 else "expired"
        yield bad("certificate", when, "Run deploy.yml. With tls_source: provided, replace the file that tls_certificate_file names.")
    elif missing:
        fix = "Run deploy.yml. With tls_source: provided, get a certificate for all of app_domains."
        yield bad("certificate", f"does not cover {', '.join(missing)}", fix)
    elif current["problem"]:
        yield note("certificate", f"expires in {days} days and was not renewed: {current['problem']['found']}", current["problem"]["fix"])
    elif current["self_signed"]:
        yield note("certificate", f"self-signed, expires in {days} days", "Browsers show a warning. See tls_source.")
    else:
        yield ok("certificate", f"expires in {days} days")


def covers(pattern, name):
    return pattern == name or (pattern.startswith("*.") and pattern[1:] == name[name.find(".") :])


def leftovers(releases, behind):
    """Report what an interrupted run left behind. The next run cleans up all of it."""
    found = []
    holder = releases["lock_holder"]
    if holder:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder["since"]))
        run = f"{holder['who']} since {since}: {holder['what']}"
        if holder["dead"]:
            found.append(f"deploy lock of a dead run ({run})")
        else:
            yield note("run", f"in progress: {run}", "If that run has died, its lock expires after release_lock_expires_seconds.")
    found += [f"{name} is only partially built" for name in releases["unfinished"]]
    found += [f"{name} is still running" for name in releases["running"] if name != releases["live"] and not holder]
    found += [f"{name} runs an older configuration than the one on disk" for name in behind]
    if releases["edited"]:
        fix = "The next release discards these changes. Make them in the app's source or settings instead."
        yield note("edited", f"files of the live release were changed by hand: {', '.join(releases['edited'])}", fix)
    if found:
        yield note("leftovers", "; ".join(found), "A run was interrupted. Run deploy.yml to complete it.")
    else:
        yield ok("leftovers", "none")


def site(releases):
    fix = "Run deploy.yml, which rebuilds or restarts the release as needed."
    if releases["dangling"]:
        yield bad("site", f"the live release {releases['live']} has no directory", fix)
    elif releases["live"] not in releases["running"]:
        yield bad("site", f"the live release {releases['live']} is not running", fix)
    elif releases["health"]:
        yield bad(
            "site",
            releases["health"],
            "`journalctl --namespace=+APP -t APP` on the host shows why (APP is app_name). `make rollback` activates the previous release.",
        )
    elif releases["restarts"]:
        restarts = f"healthy, but systemd restarted it {releases['restarts']} times"
        yield note("site", restarts, "`journalctl --namespace=+APP -t APP` on the host shows why it exited (APP is app_name).")
    elif releases["health_warning"]:
        yield note("site", f"healthy, but {releases['health_warning'].split('. ')[0]}", releases["health_warning"].split(". ")[-1])
    else:
        yield ok("site", "healthy")
    for process in releases["missing"].get(releases["live"], []):
        if process != "web" and not releases["lock_holder"]:
            yield bad(f"process {process}", "not running, or not enabled at boot", fix)


def backup(report, limits):
    """A failed backup is always "bad": otherwise it goes unnoticed until an operator needs the backup."""
    backups = report["backup"]
    if not backups:
        return
    if not backups["places"] or backups["timer"] != "active":
        fix = "Run provision.yml. If this message remains, check `systemctl status 'APP-backup*'` on the host."
        yield bad("backup", "no backups are made", fix)
        return
    if backups["result"] not in ("success", ""):
        reason = f"the last backup failed: {backups['words'] or backups['result']}"
        yield bad(
            "backup", reason, "Fix the cause, and run playbooks/backup.yml. `journalctl -u APP-backup` on the host shows the full log."
        )
    for place in backups["places"].values():
        hours = (report["time"] - (place["at"] or backups["since"])) / 3600
        if hours > limits["backup_hours"]:
            age = f"the last backup in {place['url']} is {hours:.0f} hours old" if place["at"] else f"no backup in {place['url']}"
            yield bad("backup", age, "Run playbooks/backup.yml, which reports the cause.")
        elif place["at"] and place["warnings"]["count"]:
            summary = f"{place['id']}, {hours:.0f} hours ago, to {place['url']}, with {place['warnings']['count']} warnings: "
            fix = (
                "Check `journalctl -u APP-backup` on the host. Remove these files, change their owner to the app's user, "
                "or add them to backup_exclude."
            )
            yield note("backup", summary + "; ".join(place["warnings"]["first"][:3]), fix)
        elif place["at"]:
            yield ok("backup", f"{place['id']}, {hours:.0f} hours ago, to {place['url']}")
        elif backups["result"] == "success":
            yield ok("backup", f"no backup to {place['url']} is due yet")
