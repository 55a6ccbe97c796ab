"""What is backed up comes back, every row and every file; what goes wrong is told, and leaves all as it was."""

import getpass
import grp
import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, load

backup = load(PROJECT / "roles/backup/files/backup.py")

# restic's manners, with plain copies: for machines that have no restic
STAND_IN = """
import json, os, shutil, sys, time
from pathlib import Path
place = Path(os.environ["RESTIC_REPOSITORY"])
verb, *words = sys.argv[1:]
if verb == "init":
    place.mkdir(parents=True); (place / "config").write_text(os.environ["RESTIC_PASSWORD"])
elif not (place / "config").exists():
    sys.exit("Fatal: unable to open config file. Is there a repository at the following location?")
elif os.environ["RESTIC_PASSWORD"] not in (place / "config").read_text().splitlines():
    sys.exit("Fatal: wrong password or no key found")
names = sorted(path.name for path in place.iterdir() if path.is_dir())
option = lambda key: next(word.partition("=")[2] for word in words if word.startswith(f"--{key}="))
if verb == "key":
    with open(place / "config", "a") as config:
        config.write("\\n" + Path(option("new-password-file")).read_text())
elif verb == "backup":
    name = f"{len(names):08x}"
    excluded = {word[10:].replace(chr(92), "") for word in words if word.startswith("--exclude=")}
    ignore = lambda folder, entries: [entry for entry in entries if os.path.join(folder, entry) in excluded]
    for path in words:
        if os.path.islink(path):
            # it follows no link, not even one that it is given
            target = place / name / path[1:]
            target.parent.mkdir(parents=True)
            target.symlink_to(os.readlink(path))
        elif not path.startswith("--"):
            shutil.copytree(path, place / name / path[1:], ignore=ignore, symlinks=True)
    said = {"short_id": name, "time": time.strftime("%Y-%m-%dT%H:%M:%S.123Z", time.gmtime()), "hostname": option("host")}
    said["paths"] = [word for word in words if not word.startswith("--")]
    (place / f"{name}.json").write_text(json.dumps(said))
    print(json.dumps({"message_type": "summary", "snapshot_id": name * 8}))
elif verb == "snapshots":
    print(json.dumps([json.loads((place / f"{name}.json").read_text()) for name in names]))
elif verb == "restore":
    shutil.copytree(place / words[0], words[1].removeprefix("--target="), symlinks=True)
"""


REAL = pytest.mark.parametrize("host", ["stand-in", "restic"], indirect=True)


@pytest.fixture
def host(request, tmp_path, monkeypatch):
    """A host with an app's files, whose backups go to two places."""
    path = backup.PATH
    if getattr(request, "param", "stand-in") == "stand-in":
        program = tmp_path / "bin/restic"
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable}\n{STAND_IN}")
        program.chmod(0o755)
        path = f"{program.parent}:{path}"
    elif not shutil.which("restic", path=path):
        pytest.skip("this machine has no restic")
    for name, folder in ("SETTINGS", "etc"), ("WORK", "work"), ("CACHE", "cache"):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(backup, name, tmp_path / folder)
    monkeypatch.setattr(backup, "PATH", path)
    (tmp_path / "state").mkdir()
    host = Host(tmp_path)
    host.set()
    return host


class Host:
    def __init__(self, folder):
        self.folder, self.state = folder, folder / "state"
        self.before = folder / "work/shop/before"

    def set(self, **settings):
        settings = {
            "of": "production/web",
            "state": str(self.state),
            "user": getpass.getuser() if os.geteuid() else "root",
            "group": grp.getgrgid(pwd.getpwuid(os.geteuid()).pw_gid).gr_name,
            "places": {"host": str(self.folder / "here"), "s3": str(self.folder / "there")},
            "environment": {},
            "password": "",
            "keep_days": 7,
            "database": "",
            "exclude": [],
            **settings,
        }
        (self.folder / "etc/backup-shop.json").write_text(json.dumps(settings))

    def do(self, verb, *words):
        getattr(backup.Backup("shop"), verb)(*words)

    def fetch(self, name="latest"):
        self.do("fetch", name)
        return (self.folder / "work/shop/fetched/id").read_text()

    def restore(self, name="latest"):
        self.do("restore", self.fetch(name))

    def made(self):
        return json.loads((self.folder / "work/shop/made.json").read_text())

    def content(self):
        """Every file; of a database its rows."""
        found = {}
        for path in sorted(self.state.rglob("*")):
            name = str(path.relative_to(self.state))
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.suffix == ".db":
                found[name] = sqlite3.connect(path).execute("select * from entry order by id").fetchall()
            elif path.is_file() and not name.endswith(("-wal", "-shm")):
                found[name] = path.read_bytes()
        return found


@pytest.fixture
def app(host):
    """Its database is in use, with rows in the write-ahead log."""
    (host.state / "uploads/deep [1]").mkdir(parents=True)
    (host.state / "uploads/deep [1]/ümläut 'x'.png").write_bytes(os.urandom(3000))
    (host.state / "uploads/link").symlink_to("deep [1]")
    (host.state / "data").mkdir()
    database = sqlite3.connect(host.state / "data/sample *.db")
    database.execute("pragma journal_mode=wal")
    database.execute("create table entry (id integer primary key, text text)")
    database.executemany("insert into entry (text) values (?)", [(f"entry {number}",) for number in range(500)])
    database.commit()
    assert (host.state / "data/sample *.db-wal").stat().st_size > 0
    yield database
    database.close()


def destroy(host):
    for path in host.state.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@REAL
def test_every_row_and_file_comes_back(host, app):
    wanted = host.content()
    host.do("now")
    app.execute("delete from entry")
    app.commit()
    app.close()
    destroy(host)
    (host.state / "new since then").write_text("")
    host.restore()
    assert host.content() == wanted and len(wanted["data/sample *.db"]) == 500
    assert [path.name for path in (host.before / "files").iterdir()] == ["new since then"]
    assert not (host.folder / "work/shop/desk").exists() and not (host.folder / "work/shop/fetched").exists()


def test_a_database_in_use_is_copied_whole_and_only_so(host, app):
    host.do("now")
    host.fetch()
    fetched = host.folder / "work/shop/fetched"
    assert not list((fetched / "files").rglob("*.db*")), "as a file it may be damaged"
    assert sqlite3.connect(fetched / "dump/sqlite/data/sample *.db").execute("select count(*) from entry").fetchone() == (500,)


def test_a_backup_is_found_by_its_id_or_its_time(host, capsys):
    for text in "one", "two":
        (host.state / "note").write_text(text)
        host.do("now")
    capsys.readouterr()
    host.do("list")
    there = json.loads(capsys.readouterr().out)
    assert len(there) == 4 and {one["place"] for one in there} == {"host", "s3"}
    host.restore(there[0]["id"])
    assert (host.state / "note").read_text() == "one"
    host.restore(there[-1]["time"][:10])
    assert (host.state / "note").read_text() == "two"
    with pytest.raises(backup.Trouble, match=rf"no backup '1999' of production/web\. There are: {there[0]['id']} \("):
        host.do("fetch", "1999")


@REAL
def test_what_another_stage_has_made_in_the_same_place_comes_only_by_its_id(host, capsys):
    (host.state / "note").write_text("production")
    host.do("now")
    host.set(of="staging/web")
    (host.state / "note").write_text("staging")
    with pytest.raises(backup.Trouble, match=r"no backup 'latest' of staging/web\. There are: \w+ \(.+, of production/web\)"):
        host.do("fetch", "latest")
    host.do("now")
    host.set()
    host.restore()
    assert (host.state / "note").read_text() == "production"
    capsys.readouterr()
    host.do("list")
    host.restore(next(one["id"] for one in json.loads(capsys.readouterr().out) if one["of"] == "staging/web"))
    assert (host.state / "note").read_text() == "staging"


def test_a_place_that_can_not_be_written_to_is_told_and_the_other_gets_its_backup(host):
    (host.folder / "there").write_text("a file, where a folder has to be")
    with pytest.raises(backup.Trouble, match="there"):
        host.do("now")
    assert {*host.made()} == {"host"}, "when the last good one was made is known for each place"


def test_what_one_place_has_lost_the_other_has(host):
    (host.state / "note").write_text("one")
    host.do("now")
    (host.state / "note").unlink()
    shutil.rmtree(host.folder / "here")
    host.restore()
    assert (host.state / "note").read_text() == "one"


@REAL
def test_another_password_is_told(host):
    host.set(password="first")
    host.do("now")
    host.set(password="second")
    with pytest.raises(backup.Trouble, match="here was made with another backup_password"):
        host.do("now")


def test_a_password_of_the_host_s_own_is_made_once_and_is_root_s(host):
    host.do("now")
    key = host.folder / "etc/backup-shop.key"
    first = key.read_text()
    host.do("now")
    assert key.read_text() == first and len(first) == 64 and key.stat().st_mode & 0o777 == 0o600


def test_files_that_can_not_be_put_in_place_leave_all_as_it_was(host, app, monkeypatch):
    host.do("now")
    (host.state / "note").write_text("later")
    wanted = host.content()
    name = host.fetch()
    real, moves = shutil.move, []

    def move(source, target):
        moves.append(source)
        if len(moves) == 4:
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(backup.shutil, "move", move)
    with pytest.raises(OSError, match="No space"):
        host.do("restore", name)
    assert host.content() == wanted and not (host.before / "unfinished").exists()


def test_a_database_that_can_not_be_put_in_place_leaves_the_files_as_they_were(host, app, monkeypatch):
    host.do("now")
    (host.state / "note").write_text("later")
    wanted = host.content()
    name = host.fetch()
    host.set(database="postgresql://ann@127.0.0.1:1/shop")
    (host.folder / "work/shop/fetched/dump/database").write_text("no dump")
    with pytest.raises(backup.Trouble, match="the database could not be restored, and is as it was"):
        host.do("restore", name)
    assert host.content() == wanted


def test_what_a_restore_had_moved_that_was_cut_short_is_never_lost(host, monkeypatch, capsys):
    (host.state / "note").write_text("one")
    host.do("now")
    (host.state / "note").write_text("two")
    name = host.fetch()
    real = shutil.move

    def move(source, target):
        if Path(source).is_relative_to(host.folder / "work"):
            raise KeyboardInterrupt
        return real(source, target)

    monkeypatch.setattr(backup.shutil, "move", move)
    with pytest.raises(KeyboardInterrupt):
        host.do("restore", name)
    monkeypatch.setattr(backup.shutil, "move", real)
    host.restore()
    assert (host.state / "note").read_text() == "one"
    aside = next((host.folder / "work/shop").glob("before-*"))
    assert (aside / "files/note").read_text() == "two" and f"kept in {aside}" in capsys.readouterr().out


def test_files_on_another_disk_are_in_the_backup_and_come_back(host, tmp_path):
    """The app's folder is a link to it."""
    host.state.rename(tmp_path / "disk")
    host.state.symlink_to(tmp_path / "disk")
    (host.state / "note").write_text("one")
    host.do("now")
    (host.state / "note").write_text("two")
    host.restore()
    assert (host.state / "note").read_text() == "one" and host.state.is_symlink()
    assert (host.before / "files/note").read_text() == "two"


def test_a_disk_among_the_files_stays_where_it_is(host, monkeypatch):
    (host.state / "uploads").mkdir()
    (host.state / "uploads/a").write_text("one")
    host.do("now")
    (host.state / "uploads/a").write_text("two")
    disk = (host.state / "uploads").stat().st_ino
    monkeypatch.setattr(Path, "is_mount", lambda path: path == host.state / "uploads")
    host.restore()
    assert (host.state / "uploads/a").read_text() == "one" and (host.before / "files/uploads/a").read_text() == "two"
    assert (host.state / "uploads").stat().st_ino == disk


def test_a_backup_without_the_app_s_files_is_refused(host):
    host.do("now")
    for place in "here", "there":
        for path in (host.folder / place).glob("*/"):
            shutil.rmtree(path / str(host.state)[1:])
    with pytest.raises(backup.Trouble, match=r"is not whole: it has no .*state"):
        host.do("fetch", "latest")


def test_another_one_than_was_fetched_is_not_restored(host):
    host.do("now")
    host.fetch()
    with pytest.raises(backup.Trouble, match="Backup 5e5e was not fetched, or another one since"):
        host.do("restore", "5e5e")


@pytest.mark.parametrize("content", [b"SQLite format 3\0 and then nothing of the kind" * 200, b"SQLite format 3\0"])
def test_what_only_begins_as_a_database_is_in_the_backup_as_it_is(host, app, content, capsys):
    """A visitor may have uploaded it."""
    (host.state / "uploads/x.png").write_bytes(content)
    host.do("now")
    assert "x.png begins as an SQLite database does, and is damaged, or none" in capsys.readouterr().out
    app.close()
    destroy(host)
    host.restore()
    assert (host.state / "uploads/x.png").read_bytes() == content and len(host.content()["data/sample *.db"]) == 500


def test_nobody_else_can_read_what_was_fetched(host, app):
    host.do("now")
    host.fetch()
    assert {path.stat().st_mode & 0o777 for path in (host.folder / "work/shop/fetched").glob("*/")} == {0o700}


@REAL
def test_backups_that_were_made_without_a_password_open_with_the_owner_s_first(host):
    (host.state / "note").write_text("one")
    host.do("now")
    host.set(password="the owner's")
    host.do("now")
    shutil.rmtree(host.folder / "there")
    (host.state / "note").unlink()
    host.restore()
    assert (host.state / "note").read_text() == "one"


def test_a_place_where_another_host_is_at_work_is_waited_for(host, monkeypatch):
    monkeypatch.setattr(backup, "LOCKED_SECONDS", 0)
    program = host.folder / "bin/restic"
    program.write_text(
        "#!/bin/sh\n[ $1 != forget ] || [ -e $0.free ] || { touch $0.free; echo unable to create lock: already locked >&2; exit 1; }\n"
        + f'exec {sys.executable} {program}.py "$@"\n'
    )
    (host.folder / "bin/restic.py").write_text(STAND_IN)
    host.do("now")
    assert {*host.made()} == {"host", "s3"} and (host.folder / "bin/restic.free").exists()


def test_a_damaged_backup_is_refused_before_the_app_stands_still(host, app, monkeypatch):
    monkeypatch.setattr(
        backup, "COPY", "import os, sys; os.makedirs(os.path.dirname(sys.argv[2])); open(sys.argv[2], 'w').write('x' * 9999)"
    )
    host.do("now")
    with pytest.raises(backup.Trouble, match=r"sample \*\.db in that backup is damaged"):
        host.do("fetch", "latest")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("", {}),
        ("sqlite:////var/lib/shop/shop.db", {}),
        ("postgresql:///shop?host=/run/postgresql", {"dbname": "shop", "host": "/run/postgresql"}),
        (
            "postgres://ann:p%40ss@db.example:25060/shop?sslmode=require",
            {"user": "ann", "password": "p@ss", "host": "db.example", "port": "25060", "dbname": "shop", "sslmode": "require"},
        ),
        ("postgresql+psycopg:///shop?host=/run/postgresql", {"dbname": "shop", "host": "/run/postgresql"}),
    ],
)
def test_a_database_is_known_by_its_url(host, url, wanted):
    host.set(database=url)
    assert backup.Backup("shop").database() == wanted


def test_a_database_of_another_kind_is_not_passed_over_in_silence(host):
    host.set(database="mysql://u:p@h/d")
    with pytest.raises(backup.Trouble, match="no mysql: set backup_database_url"):
        host.do("now")


def test_the_database_s_password_is_in_a_file_that_only_the_app_can_read(host):
    host.set(database="postgresql://ann:hunter2@127.0.0.1:1/shop")
    program = backup.Backup("shop")
    with program.clean_desk(), program.service() as service:
        path = service["PGSERVICEFILE"]
        assert os.stat(path).st_mode & 0o777 == 0o600 and "password=hunter2\n" in Path(path).read_text()
    with pytest.raises(backup.Trouble, match="the database could not be dumped") as error:
        host.do("now")
    assert "hunter2" not in str(error.value) and not os.path.exists(path)


def test_patterns_in_names_are_names():
    assert backup.escaped("/a/b [1]*?\\") == "/a/b \\[1\\]\\*\\?\\\\"


def test_a_word_that_it_does_not_know_is_told():
    done = subprocess.run([sys.executable, PROJECT / "roles/backup/files/backup.py", "shop", "nothing"], text=True, capture_output=True)
    assert done.returncode == 1 and "backup.py APP now" in done.stderr
