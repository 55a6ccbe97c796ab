"""The hosts of this scenario, each with an app that an attacker controls and its neighbor, and the attacker's means.

A test's docstring says what the attacker does and, after the colon, what happens. docs/security.md is generated from the docstrings.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from sites import PATIENCE, PROJECT, Site, start, wait_until

STATE = "/var/lib/hostile"
# the time limit of a run under attack
RUN_SECONDS = 150


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Samples run on the newer host only."""
    for item in items:
        if getattr(item, "callspec", None) and item.callspec.params.get("age") == "older":
            item.own_markers = [mark for mark in item.own_markers if mark.name != "sample"]


@pytest.fixture(params=os.environ.get("FLASKHOST_ATTACKED", "older newer").split())
def age(request):
    return request.param


@pytest.fixture
def attacker(age):
    """The app that the attacker controls. Afterwards, its data and its processes are restored."""
    attacker = App("hostile", age)
    if attacker.get("/tag/alive")[0] != 200:
        attacker.recover()
    yield attacker
    if attacker.acted:
        attacker.end_runs()
        attacker.recover()


@pytest.fixture
def victim(age):
    return App("victim", age)


@pytest.fixture
def source(tmp_path):
    """The app's source with a change, so that it makes a new release."""
    copy = shutil.copytree(PROJECT / "molecule/hostile/app", tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "changed").write_text(str(tmp_path))
    return copy


@pytest.fixture
def bait(attacker):
    return Bait(attacker.host)


def write_package(source, setup):
    """Add a dependency that is built from source by this setup.py."""
    (source / "evil").mkdir()
    (source / "evil/setup.py").write_text(setup)
    with open(source / "requirements.txt", "a") as file:
        file.write("./evil\n")


class Bait:
    """Root's files, which an attack targets. It must neither change them nor add any."""

    path = "/etc/bait"

    def __init__(self, host):
        self.host = host
        host.check_output(
            "rm -rf /etc/bait && mkdir -p /etc/bait/cache /etc/bait/thumbs && echo secret >/etc/bait/cache/secret"
            " && chmod 0600 /etc/bait/cache/secret && seq 3000 >/etc/bait/thumbs/list.txt"
        )
        self.before = self.listing()

    def listing(self):
        return self.host.check_output("find /etc/bait -printf '%p %y %u:%g %m %s\\n' | sort")

    def is_untouched(self):
        now = self.listing()
        assert now == self.before
        return True


class Attempt:
    """A run of ansible-playbook with a time limit, since an attack may hang it."""

    def __init__(self, site, playbook, seconds, options, variables):
        started = time.monotonic()
        process = start(site, playbook, options, variables)
        try:
            self.output, self.hung = process.communicate(timeout=seconds * PATIENCE)[0], False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            self.output, self.hung = process.communicate()[0] + f"\n(killed: it had not ended after {seconds} seconds)", True
        self.seconds = time.monotonic() - started
        self.ok = process.returncode == 0


class App(Site):
    """An app on one of the hosts, which runs any code that it gets."""

    def __init__(self, name, age):
        super().__init__(f"{name}-{age}", app=name, domain=f"{name}.test")
        self.age, self.acted = age, False

    # -- what the attacker does -----------------------------------------------------------------------------------

    def run(self, language, code, background=False):
        """Run code in the sandbox of the live release, and return its output."""
        self.acted = True
        options = ["--data-urlencode", f"language={language}", "--data-urlencode", f"code={code}", "--max-time", "40"]
        status, body = self.get("/run", *options, *(["--data", "background=1"] if background else []))
        assert status == 200, (status, body)
        return json.loads(body)["out"].strip()

    def bash(self, code, background=False):
        return self.run("bash", code, background)

    def python(self, code, background=False, **names):
        """Run Python code with these variables."""
        return self.run("python", "".join(f"{name} = {value!r}\n" for name, value in names.items()) + code, background)

    def restart(self):
        """Exit, as the app could do: systemd starts it again and repeats everything that precedes a start."""
        before = self.restarts()
        # the server's main process, from one of its workers
        self.python(
            "import os, signal\nos.kill(int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1]), signal.SIGTERM)"
        )
        wait_until(lambda: self.restarts() > before, 40)
        time.sleep(3)

    def restarts(self):
        return int(self.host.check_output(f"systemctl show --value --property=NRestarts {self.app}@{self.live()}"))

    # -- what the operator does -----------------------------------------------------------------------------------

    def attempt(self, playbook="playbooks/release.yml", seconds=RUN_SECONDS, options=(), **variables):
        self.acted = True
        variables = {name: str(value) if name == "app_source" else value for name, value in variables.items()}
        return Attempt(self, playbook, seconds, options, variables)

    def backup(self, seconds=RUN_SECONDS):
        return self.attempt("playbooks/backup.yml", seconds)

    def backups(self):
        """The ids of all backups, the newest last, as an operator gets them."""
        run = self.attempt("playbooks/restore.yml", 60)
        assert not run.hung, run.output
        # Ansible prints an error twice
        return list(dict.fromkeys(re.findall(r"([0-9a-f]{8})  20\d\d-", run.output)))

    def restore(self, name, seconds=RUN_SECONDS):
        return self.attempt("playbooks/restore.yml", seconds, backup_name=name)

    # -- cleanup --------------------------------------------------------------------------------------------------

    def end_runs(self):
        """Kill what is left on the host of a run that was killed."""
        # SIGKILL, because it takes 90 seconds to stop a unit whose processes got SIGSTOP
        units = "systemctl list-units --plain --no-legend --type=service 'hostile-*' | cut -d' ' -f1 | grep -vE 'worker|schedule'"
        self.host.run(
            "kill -9 $(pgrep --full '[A]nsiballZ|^/usr/bin/python3$|^flock |systemd-run .*hostile|[b]ackup[^ ]* hostile (now|fetch|restore|list)')\n"
            f"for unit in $({units}); do systemctl kill --signal=KILL $unit; done"
        )

    def recover(self):
        """Restore the app's data, and run its release without any process of the attacker."""
        host, unit = self.host, f"{self.app}@{self.live()}"
        host.run(
            f"systemctl stop '{self.app}-*@*.service' '{self.app}-schedule-*.timer' --no-block; systemctl kill --signal=KILL {unit}; systemctl stop {unit}"
        )
        host.check_output(f"find {STATE} -mindepth 1 -delete")
        host.run(f"rm -f /etc/profile.d/evil.sh; systemctl reset-failed {unit}")
        started = host.run(f"systemctl start {unit} '{self.app}-worker.1@{self.live()}' {self.app}-schedule-tidy.timer").rc == 0
        if not started or not self.answers():
            # the attacker's release was activated: release the original app
            run = self.attempt()
            assert run.ok, run.output
            wait_until(self.answers, 20)

    def answers(self):
        """Whether the app itself answers, and not something that the attacker put in its place."""
        for _attempt in range(60):
            if self.get("/tag/alive") == (200, "tag alive\n") and self.is_healthy():
                return True
            time.sleep(0.5)
        return False
