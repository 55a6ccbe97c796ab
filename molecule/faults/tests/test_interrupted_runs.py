"""Interrupted runs: the live release keeps serving, and a rerun reaches the state of an uninterrupted run."""

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
    trial.expected = trial.fingerprint()
    yield trial
    # restore nginx's settings
    assert site.play("deploy.yml").ok


@pytest.mark.parametrize("task", [9, 17, 25, 32, 38, 42])
def test_a_killed_run(trial, load, task):
    """Ansible is killed (`kill -9`) after one of its tasks: a rerun reaches the same files, modes, owners, units, firewall rules and link
    as an uninterrupted run. (`make test-kills` tries every task of a release and of a first deploy.)"""
    load.nginx_is_reloaded = True
    assert not attempt(trial, task, trial.expected)


def break_connections(site):
    """Kill the host's end of every ssh connection."""
    return lambda process: site.host.check_output("pkill -KILL --full '^sshd.*: root'")


SLOW_START = "\nimport time\ntime.sleep(3)\n"


@pytest.mark.parametrize(
    ("step", "slow_settings"),
    [
        (BUILD, {}),
        ("release/migrate/release_job", {"app_release_command": "sleep 3; flask --app sample_app db upgrade"}),
        ("release/start/release_start", {}),
        pytest.param("release/activate/release_activate", {"release_watch_seconds": 4}, marks=pytest.mark.sample),
    ],
)
def test_a_broken_connection(fault, step, slow_settings):
    """The ssh connection breaks during a task: the host finishes that task, and the next run waits for it, then finishes the release."""
    fault.append("sample_app/pages.py", SLOW_START)
    release = fault.change("requirements.txt") | slow_settings
    ok, output = during(fault.site, step, break_connections(fault.site), **release)
    assert not ok and "UNREACHABLE" in output, output
    run = fault.site.play("playbooks/release.yml", **release)
    assert run.ok and run.reports("but that run died"), run.output
    assert fault.site.live() != fault.before
    again = fault.site.play("playbooks/release.yml", **release)
    assert again.ok and again.changed == 0, again.output


@pytest.mark.sample
def test_two_runs_at_once(fault):
    """A second run starts during another one: it fails, reports who holds the lock, since when and for what, and changes nothing."""
    second = []

    def start_second(_process):
        second.append(fault.release_good())

    ok, output = during(fault.site, "release/activate/release_activate", start_second, **fault.change(), release_watch_seconds=20)
    assert ok, output
    assert not second[0].ok and second[0].changed == 0
    assert second[0].reports("has held the deploy lock since", "UTC: releasing", str(fault.source), "Nothing was changed"), second[0].output
    assert f"now serves release {fault.site.live()}." in " ".join(output.split())


def test_a_lock_of_a_dead_run(fault):
    """The run that holds the lock has died: the next run takes over the lock, warns, and finishes the work."""
    release = fault.change("requirements.txt")
    during(fault.site, BUILD, kill, **release)
    run = fault.site.play("playbooks/release.yml", **release)
    assert run.ok and run.reports("The deploy lock was held by", str(fault.source), "but that run died. This run takes over the lock"), (
        run.output
    )


def test_status_and_doctor_after_a_dead_run(fault):
    """A run has died: status and doctor report its lock, and doctor reports the remedy."""
    during(fault.site, BUILD, kill, **fault.change("requirements.txt"))
    run = fault.site.play("playbooks/doctor.yml", app_domains=["localhost"])
    assert run.ok and run.reports("deploy lock of a dead run", str(fault.source), "A run was interrupted. Run deploy.yml"), run.output
    assert fault.site.play("playbooks/status.yml").reports("deploy lock of a dead run", str(fault.source))
