"""One clear message, before anything is touched where it can be known there; what is live goes on."""

import pytest

PREFLIGHT = [
    ("worker rq worker\n", {}, "app_source", "line 1 of its Procfile, 'worker rq worker', is no process"),
    ("worker: echo 'x\n", {}, "app_source", "the command of 'worker' in its Procfile is none that a shell understands"),
    ("web: x\n", {"app_processes": {"wroker": 1}}, "app_processes is {'wroker': 1}", "no type of process 'wroker'. It has web."),
    ("web: x\n", {}, "app_processes is {'worker': 2}", "no type of process 'worker'. It has web."),
    (None, {}, "app_processes is {'worker': 2}", "the source has no Procfile at its top to say how to run worker"),
]


@pytest.mark.parametrize(("procfile", "settings", "name", "words"), PREFLIGHT)
def test_a_procfile_that_can_not_be_followed(production, source, procfile, settings, name, words):
    (source / "Procfile").unlink() if procfile is None else (source / "Procfile").write_text(procfile)
    before = production.live()
    settings = {"app_release_command": "", **settings}
    run = production.play("deploy.yml", app_source=str(source), **settings)
    assert not run.ok and run.changed == 0 and run.tells("One setting needs your attention. No host was touched.", name, words), run.output
    # a release alone, without preflight, says it too
    run = production.release(source, **settings)
    assert not run.ok and run.changed == 0 and run.tells(words), run.output
    assert production.live() == before and not production.host.file("/srv/sample/lock").exists


ELSEWHERE = {"app_services": ["redis"]}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost/sample", "DATABASE_URL leads nowhere: it is no URL"),
        ("postgresql://ann:hun/ter2@db/sample", "what stands for its port is none"),
        ("postgresql://ann:hunter2@127.0.0.1:9/sample", "production can't reach the database at 127.0.0.1:9: connection refused"),
        ("postgresql://ann:hunter2@db.invalid/sample", "db.invalid:5432: no address is known for this name"),
        ("postgresql://ann:hunter2@127.0.0.1:443/sample", "what answers there is no PostgreSQL"),
    ],
)
def test_a_database_url_that_leads_nowhere(production, url, words):
    before = production.live()
    run = production.play("deploy.yml", **ELSEWHERE, app_secrets={"SECRET_KEY": "x", "DATABASE_URL": url})
    assert not run.ok and run.changed == 0 and run.tells(words), run.output
    assert "ter2" not in run.output and production.live() == before


def test_a_database_that_does_not_let_it_in(production):
    """Only it knows."""
    before = production.live()
    url = "postgresql:///nothing?host=/run/postgresql"
    run = production.play("playbooks/release.yml", **ELSEWHERE, app_secrets={"SECRET_KEY": "x", "DATABASE_URL": url})
    assert not run.ok and run.tells("The database doesn't let it in: see the user, the password and the database"), run.output
    assert production.live() == before and production.get("/healthz")[0] == 200


def test_a_time_that_is_none(production):
    run = production.play("deploy.yml", app_schedule=[{"name": "tidy", "command": "true", "at": "every day"}])
    assert not run.ok and run.changed == 0 and run.tells("'tidy' is due at 'every day', which systemd on production"), run.output


def test_a_backup_without_a_place(production):
    run = production.play("deploy.yml", backup_folder="", backup_s3_url="")
    assert not run.ok and run.changed == 0 and run.tells("backups need a place"), run.output
