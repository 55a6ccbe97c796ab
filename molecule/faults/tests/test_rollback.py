"""Rollbacks: the previous release is live again within seconds, and no request fails."""

import pytest

under_load = pytest.mark.usefixtures("load")


def rollback(fault, **variables):
    return fault.site.play("playbooks/rollback.yml", **variables)


@pytest.mark.sample
@under_load
def test_a_rollback_to_the_previous_release(fault):
    """An operator rolls back to the previous release, under load: no request fails, no data is lost, and the release that was live is
    marked as bad."""
    good = fault.release_good()
    assert good.ok, good.output
    abandoned = fault.site.live()
    run = rollback(fault)
    print(f"\nrollback took {run.seconds:.1f} seconds, with Ansible's startup")
    assert run.ok and fault.site.live() == fault.before, run.output
    assert fault.site.host.file(f"/srv/sample/bad/{abandoned}").contains("rolled back by")
    assert run.reports("Code and settings are rolled back; the database schema is not")
    fault.before = ""


@under_load
def test_a_rollback_to_a_named_release(fault):
    """An operator rolls back to a release by its name (`release_to`): it is activated, and no request fails."""
    for _ in range(2):
        good = fault.release_good()
        assert good.ok, good.output
    run = rollback(fault, release_to=fault.before)
    assert run.ok and fault.site.live() == fault.before, run.output
    fault.before = ""


@under_load
def test_a_bad_release_is_skipped(fault):
    """An operator rolls back twice: the second rollback skips the release that the first one marked as bad."""
    assert fault.release_good().ok
    middle = fault.site.live()
    assert fault.release_good().ok
    newest = fault.site.live()
    assert rollback(fault).ok and fault.site.live() == middle
    assert rollback(fault).ok and fault.site.live() == fault.before
    assert fault.site.host.file(f"/srv/sample/bad/{newest}").exists
    fault.before = ""


@under_load
def test_a_rollback_after_a_failed_release(fault):
    """An operator rolls back after a release has failed: the release before the live one is activated, not the failed one."""
    assert fault.release_good().ok
    live = fault.site.live()
    fault.append("sample_app/pages.py", "\nimport nothing_of_this_name\n")
    failed = fault.site.release(fault.source, app_release_command="")
    assert not failed.ok and fault.site.live() == live
    run = rollback(fault)
    assert run.ok and fault.site.live() == fault.before, run.output
    fault.before = ""


@under_load
def test_a_rollback_to_a_pruned_release(fault):
    """The release to roll back to has been pruned: the run lists the available releases and changes nothing."""
    run = rollback(fault, release_to="0000000000-00000000")
    assert not run.ok and run.reports(
        "release_to: 0000000000-00000000 is not kept on this host. Kept releases:", fault.before, "Nothing was changed"
    )
    fault.is_unchanged()


def test_a_schema_that_the_previous_release_can_not_use(fault):
    """The live release's migration can't be undone, and the previous release can't use the new schema: the check before its activation
    rejects it, and the live release keeps serving."""
    fault.edit("migrations/versions/b1_rename.py", new=MIGRATION)
    fault.edit("sample_app/models.py", "class Entry(db.Model):\n", 'class Entry(db.Model):\n    __tablename__ = "renamed"\n')
    assert fault.site.release(fault.source).ok
    live = fault.site.live()
    try:
        run = rollback(fault, release_health_timeout_seconds=10)
        assert not run.ok and run.reports("/healthz returned 500", "no such table: entry", f"Release {live} keeps serving"), run.output
        assert fault.site.live() == live and fault.site.get("/")[0] == 200
    finally:
        # the migration has no downgrade, so undo it by hand
        undo = "alter table renamed rename to entry; update alembic_version set version_num = '2c1e5d7a9b40'"
        script = f"import sqlite3; sqlite3.connect('/var/lib/sample/sample.db').executescript(\"{undo}\")"
        fault.site.host.check_output("python3 -c %s", script)


MIGRATION = """revision = "b1"
down_revision = "2c1e5d7a9b40"

from alembic import op


def upgrade():
    op.rename_table("entry", "renamed")
"""
