"""Workers, scheduled jobs and one-off commands: they are sandboxed like the server, and belong to the release."""

import time

import pytest
from conftest import change, counts, python, workers
from sites import Load, wait_until

SLOW = """
import os
from redis import Redis
from rq import Queue
Queue(connection=Redis.from_url(os.environ["REDIS_URL"])).enqueue("time.sleep", 12, job_id="slow", result_ttl=600)
"""
SLOW_STATE = """
import os
from redis import Redis
from rq.job import Job
print(Job.fetch("slow", connection=Redis.from_url(os.environ["REDIS_URL"])).get_status().value)
"""
CACHE = """
import os, socket
with socket.socket(socket.AF_UNIX) as cache:
    cache.connect(os.environ["MEMCACHED_SOCKET"])
    cache.sendall(b"set color 0 60 3\\r\\nred\\r\\nget color\\r\\nquit\\r\\n")
    print(cache.makefile().read().split())
"""
MIGRATION = """revision = "c1"
down_revision = "2c1e5d7a9b40"

import sqlalchemy as sa
from alembic import op


def upgrade():
    op.add_column("entry", sa.Column("length", sa.Integer(), nullable=True))


def downgrade():
    op.drop_column("entry", "length")
"""
JOB = """

def measure(entry_id):
    entry = db.session.get(Entry, entry_id)
    entry.length = len(entry.text)
    db.session.commit()
    count_words(entry_id)
"""

APP = "from sample_app import create_app; from sample_app.models import *; a = create_app(); a.app_context().push(); "


def failed_jobs(site):
    return site.host.check_output("redis-cli -s /run/redis-sample/redis.sock zcard rq:failed:default")


def expected(site, number=2):
    return [f"sample-worker.{n}@{site.live()}.service" for n in range(1, number + 1)]


@pytest.mark.sample
def test_workers_process_the_jobs_that_visitors_create(site):
    assert workers(site) == expected(site)
    count = counts(site)[0]
    site.write("three short words")
    wait_until(lambda: counts(site) == (count + 1, count + 1))
    assert "3 words" in site.get("/")[1]


def test_workers_and_scheduled_jobs_are_hardened_like_the_server(site):
    for unit in [*expected(site), "sample-schedule-tidy.service"]:
        report = site.host.check_output(f"systemd-analyze security --no-pager {unit} | tail -n 1")
        assert float(report.split("service: ")[1].split()[0]) <= 1.5, report
    pid = site.main_process(expected(site)[0])
    assert site.host.check_output(f"ps --no-headers --format user,comm --pid {pid}").split() == ["sample", "python"]


def test_only_the_app_can_use_its_database_and_queue(site):
    ports = site.host.check_output("ss -Hltn | awk '{print $4}' | sed 's/.*://' | sort -un").split()
    assert not {"5432", "6379"} & {*ports}
    ping = "redis-cli -s /run/redis-sample/redis.sock ping"
    assert site.host.check_output(f"runuser -u sample -- {ping}") == "PONG"
    for user in "nobody", "www-data":
        assert site.host.run(f"runuser -u {user} -- {ping}").stdout.strip() != "PONG"
    if site.name == "production":
        url = "postgresql:///sample?host=/run/postgresql"
        assert site.host.check_output(f"runuser -u sample -- psql -Atc 'select current_user' '{url}'") == "sample"
        for user, target in ("nobody", url), ("www-data", f"{url}&user=sample"), ("sample", url.replace("/sample", "/postgres")):
            assert site.host.run(f"runuser -u {user} -- psql -c 'select 1' '{target}'").rc != 0, (user, target)


def test_only_the_app_can_use_its_cache(site):
    assert python(site, CACHE).strip() == "['STORED', 'VALUE', 'color', '0', '3', 'red', 'END']"
    assert "11211" not in site.host.check_output("ss -Hltun")
    for user in "nobody", "www-data":
        query = f"MEMCACHED_SOCKET=/run/memcached-sample/memcached.sock runuser -u {user} -- python3 -c '{CACHE}'"
        assert "PermissionError" in site.host.run(query).stderr
    # systemd restarts it, empty, and the app can use it again
    site.host.check_output("systemctl kill --signal=KILL memcached-sample")
    wait_until(lambda: site.host.service("memcached-sample").is_running, 20)
    assert "'red'" in python(site, CACHE)


@pytest.mark.sample
def test_a_schema_change_under_load_loses_no_request_and_no_job(site, source):
    """The new code enqueues a job that the previous release doesn't have, and writes to a new column."""
    (source / "migrations/versions/c1_length.py").write_text(MIGRATION)
    models, jobs = source / "sample_app/models.py", source / "sample_app/jobs.py"
    models.write_text(models.read_text().replace("    written =", "    length = db.Column(db.Integer)\n    written ="))
    jobs.write_text(jobs.read_text().replace("enqueue(count_words,", "enqueue(measure,") + JOB)
    python(site, SLOW)
    previous = site.live()
    wait_until(lambda: python(site, SLOW_STATE) == "started")
    load = Load(site, seconds=300, pace=1)
    time.sleep(3)
    run = site.release(source)
    time.sleep(3)
    answers, errors = load.stop()
    print(f"{site.name}: {answers}, errors {errors}")
    assert run.ok and site.live() != previous, run.output
    assert not errors and set(answers) == {200, 303}, (answers, errors)
    wait_until(lambda: len({*counts(site)}) == 1, 180)
    assert python(site, SLOW_STATE) == "finished"
    assert failed_jobs(site) == "0"
    wait_until(lambda: workers(site, "active,deactivating") == expected(site))
    assert "SIGKILL" not in site.host.check_output(
        f"journalctl --namespace=+sample --unit 'sample-worker.*@{previous}.service' --no-pager --output=cat"
    )
    assert int(python(site, APP + "print(db.session.query(Entry).filter(Entry.length.is_not(None)).count())")) > 0
    # The previous release ignores the new column. A rollback doesn't undo the migration, so undo it for the next tests.
    back = site.play("playbooks/rollback.yml")
    assert back.ok and site.live() == previous, back.output
    site.write("with the newer schema")
    wait_until(lambda: len({*counts(site)}) == 1)
    undo = "alter table entry drop column length", "update alembic_version set version_num = '2c1e5d7a9b40'"
    python(site, APP + "".join(f'db.session.execute(db.text("{line}")); ' for line in undo) + "db.session.commit()")


def test_a_rollback_restores_the_number_of_workers(production, source):
    change(source)
    assert production.release(source, app_processes={"worker": 3}).ok
    assert workers(production) == expected(production, 3)
    assert production.play("playbooks/rollback.yml").ok
    wait_until(lambda: workers(production, "active,deactivating") == expected(production))


def test_a_release_whose_worker_exits_is_not_activated(production, source):
    live, running = production.live(), workers(production)
    (source / "Procfile").write_text("worker: echo no licence found; exit 3\nrelease: true\n")
    run = production.release(source)
    assert not run.ok and run.reports("worker.1 exited", "no licence found", f"Release {live} keeps serving"), run.output
    assert production.live() == live and workers(production) == running
    assert production.get("/healthz")[0] == 200


def test_the_previous_workers_run_again_after_an_automatic_rollback(production, source):
    live = production.live()
    page = source / "sample_app/pages.py"
    check = "    db.session.execute(db.select(Entry.id).limit(1))"
    page.write_text(page.read_text().replace(check, "    if request.headers.get('X-Real-IP'):\n        abort(500)"))
    run = production.release(source)
    assert not run.ok and run.reports("was activated, but the activation was reverted"), run.output
    assert production.live() == live
    wait_until(lambda: workers(production, "active,deactivating") == expected(production))
    production.write("after the rollback")
    wait_until(lambda: len({*counts(production)}) == 1)


def test_a_killed_worker_is_restarted_and_its_job_is_done(site):
    pids = [site.main_process(unit) for unit in expected(site)]
    site.host.check_output(f"kill -9 {' '.join(pids)}")
    site.write("after they were killed")
    wait_until(lambda: workers(site) == expected(site) and len({*counts(site)}) == 1)


def test_a_stopped_worker_is_reported_and_started_again(site):
    site.host.check_output(f"systemctl disable --now {expected(site)[1]}")
    assert site.play("playbooks/doctor.yml").reports("process worker.2", "not running, or not enabled at boot")
    run = site.play("deploy.yml")
    assert run.ok and workers(site) == expected(site), run.output


def test_all_processes_start_after_a_reboot(site):
    site.write("before the reboot")
    wait_until(lambda: len({*counts(site)}) == 1)
    before = counts(site)
    site.reboot()
    wait_until(site.is_healthy)
    wait_until(lambda: workers(site) == expected(site))
    assert counts(site)[0] == before[0] and counts(site)[1] >= before[0] - 1, "the queue may lose the jobs of the last second"
    timers = site.host.check_output("systemctl list-timers --no-legend 'sample-*'")
    assert "sample-schedule-tidy.timer" in timers and "sample-backup.timer" in timers
    assert site.host.check_output("systemctl --failed --no-legend") == ""
    run = site.play("deploy.yml")
    assert run.ok, run.output
    again = site.play("deploy.yml")
    assert again.ok and again.changed == 0, again.output


# -- scheduled jobs -------------------------------------------------------------------------------------------------------


def job_output(site, seconds):
    command = f"journalctl --namespace=+sample --unit sample-schedule-tidy.service --since=-{seconds}s --no-pager --output=cat"
    return site.host.check_output(command)


def test_a_scheduled_job_runs_in_the_live_release(site):
    time.sleep(12)
    assert "Deleted 0 entries." in job_output(site, 12)
    assert site.play("playbooks/status.yml").reports("worker.1, worker.2, tidy (scheduled)")


def test_a_rollback_restores_the_schedule(production, source):
    change(source)
    run = production.release(source, app_schedule=[{"name": "other", "command": "true", "at": "daily"}])
    assert run.ok, run.output
    timers = "systemctl list-timers --no-legend 'sample-schedule-*' | grep -o 'sample-schedule-[a-z]*.timer'"
    assert production.host.check_output(timers) == "sample-schedule-other.timer"
    assert production.play("playbooks/rollback.yml").ok
    assert production.host.check_output(timers) == "sample-schedule-tidy.timer"


# -- one-off commands -----------------------------------------------------------------------------------------------------


def test_a_one_off_command_runs_as_the_app(site):
    run = site.play("playbooks/run.yml", release_run="flask --app sample_app db current && id -un && echo $APP_STAGE")
    assert run.ok and run.reports(f"2c1e5d7a9b40 (head) sample {site.name}"), run.output
    run = site.play("playbooks/run.yml", release_run="touch /srv/sample/x; echo no such table >&2; exit 3")
    assert not run.ok and run.reports("Read-only file system", "no such table", f"The command failed with exit code 3 on {site.name}"), (
        run.output
    )
    run = site.play("playbooks/run.yml", release_run=" ")
    assert not run.ok and run.reports("There is no command to run", "Nothing was changed"), run.output


def test_flask_shell_has_a_terminal(site):
    """`flask shell` on a terminal, as in an ssh session."""
    input_lines = "from sample_app.models import db\\nprint(6 * 7, db.engine.name)\\nexit()\\n"
    shell = "script --quiet --return --command '/srv/sample/run flask --app sample_app shell' /dev/null"
    output = site.host.check_output(f"(sleep 5; printf '{input_lines}'; sleep 5) | {shell}")
    assert f"42 {'postgresql' if site.name == 'production' else 'sqlite'}" in output, output


@pytest.mark.parametrize("command", ["sh -c 'exit 7'", "false"])
def test_a_one_off_command_returns_its_exit_code(site, command):
    assert site.host.run(f"/srv/sample/run {command}").rc == (7 if "7" in command else 1)
