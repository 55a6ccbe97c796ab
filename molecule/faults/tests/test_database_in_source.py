"""A database that the source brings: the releases use the one on the host, and no row is lost."""

import re
import sqlite3
from contextlib import closing

import pytest

# a page that adds its release to the database beside the code, and lists all rows
PAGE = """

@pages.get("/visits")
def visits():
    import sqlite3

    with sqlite3.connect("visits.db") as database:
        database.execute("pragma journal_mode = wal")
        database.execute("insert into visits values (?)", [os.environ["APP_RELEASE"]])
        return jsonify([name for (name,) in database.execute("select name from visits")])
"""


def bring(path, *names):
    """Write a database to the source."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("create table visits (name)")
        database.executemany("insert into visits values (?)", [[name] for name in names])


def visit(fault):
    status, body = fault.site.get("/visits")
    assert status == 200, body
    return re.findall(r'"([^"]+)"', body)


@pytest.mark.sample
@pytest.mark.usefixtures("load")
def test_a_database_that_comes_with_the_source(fault):
    """A source brings an SQLite database, with other rows in each of three releases, and then an operator rolls back: the first release copies
    the database to the app's data, later ones use it, and no row of a visitor is lost."""
    fault.append("sample_app/pages.py", PAGE)
    rows = ["brought"]
    bring(fault.source / "visits.db", "brought")
    host, releases = fault.site.host, []
    for number in range(3):
        fault.change()
        run = fault.site.release(fault.source, app_shared=["visits.db"])
        assert run.ok, run.output
        releases.append(fault.site.live())
        rows.append(releases[-1])
        assert visit(fault) == rows
        # the developer's own copy goes on
        bring(fault.source / "visits.db", "brought", f"of-the-developer-{number}")
    assert host.check_output("stat --format '%U %a' /var/lib/sample/visits.db") == "sample 600"
    assert host.check_output(f"readlink /srv/sample/releases/{releases[-1]}/app/visits.db") == "/var/lib/sample/visits.db"
    run = fault.site.play("playbooks/rollback.yml")
    assert run.ok and fault.site.live() == releases[1], run.output
    rows.append(releases[1])
    assert visit(fault) == rows
    host.check_output("rm -f /var/lib/sample/visits.db*")
    fault.before = ""
