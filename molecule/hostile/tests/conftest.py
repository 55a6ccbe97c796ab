"""The hosts of this scenario, each with an app that was taken over and its neighbor, and the ways in which the attacker acts.

A test's docstring says what the attacker does, and after the colon what happens: docs/security.md is made of them.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from sites import PROJECT, Site, start, wait_until

STATE = "/var/lib/hostile"
# whatever an attack does, no run takes longer than that
RUN_SECONDS = 150


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A sample is taken on the newer host."""
    for item in items:
        if getattr(item, "callspec", None) and item.callspec.params.get("age") == "older":
            item.own_markers = [mark for mark in item.own_markers if mark.name != "sample"]


@pytest.fixture(params=["older", "newer"])
def age(request):
    return request.param


@pytest.fixture
def attacker(age):
    """The app that was taken over. Afterwards, its data and its processes are as they were."""
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
    """The app's source, changed, so that it is a release of its own."""
    copy = shutil.copytree(PROJECT / "molecule/hostile/app", tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "changed").write_text(str(tmp_path))
    return copy


@pytest.fixture
def bait(attacker):
    return Bait(attacker.host)


def write_package(source, setup):
    """A dependency that is built from the source, by this setup.py."""
    (source / "evil").mkdir()
    (source / "evil/setup.py").write_text(setup)
    with open(source / "requirements.txt", "a") as file:
        file.write("./evil\n")


class Bait:
    """Root's own files, to which an attack leads. Nothing of them may change, and nothing may be added."""

    path = "/etc/bait"

    def __init__(self, host):
        self.host = host
        host.check_output(
            "rm -rf /etc/bait && mkdir -p /etc/bait/cache /etc/bait/thumbs && echo secret >/etc/bait/cache/secret"
            " && chmod 0600 /etc/bait/cache/secret && seq 3000 >/etc/bait/thumbs/list.txt"
        )
        self.before = self.look()

    def look(self):
        return self.host.check_output("find /etc/bait -printf '%p %y %u:%g %m %s\\n' | sort")

    def is_untouched(self):
        now = self.look()
        assert now == self.before
        return True


class Attempt:
    """A run of ansible-playbook that an attack may hang: it is given so many seconds."""

    def __init__(self, site, playbook, seconds, options, variables):
        started = time.monotonic()
        process = start(site, playbook, options, variables)
        try:
            self.output, self.hung = process.communicate(timeout=seconds)[0], False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            self.output, self.hung = process.communicate()[0] + f"\n(killed: it had not ended after {seconds} seconds)", True
        self.seconds = time.monotonic() - started
        self.ok = process.returncode == 0


class App(Site):
    """An app on one of the hosts, which runs what it is told to."""

    def __init__(self, name, age):
        super().__init__(f"{name}-{age}", app=name, domain=f"{name}.test")
        self.age, self.acted = age, False

    # -- what the attacker does -----------------------------------------------------------------------------------

    def run(self, language, code, background=False):
        """In the sandbox of the live release: what the code has printed."""
        self.acted = True
        words = ["--data-urlencode", f"language={language}", "--data-urlencode", f"code={code}", "--max-time", "40"]
        status, body = self.get("/run", *words, *(["--data", "background=1"] if background else []))
        assert status == 200, (status, body)
        return json.loads(body)["out"].strip()

    def bash(self, code, background=False):
        return self.run("bash", code, background)

    def python(self, code, background=False, **names):
        """With variables of these names."""
        return self.run("python", "".join(f"{name} = {value!r}\n" for name, value in names.items()) + code, background)

    def restart(self):
        """What the app does when it ends itself: systemd starts it again, once more with all that comes before a start."""
        before = self.restarts()
        # the server's main process, from one of its workers
        self.python(
            "import os, signal\nos.kill(int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1]), signal.SIGTERM)"
        )
        wait_until(lambda: self.restarts() > before, 40)
        time.sleep(3)

    def restarts(self):
        return int(self.host.check_output(f"systemctl show --value --property=NRestarts {self.app}@{self.live()}"))

    # -- what falls for it ----------------------------------------------------------------------------------------

    def attempt(self, playbook="playbooks/release.yml", seconds=RUN_SECONDS, options=(), **variables):
        self.acted = True
        variables = {name: str(value) if name == "app_source" else value for name, value in variables.items()}
        return Attempt(self, playbook, seconds, options, variables)

    def backup(self, seconds=RUN_SECONDS):
        return self.attempt("playbooks/backup.yml", seconds)

    def backups(self):
        """Ids, the newest last, as an operator is told them."""
        run = self.attempt("playbooks/restore.yml", 60)
        assert not run.hung, run.output
        # Ansible prints an error twice
        return list(dict.fromkeys(re.findall(r"([0-9a-f]{8})  20\d\d-", run.output)))

    def restore(self, name, seconds=RUN_SECONDS):
        return self.attempt("playbooks/restore.yml", seconds, backup_name=name)

    # -- afterwards -----------------------------------------------------------------------------------------------

    def end_runs(self):
        """What a run that was killed has left at work on the host."""
        # one that was sent SIGSTOP would take 90 seconds to be stopped
        units = "systemctl list-units --plain --no-legend --type=service 'hostile-*' | cut -d' ' -f1 | grep -vE 'worker|schedule'"
        self.host.run(
            "kill -9 $(pgrep --full '[A]nsiballZ|^/usr/bin/python3$|^flock |systemd-run .*hostile|[b]ackup[^ ]* hostile (now|fetch|restore|list)')\n"
            f"for unit in $({units}); do systemctl kill --signal=KILL $unit; done"
        )

    def recover(self):
        """The app's data is what it was, and its release runs with no process of the attacker's."""
        host, unit = self.host, f"{self.app}@{self.live()}"
        host.run(
            f"systemctl stop '{self.app}-*@*.service' '{self.app}-schedule-*.timer' --no-block; systemctl kill --signal=KILL {unit}; systemctl stop {unit}"
        )
        host.check_output(f"find {STATE} -mindepth 1 -delete")
        host.run(f"rm -f /etc/profile.d/evil.sh; systemctl reset-failed {unit}")
        started = host.run(f"systemctl start {unit} '{self.app}-worker.1@{self.live()}' {self.app}-schedule-tidy.timer").rc == 0
        if not started or not self.answers():
            # the live release is the attacker's own, which went live: one of the app as it was takes its place
            run = self.attempt()
            assert run.ok, run.output
            wait_until(self.answers, 20)

    def answers(self):
        """As the app does, and not as something that the attacker has put in its place."""
        for _attempt in range(60):
            if self.get("/tag/alive") == (200, "tag alive\n") and self.is_well():
                return True
            time.sleep(0.5)
        return False
