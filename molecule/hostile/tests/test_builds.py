"""The attacker interferes with builds, migrations and the next release: as the live release, as a dependency, as a build command."""

import json
import re
import time

import pytest
from conftest import STATE, write_package
from sites import wait_until

MARKER = "marker-of-the-next-release"
FORGED = "forged-by-another-release"

# Watches all processes of other units that it can see: reads their environment, opens their memory, and writes into what they build.
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
            # a scheduled job of the live release is no secret to it
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
# a dependency that takes a while to be built
SLOW_SETUP = """
import time
from setuptools import setup
time.sleep(3)
setup(name="evil", version="1", py_modules=[])
"""


@pytest.mark.sample
def test_read_and_forge_the_next_release_while_it_is_built(attacker, source):
    """The live release watches the next one's venv, build command and migration: it can't read their environment or their memory, and it can't
    write to what they make."""
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
    # of the next release's own processes, see the next test
    told = [what for what in loot if not re.search(r" in hostile(@|-worker|-schedule)", what)]
    assert not told, told
    assert attacker.host.run(f"grep -rl {FORGED} /srv/hostile/releases/*/app /srv/hostile/venvs").stdout == ""


def test_read_the_secrets_of_the_next_release_before_it_is_live(attacker, source):
    """The live release watches the next one's servers, workers and scheduled jobs as they start: it can't read their environment or their memory."""
    attacker.python(SPY, background=True, seconds=60, marker=MARKER, forged=FORGED, live=attacker.live())
    run = attacker.attempt(app_source=source, app_secrets={"SECRET_KEY": MARKER}, app_processes={"worker": 2}, release_watch_seconds=5)
    loot = json.loads(attacker.host.check_output(f"cat {STATE}/loot.json"))
    assert run.ok, run.output
    assert not loot, loot


# To processes that are younger than itself, whether it sees them or not: numbers go up.
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
def test_block_the_next_release_while_it_is_built(attacker, source, step):
    """The live release sends SIGSTOP to every process that is younger than itself, to halt the next one's build: the build is not halted."""
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
    # the server of the next release is another test's
    assert not run.hung and "-build" not in stopped and "venv" not in stopped and "sleep" not in stopped, run.output + stopped
    built = attacker.host.check_output("ls -t /srv/hostile/releases | head -n 1")
    assert attacker.host.file(f"/srv/hostile/releases/{built}/manifest.json").exists or run.ok, run.output


@pytest.mark.parametrize("step", ["migration", "server"])
def test_block_the_next_release_when_it_starts(attacker, source, step):
    """The live release sends SIGSTOP to the next one's migration and servers, whose user it is too: a host with systemd 257 or newer doesn't let
    it; on an older one the release fails within its time limits, and the live one, which is the attacker's, stays."""
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
    """A dependency's setup.py, or a build command, leaves a daemon behind, to hold the deploy's lock and to edit what was built: it ends with its
    build, the venv and the code are as they were built, and the next release is not held up."""
    daemon = f"setsid sh -c 'exec 8>>web.py; for n in $(seq 300); do sleep 0.3; echo \"# {FORGED}\" >&8; done' >/dev/null 2>&1 &"
    if by == "dependency":
        write_package(source, DAEMON_SETUP)
    run = attacker.attempt(app_source=source, seconds=100, app_build_command=daemon if by != "dependency" else "")
    time.sleep(2)
    left = attacker.host.run(
        "for pid in $(pgrep --euid hostile,hostile-build 2>/dev/null || pgrep --euid hostile); do grep -qE '/hostile@|hostile-worker|hostile-schedule' /proc/$pid/cgroup || tr '\\0' ' ' </proc/$pid/cmdline; done"
    ).stdout
    attacker.host.run("for pid in $(pgrep --euid hostile); do grep -qE '/hostile@|hostile-worker' /proc/$pid/cgroup || kill -9 $pid; done")
    attacker.end_runs()
    assert run.ok, run.output
    assert left == "", left
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
    """A dependency's setup.py edits the packages that are cached for builds: a later build, of another venv, installs what the index has."""
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
        # nobody after this test is to install it
        attacker.host.run(f"grep -rl {FORGED} /var/cache | xargs -r sed -i '/{FORGED}/d'")


def test_poison_the_neighbors_package_cache(attacker, victim, source, tmp_path):
    """The same, for another app of the host: its builds install what the index has."""
    write_package(source, POISON_SETUP.replace("/var/cache/hostile-build", "/var/cache/victim"))
    assert attacker.attempt(app_source=source).ok
    assert attacker.host.run(f"grep -r {FORGED} /var/cache/victim*").rc != 0
    attacker.host.run(f"grep -rl {FORGED} /var/cache | xargs -r sed -i '/{FORGED}/d'")


# Holds a file of its data open, and writes to it as soon as it has become one of a release.
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
    """A build command makes a file of the app's data, which the live release holds open, a file of its code by a hard link: what is released
    can't be changed afterwards."""
    attacker.python(HOLD, background=True, seconds=60)
    run = attacker.attempt(
        app_source=source, app_build_command=f"ln {STATE}/held.css static/held.css || cp {STATE}/held.css static/held.css || true"
    )
    time.sleep(1)
    assert not run.hung, run.output
    assert attacker.host.run(f"grep -r {FORGED} /srv/hostile/releases/*/app/static").rc != 0


def test_edit_the_code_that_runs(attacker):
    """The app writes to its own code, its venv, its units and its settings: nothing is writable."""
    told = attacker.bash(
        "for path in /srv/hostile/live/app/web.py /srv/hostile/live/env /srv/hostile/live/unit /srv/hostile/live/start /srv/hostile/run"
        " /srv/hostile/history /srv/hostile/live/.venv/lib/python3*/site-packages/flask/__init__.py /etc/systemd/system/hostile@*.service;"
        " do (echo x >>$path) 2>/dev/null && echo wrote $path; done; true"
    )
    assert told == ""


# -- the other processes of a release ----------------------------------------------------------------------------------


def test_find_a_weaker_sandbox(attacker, source):
    """The attack moves to the migration, the build command, a worker, a scheduled job or a one-off command: each is in the same sandbox as the
    app's own server."""
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
        weaker |= {(name, what): (expected[what], found[what]) for what in expected if found[what] != expected[what]}
    build = json.loads(attacker.host.check_output("cat /srv/hostile/live/app/build.json"))
    # what is denied to the app is denied to a build, but for code that node and its like write for themselves
    weaker |= {
        ("build", what): (expected[what], build[what]) for what in expected if build[what] != expected[what] and what != "writable code"
    }
    assert not weaker, weaker


UNITS = {"web": "hostile@LIVE", "worker": "hostile-worker.1@LIVE", "schedule": "hostile-schedule-tidy"}


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_judged_alike(attacker, unit):
    """The attacker looks for a unit with less protection: systemd-analyze finds each of them at 1.5 or less."""
    name = UNITS[unit].replace("LIVE", attacker.live())
    report = attacker.host.check_output(f"systemd-analyze security --no-pager {name}.service | tail -n 1")
    assert float(report.split("service: ")[1].split()[0]) <= 1.5, report
