"""Another server is a release like any other."""

import pytest
from conftest import app_of
from sites import SERVERS, Load

LOOK = (
    'pid=$(systemctl show --value --property=MainPID gunicorn@$(basename $(readlink /srv/gunicorn/live))); tr "\\0" " " </proc/$pid/cmdline'
)


@pytest.mark.parametrize("server", [server for server in SERVERS if server not in ("gunicorn", "uvicorn")])
@pytest.mark.parametrize("age", ["older", "newer"])
def test_a_live_app_gets_another_server_and_goes_back(age, server):
    site = app_of(f"gunicorn-{age}")
    load = Load(site, seconds=120, path="/", post="/length")
    run = site.play("playbooks/release.yml", app_server=server)
    there = site.host.check_output(LOOK)
    back = site.play("playbooks/rollback.yml")
    answers, errors = load.stop()
    print(f"{site.name}, {server}: {answers}, errors {errors}")
    assert run.ok and back.ok, run.output + back.output
    assert "gunicorn.conf.py" not in there and "gunicorn.conf.py" in site.host.check_output(LOOK)
    assert not errors and set(answers) == {200} and sum(answers.values()) > 200, answers
