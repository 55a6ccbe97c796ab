"""The same app in a container: its database, queue, workers and backups work as before."""

import pytest
from test_backups import test_a_restore_brings_back_every_row_and_file  # noqa: F401
from test_processes import (  # noqa: F401
    test_a_one_off_command_returns_its_exit_code,
    test_a_one_off_command_runs_as_the_app,
    test_a_scheduled_job_runs_in_the_live_release,
    test_a_schema_change_under_load_loses_no_request_and_no_job,
    test_all_processes_start_after_a_reboot,
    test_workers_process_the_jobs_that_visitors_create,
)

pytestmark = pytest.mark.usefixtures("s3")


@pytest.fixture(scope="module")
def site(production):
    """Production, which runs in containers from here on; the imported tests use it too."""
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


def test_all_processes_run_in_containers(site):
    live = site.live()
    names = site.host.check_output("podman ps --format '{{.Names}}'").split()
    assert {f"sample-web-{live}", f"sample-worker.1-{live}", f"sample-worker.2-{live}"} <= {*names}


def test_a_distribution_without_quadlet_is_rejected(staging):
    live = staging.live()
    run = staging.play("deploy.yml", app_runtime="container")
    assert not run.ok and run.changed == 0, run.output
    assert run.reports(
        "app_runtime is container, but staging runs Debian 12, and podman in that version has no quadlet", "Nothing was changed"
    ), run.output
    assert staging.live() == live
