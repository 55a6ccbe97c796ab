"""The same app in a container: its database, its queue, its workers and its backups are as they were."""

import pytest
from test_backups import test_every_row_and_file_comes_back  # noqa: F401
from test_processes import (  # noqa: F401
    test_a_one_off_command_runs_as_the_app,
    test_a_scheduled_command_runs_in_the_live_release,
    test_a_schema_changes_under_load_and_no_request_and_no_job_is_lost,
    test_all_is_back_after_a_reboot,
    test_its_end_is_the_command_s,
    test_workers_do_what_visitors_leave_to_them,
)

pytestmark = pytest.mark.usefixtures("s3")


@pytest.fixture(scope="module")
def site(production):
    """Production, from here on in containers; the tests that are imported above meet it so."""
    production.environment["FLASKHOST_RUNTIME"] = "container"
    venv = production.live()
    run = production.play("deploy.yml")
    assert run.ok and production.live() != venv, run.output
    again = production.play("deploy.yml")
    assert again.ok and again.changed == 0, again.output
    yield production
    del production.environment["FLASKHOST_RUNTIME"]
    back = production.play("deploy.yml")
    assert back.ok and production.live() == venv, back.output


def test_all_processes_are_containers(site):
    live = site.live()
    names = site.host.check_output("podman ps --format '{{.Names}}'").split()
    assert {f"sample-web-{live}", f"sample-worker.1-{live}", f"sample-worker.2-{live}"} <= {*names}


def test_a_distribution_without_quadlet_is_told(staging):
    live = staging.live()
    run = staging.play("deploy.yml", app_runtime="container")
    assert not run.ok and run.changed == 0, run.output
    assert run.tells("app_runtime: staging runs Debian 12, whose podman has no quadlet", "Nothing was changed"), run.output
    assert staging.live() == live
