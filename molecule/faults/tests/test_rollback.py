"""Rolling back: the previous release is live again within seconds, and no request fails."""

import re

import pytest

under_load = pytest.mark.usefixtures("load")


def rollback(fault, **variables):
    return fault.site.play("playbooks/rollback.yml", **variables)


def host_seconds(run):
    """What the tasks took, without Ansible's own start."""
    return sum(float(found) for found in re.findall(r"-{3,} (\d+\.\d+)s$", run.output, re.MULTILINE))


@pytest.mark.sample
@under_load
def test_back_to_the_previous_release(fault):
    """Rolling back to the previous release, under load: no request fails, the data is kept, the one that was left is marked as bad."""
    good = fault.release_good()
    assert good.ok, good.output
    left = fault.site.live()
    run = rollback(fault)
    print(f"\nrollback took {host_seconds(run):.1f} seconds on the host's side")
    assert run.ok and fault.site.live() == fault.before, run.output
    assert fault.site.host.file(f"/srv/sample/bad/{left}").contains("rolled back by")
    assert run.tells("Code and settings are rolled back; the schema of the database is not")
    fault.before = ""


@under_load
def test_back_to_a_named_release(fault):
    """Going back to a release by its name (`release_to`)."""
    for _ in range(2):
        good = fault.release_good()
        assert good.ok, good.output
    run = rollback(fault, release_to=fault.before)
    assert run.ok and fault.site.live() == fault.before, run.output
    fault.before = ""


@under_load
def test_a_bad_release_is_skipped(fault):
    """Going back twice: the second time leads past the one that was left first, which is marked as bad."""
    assert fault.release_good().ok
    middle = fault.site.live()
    assert fault.release_good().ok
    newest = fault.site.live()
    assert rollback(fault).ok and fault.site.live() == middle
    assert rollback(fault).ok and fault.site.live() == fault.before
    assert fault.site.host.file(f"/srv/sample/bad/{newest}").exists
    fault.before = ""


@under_load
def test_back_right_after_a_failed_release(fault):
    """Going back right after a release that failed: it leads to the one that was live before the live one, not to the failed one."""
    assert fault.release_good().ok
    live = fault.site.live()
    fault.append("sample_app/pages.py", "\nimport nothing_of_this_name\n")
    failed = fault.site.release(fault.source, app_release_command="")
    assert not failed.ok and fault.site.live() == live
    run = rollback(fault)
    assert run.ok and fault.site.live() == fault.before, run.output
    fault.before = ""


@under_load
def test_back_to_a_release_that_is_not_kept(fault):
    """The release to go back to is not kept any more: the run says which are, and touches nothing."""
    run = rollback(fault, release_to="0000000000-00000000")
    assert not run.ok and run.tells(
        "release_to: 0000000000-00000000 is not kept on this host. Kept are:", fault.before, "Nothing was changed"
    )
    fault.is_as_before()


@pytest.mark.sample
def test_a_schema_that_the_previous_release_can_not_use(fault):
    """The live release's migration can't be undone, and the previous release can't live with it: it is checked before it gets a request, and
    refused; the live one serves on."""
    fault.edit("migrations/versions/b1_rename.py", new=MIGRATION)
    fault.edit("sample_app/models.py", "class Entry(db.Model):\n", 'class Entry(db.Model):\n    __tablename__ = "renamed"\n')
    assert fault.site.release(fault.source).ok
    live = fault.site.live()
    try:
        run = rollback(fault, release_health_timeout_seconds=10)
        assert not run.ok and run.tells("/healthz answered 500", "no such table: entry", f"Release {live} goes on serving"), run.output
        assert fault.site.live() == live and fault.site.get("/")[0] == 200
    finally:
        # what a migration can't undo, a person has to
        undo = "alter table renamed rename to entry; update alembic_version set version_num = '2c1e5d7a9b40'"
        script = f"import sqlite3; sqlite3.connect('/var/lib/sample/sample.db').executescript(\"{undo}\")"
        fault.site.host.check_output("python3 -c %s", script)


MIGRATION = """revision = "b1"
down_revision = "2c1e5d7a9b40"

from alembic import op


def upgrade():
    op.rename_table("entry", "renamed")
"""
