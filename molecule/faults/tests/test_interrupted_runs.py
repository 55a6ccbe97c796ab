"""Runs that are cut short: what was live serves on, and a plain rerun ends where an undisturbed run ends."""

import pytest
from kill_at_every_task import Release, attempt, play
from sites import BUILD, during, kill

pytestmark = pytest.mark.usefixtures("load")


@pytest.fixture(scope="module")
def trial(site, tmp_path_factory):
    trial = Release(site, tmp_path_factory.mktemp("trials"))
    trial.prepare()
    _tasks, ok, output = play(trial)
    assert ok, output
    trial.wanted = trial.fingerprint()
    yield trial
    # nginx's settings as they were
    assert site.play("deploy.yml").ok


@pytest.mark.parametrize("task", [9, 17, 25, 32, 38, 42])
def test_a_run_that_is_killed(trial, load, task):
    """Ansible is killed (`kill -9`) after one of its tasks: a plain rerun ends with the same files, modes, owners, units, firewall and
    link as an undisturbed run. (`make test-kills` tries every task, of a release and of a first deploy.)"""
    load.nginx_is_reloaded = True
    assert not attempt(trial, task, trial.wanted)


def cut(site):
    """The host's end of every ssh connection is gone at once."""
    return lambda process: site.host.check_output("pkill -KILL --full '^sshd.*: root'")


SLOW_START = "\nimport time\ntime.sleep(3)\n"


@pytest.mark.parametrize(
    ("step", "slowly"),
    [
        (BUILD, {}),
        ("release/migrate/release_job", {"app_release_command": "sleep 3; flask --app sample_app db upgrade"}),
        ("release/start/release_start", {}),
        pytest.param("release/activate/release_activate", {"release_watch_seconds": 4}, marks=pytest.mark.sample),
    ],
)
def test_a_connection_that_breaks(fault, step, slowly):
    """The ssh connection breaks in mid-task: the host ends that step, the next run waits for it, and finishes the release."""
    fault.append("sample_app/pages.py", SLOW_START)
    release = fault.change("requirements.txt") | slowly
    ok, output = during(fault.site, step, cut(fault.site), **release)
    assert not ok and "UNREACHABLE" in output, output
    run = fault.site.play("playbooks/release.yml", **release)
    assert run.ok and run.tells("whose run has died"), run.output
    assert fault.site.live() != fault.before
    again = fault.site.play("playbooks/release.yml", **release)
    assert again.ok and again.changed == 0, again.output


@pytest.mark.sample
def test_two_runs_at_once(fault):
    """A second run starts while one is at work: it is told who holds the lock, since when and for what, and touches nothing."""
    told = []

    def release_too(_process):
        told.append(fault.release_good())

    ok, output = during(fault.site, "release/activate/release_activate", release_too, **fault.change(), release_watch_seconds=20)
    assert ok, output
    assert not told[0].ok and told[0].changed == 0
    assert told[0].tells("has been at work here since", "UTC: releasing", str(fault.source), "Nothing was touched"), told[0].output
    assert f"serves release {fault.site.live()} from now on" in " ".join(output.split())


@pytest.mark.sample
def test_a_lock_whose_holder_died(fault):
    """The run that holds the lock has died: the next takes it over, with a word about it, and does what is left to do."""
    release = fault.change("requirements.txt")
    during(fault.site, BUILD, kill, **release)
    run = fault.site.play("playbooks/release.yml", **release)
    assert run.ok and run.tells("The lock was still held by", str(fault.source), "whose run has died. It was taken over"), run.output


def test_what_a_dead_run_left_is_told(fault):
    """A run died: status and doctor say so, and what to do."""
    during(fault.site, BUILD, kill, **fault.change("requirements.txt"))
    run = fault.site.play("playbooks/doctor.yml", app_domains=["localhost"])
    assert run.ok and run.tells("the lock of", str(fault.source), "A run ended midway. Run deploy.yml"), run.output
    assert fault.site.play("playbooks/status.yml").tells("the lock of", str(fault.source))
