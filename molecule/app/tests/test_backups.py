"""Backups can be restored in full, and a backup that fails is reported."""

import json

import pytest
from conftest import counts, python, start_s3, workers

FILES = "cd /var/lib/sample && find . -type f ! -name '*.db*' -exec sha256sum {} + | sort; stat -c '%n %U %a' uploads/*"
APP = "from sample_app import create_app; from sample_app.models import *; a = create_app(); a.app_context().push(); "
ALL = "[(e.id, e.text, e.written) for e in db.session.query(Entry).order_by(Entry.id)]"
ROWS = f"{APP}import hashlib; print(hashlib.sha256(repr({ALL}).encode()).hexdigest())"


pytestmark = pytest.mark.usefixtures("s3")


def backups(site):
    return json.loads(site.host.check_output("/usr/local/lib/flaskhost/backup.py sample list"))


def destroy(site):
    drop = "drop table entry", "drop table alembic_version", "create table rubbish (id int)"
    python(site, APP + "".join(f'db.session.execute(db.text("{line}")); ' for line in drop) + "db.session.commit()")
    site.host.check_output("rm -rf /var/lib/sample/uploads /var/lib/sample/*.db*")
    assert site.get("/healthz")[0] != 200


@pytest.mark.sample
def test_a_restore_brings_back_every_row_and_file(site):
    for number in range(20):
        site.write(f"entry {number}")
    site.host.check_output("install -d -o sample -g sample-web -m 0700 /var/lib/sample/uploads")
    site.host.check_output(
        "setpriv --reuid=sample --regid=sample-web --clear-groups sh -c 'head -c 3000000 /dev/urandom >/var/lib/sample/uploads/\"a picture.png\"'"
    )
    run = site.play("playbooks/backup.yml")
    assert run.ok and run.reports("was written to /var/backups/sample"), run.output
    expected = python(site, ROWS), site.host.check_output(FILES), counts(site)[0]
    destroy(site)
    run = site.play("playbooks/restore.yml", backup_name="latest")
    assert run.ok and run.reports("was restored", "The replaced data is kept in /var/lib/flaskhost/sample/before"), run.output
    assert (python(site, ROWS), site.host.check_output(FILES), counts(site)[0]) == expected
    assert site.get("/")[0] == 200
    assert len(workers(site)) == 2
    site.write("after it was restored")
    assert "sample-schedule-tidy.timer" in site.host.check_output("systemctl list-timers --no-legend 'sample-*'")
    assert not site.host.file("/srv/sample/lock").exists
    again = site.play("deploy.yml")
    assert again.ok and again.changed == 0, again.output


def test_a_backup_can_be_restored_by_name(site):
    before = counts(site)[0]
    assert site.play("playbooks/backup.yml").ok
    expected = backups(site)[-1]["id"]
    site.write("after the backup")
    assert site.play("playbooks/backup.yml").ok
    run = site.play("playbooks/restore.yml")
    assert not run.ok and run.reports("Name the backup: make restore NAME=", expected, "Nothing was changed"), run.output
    run = site.play("playbooks/restore.yml", backup_name="00000000")
    assert not run.ok and run.reports("There is no backup '00000000' of", expected), run.output
    assert site.get("/healthz")[0] == 200 and counts(site)[0] == before + 1
    assert site.play("playbooks/restore.yml", backup_name=expected).ok
    assert counts(site)[0] == before


def test_only_root_can_read_the_secrets_of_backups(site):
    for path in "/etc/flaskhost", "/var/backups/sample":
        assert site.host.file(path).mode == 0o700 and site.host.file(path).user == "root"
    assert site.host.file("/etc/flaskhost/backup-sample.json").mode == 0o600
    for secret in "only-for-the-lab", "something":
        assert site.host.run(f"journalctl --namespace='*' --no-pager | grep -F '\"{secret}\"'").rc != 0


def test_a_remote_backup_survives_the_loss_of_the_local_ones(production):
    production.write("it is elsewhere too")
    assert production.play("playbooks/backup.yml").ok
    count = counts(production)[0]
    production.host.check_output("rm -rf /var/backups/sample/*")
    destroy(production)
    run = production.play("playbooks/restore.yml", backup_name="latest")
    assert run.ok and counts(production)[0] == count, run.output
    assert {backup["place"] for backup in backups(production)} == {"s3"}


def test_old_backups_are_deleted(site):
    settings = json.loads(site.host.check_output("cat /etc/flaskhost/backup-sample.json"))
    password = settings["password"] or site.host.check_output("cat /etc/flaskhost/backup-sample.key")
    assert site.play("playbooks/backup.yml").ok
    restic = f"RESTIC_PASSWORD='{password}' restic --quiet --repo /var/backups/sample"
    site.host.check_output(f"{restic} backup --time '2020-01-01 00:00:00' --host '{settings['of']}' --tag sample /etc/hostname")
    assert backups(site)[0]["time"].startswith("2020-01-01")
    assert site.play("playbooks/backup.yml").ok
    assert not backups(site)[0]["time"].startswith("2020")


def test_files_that_a_backup_leaves_out_are_reported(site):
    app = "setpriv --reuid=sample --regid=sample-web --clear-groups"
    site.host.check_output(f"{app} mkfifo /var/lib/sample/pipe")
    try:
        run = site.play("playbooks/backup.yml")
        assert run.ok and run.reports("pipe: left out: a FIFO"), run.output
        assert site.play("playbooks/status.yml").reports("with 1 warnings: pipe: left out: a FIFO")
    finally:
        site.host.check_output("rm /var/lib/sample/pipe")
    assert site.play("playbooks/backup.yml").ok


@pytest.fixture
def full_disk(site):
    """No space left in the directory of backups."""
    site.host.check_output("mount -t tmpfs -o size=64k tmpfs /var/backups/sample")
    yield
    site.host.check_output("umount /var/backups/sample")
    site.host.run("systemctl reset-failed sample-backup.service")
    assert site.play("playbooks/backup.yml").ok


def test_a_backup_to_a_full_disk_is_reported(site, full_disk):
    run = site.play("playbooks/backup.yml")
    assert not run.ok and run.reports("no space left on device", "The backup failed for at least one destination"), run.output
    assert site.play("playbooks/status.yml").reports("backup ALERT: the last backup failed:", "no space left on device")
    run = site.play("playbooks/doctor.yml", app_domains=["localhost"])
    assert not run.ok and run.reports("BAD backup", "no space left on device"), run.output
    assert site.get("/healthz")[0] == 200


def test_an_unreachable_repository_is_reported_and_the_other_gets_its_backup(production, s3):
    s3.check_output("systemctl stop moto")
    try:
        run = production.play("playbooks/backup.yml")
        assert not run.ok and run.reports(
            "was written to /var/backups/sample", "http://127.0.0.1:5997/backups/sample", "connection refused"
        ), run.output
        assert production.play("playbooks/status.yml").reports("ALERT: the last backup failed: ")
    finally:
        start_s3(s3)
    # moto loses its data when it stops, so the next backup creates a new repository there
    run = production.play("playbooks/backup.yml")
    assert run.ok and run.reports("was written to http://127.0.0.1:5997/backups/sample"), run.output
    assert production.play("playbooks/status.yml").reports("hours ago, to http://127.0.0.1:5997/backups/sample")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("systemctl disable --now sample-backup.timer", "no backups are made"),
        ('sed -i \'s/"at": [0-9.]*/"at": 1000000/g\' /var/lib/flaskhost/sample/made.json', "the last backup in /var/backups/sample is"),
    ],
)
def test_missing_backups_are_reported(site, fault, message):
    site.host.check_output(fault)
    assert site.play("playbooks/status.yml").reports("ALERT", message)
    assert site.play("deploy.yml").ok and site.play("playbooks/backup.yml").ok
    assert "ALERT" not in site.play("playbooks/status.yml").output
