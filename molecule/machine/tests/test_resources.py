"""Apps that use up memory or processes, and attacks of the scenario `hostile`, under AppArmor in the mode `enforce`."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from sites import PROJECT, Run, Site, wait_until

LEAK = """
import os, threading
def leak():
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 16)) * 16)
threading.Thread(target=leak, daemon=True).start()
"""


@pytest.fixture(scope="module")
def hostile(site):
    """An app that runs any code, and a neighbor, beside the sample app."""
    both = SimpleNamespace(name="hostile", inventory=PROJECT / "molecule/inventory/machine-attacked.yml", environment={})
    run = Run(both, "deploy.yml", ("--limit", f"hostile-{site.machine},victim-{site.machine}"), {})
    assert run.ok, run.output
    return Site(f"hostile-{site.machine}", app="hostile", domain="hostile.test")


@pytest.fixture(autouse=True)
def bystanders(site, hostile):
    """sshd and the site of another app, with the same processes as before."""
    before = site.host.check_output("systemctl show --value --property=MainPID ssh.service"), site.main_process()
    yield
    assert site.is_healthy()
    assert before == (site.host.check_output("systemctl show --value --property=MainPID ssh.service"), site.main_process())
    wait_until(lambda: hostile.get("/tag/alive")[0] == 200, 60)


def run_code(app, language, code):
    return app.get("/run", "--data-urlencode", f"language={language}", "--data-urlencode", f"code={code}", "--data", "background=1")


def out_of_memory(site, since):
    log = site.host.check_output(f"journalctl --dmesg --no-pager --output=cat --since=@{since}")
    return [line for line in log.splitlines() if "oom-kill:" in line]


def test_an_app_that_leaks_is_killed_alone(site, hostile):
    """Its unit reaches MemoryMax: the kernel kills a process of this unit, and systemd starts the app again."""
    since = site.host.check_output("date +%s")
    run_code(hostile, "python", LEAK + "import time\ntime.sleep(600)")
    wait_until(lambda: out_of_memory(site, since), 60)
    assert all("CONSTRAINT_MEMCG" in line and "/hostile@" in line for line in out_of_memory(site, since))


def test_a_fork_bomb_ends_at_the_limit_of_tasks(site, hostile):
    run_code(hostile, "bash", "bomb() { bomb | bomb & }; bomb; sleep 60")
    unit = f"hostile@{hostile.live()}"
    limit = int(site.host.check_output(f"systemctl show --value --property=TasksMax {unit}"))
    wait_until(lambda: int(site.host.check_output(f"systemctl show --value --property=TasksCurrent {unit}")) > limit * 0.9, 30)
    assert site.is_healthy()
    site.host.check_output(f"systemctl kill --signal=KILL {unit}")


def test_a_release_that_needs_more_memory_names_the_setting(site):
    live = site.live()
    run = site.play("playbooks/release.yml", systemd_memory_max="24M")
    assert not run.ok and run.reports("systemd_memory_max"), run.output
    assert site.live() == live


def test_when_the_host_runs_out_of_memory_the_app_is_killed(site, hostile):
    """Without a limit of its own, the app that leaks is still the first that the kernel kills: OOMScoreAdjust."""
    site.host.check_output(f"swapoff --all && systemctl set-property --runtime hostile@{hostile.live()} MemoryMax=infinity")
    since = site.host.check_output("date +%s")
    run_code(hostile, "python", LEAK + "import time\ntime.sleep(600)")
    wait_until(lambda: out_of_memory(site, since), 60)
    assert all("global_oom" in line and "/hostile@" in line for line in out_of_memory(site, since))


def test_attacks_fail_as_in_a_container(hostile):
    """S1, S4, S6 and S20 of the scenario `hostile`."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "machine", str(PROJECT / "molecule/hostile/tests")],
        env={**os.environ, "FLASKHOST_ATTACKED": hostile.machine, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
