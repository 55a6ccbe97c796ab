"""Invalid settings get one clear message, where possible before anything changes. The live release keeps serving."""

import pytest

PREFLIGHT = [
    ("worker rq worker\n", {}, "app_source", "line 1 of its Procfile, 'worker rq worker', is not valid"),
    ("worker: echo 'x\n", {}, "app_source", "the command of 'worker' in its Procfile is not a valid shell command"),
    ("web: x\n", {"app_processes": {"wroker": 1}}, "app_processes is {'wroker': 1}", "no process type 'wroker'. It has web."),
    ("web: x\n", {}, "app_processes is {'worker': 2}", "no process type 'worker'. It has web."),
    (None, {}, "app_processes is {'worker': 2}", "the source has no Procfile at its top, which must define worker"),
]


@pytest.mark.parametrize(("procfile", "settings", "name", "message"), PREFLIGHT)
def test_an_invalid_procfile(production, source, procfile, settings, name, message):
    (source / "Procfile").unlink() if procfile is None else (source / "Procfile").write_text(procfile)
    before = production.live()
    settings = {"app_release_command": "", **settings}
    run = production.play("deploy.yml", app_source=str(source), **settings)
    assert not run.ok and run.changed == 0 and run.reports("One setting needs your attention. No host was touched.", name, message), (
        run.output
    )
    # release.yml, which runs without preflight, reports it too
    run = production.release(source, **settings)
    assert not run.ok and run.changed == 0 and run.reports(message), run.output
    assert production.live() == before and not production.host.file("/srv/sample/lock").exists


WITHOUT_POSTGRESQL = {"app_services": ["redis"]}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost/sample", "DATABASE_URL is invalid: it is not a URL"),
        ("postgresql://ann:hun/ter2@db/sample", "the port in the URL is not a number"),
        ("postgresql://ann:hunter2@127.0.0.1:9/sample", "production can't reach the database at 127.0.0.1:9: connection refused"),
        ("postgresql://ann:hunter2@db.invalid/sample", "db.invalid:5432: no address found for this name"),
        ("postgresql://ann:hunter2@127.0.0.1:443/sample", "the service is not PostgreSQL"),
    ],
)
def test_an_unusable_database_url(production, url, message):
    before = production.live()
    run = production.play("deploy.yml", **WITHOUT_POSTGRESQL, app_secrets={"SECRET_KEY": "x", "DATABASE_URL": url})
    assert not run.ok and run.changed == 0 and run.reports(message), run.output
    assert "ter2" not in run.output and production.live() == before


def test_a_database_that_rejects_the_login(production):
    """Preflight can't detect this: only the database can."""
    before = production.live()
    url = "postgresql:///nothing?host=/run/postgresql"
    run = production.play("playbooks/release.yml", **WITHOUT_POSTGRESQL, app_secrets={"SECRET_KEY": "x", "DATABASE_URL": url})
    assert not run.ok and run.reports("The database rejects the login. Check the user, password and database name"), run.output
    assert production.live() == before and production.get("/healthz")[0] == 200


def test_an_invalid_schedule(production):
    run = production.play("deploy.yml", app_schedule=[{"name": "tidy", "command": "true", "at": "every day"}])
    assert (
        not run.ok and run.changed == 0 and run.reports("app_schedule: systemd on production rejects 'every day', the schedule of 'tidy'")
    ), run.output


def test_backups_without_a_repository(production):
    run = production.play("deploy.yml", backup_directory="", backup_s3_url="")
    assert not run.ok and run.changed == 0 and run.reports("backups need a destination"), run.output
