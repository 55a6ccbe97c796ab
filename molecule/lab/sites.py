"""What tests on hosts share: the sites, and ways to ask, release and load them."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import testinfra

PROJECT = Path(__file__).resolve().parents[2]
DOMAIN = "flaskhost.test"
# whether `make test` has asked for the sample of a scenario
SAMPLE = bool(os.environ.get("FLASKHOST_SAMPLE"))
# what apps run from in this run of the tests, and the step of a release that makes it
IN_CONTAINERS = os.environ.get("FLASKHOST_RUNTIME") == "container"
BUILD = "container/build/container_image" if IN_CONTAINERS else "python_venv/venv/venv"
# for each site: its inventory, its host, that host's address on the lab's network and published port of https
SITES = {
    "older": ("default", "older", "10.207.0.12", 44312),
    "newer": ("default", "newer", "10.207.0.13", 44313),
    "checked": ("check", "checked", "10.207.11.13", 44311),
    "target": ("faults", "target", "10.207.2.20", 44320),
    "acme-older": ("acme", "acme-older", "10.207.5.12", 44352),
    "acme-newer": ("acme", "acme-newer", "10.207.5.13", 44353),
    "judged": ("audit", "audit", "10.207.6.13", 44363),
    "recipes-older": ("recipes", "recipes-older", "10.207.8.12", 44382),
    "recipes-newer": ("recipes", "recipes-newer", "10.207.8.13", 44383),
    "staging": ("app/staging/hosts", "app-staging", "10.207.7.12", 44372),
    "production": ("app/production/hosts", "app-production", "10.207.7.13", 44373),
}
# the shell in which Ansible starts a module, with pipelining
MODULE = "sh -c .*/python3[.0-9]*$"
SERVERS = ("gunicorn", "uwsgi", "waitress", "granian", "mod_wsgi", "uvicorn")
for server in SERVERS:
    SITES[f"{server}-older"] = ("servers", "servers-older", "10.207.4.12", 44342)
    SITES[f"{server}-newer"] = ("servers", "servers-newer", "10.207.4.13", 44343)
for app in ("hostile", "victim"):
    SITES[f"{app}-older"] = ("hostile", "hostile-older", "10.207.9.12", 44392)
    SITES[f"{app}-newer"] = ("hostile", "hostile-newer", "10.207.9.13", 44393)
# not for a person's eyes, and the same for all runs
PLAIN = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "PY_COLORS": "0", "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
PLAIN["MOLECULE_PROJECT_DIRECTORY"] = str(PROJECT)


def copy_of_sample_app(copy):
    """For a test to change and release."""
    shutil.copytree(PROJECT / "sample_app", copy, ignore=shutil.ignore_patterns("__pycache__", "instance"))
    return copy


def wait_until(condition, seconds=60):
    """On a busy machine a process takes seconds even to be killed."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.2)


class Site:
    """An app on a host."""

    def __init__(self, name, app="sample", domain=DOMAIN):
        self.name, self.app, self.domain = name, app, domain
        scenario, self.machine, self.address, self.port = SITES[name]
        self.inventory = PROJECT / f"molecule/inventory/{scenario}.yml"
        self.host = testinfra.get_host(f"podman://flaskhost-{self.machine}")
        self.root = f"/srv/{app}"
        self.environment = {}  # of ansible-playbook

    # -- asking ---------------------------------------------------------------------------------------------------

    def get(self, path="/", *options):
        """Status and body, through nginx, over TLS, as a browser asks."""
        url = f"https://{self.domain}:{self.port}{path}"
        command = ["curl", "--silent", "--insecure", "--max-time", "15", "--resolve", f"{self.domain}:{self.port}:127.0.0.1"]
        done = subprocess.run([*command, *options, "--write-out", "\n%{http_code}", url], capture_output=True, text=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def write(self, text):
        status, body = self.get("/entries", "--data-urlencode", f"text={text}")
        assert status == 303, body

    def live(self):
        return self.host.check_output(f"basename $(readlink {self.root}/live)")

    def previous(self):
        return self.host.check_output(f"basename $(readlink {self.root}/former)")

    def socket(self):
        """That of the live release."""
        return self.host.check_output(f"readlink {self.root}/live/wsgi.sock")

    def entries(self):
        return json.loads(self.get("/entries.json")[1])["count"]

    def is_well(self):
        return self.get("/healthz")[0] == 200

    def main_process(self, unit=""):
        """Of a unit; without one, of the live release. An init that stands before it is not meant."""
        main = self.host.check_output(f"systemctl show --value --property=MainPID {unit or f'{self.app}@{self.live()}'}")
        return self.host.run(f"grep -qx dumb-init /proc/{main}/comm && pgrep --parent {main} || echo {main}").stdout.strip()

    def workers(self):
        """There may be none for a moment."""
        return set(self.host.run(f"pgrep --parent {self.main_process()}").stdout.split())

    def instances(self):
        """The app's units that run."""
        command = f"systemctl list-units --plain --no-legend --state=active,activating '{self.app}@*' | cut -d' ' -f1"
        return self.host.check_output(command).split()

    # -- doing ----------------------------------------------------------------------------------------------------

    def play(self, playbook, *options, **variables):
        return Run(self, playbook, options, variables)

    def release(self, source, **variables):
        return self.play("playbooks/release.yml", app_source=str(source), **variables)

    def reboot(self):
        """The host goes down hard, and comes up again."""
        subprocess.run(["podman", "restart", "--time", "0", f"flaskhost-{self.machine}"], check=True, capture_output=True)
        self.host.check_output(
            "for i in $(seq 150); do systemctl is-system-running | grep -Eq 'running|degraded' && exit 0; sleep 0.2; done; exit 1"
        )


class Run:
    """A run of ansible-playbook, to its end."""

    def __init__(self, site, playbook, options, variables):
        started = time.monotonic()
        self.process = start(site, playbook, options, variables)
        self.output = self.process.communicate(timeout=400)[0]
        self.seconds = time.monotonic() - started
        self.ok = self.process.returncode == 0
        counts = re.search(r"changed=(\d+)", self.output)
        self.changed = int(counts[1]) if counts else None

    def tells(self, *words):
        """Whether the output says all of these, wherever its lines are broken."""
        # YAML doubles an apostrophe within its quotes
        said = " ".join(self.output.replace("''", "'").split())
        return all(" ".join(word.split()) in said for word in words)


def start(site, playbook, options=(), variables=None):
    """Of a site, or of anything else with an inventory, a name and an environment."""
    command = ["ansible-playbook", "-i", str(site.inventory), "--limit", site.name, *options, str(PROJECT / playbook)]
    command += ["--extra-vars", json.dumps(variables)] if variables else []
    return subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, **PLAIN, **site.environment},
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def task(place):
    """The name of a task by what stays when it gets a better one: ROLE/FILE/MODULE, such as release/migrate/release_job."""
    role, file, module = place.split("/")
    text = (PROJECT / f"roles/{role}/tasks/{file}.yml").read_text()
    (name,) = re.findall(rf"- name: (.+)\n +\S+\.{module}:", text)
    return f"{role} : {name}]"


def during(site, place, act, playbook="playbooks/release.yml", **variables):
    """Start a run, and act as soon as it has begun the task of this place (see `task`); gives whether the run ended well, and its output."""
    words = task(place)
    process = start(site, playbook, variables=variables)
    output, done = "", False
    for line in process.stdout:
        output += line
        if not done and line.startswith("TASK [") and words in line:
            # announced is not yet begun: the module comes to the host a moment later, unless it has come and gone, and an image once the
            # controller has built it
            site.host.run(f"for i in $(seq 60); do pgrep --full '{MODULE}' && exit; sleep 0.05; done")
            time.sleep(0.4)
            if IN_CONTAINERS and place == BUILD:
                site.host.check_output("for i in $(seq 1200); do pgrep --full '[p]odman load' && exit 0; sleep 0.05; done; exit 1")
            act(process)
            done = True
            if act is kill:
                break
    process.stdout.close()
    process.wait()
    assert done, f"no task '{words}':\n{output}"
    return process.returncode == 0, output


def kill(process):
    """Nothing that the run holds is given back, no handler runs."""
    os.killpg(process.pid, signal.SIGKILL)


class Load:
    """GET and POST requests while something happens, 48 a second at most for each step of `pace`; counts what failed."""

    posts_at_once = 4

    def __init__(self, site, seconds=60, pace=5, path="/", post="/entries", options=()):
        self.started = time.monotonic()
        # hey takes the TLS server name from the URL, so it asks for the site's other name
        name = f"https://localhost:{site.port}"
        common = ["hey", "-z", f"{seconds}s", "-t", "20", "-disable-redirects", *options]
        self.commands = [
            subprocess.Popen([*common, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for words in (
                ["-c", "8", "-q", str(5 * pace), f"{name}{path}"],
                [
                    "-c",
                    str(self.posts_at_once),
                    "-q",
                    str(2 * pace),
                    "-m",
                    "POST",
                    "-T",
                    "application/x-www-form-urlencoded",
                    "-d",
                    "text=load",
                    f"{name}{post}",
                ],
            )
        ]

    def stop(self):
        """Ends the load; gives the answers by status, and errors."""
        answers, errors = {}, []
        # what it meets may be over before hey has asked at all
        time.sleep(max(0, self.started + 2 - time.monotonic()))
        for command in self.commands:
            command.send_signal(2)
            report = command.communicate(timeout=60)[0]
            for status, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", report):
                answers[int(status)] = answers.get(int(status), 0) + int(count)
            errors += re.findall(r"^\s+\[\d+\]\s+\D.*$", report.partition("Error distribution")[2], re.MULTILINE)
        return answers, errors
