#!/usr/bin/env python3
"""Kill a run at each of its tasks in turn, and check that a rerun always reaches the state of an uninterrupted run.

  kill_at_every_task.py release        a release that also changes the nginx settings, on a live host, under load
  kill_at_every_task.py first-deploy   the first deploy to a bare host, which is recreated for each trial

Optional further arguments: the range of tasks to try (e.g. 10-20), and the host.

Ansible gets no chance to clean up: its whole process group gets SIGKILL as soon as the next task is announced. Prints one
line per task and "N of N converged". The exit code is 1 if any trial did not converge.
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

from sites import EACH_TASK, Load, Site, copy_sample_app, start

# Ignored in the comparison of two hosts: times, keys, addresses, and records of how the state was reached.
FINGERPRINT = r"""
import glob, grp, hashlib, json, os, pwd, re, stat, subprocess
roots = ["/etc/nginx", "/etc/ssh", "/etc/ufw", "/etc/systemd", "/etc/apt/apt.conf.d", "/etc/default/ufw", "/etc/ssl/flaskhost",
         "/etc/sysctl.d", "/etc/modprobe.d", "/etc/sudoers.d", "/etc/profile.d", "/etc/security/limits.d", "/etc/login.defs", "/etc/issue",
         "/srv", "/var/www", "/var/cache/sample-build", "/var/lib/sample", "/opt/uv"]
own_content = re.compile(r"host_.*_key|/etc/ssl/flaskhost/.*pem$|/history$|manifest\.json$|/var/lib/sample/|\.pyc$")
skipped = re.compile(r"/var/cache/sample-build/.|/opt/uv/[^/]*/.|/srv/sample/venvs/[^/]*/.|/srv/sample/bad|/srv/sample/previous|\.db-(wal|shm)$")
# the names of a release and its venv derive from their content, so they are replaced by fixed words
content_names = {os.path.basename(os.path.realpath("/srv/sample/live/.venv")): "VENV", os.path.basename(os.path.realpath("/srv/sample/live")): "LIVE"}
def plain(text):
    for name, word in content_names.items():
        text = text.replace(name, word)
    return text
found = {}
for root in roots:
    for parent, directories, names in [(root, [], [""])] + list(os.walk(root)):
        for name in directories + names:
            path = os.path.join(parent, name).rstrip("/")
            if skipped.search(path) or not os.path.lexists(path):
                continue
            info = os.lstat(path)
            properties = [stat.filemode(info.st_mode), pwd.getpwuid(info.st_uid).pw_name, grp.getgrgid(info.st_gid).gr_name]
            if stat.S_ISLNK(info.st_mode):
                properties.append(os.readlink(path))
            elif stat.S_ISREG(info.st_mode) and not own_content.search(path):
                properties.append(hashlib.sha256(plain(open(path, errors="surrogateescape").read()).encode(errors="surrogateescape")).hexdigest()[:12])
            found[path] = properties
def run(command):
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout.splitlines()
found["users"] = run("getent passwd sample | cut -d: -f1,6,7; getent group sample sample-web | cut -d: -f1,4")
found["enabled units"] = sorted(run("systemctl list-unit-files --no-legend --state=enabled | awk '{print $1}'; ls /etc/systemd/system/multi-user.target.wants"))
found["running units"] = sorted(run("systemctl list-units --no-legend --plain --state=active 'sample@*' nginx.service ufw.service ssh.service systemd-journald.service | awk '{print $1,$4}'"))
found["failed units"] = run("systemctl --failed --no-legend --plain")
found["firewall"] = run("ufw show added; ufw status verbose; nft list chains inet")
found["kernel"] = run("sysctl --pattern '^net.ipv4.conf.(all|default)|^net.ipv4.icmp' --all")
found["packages"] = run("dpkg-query -W -f '${Package} ${db:Status-Status}\n'")
print(plain(json.dumps(found)))
"""


class Trial:
    """A host, and the run to interrupt on it."""

    def __init__(self, site, directory):
        self.site, self.directory, self.number = site, Path(directory), 0

    def prepare(self):
        """Set up the state that the run needs."""

    def variables(self):
        return {}

    def fingerprint(self):
        text = self.site.host.check_output("python3 -c %s", FINGERPRINT)
        return json.loads(text.replace(self.site.live().partition("-")[0], "SOURCE"))


class Release(Trial):
    """A release on a live host. Each run releases a new version and changes the nginx settings."""

    def prepare(self):
        self.number += 1
        self.mark = f"x{time.time_ns()}"
        self.source = copy_sample_app(self.directory / str(self.number))
        page = self.source / "sample_app/templates/index.html"
        page.write_text(page.read_text() + f"<!-- {self.mark} -->\n")

    def variables(self):
        # keep only one release besides the live one, so that each trial ends with the same set
        return {"app_source": str(self.source), "release_keep": 2, "nginx_server_lines": [f"add_header X-Mark {self.mark};"]}

    def fingerprint(self):
        found = super().fingerprint()
        # these files contain the trial's own mark
        marked = ("sites-enabled/sample.conf", "templates/index.html")
        others = re.compile(r"/releases/(?!LIVE)|/sample@(?!LIVE)|/venvs/(?!VENV)")
        kept = {path: value for path, value in found.items() if not others.search(path)}
        kept = {path: value for path, value in kept.items() if not path.endswith(marked)}
        assert f"x-mark: {self.mark}" in self.site.get("/healthz", "--head")[1], "nginx runs an older configuration"
        assert self.mark in self.site.get("/")[1], "an older release is live"
        return kept


class FirstDeploy(Trial):
    """The first deploy to a recreated host."""

    def prepare(self):
        name = f"flaskhost-{self.site.name}"
        found = subprocess.run(["podman", "inspect", "--format", "{{json .Config.CreateCommand}}", name], capture_output=True, check=True)
        subprocess.run(["podman", "rm", "--force", "--time", "0", name], capture_output=True, check=True)
        # the ssh connection that the last run left open is dead now
        self.site.environment = {"ANSIBLE_SSH_CONTROL_PATH_DIR": tempfile.mkdtemp(dir=self.directory)}
        # Create it as molecule did. Its MAC address is new, so the neighbor cache must be flushed.
        subprocess.run(json.loads(found.stdout), capture_output=True, check=True)
        subprocess.run(["ip", "neighbour", "flush", "to", self.site.address], capture_output=True, check=True)
        self.site.host.check_output("for i in $(seq 150); do systemctl is-active --quiet ssh && exit 0; sleep 0.2; done; exit 1")


def play(trial, kill_at=None):
    """Run deploy.yml to its end, or kill it once `kill_at` tasks are announced. Return the tasks, whether it succeeded, and the output."""
    process = start(trial.site, "deploy.yml", variables=trial.variables(), environment=EACH_TASK)
    tasks, lines = [], []
    for line in process.stdout:
        lines.append(line)
        if found := re.match(r"TASK \[(.*?)\] \*", line):
            tasks.append(found[1])
            if len(tasks) == kill_at:
                os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return tasks, process.returncode == 0, "".join(lines)


def differences(expected, found):
    return [f"{key}: {expected.get(key)} -> {found.get(key)}" for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]


def main():
    kind = {"release": Release, "first-deploy": FirstDeploy}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if not kind:
        sys.exit(__doc__)
    first, last = (int(number) for number in (sys.argv[2].split("-") if len(sys.argv) > 2 else ("1", "1000000")))
    with tempfile.TemporaryDirectory() as directory:
        trial = kind(Site(sys.argv[3] if len(sys.argv) > 3 else "target"), directory)
        trial.prepare()
        tasks, ok, output = play(trial)
        assert ok, output
        expected = trial.fingerprint()
        load = Load(trial.site, seconds=7200, pace=1) if kind is Release else None
        numbers = range(max(first, 1), min(last, len(tasks)) + 1)
        failed = 0
        for number in numbers:
            problems = attempt(trial, number, expected)
            failed += bool(problems)
            print(
                f"{number:3} of {len(tasks)}  {'NOT converged' if problems else 'converged'}  {tasks[number - 1]}",
                *problems,
                sep="\n      ",
                flush=True,
            )
        if load:
            answers, errors = load.stop()
            print(f"{sum(answers.values())} requests during the trials: {answers}, errors {errors}")
            # Connection errors are accepted: each trial reloads nginx, which then closes idle connections, possibly just as a client
            # sends on one (from 1.27.4 on, keepalive_min_timeout prevents it). Error statuses are not accepted.
            failed += not set(answers) <= {200, 303}
    print(f"{len(numbers) - failed} of {len(numbers)} converged ({sys.argv[1]})")
    sys.exit(bool(failed))


def attempt(trial, number, expected):
    """Kill the run at this task, rerun it, and return the problems found."""
    trial.prepare()
    play(trial, kill_at=number)
    if isinstance(trial, Release) and trial.site.get("/healthz")[0] != 200:
        return ["the site did not answer after the kill"]
    ok, output = play(trial)[1:]
    if not ok:
        return ["the rerun failed:", *output.partition("fatal:")[2].splitlines()[:20]]
    try:
        problems = differences(expected, trial.fingerprint())
    except AssertionError as error:
        return [str(error)]
    again = play(trial)[2]
    return problems[:12] or (
        [] if "changed=0 " in again else ["a further run still made changes:", *re.findall(r"TASK.*\nchanged:.*", again)]
    )


if __name__ == "__main__":
    main()
