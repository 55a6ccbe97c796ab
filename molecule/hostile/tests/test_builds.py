"""The attacker interferes with builds, migrations and the next release: from the live release, a dependency or a build command."""

import json
import re
import time

import pytest
from conftest import STATE, write_package
from sites import wait_until

MARKER = "marker-of-the-next-release"
FORGED = "forged-by-another-release"

# Watch all visible processes of other units: read their environment, open their memory, and write to what they build.
SPY = """
import glob, json, os, time
me = open('/proc/self/cgroup').read()
loot, end = {}, time.monotonic() + seconds
os.chdir(os.environ['STATE_DIRECTORY'])
while time.monotonic() < end:
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            unit = open(f'/proc/{pid}/cgroup').read()
            if unit == me or f'@{live}.' in unit:
                continue
            name = open(f'/proc/{pid}/cmdline', 'rb').read().replace(bytes(1), b' ').decode(errors='replace')[:80]
            name += ' in ' + unit.strip().rpartition('/')[2]
            if marker in open(f'/proc/{pid}/environ', 'rb').read().decode(errors='replace'):
                loot['environment of ' + name] = pid
        except OSError:
            pass
        try:
            # the live release may read its own scheduled jobs
            if 'schedule' not in unit:
                os.close(os.open(f'/proc/{pid}/mem', os.O_RDWR))
                loot['memory of ' + name] = pid
        except OSError:
            pass
        patterns = ['/srv/hostile/releases/*/app/web.py', '/srv/hostile/venvs/*/lib/python3*/site-packages/flask/__init__.py']
        for path in [found for pattern in patterns for found in glob.glob(f'/proc/{pid}/root{pattern}')] + [f'/proc/{pid}/cwd/web.py']:
            try:
                if forged not in open(path).read():
                    with open(path, 'a') as file:
                        file.write(f'# {forged}\\n')
                    loot['writes to ' + path.partition('/root')[2]] = pid
            except OSError:
                pass
    with open('loot.new', 'w') as file:
        json.dump(loot, file)
    os.rename('loot.new', 'loot.json')
    time.sleep(0.01)
"""
# a dependency with a slow build
SLOW_SETUP = """
import time
from setuptools import setup
time.sleep(3)
setup(name="evil", version="1", py_modules=[])
"""


@pytest.mark.machine
@pytest.mark.sample
def test_read_and_change_the_next_release_during_its_build(attacker, source):
    """The live release watches the next one's venv, build command and migration: it can neither read their environment or memory nor write
    to their results."""
    write_package(source, SLOW_SETUP)
    attacker.python(SPY, background=True, seconds=100, marker=MARKER, forged=FORGED, live=attacker.live())
    run = attacker.attempt(
        app_source=source,
        app_build_command="sleep 3",
        app_release_command="sleep 3",
        app_secrets={"SECRET_KEY": MARKER},
        release_watch_seconds=3,
    )
    loot = json.loads(attacker.host.check_output(f"cat {STATE}/loot.json"))
    assert run.ok, run.output
    # the next test covers the next release's own processes
    others = [key for key in loot if not re.search(r" in hostile(@|-worker|-schedule)", key)]
    assert not others, others
    assert attacker.host.run(f"grep -rl {FORGED} /srv/hostile/releases/*/app /srv/hostile/venvs").stdout == ""


def test_read_the_secrets_of_the_next_release_before_its_activation(attacker, source):
    """The live release watches the next one's servers, workers and scheduled jobs as they start: it can't read their environment or
    memory."""
    attacker.python(SPY, background=True, seconds=60, marker=MARKER, forged=FORGED, live=attacker.live())
    run = attacker.attempt(app_source=source, app_secrets={"SECRET_KEY": MARKER}, app_processes={"worker": 2}, release_watch_seconds=5)
    loot = json.loads(attacker.host.check_output(f"cat {STATE}/loot.json"))
    assert run.ok, run.output
    assert not loot, loot


# Signal all younger processes, visible or not: they have higher process ids.
STOP = """
import os, signal, time
me, end = os.getpid(), time.monotonic() + seconds
while time.monotonic() < end:
    for pid in range(me + 1, me + 20000):
        try:
            os.kill(pid, signal.SIGSTOP)
        except OSError:
            pass
    time.sleep(0.1)
"""


@pytest.mark.parametrize("step", ["venv", "build command"])
def test_block_the_next_release_during_its_build(attacker, source, step):
    """The live release sends SIGSTOP to every younger process, to halt the next one's build: the build is not halted."""
    if step == "venv":
        write_package(source, SLOW_SETUP)
    attacker.python(STOP, background=True, seconds=100)
    time.sleep(1)
    run = attacker.attempt(
        app_source=source,
        seconds=100,
        app_build_command="sleep 3" if step != "venv" else "",
        app_release_command="",
        release_health_timeout_seconds=10,
    )
    stopped = attacker.host.run("ps -eo user:20,stat,args | awk '$2 ~ /^T/'").stdout
    attacker.end_runs()
    # the next test covers the server of the next release
    assert not run.hung and "-build" not in stopped and "venv" not in stopped and "sleep" not in stopped, run.output + stopped
    built = attacker.host.check_output("ls -t /srv/hostile/releases | head -n 1")
    assert attacker.host.file(f"/srv/hostile/releases/{built}/manifest.json").exists or run.ok, run.output


@pytest.mark.parametrize("step", ["migration", "server"])
def test_block_the_next_release_when_it_starts(attacker, source, step):
    """The live release sends SIGSTOP to the next one's migration and servers, which run as the same user: systemd 257 and newer prevent it;
    on older hosts the next release fails within its time limits, and the attacker's live release stays."""
    attacker.python(STOP, background=True, seconds=100)
    time.sleep(1)
    settings = {
        "app_release_command": "sleep 3" if step == "migration" else "",
        "release_command_seconds": 15,
        "release_health_timeout_seconds": 10,
    }
    run = attacker.attempt(app_source=source, seconds=100, app_processes={}, **settings)
    attacker.end_runs()
    assert not run.hung, run.output
    systemd = int(attacker.host.check_output("systemctl --version | awk 'NR == 1 {print $2}'"))
    assert run.ok or systemd < 257, run.output


DAEMON_SETUP = r"""
import glob, os, sys, time
from setuptools import setup
setup(name="evil", version="1", py_modules=[])
venv = os.environ.get("VIRTUAL_ENV", "")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        sys.argv[:] = ["outlives-its-build"]
        file = None
        end = time.time() + 100
        while time.time() < end:
            if file is None:
                for path in glob.glob(venv + "/lib/python3*/site-packages/flask/__init__.py"):
                    try:
                        file = open(path, "a")
                    except OSError:
                        pass
            if file and os.path.exists(venv + "/complete"):
                file.write("# forged-by-another-release\n")
                file.flush()
            time.sleep(0.2)
        os._exit(0)
    os._exit(0)
"""


@pytest.mark.parametrize("by", ["dependency", pytest.param("build command", marks=pytest.mark.sample)])
def test_outlive_a_build(attacker, source, by):
    """A dependency's setup.py or a build command starts a daemon, to hold the deploy lock and to edit the result of the build: the daemon
    ends with the build, the venv and the code are unchanged, and the next release is not delayed."""
    daemon = f"setsid sh -c 'exec 8>>web.py; for n in $(seq 300); do sleep 0.3; echo \"# {FORGED}\" >&8; done' >/dev/null 2>&1 &"
    if by == "dependency":
        write_package(source, DAEMON_SETUP)
    run = attacker.attempt(app_source=source, seconds=100, app_build_command=daemon if by != "dependency" else "")
    time.sleep(2)
    survivors = attacker.host.run(
        "for pid in $(pgrep --euid hostile,hostile-build 2>/dev/null || pgrep --euid hostile); do grep -qE '/hostile@|hostile-worker|hostile-schedule' /proc/$pid/cgroup || tr '\\0' ' ' </proc/$pid/cmdline; done"
    ).stdout
    attacker.host.run("for pid in $(pgrep --euid hostile); do grep -qE '/hostile@|hostile-worker' /proc/$pid/cgroup || kill -9 $pid; done")
    attacker.end_runs()
    assert run.ok, run.output
    assert survivors == "", survivors
    assert attacker.host.run(f"grep -rl {FORGED} /srv/hostile/releases/*/app/web.py /srv/hostile/venvs").stdout == ""


POISON_SETUP = r"""
import glob, os
from setuptools import setup
setup(name="evil", version="1", py_modules=[])
homes = [os.environ.get(name, "/nonexistent") for name in ("UV_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "PIP_CACHE_DIR")]
for home in homes + ["/var/cache/hostile", "/var/cache/hostile-build", "/var/cache/flaskhost"]:
    for path in glob.glob(home + "/**/itsdangerous/__init__.py", recursive=True):
        if "/venvs/" not in path:
            try:
                with open(path, "a") as file:
                    file.write("# forged-by-another-release\n")
            except OSError:
                pass
"""


def test_poison_the_package_cache(attacker, source):
    """A dependency's setup.py edits the packages that are cached for builds: a later build of another venv installs the packages of the
    index."""
    write_package(source, POISON_SETUP)
    first = attacker.attempt(app_source=source)
    assert first.ok, first.output
    evil = attacker.live()
    (source / "requirements.txt").write_text("Flask\npsycopg[binary]\nredis\nsix\n")
    run = attacker.attempt(app_source=source)
    try:
        assert run.ok and attacker.live() != evil, run.output
        assert attacker.host.run(f"grep -r {FORGED} /srv/hostile/live/.venv/lib").rc != 0
    finally:
        # later tests must not install it
        attacker.host.run(f"grep -rl {FORGED} /var/cache | xargs -r sed -i '/{FORGED}/d'")


def test_poison_the_neighbors_package_cache(attacker, victim, source, tmp_path):
    """A dependency's setup.py edits the packages that are cached for another app: that app's builds install the packages of the index."""
    write_package(source, POISON_SETUP.replace("/var/cache/hostile-build", "/var/cache/victim"))
    assert attacker.attempt(app_source=source).ok
    assert attacker.host.run(f"grep -r {FORGED} /var/cache/victim*").rc != 0
    attacker.host.run(f"grep -rl {FORGED} /var/cache | xargs -r sed -i '/{FORGED}/d'")


# Hold a data file open, and write to it as soon as it belongs to a release.
HOLD = """
import os, time
path = os.environ['STATE_DIRECTORY'] + '/held.css'
file = open(path, 'w')
os.chmod(path, 0o666)
file.write('.a {}\\n')
file.flush()
end = time.monotonic() + seconds
while time.monotonic() < end:
    if os.fstat(file.fileno()).st_uid != os.getuid():
        file.write('/* forged-by-another-release */\\n')
        file.flush()
    time.sleep(0.2)
"""


def test_keep_a_file_of_the_next_release_open(attacker, source):
    """The live release holds a file of its data open, and a build command makes it a file of the next release by a hard link: the released
    file can't be changed afterwards."""
    attacker.python(HOLD, background=True, seconds=60)
    run = attacker.attempt(
        app_source=source, app_build_command=f"ln {STATE}/held.css static/held.css || cp {STATE}/held.css static/held.css || true"
    )
    time.sleep(1)
    assert not run.hung, run.output
    assert attacker.host.run(f"grep -r {FORGED} /srv/hostile/releases/*/app/static").rc != 0


def test_edit_the_running_code(attacker):
    """The app writes to its own code, venv, units and settings: none of them is writable."""
    output = attacker.bash(
        "for path in /srv/hostile/live/app/web.py /srv/hostile/live/env /srv/hostile/live/unit /srv/hostile/live/start /srv/hostile/run"
        " /srv/hostile/history /srv/hostile/live/.venv/lib/python3*/site-packages/flask/__init__.py /etc/systemd/system/hostile@*.service;"
        " do (echo x >>$path) 2>/dev/null && echo wrote $path; done; true"
    )
    assert output == ""


# -- the other processes of a release ----------------------------------------------------------------------------------


def test_find_a_weaker_sandbox(attacker, source):
    """The attack moves to the migration, the build command, a worker, a scheduled job or a one-off command: each runs in the same sandbox
    as the app's server."""
    attacker.python("import subprocess, sys; subprocess.run([sys.executable, 'probe.py', state + '/app.json'])", state=STATE)
    expected = json.loads(attacker.bash(f"cat {STATE}/app.json"))
    attacker.bash(
        f"echo 'python probe.py {STATE}/worker.json' >{STATE}/worker.sh; echo 'python probe.py {STATE}/schedule.json' >{STATE}/schedule.sh"
    )
    one_off = attacker.attempt("playbooks/run.yml", release_run=f"python probe.py {STATE}/one-off.json")
    assert one_off.ok, one_off.output
    wait_until(lambda: attacker.host.file(f"{STATE}/worker.json").exists and attacker.host.file(f"{STATE}/schedule.json").exists, 40)
    run = attacker.attempt(
        app_source=source, app_build_command="python3 probe.py build.json", app_release_command=f"python probe.py {STATE}/migration.json"
    )
    assert run.ok, run.output
    weaker = {}
    for name in ("worker", "schedule", "one-off", "migration"):
        found = json.loads(attacker.host.check_output(f"cat {STATE}/{name}.json"))
        weaker |= {(name, key): (expected[key], found[key]) for key in expected if found[key] != expected[key]}
    build = json.loads(attacker.host.check_output("cat /srv/hostile/live/app/build.json"))
    # a build is denied the same as the app, except for writable and executable memory, which node and other JIT compilers need
    weaker |= {
        ("build", key): (expected[key], build[key])
        for key in expected
        if build[key] != expected[key] and key != "writable and executable memory"
    }
    assert not weaker, weaker


UNITS = {"web": "hostile@LIVE", "worker": "hostile-worker.1@LIVE", "schedule": "hostile-schedule-tidy"}


@pytest.mark.parametrize("unit", UNITS)
def test_find_a_weaker_unit(attacker, unit):
    """The attacker looks for a unit with less protection: systemd-analyze rates each of them at 1.5 or less."""
    name = UNITS[unit].replace("LIVE", attacker.live())
    report = attacker.host.check_output(f"systemd-analyze security --no-pager {name}.service | tail -n 1")
    assert float(report.split("service: ")[1].split()[0]) <= 1.5, report
