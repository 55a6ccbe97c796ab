"""A database or an upload directory that the source brings becomes the app's data once, and every later release uses that data."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from conftest import PROJECT, load, plugin
from test_processes import identified  # noqa: F401
from test_release_layout import release  # noqa: F401

app_source = plugin("action/app_source")
share = load(PROJECT / "roles/release/files/share.py")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changes users, as on a host")
# in place of gunicorn: it adds a row to the database beside the code, as the app does, and prints all rows
APP = """
import os, sqlite3, sys
os.umask(7)
rows = sqlite3.connect("app.db")
rows.execute("pragma journal_mode = " + sys.argv[1])
rows.execute("insert into rows values (?)", [os.environ["APP_RELEASE"]])
rows.commit()
open("instance/" + os.environ["APP_RELEASE"], "w").close()
open("uploads/" + os.environ["APP_RELEASE"], "w").close()
print(*(name for (name,) in rows.execute("select name from rows")), flush=True)
os._exit(0)  # without closing the database, as a killed app
"""


def database(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table if not exists rows (name)")
        connection.executemany("insert into rows values (?)", [[row] for row in rows])
    return path


def rows(path):
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("select name from rows")]


class Host:
    """Releases a source, and runs the start script that Flaskhost renders, as the app's user."""

    def __init__(self, directory, release, files):  # noqa: F811
        self.directory, self.release, self.files = directory, release, files
        self.source, self.state = directory / "shop", directory / "srv/state"
        self.shared = ["instance", "app.db", "uploads"]
        # the app can write to its data only
        shutil.chown(self.state, "nobody")

    def deploy(self, name, **params):
        found = app_source.find({"source": str(self.source)}, str(self.directory))
        found |= app_source.read_archive(found, {"detect_for": {}})
        files = {file: self.placed(text) for file, text in self.files.items() if file in ("start", "share.py", "release-command")}
        programs = ["start", "release-command"]
        params = {"shared": self.shared, "archive": found["archive"], "id": name, "files": files, "programs": programs} | params
        assert self.release(**params).lay_out()["sealed"]
        return found

    def placed(self, text):
        return text.replace("/srv/shop", str(self.directory / "srv")).replace("/var/lib/shop", str(self.state))

    def start(self, name, journal="wal"):
        """Run the release's start script, and return what the app prints."""
        directory, bin_directory = self.directory / f"srv/releases/{name}", self.directory / "bin"
        bin_directory.mkdir(exist_ok=True)
        (bin_directory / "gunicorn").write_text(f"#!/bin/sh\nexec /usr/bin/python3 -c '{APP}' {journal}\n")
        (bin_directory / "gunicorn").chmod(0o755)
        user = ["setpriv", "--reuid=65534", "--regid=60", "--clear-groups"]
        environment = {"APP_RELEASE": name, "RUNTIME_DIRECTORY": "/nowhere", "PATH": f"{bin_directory}:/usr/bin:/bin"}
        done = subprocess.run([*user, directory / "start"], cwd=directory / "app", env=environment, capture_output=True, text=True)
        return done.stdout.split() if done.returncode == 0 else done.stderr


@pytest.fixture
def tmp_path():
    """A directory that the app's user can enter. pytest's own is closed again whenever another test run starts."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def host(tmp_path, release, identified):  # noqa: F811
    return Host(tmp_path, release, identified["shared"]["files"])


# -- three releases and a rollback ---------------------------------------------------------------------------------


@root_only
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_beside_the_code_keeps_its_rows_through_three_releases_and_a_rollback(host, journal):
    """Its rows come with the first release, and later ones use the database on the host (A6)"""
    database(host.source / "app.db", "brought")
    (host.source / "app.db").chmod(0o444)
    (host.source / "app.py").write_text("import sqlite3\nsqlite3.connect('app.db')\n")
    (host.source / "instance").mkdir()
    (host.source / "instance/note.txt").write_text("brought")
    assert host.deploy("r1")["detected"]["shared"] == ["app.db"]
    assert host.start("r1", journal) == ["brought", "r1"]
    database(host.source / "app.db.new", "brought", "of-the-developer").rename(host.source / "app.db")
    (host.source / "instance/note.txt").write_text("changed")
    host.deploy("r2")
    assert host.start("r2", journal) == ["brought", "r1", "r2"]
    host.deploy("r3")
    assert host.start("r3", journal) == ["brought", "r1", "r2", "r3"]
    assert host.start("r1", journal) == ["brought", "r1", "r2", "r3", "r1"], "the rollback"
    assert (host.state / "instance/note.txt").read_text() == "brought"
    assert {*os.listdir(host.state / "instance")} == {"note.txt", "r1", "r2", "r3"} and {*os.listdir(host.state / "uploads")} == {
        "r1",
        "r2",
        "r3",
    }
    # SQLite's journals are beside the real file, and nothing else is left behind
    assert {path.name for path in host.state.iterdir()} == {"app.db", "instance", "uploads"} | (
        {"app.db-wal", "app.db-shm"} if journal == "wal" else set()
    )
    assert {path.stat().st_mode & 0o777 for path in (host.state / "app.db", host.state / "instance/note.txt")} == {0o600}
    code = host.directory / "srv/releases/r3/app"
    assert os.readlink(code / "app.db") == f"{host.state}/app.db" and os.readlink(code / "instance") == f"{host.state}/instance"
    # a restore replaces the database by a rename
    restored = database(host.state / "restored", "of-the-backup")
    shutil.chown(restored, "nobody")
    for end in "-wal", "-shm":
        (host.state / f"app.db{end}").unlink(missing_ok=True)
    restored.rename(host.state / "app.db")
    assert host.start("r3", journal) == ["of-the-backup", "r3"]


@root_only
def test_the_release_command_already_has_the_database(host):
    """A migration runs before the first start (A6)"""
    database(host.source / "app.db", "brought")
    host.deploy("r1")
    script = host.directory / "srv/releases/r1/release-command"
    script.write_text(script.read_text().replace("flask db upgrade", "cat app.db | wc -c"))
    user = ["setpriv", "--reuid=65534", "--regid=60", "--clear-groups"]
    done = subprocess.run([*user, script], cwd=script.parent / "app", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) == (host.source / "app.db").stat().st_size, done.stderr


@root_only
def test_a_database_that_does_not_exist_yet_is_created_in_the_app_s_data(host):
    """SQLite follows the link and creates the file (A6)"""
    host.source.mkdir()
    (host.source / "app.py").write_text("x = 1\n")
    host.deploy("r1")
    assert "no such table: rows" in host.start("r1")
    assert (host.state / "app.db").is_file() and (host.state / "uploads").is_dir()


@root_only
def test_a_release_that_shares_another_path_later_brings_it_too(host):
    """The first release did not know that the app writes there (A6)"""
    database(host.source / "app.db", "brought")
    (host.source / "instance").mkdir()
    host.deploy("r0", shared=[])
    assert not list((host.directory / "srv/releases/r0/seed").iterdir())
    host.deploy("r1")
    assert host.start("r1") == ["brought", "r1"]


@root_only
def test_the_build_sees_neither_the_data_nor_the_seed(host):
    """A build command can't change what the first release brings (A6)"""
    database(host.source / "app.db", "brought")
    found = app_source.find({"source": str(host.source)}, str(host.directory))
    release = host.release(archive=found["archive"], shared=["app.db"], build=True)  # noqa: F811
    release.lay_out()
    assert os.listdir(host.directory / "srv/releases/.building/r1") == ["app.db"]
    seed = host.directory / "srv/releases/.building/r1.seed"
    assert rows(seed / "app.db") == ["brought"] and seed.stat().st_mode & 0o777 == 0o700
    release.remove()
    assert not seed.exists()


# -- what is copied --------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    for name in "seed", "data":
        (tmp_path / name).mkdir()

    def run(*paths):
        command = [sys.executable, "-ISB", PROJECT / "roles/release/files/share.py", tmp_path / "seed", tmp_path / "data", *paths]
        return subprocess.run(command, capture_output=True, text=True)

    run.seed, run.data = tmp_path / "seed", tmp_path / "data"
    return run


def test_a_path_without_a_seed_is_a_directory_unless_its_name_has_an_extension(place):
    """(A6)"""
    assert place("uploads", "data/site.db", "v1.0/x", "logs/app.log").returncode == 0
    assert sorted(str(path.relative_to(place.data)) for path in place.data.rglob("*")) == ["data", "logs", "uploads", "v1.0", "v1.0/x"]
    assert place.data.joinpath("uploads").stat().st_mode & 0o777 == 0o700


def test_what_exists_is_never_changed(place):
    """An empty directory, a link and a broken link exist too (A6)"""
    for name in "uploads/new", "app.db", "linked", "broken":
        (place.seed / name).parent.mkdir(exist_ok=True)
        (place.seed / name).write_text("seed")
    (place.data / "uploads").mkdir()
    (place.data / "app.db").write_text("")
    (place.data / "other").write_text("data")
    (place.data / "linked").symlink_to("other")
    (place.data / "broken").symlink_to("nowhere")
    assert place("uploads", "app.db", "linked", "broken").returncode == 0
    assert not list((place.data / "uploads").iterdir()) and (place.data / "app.db").read_text() == "" == place("app.db").stderr
    assert (place.data / "other").read_text() == "data" and not (place.data / "nowhere").exists()


def test_a_database_brings_the_rows_in_its_journal(place):
    """Without its -wal file, a database lacks the rows that were not written back (A6)"""
    with closing(sqlite3.connect(place.seed / "app.db")) as writer:
        writer.execute("pragma journal_mode = wal")
        writer.execute("create table rows (name)")
        writer.execute("insert into rows values ('in the journal')")
        writer.commit()
        assert place("app.db").returncode == 0
        assert sorted(os.listdir(place.data)) == ["app.db", "app.db-wal"]
    assert rows(place.data / "app.db") == ["in the journal"]


def test_a_database_in_wal_mode_without_its_journal_can_be_used(place):
    """Its -wal file is usually ignored by git (A6)"""
    database(place.seed / "app.db", "a")
    with closing(sqlite3.connect(place.seed / "app.db")) as connection:
        connection.execute("pragma journal_mode = wal")
    (place.seed / "app.db").chmod(0o400)
    assert place("app.db").returncode == 0
    assert rows(database(place.data / "app.db", "b")) == ["a", "b"]


def test_the_journal_of_a_database_that_is_gone_is_not_applied_to_another(place):
    """SQLite would damage the database (A6)"""
    database(place.seed / "app.db", "a")
    (place.data / "app.db-wal").write_text("of another database")
    done = place("app.db")
    assert done.returncode == 1 and "app.db-wal exists. SQLite would write the content of this journal into another database" in done.stderr
    assert not (place.data / "app.db").exists()


def test_an_interrupted_copy_is_completed_by_the_next_start(place, monkeypatch):
    """A power failure, or systemd's time limit (A6)"""
    database(place.seed / "app.db", "a")
    (place.seed / "app.db-wal").write_bytes(b"")
    (place.seed / "uploads/deep").mkdir(parents=True)
    (place.seed / "uploads/deep/a.png").touch()
    monkeypatch.setattr(share.os, "umask", lambda _mask: None)
    real, calls = shutil.copyfile, []

    def interrupted(source, target, **options):
        calls.append(source)
        real(source, target, **options)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(share.shutil, "copyfile", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            share.main(str(place.seed), str(place.data), "app.db", "uploads")
        assert not (place.data / "app.db").exists() and not (place.data / "uploads").exists()
    share.main(str(place.seed), str(place.data), "app.db", "uploads")
    assert rows(place.data / "app.db") == ["a"] and (place.data / "uploads/deep/a.png").exists()


def test_processes_that_start_at_the_same_time_make_one_copy(place):
    """The server and its workers (A6)"""
    database(place.seed / "app.db", "a")
    for number in range(300):
        (place.seed / f"uploads/{number}").mkdir(parents=True)
    command = [sys.executable, "-ISB", PROJECT / "roles/release/files/share.py", place.seed, place.data, "app.db", "uploads"]
    processes = [subprocess.Popen(command) for _ in range(6)]
    assert {process.wait(60) for process in processes} == {0}
    assert sorted(os.listdir(place.data)) == ["app.db", "uploads"] and len(os.listdir(place.data / "uploads")) == 300


@root_only
def test_a_link_to_a_database_brings_the_database(host):
    """(A6)"""
    database(host.source / "data/real.db", "brought")
    (host.source / "app.db").symlink_to("data/real.db")
    (host.source / "instance").mkdir()
    (host.source / "instance/a.txt").touch()
    (host.source / "instance/b.txt").symlink_to("a.txt")
    host.deploy("r1")
    assert host.start("r1") == ["brought", "r1"]
    assert (host.state / "app.db").is_file() and os.readlink(host.state / "instance/b.txt") == "a.txt"
