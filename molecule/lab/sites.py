"""Shared by the molecule tests: the sites, with methods to query, release and load them."""

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
# whether `make test` runs a sample of the scenario
SAMPLE = bool(os.environ.get("FLASKHOST_SAMPLE"))
# whether apps run in containers, and the release step that builds the image or the venv
IN_CONTAINERS = os.environ.get("FLASKHOST_RUNTIME") == "container"
BUILD = "container/build/container_image" if IN_CONTAINERS else "python_venv/venv/venv"
# site: (inventory, host, the host's address on the lab network, its published HTTPS port)
SITES = {
    "older": ("default", "older", "10.207.0.12", 44312),
    "newer": ("default", "newer", "10.207.0.13", 44313),
    "checked": ("check", "checked", "10.207.11.13", 44311),
    "target": ("faults", "target", "10.207.2.20", 44320),
    "acme-older": ("acme", "acme-older", "10.207.5.12", 44352),
    "acme-newer": ("acme", "acme-newer", "10.207.5.13", 44353),
    "audited": ("audit", "audit", "10.207.6.13", 44363),
    "recipes-older": ("recipes/hosts", "recipes-older", "10.207.8.12", 44382),
    "recipes-newer": ("recipes/hosts", "recipes-newer", "10.207.8.13", 44383),
    "staging": ("app/staging/hosts", "app-staging", "10.207.7.12", 44372),
    "production": ("app/production/hosts", "app-production", "10.207.7.13", 44373),
}
# with pipelining, Ansible starts each module in this shell
MODULE = "sh -c .*/python3[.0-9]*$"
SERVERS = ("gunicorn", "uwsgi", "waitress", "granian", "mod_wsgi", "uvicorn")
for server in SERVERS:
    SITES[f"{server}-older"] = ("servers", "servers-older", "10.207.4.12", 44342)
    SITES[f"{server}-newer"] = ("servers", "servers-newer", "10.207.4.13", 44343)
for app in ("hostile", "victim"):
    SITES[f"{app}-older"] = ("hostile", "hostile-older", "10.207.9.12", 44392)
    SITES[f"{app}-newer"] = ("hostile", "hostile-newer", "10.207.9.13", 44393)
# the hosts that are virtual machines, and the published port of their sshd
VIRTUAL_MACHINES = {"machine-1": 22121, "machine-2": 22122}
for machine, port in ("machine-1", 44121), ("machine-2", 44122):
    SITES[machine] = ("machine", machine, "10.0.2.15", port)
    for app in "hostile", "victim":
        SITES[f"{app}-{machine}"] = ("machine-attacked", machine, "10.0.2.15", port)
# the factor of all time limits: without KVM, a virtual machine is about ten times slower than a container
PATIENCE = int(os.environ.get("FLASKHOST_PATIENCE", "1"))
# plain output, identical for all runs
PLAIN = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "PY_COLORS": "0", "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
PLAIN["MOLECULE_PROJECT_DIRECTORY"] = str(PROJECT)
# output that announces each task, for tests that act during a task
EACH_TASK = {"ANSIBLE_STDOUT_CALLBACK": "default"}


def copy_sample_app(copy):
    """Copy the sample app for a test that changes and releases it."""
    shutil.copytree(PROJECT / "sample_app", copy, ignore=shutil.ignore_patterns("__pycache__", "instance"))
    return copy


def wait_until(condition, seconds=60):
    """Poll the condition. The timeout is generous: on a busy machine even killing a process takes seconds."""
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition was not met within {seconds} seconds"
        time.sleep(0.2)


def connect(machine):
    """A host of the lab, in which testinfra runs commands as root."""
    if machine not in VIRTUAL_MACHINES:
        return testinfra.get_host(f"podman://flaskhost-{machine}")
    key, options = (
        f"{os.environ['FLASKHOST_LAB']}/id_ed25519",
        "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR",
    )
    return testinfra.get_host(f"ssh://root@127.0.0.1:{VIRTUAL_MACHINES[machine]}", ssh_identity_file=key, ssh_extra_args=options)


def vm(verb, machine, *arguments):
    """Run a verb of `lab vm`."""
    subprocess.run([PROJECT / "molecule/lab/lab", "vm", verb, f"flaskhost-{machine}", *arguments], check=True)


class Site:
    """An app on a host."""

    def __init__(self, name, app="sample", domain=DOMAIN):
        self.name, self.app, self.domain = name, app, domain
        scenario, self.machine, self.address, self.port = SITES[name]
        self.inventory = PROJECT / f"molecule/inventory/{scenario}.yml"
        self.host = connect(self.machine)
        self.root = f"/srv/{app}"
        self.environment = {}  # of ansible-playbook

    # -- queries --------------------------------------------------------------------------------------------------

    def get(self, path="/", *options):
        """Request a path through nginx over TLS, as a browser does. Return the status and the body."""
        url = f"https://{self.domain}:{self.port}{path}"
        command = [
            "curl",
            "--silent",
            "--insecure",
            "--max-time",
            str(15 * PATIENCE),
            "--resolve",
            f"{self.domain}:{self.port}:127.0.0.1",
        ]
        done = subprocess.run([*command, *options, "--write-out", "\n%{http_code}", url], capture_output=True, text=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def write(self, text):
        status, body = self.get("/entries", "--data-urlencode", f"text={text}")
        assert status == 303, body

    def live(self):
        return self.host.check_output(f"basename $(readlink {self.root}/live)")

    def previous(self):
        return self.host.check_output(f"basename $(readlink {self.root}/previous)")

    def socket(self):
        """The live release's socket."""
        return self.host.check_output(f"readlink {self.root}/live/wsgi.sock")

    def entries(self):
        return json.loads(self.get("/entries.json")[1])["count"]

    def is_healthy(self):
        return self.get("/healthz")[0] == 200

    def main_process(self, unit=""):
        """The main process of a unit, by default the live release's. If it runs under dumb-init, its child."""
        main = self.host.check_output(f"systemctl show --value --property=MainPID {unit or f'{self.app}@{self.live()}'}")
        return self.host.run(f"grep -qx dumb-init /proc/{main}/comm && pgrep --parent {main} || echo {main}").stdout.strip()

    def workers(self):
        """The worker processes' ids. During a restart there may be none."""
        return set(self.host.run(f"pgrep --parent {self.main_process()}").stdout.split())

    def instances(self):
        """The app's running units."""
        command = f"systemctl list-units --plain --no-legend --state=active,activating '{self.app}@*' | cut -d' ' -f1"
        return self.host.check_output(command).split()

    # -- actions --------------------------------------------------------------------------------------------------

    def play(self, playbook, *options, **variables):
        return Run(self, playbook, options, variables)

    def release(self, source, **variables):
        return self.play("playbooks/release.yml", app_source=str(source), **variables)

    def restart(self):
        """The host shuts down in good order, and boots."""
        boot = self.host.check_output("cat /proc/sys/kernel/random/boot_id")
        self.host.run("systemctl reboot")
        self.wait_until_rebooted(boot)
        self.wait_until_healthy()

    def wait_until_rebooted(self, boot):
        """Until the host has another boot ID than this one."""

        def has_rebooted():
            now = self.host.run("cat /proc/sys/kernel/random/boot_id")
            return now.rc == 0 and now.stdout.strip() != boot

        wait_until(has_rebooted)

    def wait_until_healthy(self):
        wait_until(self.is_healthy, 30)

    def reboot(self):
        """Reset the host: it reboots without a shutdown."""
        subprocess.run(["podman", "restart", "--time", "0", f"flaskhost-{self.machine}"], check=True, capture_output=True)
        self.host.check_output(
            "for i in $(seq 150); do systemctl is-system-running | grep -Eq 'running|degraded' && exit 0; sleep 0.2; done; exit 1"
        )


class Run:
    """A completed run of ansible-playbook."""

    def __init__(self, site, playbook, options, variables):
        started = time.monotonic()
        self.process = start(site, playbook, options, variables)
        self.output = self.process.communicate(timeout=400 * PATIENCE)[0]
        self.seconds = time.monotonic() - started
        self.ok = self.process.returncode == 0
        counts = re.search(r"changed=(\d+)", self.output)
        self.changed = int(counts[1]) if counts else None

    def reports(self, *texts):
        """Whether the output contains all of these texts, ignoring line breaks."""
        # YAML doubles an apostrophe within its quotes
        output = " ".join(self.output.replace("''", "'").split())
        return all(" ".join(text.split()) in output for text in texts)


def start(site, playbook, options=(), variables=None, environment=None):
    """Start ansible-playbook for a site, or for another object with an inventory, a name and an environment."""
    command = ["ansible-playbook", "-i", str(site.inventory), "--limit", site.name, *options, str(PROJECT / playbook)]
    command += ["--extra-vars", json.dumps(variables)] if variables else []
    return subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, **PLAIN, **site.environment, **(environment or {})},
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def task_name(step):
    """The name of the task at ROLE/FILE/MODULE, e.g. release/migrate/release_job. Tests use this id so that tasks can be renamed."""
    role, file, module = step.split("/")
    text = (PROJECT / f"roles/{role}/tasks/{file}.yml").read_text()
    (name,) = re.findall(rf"- name: (.+)\n +\S+\.{module}:", text)
    return f"{role} : {name}]"


def during(site, step, act, playbook="playbooks/release.yml", **variables):
    """Start a run and call `act` once the task at this step (see `task_name`) begins. Return whether the run succeeded, and its output."""
    name = task_name(step)
    process = start(site, playbook, variables=variables, environment=EACH_TASK)
    output, done = "", False
    for line in process.stdout:
        output += line
        if not done and line.startswith("TASK [") and name in line:
            # Ansible announces a task before it begins: the module starts on the host a moment later (or has already finished), and an
            # image is loaded after the controller has built it
            site.host.run(f"for i in $(seq 60); do pgrep --full '{MODULE}' && exit; sleep 0.05; done")
            time.sleep(0.4)
            if IN_CONTAINERS and step == BUILD:
                site.host.check_output("for i in $(seq 1200); do pgrep --full '[p]odman load' && exit 0; sleep 0.05; done; exit 1")
            act(process)
            done = True
            if act is kill:
                break
    process.stdout.close()
    process.wait()
    assert done, f"the task '{name}' did not run:\n{output}"
    return process.returncode == 0, output


def kill(process):
    """Kill the run with SIGKILL: it releases no lock and runs no handler."""
    os.killpg(process.pid, signal.SIGKILL)


class Load:
    """GET and POST requests in the background, at most 48 per second for each unit of `pace`. Counts the failures."""

    posts_at_once = 4

    def __init__(self, site, seconds=60, pace=5, path="/", post="/entries", options=()):
        self.started = time.monotonic()
        # hey takes the TLS server name from the URL, so the load uses the site's second name
        name = f"https://localhost:{site.port}"
        common = ["hey", "-z", f"{seconds}s", "-t", "20", "-disable-redirects", *options]
        self.commands = [
            subprocess.Popen([*common, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for arguments in (
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
        """Stop the load. Return the number of responses by status, and the errors."""
        answers, errors = {}, []
        # the test may have finished before hey sent its first request
        time.sleep(max(0, self.started + 2 - time.monotonic()))
        for command in self.commands:
            command.send_signal(2)
            report = command.communicate(timeout=60)[0]
            for status, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", report):
                answers[int(status)] = answers.get(int(status), 0) + int(count)
            errors += re.findall(r"^\s+\[\d+\]\s+\D.*$", report.partition("Error distribution")[2], re.MULTILINE)
        return answers, errors
