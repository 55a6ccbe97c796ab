#!/usr/bin/env python3
"""The benchmark, which `make bench` runs in the lab: our stack with each server beside the usual tutorial's, and how long
deploying takes. Writes docs/benchmarks.json, and from that docs/benchmarks.md and docs/benchmarks.svg.

All load is made on the host itself, by wrk, for it costs least of what the two cores can do. It speaks TCP only: to a server's
own socket it goes by unix_connect.c. It takes up TLS sessions again, so full handshakes are hey's, which never does.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

import yaml

BENCH = Path(__file__).parent
PROJECT = BENCH.parents[1]
sys.path += [str(BENCH), str(PROJECT / "molecule/lab")]
import report
from sites import start

HOST = "flaskhost-bench"
SERVERS = yaml.safe_load((PROJECT / "molecule/inventory/bench.yml").read_text())
SERVERS = SERVERS["app_servers"]["children"]["bench"]["children"]["bench_servers"]["hosts"]
Group = namedtuple("Group", "scenario name environment")  # of hosts, as `start` wants it
Contender = namedtuple("Contender", "name unit plain tls socket", defaults=[None])
Workload = namedtuple("Workload", "name path clients idle", defaults=[32, 0])
WORKLOADS = [
    Workload("hello", "/"),
    Workload("json", "/json"),
    # more clients than any server has threads: what counts is how many requests are worked on at a time
    Workload("wait", "/wait", clients=64),
    Workload("static", "/static/100k.bin"),
    Workload("idle", "/", idle=1000),
    Workload("handshakes", "/", clients=16),
    Workload("https", "/"),
]
BARE = ("hello", "json", "wait")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is measured (%(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="how long each load takes (%(default)s)")
    parser.add_argument("--only", nargs="*", default=list(SERVERS), choices=list(SERVERS), help="our servers to measure")
    parser.add_argument("--deploys", type=int, default=3, help="how often deploying is measured (%(default)s)")
    parser.add_argument("--hosts", nargs="*", type=int, default=[1], help="for each of these, deploy to so many hosts (1 to 8)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder) / "app")
        if options.deploys:
            keep(deploying=list(deploying(source, options)))
        if options.rounds:
            contenders = set_up(source, options.only)
            keep(machine=machine(options), serving=list(serving(contenders, options)))


def keep(**found):
    """A part that was not measured this time stays as it was."""
    path = PROJECT / "docs/benchmarks.json"
    found = {**(json.loads(path.read_text()) if path.exists() else {}), **found}
    path.write_text(json.dumps(found, indent=1) + "\n")
    report.write(found, path.parent)


def deploying(source, options):
    for count in options.hosts:
        for turn in range(options.deploys):
            say(f"deploying to {count} hosts, {turn + 1} of {options.deploys}")
            for row in deploy(source, count):
                yield {"hosts": count, "round": turn, **row}


def serving(contenders, options):
    for turn in range(options.rounds):
        # there and back again: what changes slowly touches all alike
        for contender in contenders[:: -1 if turn % 2 else 1]:
            say(f"round {turn + 1} of {options.rounds}: {contender.name}")
            for row in measure(contender, options.seconds):
                yield {"round": turn, **row}


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def make_source(folder):
    """The app, with its static file."""
    shutil.copytree(BENCH / "app", folder, ignore=shutil.ignore_patterns("__pycache__", "*.db"))
    (folder / "static").mkdir()
    (folder / "static/100k.bin").write_bytes(random.Random(1).randbytes(100_000))
    return folder


# -- serving ----------------------------------------------------------------------------------------------------------


def set_up(source, servers):
    """Deploy the app with every server, and as the tutorial has it; none of them runs afterwards."""
    say("setting up the host")
    # apps of one host, one after the other
    play(["gunicorn", *servers], "deploy.yml", source, forks=1)
    play(["gunicorn"], "tests/bench/tutorial.yml", source)
    on_host("sh", "-c", "systemctl stop 'bench_*@*.service' tutorial.service")
    contenders = [
        Contender("nginx alone", None, "http://tutorial.test:9001", None),
        Contender("tutorial", "tutorial.service", "http://tutorial.test:9000", "https://tutorial.test:9443"),
    ]
    for name in servers:
        live = on_host("readlink", f"/srv/bench_{name}/live").strip().rpartition("/")[2]
        site = f"{name.replace('_', '-')}.test"
        socket = f"/run/bench_{name}/{live}/wsgi.sock"
        contenders.append(Contender(name, f"bench_{name}@{live}.service", f"http://{site}:8000", f"https://{site}", socket))
    return contenders


def measure(contender, seconds):
    """A contender's turn: all workloads, while no other app runs. The server without nginx is a contender of its own."""
    if not contender.unit:
        return [{"contender": contender.name, "workload": "static", **wrk(f"{contender.plain}/100k.bin", 32, seconds)}]
    on_host("systemctl", "start", contender.unit)
    try:
        warm_up(contender)
        rows = [{"contender": contender.name, "workload": load.name, **ask(contender, load, seconds)} for load in WORKLOADS]
        if contender.socket:
            for load in (load for load in WORKLOADS if load.name in BARE):
                settle(contender.plain + load.path)
                found = wrk(f"http://127.0.0.1{load.path}", load.clients, seconds, contender.socket)
                rows.append({"contender": f"{contender.name}, bare", "workload": load.name, **found})
        return [*rows, {"contender": contender.name, "workload": "memory", "memory_mb": memory_mb(contender.unit)}]
    finally:
        on_host("systemctl", "stop", contender.unit)


def warm_up(contender):
    for _attempt in range(10):
        found = wrk(f"{contender.plain}/json", 32, 1)
        if found["rate"] and not found["failed"]:
            return
        time.sleep(1)
    raise SystemExit(f"{contender.name} does not answer well: {found}")


def settle(url):
    """One answer, a good one: by then, what the load before left behind in the app's queue is answered too."""
    found = report.parse_hey(on_host("hey", "-n", "1", "-c", "1", "-disable-redirects", url))
    if found["failed"]:
        raise SystemExit(f"{url} does not answer 200")


def ask(contender, load, seconds):
    url = (contender.tls if load.name in ("handshakes", "https") else contender.plain) + load.path
    settle(url)
    if load.name == "handshakes":
        return report.parse_hey(on_host("hey", "-z", f"{seconds}s", "-c", str(load.clients), "-disable-keepalive", url))
    if not load.idle:
        return wrk(url, load.clients, seconds)
    with idle_clients(url, load.idle) as clients:
        found = wrk(url, load.clients, seconds)
        found["failed"] += int(clients.communicate("done\n", timeout=60)[0])
    return found


@contextlib.contextmanager
def idle_clients(url, count):
    program = (BENCH / "idle.py").read_text()
    command = ["podman", "exec", "--interactive", HOST, "python3", "-c", program, url, str(count)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
        clients.stdout.readline()
        yield clients


def wrk(url, clients, seconds, socket=None):
    by_socket = ["env", "LD_PRELOAD=/usr/local/lib/unix_connect.so", f"UNIX_SOCKET={socket}"] if socket else []
    command = ["wrk", "--threads=1", f"--connections={clients}", f"--duration={seconds}s", "--latency", url]
    return report.parse_wrk(on_host(*by_socket, *command))


def memory_mb(unit):
    """What its processes take; what they share is counted once."""
    group = on_host("systemctl", "show", "--value", "--property=ControlGroup", unit).strip()
    pids = on_host("cat", f"/sys/fs/cgroup{group}/cgroup.procs").split()
    pss = on_host("sh", "-c", f"cat {' '.join(f'/proc/{pid}/smaps_rollup' for pid in pids)} 2>/dev/null || true")
    return round(sum(map(int, re.findall(r"^Pss:\s+(\d+)", pss, re.MULTILINE))) / 1024, 1)


def machine(options):
    """Under what all this was measured; nothing that names the machine."""
    version = "from importlib.metadata import version; print(version('{}'))"
    packages = {"gevent": "gevent", "uwsgi": "pyuwsgi"}
    about = {
        "rounds": f"{options.rounds}, {options.seconds} s for each load",
        "cores": os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": os.uname().release.split("-")[0],
        "host": on_host("sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME"').strip(),
        "Python": on_host("python3", "-c", "import platform; print(platform.python_version())").strip(),
    }
    for package in ("nginx", "wrk", "hey"):
        about[package] = on_host("dpkg-query", "-W", "-f", "${Version}", package)
    for name in options.only:
        program = version.format(packages.get(name, name))
        about[name] = on_host(f"/srv/bench_{name}/live/.venv/bin/python", "-c", program).strip()
    return about


# -- deploying --------------------------------------------------------------------------------------------------------


def deploy(source, count):
    """From bare hosts to a rollback, step by step."""
    hosts = [f"host{number}" for number in range(1, count + 1)]
    settings = {}
    try:
        for number in range(1, count + 1):
            make_anew(number)
        yield {"what": "first provision", **play(hosts, "deploy.yml", source)}
        yield {"what": "nothing new", **play(hosts, "deploy.yml", source)}
        page = source / "wsgi.py"
        page.write_text(page.read_text() + f"# {time.time_ns()}\n")
        yield {"what": "new code", **play(hosts, "playbooks/release.yml", source)}
        settings["app_env"] = {"MARK": str(time.time_ns())}
        yield {"what": "new settings", **play(hosts, "playbooks/release.yml", source, **settings)}
        yield {"what": "rollback", **play(hosts, "playbooks/rollback.yml", source, **settings)}
    finally:
        for number in range(1, count + 1):
            podman("rm", "--force", "--time", "0", "--ignore", f"{HOST}-{number}")


def make_anew(number):
    """A host that no one has touched."""
    name, image = f"{HOST}-{number}", f"localhost/flaskhost-lab:{os.environ.get('FLASKHOST_NEWER', 'debian13')}"
    podman("rm", "--force", "--time", "0", "--ignore", name)
    address = ["--network", HOST, "--ip", f"10.207.3.{30 + number}", "--publish", f"127.0.0.1:{22030 + number}:22"]
    podman("run", "--detach", "--name", name, "--systemd", "always", "--privileged", *address, image)
    up = "for i in $(seq 150); do systemctl is-active --quiet ssh && exit 0; sleep 0.2; done; exit 1"
    podman("exec", name, "sh", "-c", up)


def play(hosts, playbook, source, forks=20, **variables):
    """Run it to its end: how long it took, in all and by task."""
    environment = {"PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all", "PROFILE_TASKS_SORT_ORDER": "none", "ANSIBLE_FORKS": str(forks)}
    began = time.monotonic()
    process = start(Group("bench", ",".join(hosts), environment), playbook, variables={"app_source": str(source), **variables})
    output = process.communicate()[0]
    seconds = time.monotonic() - began
    if process.returncode:
        raise SystemExit(output)
    changed = sum(map(int, re.findall(r"changed=(\d+)", output)))
    return {"seconds": round(seconds, 2), "changed": changed, "tasks": report.parse_tasks(output)}


# -- the lab ----------------------------------------------------------------------------------------------------------


def podman(*command):
    return subprocess.run(["podman", *command], check=True, text=True, stdout=subprocess.PIPE).stdout


def on_host(*command):
    return podman("exec", HOST, *command)


if __name__ == "__main__":
    main()
