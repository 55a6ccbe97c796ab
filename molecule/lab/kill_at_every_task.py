#!/usr/bin/env python3
"""Kill a run after every one of its tasks in turn, and see whether a plain rerun always ends where an undisturbed run ends.

  kill_at_every_task.py release        a release with a change of nginx's settings, on a live host, under load
  kill_at_every_task.py first-deploy   on a host made anew each time, from bare to live

As further words it takes the points to try (such as 10-20), and the host.

Ansible has no word in it: its whole process group gets SIGKILL as soon as the task after is announced. Prints a line for
each point, and "N of N converged"; ends with 1 if any did not.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sites import Load, Site, copy_of_sample_app, start

# what may differ between two hosts that are the same: times, keys, addresses, and what only tells how it came about
FINGERPRINT = r"""
import glob, grp, hashlib, json, os, pwd, re, stat, subprocess
roots = ["/etc/nginx", "/etc/ssh", "/etc/ufw", "/etc/systemd", "/etc/apt/apt.conf.d", "/etc/default/ufw", "/etc/ssl/flaskhost",
         "/etc/sysctl.d", "/etc/modprobe.d", "/etc/sudoers.d", "/etc/profile.d", "/etc/security/limits.d", "/etc/login.defs", "/etc/issue",
         "/srv", "/var/www", "/var/cache/sample-build", "/var/lib/sample", "/opt/uv"]
own_content = re.compile(r"host_.*_key|/etc/ssl/flaskhost/.*pem$|/history$|manifest\.json$|/var/lib/sample/|\.pyc$")
skipped = re.compile(r"/var/cache/sample-build/.|/opt/uv/[^/]*/.|/srv/sample/venvs/[^/]*/.|/srv/sample/bad|/srv/sample/former|\.db-(wal|shm)$")
# a release, and what it runs from, bear names that follow from their content: of two that differ, the names don't matter
bears = {os.path.basename(os.path.realpath("/srv/sample/live/.venv")): "VENV", os.path.basename(os.path.realpath("/srv/sample/live")): "LIVE"}
def plain(text):
    for name, word in bears.items():
        text = text.replace(name, word)
    return text
found = {}
for root in roots:
    for parent, folders, names in [(root, [], [""])] + list(os.walk(root)):
        for name in folders + names:
            path = os.path.join(parent, name).rstrip("/")
            if skipped.search(path) or not os.path.lexists(path):
                continue
            info = os.lstat(path)
            what = [stat.filemode(info.st_mode), pwd.getpwuid(info.st_uid).pw_name, grp.getgrgid(info.st_gid).gr_name]
            if stat.S_ISLNK(info.st_mode):
                what.append(os.readlink(path))
            elif stat.S_ISREG(info.st_mode) and not own_content.search(path):
                what.append(hashlib.sha256(plain(open(path, errors="surrogateescape").read()).encode(errors="surrogateescape")).hexdigest()[:12])
            found[path] = what
def run(command):
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout.splitlines()
found["users"] = run("getent passwd sample | cut -d: -f1,6,7; getent group sample sample-web | cut -d: -f1,4")
found["units that start"] = sorted(run("systemctl list-unit-files --no-legend --state=enabled | awk '{print $1}'; ls /etc/systemd/system/multi-user.target.wants"))
found["units that run"] = sorted(run("systemctl list-units --no-legend --plain --state=active 'sample@*' nginx.service ufw.service ssh.service systemd-journald.service | awk '{print $1,$4}'"))
found["units that failed"] = run("systemctl --failed --no-legend --plain")
found["firewall"] = run("ufw show added; ufw status verbose; nft list chains inet")
found["kernel"] = run("sysctl --pattern '^net.ipv4.conf.(all|default)|^net.ipv4.icmp' --all")
found["packages"] = run("dpkg-query -W -f '${Package} ${db:Status-Status}\n'")
print(plain(json.dumps(found)))
"""


class Trial:
    """A host, and what is done to it."""

    def __init__(self, site, folder):
        self.site, self.folder, self.number = site, Path(folder), 0

    def prepare(self):
        """Whatever must be so before a run."""

    def variables(self):
        return {}

    def fingerprint(self):
        text = self.site.host.check_output("python3 -c %s", FINGERPRINT)
        return json.loads(text.replace(self.site.live().partition("-")[0], "SOURCE"))


class Release(Trial):
    """On a live host; each run ships something new, and changes nginx's settings."""

    def prepare(self):
        self.number += 1
        self.mark = f"x{time.time_ns()}"
        self.source = copy_of_sample_app(self.folder / str(self.number))
        page = self.source / "sample_app/templates/index.html"
        page.write_text(page.read_text() + f"<!-- {self.mark} -->\n")

    def variables(self):
        # only one release is kept beside the live one, so that each trial ends with the same set
        return {"app_source": str(self.source), "release_keep": 2, "nginx_server_lines": [f"add_header X-Mark {self.mark};"]}

    def fingerprint(self):
        found = super().fingerprint()
        # each trial has a mark of its own, in these
        marked = ("sites-enabled/sample.conf", "templates/index.html")
        others = re.compile(r"/releases/(?!LIVE)|/sample@(?!LIVE)|/venvs/(?!VENV)")
        kept = {path: what for path, what in found.items() if not others.search(path)}
        kept = {path: what for path, what in kept.items() if not path.endswith(marked)}
        assert f"x-mark: {self.mark}" in self.site.get("/healthz", "--head")[1], "nginx runs an older configuration"
        assert self.mark in self.site.get("/")[1], "an older release is live"
        return kept


class FirstDeploy(Trial):
    """On a host made anew."""

    def prepare(self):
        name = f"flaskhost-{self.site.name}"
        found = subprocess.run(["podman", "inspect", "--format", "{{json .Config.CreateCommand}}", name], capture_output=True, check=True)
        subprocess.run(["podman", "rm", "--force", "--time", "0", name], capture_output=True, check=True)
        # the connection that the last run left open leads nowhere now
        self.site.environment = {"ANSIBLE_SSH_CONTROL_PATH_DIR": tempfile.mkdtemp(dir=self.folder)}
        # as molecule made it; but it has another MAC address, which this machine has to learn
        subprocess.run(json.loads(found.stdout), capture_output=True, check=True)
        subprocess.run(["ip", "neighbour", "flush", "to", self.site.address], capture_output=True, check=True)
        self.site.host.check_output("for i in $(seq 150); do systemctl is-active --quiet ssh && exit 0; sleep 0.2; done; exit 1")


def play(trial, kill_at=None):
    """Run deploy.yml; to its end, or until this many tasks have been announced. Gives the tasks, and whether it ended well."""
    process = start(trial.site, "deploy.yml", variables=trial.variables())
    tasks, lines = [], []
    for line in process.stdout:
        lines.append(line)
        if found := re.match(r"TASK \[(.*?)\] \*", line):
            tasks.append(found[1])
            if len(tasks) == kill_at:
                os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return tasks, process.returncode == 0, "".join(lines)


def differences(wanted, found):
    return [f"{key}: {wanted.get(key)} -> {found.get(key)}" for key in sorted({*wanted, *found}) if wanted.get(key) != found.get(key)]


def main():
    kind = {"release": Release, "first-deploy": FirstDeploy}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if not kind:
        sys.exit(__doc__)
    first, last = (int(number) for number in (sys.argv[2].split("-") if len(sys.argv) > 2 else ("1", "1000000")))
    with tempfile.TemporaryDirectory() as folder:
        trial = kind(Site(sys.argv[3] if len(sys.argv) > 3 else "target"), folder)
        trial.prepare()
        tasks, ok, output = play(trial)
        assert ok, output
        wanted = trial.fingerprint()
        load = Load(trial.site, seconds=7200, pace=1) if kind is Release else None
        points = range(max(first, 1), min(last, len(tasks)) + 1)
        bad = 0
        for point in points:
            why = attempt(trial, point, wanted)
            bad += bool(why)
            print(
                f"{point:3} of {len(tasks)}  {'NOT converged' if why else 'converged'}  {tasks[point - 1]}",
                *why,
                sep="\n      ",
                flush=True,
            )
        if load:
            answers, errors = load.stop()
            print(f"{sum(answers.values())} requests meanwhile: {answers}, errors {errors}")
            # each trial reloads nginx, which then closes idle connections, be it just when a client sends on one (from 1.27.4
            # on, keepalive_min_timeout prevents it); an answer that isn't good has no such excuse
            bad += not set(answers) <= {200, 303}
    print(f"{len(points) - bad} of {len(points)} converged ({sys.argv[1]})")
    sys.exit(bool(bad))


def attempt(trial, point, wanted):
    trial.prepare()
    play(trial, kill_at=point)
    if isinstance(trial, Release) and trial.site.get("/healthz")[0] != 200:
        return ["the site did not answer after the kill"]
    ok, output = play(trial)[1:]
    if not ok:
        return ["the rerun failed:", *output.partition("fatal:")[2].splitlines()[:20]]
    try:
        why = differences(wanted, trial.fingerprint())
    except AssertionError as error:
        return [str(error)]
    again = play(trial)[2]
    return why[:12] or (
        [] if "changed=0 " in again else ["one more run still changed something:", *re.findall(r"TASK.*\nchanged:.*", again)]
    )


if __name__ == "__main__":
    main()
