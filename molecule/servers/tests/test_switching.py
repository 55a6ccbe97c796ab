"""A change of the server is a release like any other."""

import pytest
from conftest import app_of
from sites import SERVERS, Load

OTHERS = [{"app_server": server} for server in SERVERS if server not in ("gunicorn", "uvicorn")]
OTHERS += [{"gunicorn_worker_class": kind} for kind in ("gevent", "sync")]
SWITCHES = [(age, other) for age in ("older", "newer") for other in OTHERS]
SAMPLE = ("newer", {"app_server": "granian"})


def command_of(site):
    return site.host.check_output(f"cat /proc/{site.main_process()}/cmdline")


@pytest.mark.parametrize(
    ("age", "other"),
    [
        pytest.param(*switch, marks=pytest.mark.sample if switch == SAMPLE else (), id="-".join([switch[0], *switch[1].values()]))
        for switch in SWITCHES
    ],
)
def test_a_live_app_switches_to_another_server_and_is_rolled_back(age, other):
    site = app_of(f"gunicorn-{age}")
    load = Load(site, seconds=120, path="/", post="/length")
    run = site.play("playbooks/release.yml", **other)
    other_command = command_of(site)
    log = site.host.check_output(f"journalctl --namespace=+gunicorn --unit gunicorn@{site.live()} --no-pager --output=cat")
    back = site.play("playbooks/rollback.yml")
    answers, errors = load.stop()
    print(f"{site.name}, {other}: {answers}, errors {errors}")
    assert run.ok and back.ok, run.output + back.output
    assert ("gunicorn.conf.py" in other_command) is ("gunicorn_worker_class" in other)
    assert "gunicorn.conf.py" in command_of(site)
    if kind := other.get("gunicorn_worker_class"):
        assert f"Using worker: {kind}" in log
    assert not errors and set(answers) == {200} and sum(answers.values()) > 200, answers
