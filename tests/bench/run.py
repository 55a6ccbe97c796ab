#!/usr/bin/env python3
"""The benchmark, which `make bench` runs in the lab: compares our stack with each server to a typical tutorial's, and measures deploys.
Writes docs/benchmarks.json, and from it docs/benchmarks.md and docs/benchmarks.svg.

The load is generated on the host itself by wrk, because it uses the least CPU time. wrk supports TCP only, so unix_connect.c redirects
it to a server's Unix socket. wrk resumes TLS sessions, so hey, which never does, measures full handshakes.
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
INVENTORY = BENCH / "inventory/hosts.yml"
SERVERS = yaml.safe_load(INVENTORY.read_text())
SERVERS = SERVERS["app_servers"]["children"]["bench"]["children"]["bench_servers"]["hosts"]
Group = namedtuple("Group", "inventory name environment")  # a group of hosts, as `start` expects it
Contender = namedtuple("Contender", "name unit plain tls socket", defaults=[None])
Workload = namedtuple("Workload", "name path clients idle waiting", defaults=[32, 0, 0])
WORKLOADS = [
    Workload("hello", "/"),
    Workload("json", "/json"),
    # more clients than any server has threads, to compare how many requests a server processes at a time
    Workload("wait", "/wait", clients=64),
    Workload("beside", "/", clients=8, waiting=8),
    Workload("static", "/static/100k.bin"),
    Workload("idle", "/", idle=1000),
    Workload("handshakes", "/", clients=16),
    Workload("https", "/"),
]
BARE = ("hello", "json", "wait")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements of each contender (%(default)s)")
    parser.add_argument("--seconds", type=int, default=2, help="duration of each load (%(default)s)")
    parser.add_argument("--only", nargs="*", default=list(SERVERS), choices=list(SERVERS), help="servers of our stack to measure")
    parser.add_argument("--deploys", type=int, default=2, help="number of measurements of a deploy (%(default)s)")
    parser.add_argument(
        "--hosts", nargs="*", type=int, choices=range(1, 9), default=[1, 2, 4, 8], help="numbers of hosts to deploy to, one after the other"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        source = make_source(Path(directory) / "app")
        if options.deploys:
            keep(deploying=list(deploying(source, options)))
        if options.rounds:
            contenders = set_up(source, options.only)
            keep(machine=machine(options), serving=list(serving(contenders, options)))


def keep(**found):
    """Update the results. Parts that were not measured this time keep their values."""
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
    """Run each load against all contenders in turn, and reverse the order every second round, so that drift affects all of them alike."""
    for turn in range(options.rounds):
        say(f"round {turn + 1} of {options.rounds}")
        for load in WORKLOADS:
            for contender in contenders[:: -1 if turn % 2 else 1]:
                if found := measure(contender, load, options.seconds):
                    yield {"round": turn, "contender": contender.name, "workload": load.name, **found}
    for contender in contenders:
        if contender.unit and not contender.socket:
            yield {"round": 0, "contender": contender.name, "workload": "memory", "memory_mb": memory_mb(contender.unit)}


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def make_source(directory):
    """Copy the app and create its static file."""
    shutil.copytree(BENCH / "app", directory, ignore=shutil.ignore_patterns("__pycache__", "*.db"))
    (directory / "static").mkdir()
    (directory / "static/100k.bin").write_bytes(random.Random(1).randbytes(100_000))
    return directory


# -- serving ----------------------------------------------------------------------------------------------------------


def set_up(source, servers):
    """Deploy the app with every server and as in the tutorial. A server without nginx counts as a separate contender."""
    say("setting up the host")
    # apps that share a host must be deployed one after the other
    play(["gunicorn", *servers], "deploy.yml", source, forks=1)
    play(["gunicorn"], "tests/bench/tutorial.yml", source)
    contenders = [
        Contender("nginx alone", None, "http://tutorial.test:9001/100k.bin", None),
        Contender("tutorial", "tutorial.service", "http://tutorial.test:9000", "https://tutorial.test:9443"),
    ]
    for name in servers:
        live = on_host("readlink", f"/srv/bench_{name}/live").strip().rpartition("/")[2]
        site = f"{name.replace('_', '-')}.test"
        socket = f"/run/flaskhost/bench_{name}/{live}/wsgi.sock"
        flaskhost = Contender(name, f"bench_{name}@{live}.service", f"http://{site}:8000", f"https://{site}")
        contenders += [flaskhost, flaskhost._replace(name=f"{name}, bare", socket=socket)]
    for contender in contenders:
        warm_up(contender)
    return contenders


def measure(contender, load, seconds):
    """The results of wrk or hey, with the CPU time of the app and nginx per request. None if the contender does not serve this load."""
    if (not contender.unit and load.name != "static") or (contender.socket and load.name not in BARE):
        return None
    settle(contender.plain)
    before = cpu_seconds(contender.unit)
    found = run_load(contender, load, seconds)
    after = cpu_seconds(contender.unit)
    # failed requests used CPU time, too
    count = found["rate"] * seconds + found["failed"] or 1
    return found | {f"{name}_us": round((after[name] - before[name]) / count * 1e6) for name in after}


def warm_up(contender):
    for _attempt in range(20):
        found = wrk(contender.plain, 32, 1)
        if found["rate"] and not found["failed"]:
            return
        time.sleep(1)
    raise SystemExit(f"{contender.name} does not respond without errors: {found}")


def settle(url):
    """Wait for one successful response: by then, the app has also processed the requests that the previous load left in its queue."""
    found = report.parse_hey(on_host("hey", "-n", "1", "-c", "1", "-disable-redirects", url))
    if found["failed"]:
        raise SystemExit(f"{url} does not respond with status 200")


def run_load(contender, load, seconds):
    if contender.socket:
        return wrk(f"http://127.0.0.1{load.path}", load.clients, seconds, contender.socket)
    if load.name == "handshakes":
        return report.parse_hey(on_host("hey", "-z", f"{seconds}s", "-c", str(load.clients), "-disable-keepalive", contender.tls))
    if load.name == "https":
        return wrk(contender.tls, load.clients, seconds)
    if not contender.unit:
        return wrk(contender.plain, load.clients, seconds)
    url = contender.plain + load.path
    with idle_clients(url, load.idle) if load.idle else contextlib.nullcontext() as idle:
        with waiting_clients(contender, load.waiting, seconds + 2) if load.waiting else contextlib.nullcontext():
            found = wrk(url, load.clients, seconds)
        if idle:
            found["failed"] += int(idle.communicate("done\n", timeout=60)[0])
    return found


@contextlib.contextmanager
def waiting_clients(contender, count, seconds):
    """Clients that request /wait continuously."""
    command = ["podman", "exec", HOST, "wrk", "--threads=1", f"--connections={count}", f"--duration={seconds}s"]
    with subprocess.Popen([*command, f"{contender.plain}/wait"], stdout=subprocess.DEVNULL):
        time.sleep(1)
        yield


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


def cpu_seconds(unit):
    """The CPU time that the processes of the app and of nginx have used so far, on all cores."""
    pids = {"app": pids_of(unit) if unit else [], "nginx": on_host("pgrep", "--exact", "nginx").split()}
    used = {}
    for name, processes in pids.items():
        stats = read_all(f"/proc/{pid}/stat" for pid in processes)
        # user and kernel time come after the program's name, which is in brackets
        used[name] = sum(int(ticks) for line in stats.splitlines() for ticks in line.rpartition(")")[2].split()[11:13]) / 100
    return used


def memory_mb(unit):
    """The memory of the unit's processes. Shared memory is counted once."""
    sizes = re.findall(r"^Pss:\s+(\d+)", read_all(f"/proc/{pid}/smaps_rollup" for pid in pids_of(unit)), re.MULTILINE)
    return round(sum(map(int, sizes)) / 1024, 1)


def pids_of(unit):
    group = on_host("systemctl", "show", "--value", "--property=ControlGroup", unit).strip()
    return on_host("cat", f"/sys/fs/cgroup{group}/cgroup.procs").split()


def read_all(paths):
    """Read files of /proc. Those of processes that have ended in the meantime are skipped."""
    return on_host("sh", "-c", f"cat /dev/null {' '.join(paths)} 2>/dev/null || true")


def machine(options):
    """The conditions of the measurement, without anything that identifies the machine."""
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
    """Measure each step from bare hosts to a rollback."""
    hosts = [f"host{number}" for number in range(1, count + 1)]
    settings = {}
    try:
        for number in range(1, count + 1):
            recreate_host(number)
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


def recreate_host(number):
    """Replace the host with a fresh one."""
    name, image = f"{HOST}-{number}", f"localhost/flaskhost-lab:{os.environ.get('FLASKHOST_NEWER', 'debian13')}"
    podman("rm", "--force", "--time", "0", "--ignore", name)
    address = ["--network", HOST, "--ip", f"10.207.3.{30 + number}", "--publish", f"127.0.0.1:{22030 + number}:22"]
    podman("run", "--detach", "--name", name, "--systemd", "always", "--privileged", *address, image)
    up = "for i in $(seq 150); do systemctl is-active --quiet ssh && exit 0; sleep 0.2; done; exit 1"
    podman("exec", name, "sh", "-c", up)


def play(hosts, playbook, source, forks=20, **variables):
    """Run the playbook to its end. Return the total time and the time per task."""
    environment = {
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all",
        "PROFILE_TASKS_SORT_ORDER": "none",
        "ANSIBLE_FORKS": str(forks),
    }
    started = time.monotonic()
    process = start(Group(INVENTORY, ",".join(hosts), environment), playbook, variables={"app_source": str(source), **variables})
    output = process.communicate()[0]
    seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(output)
    changed = sum(map(int, re.findall(r"changed=(\d+)", output)))
    return {"seconds": round(seconds, 2), "changed": changed, "tasks": report.parse_tasks(output)}


# -- the lab ----------------------------------------------------------------------------------------------------------


def podman(*command):
    done = subprocess.run(["podman", *command], text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"podman {' '.join(command)}: {done.stderr}")
    return done.stdout


def on_host(*command):
    return podman("exec", HOST, *command)


if __name__ == "__main__":
    main()
