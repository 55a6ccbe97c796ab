"""A restore brings back every row and file of a backup. A failed backup or restore reports an error and leaves the app's data unchanged."""

import contextlib
import errno
import getpass
import grp
import json
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import PROJECT, load, mariadb_server, run_playbook

PROGRAMS = PROJECT / "roles/backup/files"
sys.path.insert(0, str(PROGRAMS))
backup = load(PROGRAMS / "backup.py")
import appdata_files
import appdata_sqlite
import backup_repository
import backup_sandbox

# a stand-in for restic that stores plain copies, for machines without restic
RESTIC = """
import json, os, shutil, sys, time
from pathlib import Path
place = Path(os.environ["RESTIC_REPOSITORY"])
verb, *words = sys.argv[1:]
if verb == "init":
    place.mkdir(parents=True); (place / "config").write_text(os.environ["RESTIC_PASSWORD"])
elif not (place / "config").exists():
    sys.exit(f"Fatal: unable to open config file: stat {place}/config: no such file or directory\\nIs there a repository at the following location?")
elif os.environ["RESTIC_PASSWORD"] not in (place / "config").read_text().splitlines():
    sys.exit("Fatal: wrong password or no key found")
names = sorted(path.name for path in place.iterdir() if path.is_dir())
option = lambda key: next(word.partition("=")[2] for word in words if word.startswith(f"--{key}="))
if verb == "key":
    with open(place / "config", "a") as config:
        config.write("\\n" + Path(option("new-password-file")).read_text())
elif verb == "backup":
    name = f"{len(names):08x}"
    paths = [word for word in words if not word.startswith("--")]
    if "--stdin" in words:
        paths = ["/" + option("stdin-filename")]
        (place / "unfinished").mkdir(exist_ok=True)
        with open(place / "unfinished" / paths[0][1:], "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        (place / "unfinished").rename(place / name)
    else:
        for path in paths:
            shutil.copytree(path, place / name / path[1:], symlinks=True)
    said = {"short_id": name, "time": time.strftime("%Y-%m-%dT%H:%M:%S.123Z", time.gmtime()), "hostname": option("host"), "paths": paths}
    (place / f"{name}.json").write_text(json.dumps(said))
    print(json.dumps({"message_type": "summary", "snapshot_id": name * 8}))
elif verb == "snapshots":
    print(json.dumps([json.loads((place / f"{name}.json").read_text()) for name in names if name != "unfinished"]))
elif verb == "dump":
    with open(place / words[0] / words[1][1:], "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
elif verb == "restore":
    shutil.copytree(place / words[0], words[1].removeprefix("--target="), symlinks=True, dirs_exist_ok=True)
"""
# a stand-in for systemd-run that sets the user and the limits, for machines whose PID 1 is not systemd
SYSTEMD_RUN = """
import grp, os, pwd, resource, sys
found = dict(word[11:].split("=", 1) for word in sys.argv if word.startswith("--property="))
if "LimitFSIZE" in found:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(found["LimitFSIZE"]),) * 2)
os.chdir("/")
os.dup2(5, 0)
os.dup2(6, 1)
if not os.geteuid():
    os.setgroups([])
    os.setgid(grp.getgrnam(found["Group"]).gr_gid)
    os.setuid(pwd.getpwnam(found["User"]).pw_uid)
environment = dict(word.split("=", 1) for word in found["Environment"].split())
command = sys.argv[sys.argv.index("/bin/sh"):]
os.execve(command[0], command, environment)
"""


REAL = pytest.mark.parametrize("host", ["stand-in", "restic"], indirect=True)


@pytest.fixture
def short_timeout(monkeypatch):
    """Reduce backup_repository's timeout for restic from ten seconds to one, for a restic that reads its input to the end."""

    class ShortTimeout(subprocess.Popen):
        def wait(self, timeout=None):
            return super().wait(1 if timeout == 10 else timeout)

    monkeypatch.setattr(subprocess, "Popen", ShortTimeout)


@pytest.fixture
def host(request, monkeypatch):
    """A host with an app's files and two backup places. If the tests run as root, the app runs as another user."""
    with tempfile.TemporaryDirectory(prefix="flaskhost-backup-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        directory.chmod(0o755)
        for name in "bin", "etc", "work", "cache", "lib", "state":
            (directory / name).mkdir()
        path = f"{directory / 'bin'}:{backup_sandbox.PATH}"
        stand_ins = {"systemd-run.py": SYSTEMD_RUN}
        if getattr(request, "param", "stand-in") == "stand-in":
            stand_ins["restic"] = RESTIC
        elif not shutil.which("restic", path=path):
            pytest.skip("this machine has no restic")
        for name, text in stand_ins.items():
            (directory / "bin" / name).write_text(f"#!{sys.executable}\n{text}")
            (directory / "bin" / name).chmod(0o755)
        (directory / "bin/systemctl").symlink_to("/bin/true")
        # Python does not start if a standard stream is a directory
        (directory / "bin/systemd-run").write_text(f'#!/bin/sh\nexec {directory}/bin/systemd-run.py "$@" 5<&0 6>&1 </dev/null >&2\n')
        (directory / "bin/systemd-run").chmod(0o755)
        for program in PROGRAMS.glob("appdata*.py"):
            shutil.copy(program, directory / "lib")
        for module in backup, backup_repository:
            monkeypatch.setattr(module, "SETTINGS", directory / "etc")
        monkeypatch.setattr(backup, "WORK", directory / "work")
        monkeypatch.setattr(backup_repository, "CACHE", directory / "cache")
        monkeypatch.setattr(backup_sandbox, "PATH", path)
        monkeypatch.setattr(backup_sandbox, "PROGRAM", directory / "lib/appdata.py")
        host = Host(directory)
        host.set()
        yield host


class Host:
    def __init__(self, directory):
        self.directory, self.state = directory, directory / "state"
        self.work = directory / "work/shop"
        self.before, self.fetched = self.work / "before", self.work / "fetched"
        self.user = getpass.getuser() if os.geteuid() else "nobody"
        self.group = grp.getgrgid(pwd.getpwnam(self.user).pw_gid).gr_name
        self.settings = {}

    def set(self, **settings):
        self.settings = {
            "of": "production/web",
            "state": str(self.state),
            "user": self.user,
            "group": self.group,
            "sandbox": [f"User={self.user}", f"Group={self.group}", "Environment=STATE_DIRECTORY=/x"],
            "places": {"host": str(self.directory / "here"), "s3": str(self.directory / "there")},
            "environment": {},
            "password": "",
            "keep_days": 7,
            "database": "",
            "exclude": [],
            **settings,
        }
        (self.directory / "etc/backup-shop.json").write_text(json.dumps(self.settings))

    def chown_state(self):
        """Make the app the owner of all files that the test has written."""
        if not os.geteuid():
            subprocess.run(["chown", "-hR", f"{self.user}:{self.group}", f"{self.state}/."], check=True)

    def do(self, verb, *arguments):
        self.chown_state()
        getattr(backup.Backup("shop"), verb)(*arguments)

    def main(self, *arguments):
        """Run the program as from a shell. Return its error message, or an empty string."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["backup.py", "shop", *arguments])
            try:
                backup.main()
            except SystemExit as error:
                return str(error.code)
        return ""

    def fetch(self, name="latest"):
        self.do("fetch", name)
        return (self.fetched / "id").read_text()

    def restore(self, name="latest"):
        self.do("restore", self.fetch(name))
        # as the playbook does once the app has started again
        self.do("unfetch")

    def last_backups(self):
        return json.loads((self.work / "made.json").read_text())

    def warnings(self):
        return self.last_backups()["host"]["warnings"]

    def content(self):
        """The content of every file. For a database, its rows."""
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
    """An app whose database is in use and has rows in the write-ahead log."""
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
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@REAL
def test_every_row_and_file_is_restored(host, app):
    expected = host.content()
    host.do("now")
    app.execute("delete from entry")
    app.commit()
    app.close()
    destroy(host)
    (host.state / "new since then").write_text("")
    host.restore()
    assert host.content() == expected and len(expected["data/sample *.db"]) == 500
    assert [path.name for path in (host.before / "files").iterdir()] == ["new since then"]
    assert not host.fetched.exists() and host.warnings() == {"count": 0, "first": []}
    assert {path.owner() for path in [host.state, *host.state.rglob("*")] if not path.is_symlink()} == {host.user}


def test_a_database_in_use_is_copied_completely_and_without_its_log(host, app):
    host.do("now")
    host.fetch()
    copied = host.fetched / "files/data"
    assert [path.name for path in copied.iterdir()] == ["sample *.db"], "the write-ahead log is already part of the copy"
    assert sqlite3.connect(copied / "sample *.db").execute("select count(*) from entry").fetchone() == (500,)


def test_a_backup_can_be_selected_by_id_or_time(host, capsys):
    for text in "one", "two":
        (host.state / "note").write_text(text)
        host.do("now")
    capsys.readouterr()
    host.do("list")
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == 4 and {one["place"] for one in listed} == {"host", "s3"}
    host.restore(listed[0]["id"])
    assert (host.state / "note").read_text() == "one"
    host.restore(listed[-1]["time"][:10])
    assert (host.state / "note").read_text() == "two"
    with pytest.raises(backup.Trouble, match=rf"no backup '1999' of production/web\. Available backups: {listed[0]['id']} \("):
        host.do("fetch", "1999")


@REAL
def test_a_backup_of_another_stage_in_the_same_place_can_only_be_selected_by_id(host, capsys):
    (host.state / "note").write_text("production")
    host.do("now")
    host.set(of="staging/web")
    (host.state / "note").write_text("staging")
    with pytest.raises(backup.Trouble, match=r"no backup 'latest' of staging/web\. Available backups: \w+ \(.+, of production/web\)"):
        host.do("fetch", "latest")
    host.do("now")
    host.set()
    host.restore()
    assert (host.state / "note").read_text() == "production"
    capsys.readouterr()
    host.do("list")
    host.restore(next(one["id"] for one in json.loads(capsys.readouterr().out) if one["of"] == "staging/web"))
    assert (host.state / "note").read_text() == "staging"


def test_an_unwritable_place_is_reported_and_the_other_place_still_gets_a_backup(host):
    (host.directory / "there").write_text("a file instead of a directory")
    with pytest.raises(backup.Trouble, match="there"):
        host.do("now")
    assert {*host.last_backups()} == {"host"}, "the time of the last successful backup is recorded for each place"


def test_a_backup_missing_in_one_place_is_restored_from_the_other(host):
    (host.state / "note").write_text("one")
    host.do("now")
    (host.state / "note").unlink()
    shutil.rmtree(host.directory / "here")
    host.restore()
    assert (host.state / "note").read_text() == "one"


@REAL
def test_a_wrong_password_is_reported(host):
    host.set(password="first")
    host.do("now")
    host.set(password="second")
    with pytest.raises(backup.Trouble, match="here was created with another backup_password"):
        host.do("now")


def test_a_generated_password_is_kept_and_readable_by_root_only(host):
    host.do("now")
    key = host.directory / "etc/backup-shop.key"
    first = key.read_text()
    host.do("now")
    assert key.read_text() == first and len(first) == 64 and key.stat().st_mode & 0o777 == 0o600


def test_files_that_cannot_be_moved_into_place_leave_the_data_unchanged(host, app, monkeypatch):
    host.do("now")
    (host.state / "note").write_text("later")
    expected = host.content()
    name = host.fetch()
    fail_once(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        host.do("restore", name)
    assert host.content() == expected and not (host.before / "unfinished").exists()


def fail_once(monkeypatch, error):
    """Make the move of the restored files into place fail once."""
    real = os.rename

    def rename(source, target):
        if Path(source).name == "files" and Path(source).parent.name == "fetched":
            monkeypatch.setattr(backup.os, "rename", real)
            raise error
        return real(source, target)

    monkeypatch.setattr(backup.os, "rename", rename)


def test_a_database_that_cannot_be_restored_leaves_the_files_unchanged(host, app):
    host.do("now")
    (host.state / "note").write_text("later")
    expected = host.content()
    name = host.fetch()
    host.set(database="postgresql://ann@127.0.0.1:1/shop")
    (host.fetched / "database").write_text("no dump")
    with pytest.raises(backup.Trouble, match="the database could not be restored and is unchanged"):
        host.do("restore", name)
    assert host.content() == expected


def test_files_moved_aside_by_an_interrupted_restore_are_kept(host, monkeypatch, capsys):
    (host.state / "note").write_text("one")
    host.do("now")
    (host.state / "note").write_text("two")
    name = host.fetch()
    fail_once(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        host.do("restore", name)
    host.state.mkdir()
    host.restore()
    assert (host.state / "note").read_text() == "one"
    aside = next(host.work.glob("before-*"))
    assert (aside / "files/note").read_text() == "two" and f"kept in {aside}" in capsys.readouterr().out


def test_files_on_another_disk_are_backed_up_and_restored(host):
    """The app's directory is a link to the other disk."""
    host.state.rename(host.directory / "disk")
    host.state.symlink_to(host.directory / "disk")
    (host.state / "note").write_text("one")
    (host.state / "deep/er").mkdir(parents=True)
    host.do("now")
    (host.state / "note").write_text("two")
    (host.state / "new").mkdir()
    (host.state / "new/one").write_text("two")
    host.restore()
    assert (host.state / "note").read_text() == "one" and host.state.is_symlink() and not (host.state / "new").exists()
    assert (host.state / "deep/er").is_dir()
    assert (host.before / "files/note").read_text() == (host.before / "files/new/one").read_text() == "two"


@pytest.fixture
def disk(host):
    (host.state / "uploads").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", host.state / "uploads"], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounts")
    yield host.state / "uploads"
    subprocess.run(["umount", host.state / "uploads"], check=True)


def test_a_disk_mounted_among_the_files_stays_mounted(host, disk):
    (disk / "a").write_text("one")
    (disk / "deep").mkdir()
    host.do("now")
    (disk / "a").write_text("two")
    (disk / "lost+found").mkdir(mode=0o700)
    (host.state / "note").write_text("two")
    (host.state / "shut").mkdir(mode=0)
    os.mkfifo(host.state / "fifo")
    host.do("fetch", "latest")
    if not os.geteuid():
        os.chown(disk / "lost+found", 0, 0)
    backup.Backup("shop").restore((host.fetched / "id").read_text())
    assert {path.name for path in host.state.iterdir()} == {"uploads"}
    assert disk.is_mount() and (disk / "a").read_text() == "one" and (disk / "deep").is_dir() and not (host.state / "note").exists()
    assert (host.before / "files/uploads/a").read_text() == (host.before / "files/note").read_text() == "two"


def test_files_that_cannot_be_copied_leave_the_data_unchanged(host, disk, monkeypatch):
    (disk / "a").write_text("one")
    host.do("now")
    (disk / "a").write_text("two")
    (host.state / "note").write_text("two")
    expected, name, real = host.content(), host.fetch(), backup.Sandbox.run

    def run(sandbox, verb, *arguments, **options):
        if arguments == ("-", host.state):
            monkeypatch.setattr(backup.Sandbox, "run", real)
            raise backup.Trouble("No space left on device")
        return real(sandbox, verb, *arguments, **options)

    monkeypatch.setattr(backup.Sandbox, "run", run)
    with pytest.raises(backup.Trouble, match="No space"):
        host.do("restore", name)
    assert host.content() == expected and disk.is_mount() and not (host.before / "unfinished").exists()


def test_an_incomplete_backup_is_rejected(host):
    (host.state / "note").write_text("x" * 200_000)
    host.do("now")
    for path in host.directory.glob("*here/*/shop.tar"):
        os.truncate(path, 150_000)
    with pytest.raises(backup.Trouble, match="is incomplete: the stream is truncated"):
        host.do("fetch", "latest")
    assert not host.fetched.exists()


def test_data_that_cannot_be_read_completely_results_in_no_backup(host, short_timeout):
    """A restore could not tell that such a backup is incomplete."""
    host.set(database="postgresql://ann@127.0.0.1:1/shop")
    with pytest.raises(backup.Trouble, match="could not be read"):
        host.do("now")
    assert backup.Backup("shop").all() == [] and not (host.work / "made.json").exists()


def test_only_the_fetched_backup_can_be_restored(host):
    host.do("now")
    host.fetch()
    with pytest.raises(backup.Trouble, match="Backup 5e5e was not fetched, or another backup was fetched after it"):
        host.do("restore", "5e5e")


@pytest.mark.parametrize("content", [b"SQLite format 3\0 and then nothing of the kind" * 200, b"SQLite format 3\0"])
def test_an_invalid_database_is_backed_up_as_a_plain_file(host, app, content, capsys):
    """A visitor may have uploaded a file that only starts like a database."""
    (host.state / "uploads/x.png").write_bytes(content)
    host.do("now")
    message = "uploads/x.png: an SQLite database that was saved as a plain file and may be inconsistent"
    assert message in capsys.readouterr().out and message in host.warnings()["first"][0]
    app.close()
    destroy(host)
    host.restore()
    assert (host.state / "uploads/x.png").read_bytes() == content and len(host.content()["data/sample *.db"]) == 500


def test_no_other_user_can_read_a_fetched_backup(host, app):
    host.do("now")
    host.fetch()
    assert {path.stat().st_mode & 0o777 for path in (host.work, host.fetched)} == {0o700}


@REAL
def test_a_password_set_later_opens_backups_made_with_the_generated_one(host):
    (host.state / "note").write_text("one")
    host.do("now")
    host.set(password="the owner's")
    host.do("now")
    shutil.rmtree(host.directory / "there")
    (host.state / "note").unlink()
    host.restore()
    assert (host.state / "note").read_text() == "one"


def test_a_place_locked_by_another_host_is_retried(host, monkeypatch):
    monkeypatch.setattr(backup_repository, "LOCKED_SECONDS", 0)
    program = host.directory / "bin/restic"
    program.write_text(
        "#!/bin/sh\n[ $1 != forget ] || [ -e $0.free ] || { touch $0.free; echo unable to create lock: already locked >&2; exit 1; }\n"
        + f'exec {sys.executable} {program}.py "$@"\n'
    )
    (host.directory / "bin/restic.py").write_text(RESTIC)
    host.do("now")
    assert {*host.last_backups()} == {"host", "s3"} and (host.directory / "bin/restic.free").exists()


def test_a_backup_that_fills_the_disk_still_removes_old_backups(host):
    """restic fails on the full disk. Backups that are too old are removed anyway, and the other place gets its backup."""
    program = host.directory / "bin/restic"
    full = host.directory / "here"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>$RESTIC_REPOSITORY.commands\n[ $1 != backup ] || [ $RESTIC_REPOSITORY != {full} ] || '
        f"{{ cat >/dev/null; echo unable to save snapshot: no space left on device >&2; exit 1; }}\n"
        f'exec {sys.executable} {program}.py "$@"\n'
    )
    (host.directory / "bin/restic.py").write_text(RESTIC)
    (host.state / "note").write_text("one")
    output = host.main("now")
    assert "no space left on device" in output and f"backups in {full} that are older than 7 days were removed anyway" in output
    commands = [line for line in (host.directory / "here.commands").read_text().splitlines() if line.startswith("forget")]
    assert len(commands) == 1 and "--keep-within=7d" in commands[0] and "--max-repack-size=1" in commands[0]
    assert {*host.last_backups()} == {"s3"}


def test_an_unreachable_place_is_reported_immediately(host):
    """restic alone would keep retrying. Neither a backup nor the list of backups waits for that."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = backup_repository.Repository("shop", "s3", f"s3:http://127.0.0.1:{closed.getsockname()[1]}/b/f", {"environment": {}})
        for method in (place.open, place.snapshots):
            with pytest.raises(backup_sandbox.Trouble, match=r"/b/f is unreachable \(connection refused\); check backup_s3_url"):
                method()


@pytest.mark.parametrize(
    ("restic_error", "message"),
    [
        ("Fatal: config cannot be loaded: unsupported repository version", "was created by a newer restic than this host's"),
        (
            "Fatal: unable to open config file: Stat: Access Denied.\nIs there a repository at the following location?\ns3:https://s3.test/b/f",
            "Access Denied",
        ),
    ],
)
def test_a_repository_that_cannot_be_opened_is_not_initialized_again(host, restic_error, message):
    """Only a missing repository is initialized. Otherwise the user sees restic's original error, not that of a failed `init`."""
    host.do("now")
    program = host.directory / "bin/restic"
    program.write_text(
        f'#!/bin/sh\n[ $1 != cat ] || {{ echo "{restic_error}" >&2; exit 1; }}\n[ $1 != init ] || echo init >>{host.directory}/inits\n'
        f'exec {sys.executable} {program}.py "$@"\n'
    )
    (host.directory / "bin/restic.py").write_text(RESTIC)
    output = host.main("now")
    assert message in output and not (host.directory / "inits").exists(), output


def test_a_failure_to_record_a_backup_does_not_affect_the_other_place(host, monkeypatch):
    (host.state / "note").write_text("one")
    note, full = backup.Backup.note, [True]

    def fail(self, *arguments):
        if full.pop() if full else False:
            raise OSError(errno.ENOSPC, "No space left on device", "made.new")
        note(self, *arguments)

    monkeypatch.setattr(backup.Backup, "note", fail)
    assert "made.new: No space left on device" in host.main("now")
    assert {*host.last_backups()} == {"s3"}


@pytest.mark.parametrize(
    ("url", "expected"),
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
def test_the_database_url_is_parsed(host, url, expected):
    host.set(database=url)
    assert backup.Backup("shop").database() == expected


@pytest.mark.parametrize(
    ("url", "lines"),
    [
        (
            "mysql+pymysql://shop@/shop?unix_socket=/run/mysqld/mysqld.sock&charset=utf8mb4",
            ['user="shop"', 'socket="/run/mysqld/mysqld.sock"', "[flaskhost]", "database=shop"],
        ),
        (
            "mysql://ann:p%22a%5Cs%23%27@db.example:25060/shop?ssl-mode=REQUIRED",
            [
                *('host="db.example"', 'port="25060"', 'user="ann"', 'password="p\\"a\\\\s#\'"', "ssl"),
                *("loose-skip-ssl-verify-server-cert", "[flaskhost]", "database=shop"),
            ],
        ),
        (
            "mariadb+mariadbconnector://ann@db.example/shop?ssl_ca=/etc/ca.pem",
            ['host="db.example"', 'user="ann"', 'ssl-ca="/etc/ca.pem"', "[flaskhost]", "database=shop"],
        ),
    ],
)
def test_the_options_of_mariadb_s_clients(host, url, lines):
    """They are in a file, because every user can read command lines. (A14)"""
    host.set(database=url)
    assert backup.Backup("shop").service().splitlines() == ["[client]", *lines]


SCHEMA = """
CREATE TABLE entry (id int PRIMARY KEY, note text CHARACTER SET utf8mb4, data blob);
INSERT INTO entry VALUES (1, 'Grüße 🐬; DROP TABLE entry; \\! touch /tmp/x', x'00ff0a27');
CREATE VIEW notes AS SELECT note FROM entry;
CREATE TRIGGER up BEFORE INSERT ON entry FOR EACH ROW SET NEW.note = UPPER(NEW.note);
CREATE PROCEDURE count_them() SELECT COUNT(*) FROM entry;
"""
ROWS = "SELECT id, HEX(note), HEX(data) FROM entry ORDER BY id; SELECT COUNT(*) FROM notes; CALL count_them(); SHOW TABLES"


@pytest.fixture
def mariadb(host):
    """The app's database in a real server, which authenticates the app's user by the socket."""
    with mariadb_server() as (sql, path):
        done = sql(
            f"CREATE DATABASE shop CHARACTER SET latin1; CREATE USER {host.user}@localhost IDENTIFIED VIA unix_socket;"
            f"GRANT ALL PRIVILEGES ON shop.* TO {host.user}@localhost"
        )
        assert done.returncode == 0, done.stderr
        for name in "mariadb", "mariadb-dump":
            (host.directory / "bin" / name).symlink_to(shutil.which(name))
        host.set(database=f"mysql+pymysql://{host.user}@/shop?unix_socket={path}")
        done = sql(SCHEMA, host.user, "shop", "--default-character-set=utf8mb4")
        assert done.returncode == 0, done.stderr
        yield lambda statements: sql(statements, host.user, "shop", "--default-character-set=utf8mb4").stdout


def test_a_mariadb_database_is_backed_up_and_restored(host, mariadb):
    """Rows, binary data, views, triggers, procedures and the database's character set; a table that was added later is gone. (A14)"""
    expected = mariadb(ROWS)
    assert expected.startswith("1\t4772")
    host.do("now")
    mariadb("INSERT INTO entry VALUES (2, 'later', ''); CREATE TABLE later (id int); UPDATE entry SET note = 'changed' WHERE id = 1")
    changed = mariadb(ROWS)
    assert changed != expected
    host.restore()
    assert mariadb(ROWS) == expected and "latin1" in mariadb("SHOW CREATE DATABASE shop")
    # the replaced content is kept
    assert b"later" in (host.before / "database").read_bytes()
    mariadb("INSERT INTO entry VALUES (3, 'abc', '')")
    assert mariadb("SELECT note FROM entry WHERE id = 3") == "ABC\n"


def test_a_mariadb_dump_that_can_not_be_loaded_changes_nothing(host, mariadb):
    """MariaDB has no transaction for this, so the previous content is loaded again. (A14)"""
    host.do("now")
    name = host.fetch()
    mariadb("INSERT INTO entry VALUES (2, 'later', '')")
    expected = mariadb(ROWS)
    dump = host.fetched / "database"
    dump.write_bytes(dump.read_bytes().replace(b"-- Dump completed", b"CREATE TABLE more (id int);\nNONSENSE;\n-- Dump completed"))
    with pytest.raises(backup.Trouble, match="the database could not be restored and is unchanged"):
        host.do("restore", name)
    assert mariadb(ROWS) == expected
    # nor does the dump of another kind of database
    dump.write_bytes(b"PGDMP")
    with pytest.raises(backup.Trouble, match="the backup contains a PostgreSQL database, and DATABASE_URL is that of MariaDB"):
        host.do("restore", name)
    assert mariadb(ROWS) == expected


def test_an_incomplete_mariadb_dump_is_not_fetched(host, mariadb, monkeypatch):
    """The last line of a dump says that it is complete. (A14)"""
    (host.directory / "bin/mariadb-dump").unlink()
    (host.directory / "bin/mariadb-dump").write_text("#!/bin/sh\necho CREATE TABLE x\n")
    (host.directory / "bin/mariadb-dump").chmod(0o755)
    host.do("now")
    with pytest.raises(backup.Trouble, match=r"The database in the backup can't be read\. Nothing was changed.*its dump is incomplete"):
        host.do("fetch", "latest")


def test_an_unsupported_database_is_reported(host):
    host.set(database="mssql://u:p@h/d")
    with pytest.raises(backup.Trouble, match=r"not mssql\. Set backup_database_url"):
        host.do("now")


def test_the_database_password_is_not_in_any_command_line(host, short_timeout):
    host.set(database="postgresql://ann:hunter2@127.0.0.1:1/shop")
    (host.directory / "bin/pg_dump").write_text(
        f"#!/bin/sh\n( stat -c %a $PGSERVICEFILE; cat $PGSERVICEFILE /proc/*/cmdline ) 2>/dev/null >{host.state}/seen; exit 1\n"
    )
    (host.directory / "bin/pg_dump").chmod(0o755)
    with pytest.raises(backup.Trouble, match="the database could not be dumped") as error:
        host.do("now")
    mode, service = (host.state / "seen").read_bytes().split(b"\n", 1)
    assert mode == b"600" and service.count(b"hunter2") == 1 and b"password=hunter2\n" in service and "hunter2" not in str(error.value)


def test_an_unknown_command_prints_the_usage():
    done = subprocess.run([sys.executable, PROJECT / "roles/backup/files/backup.py", "shop", "nothing"], text=True, capture_output=True)
    assert done.returncode == 1 and "backup.py APP now" in done.stderr


# -- a hostile app --------------------------------------------------------------------------------------------------


def evil(path, rows=200):
    """A database of 28 KB whose check allocates gigabytes."""
    database = sqlite3.connect(path)
    database.execute("pragma ignore_check_constraints = on")
    database.execute("create table t (a int check (length(hex(zeroblob(90000000 + a))) > 0))")
    database.executemany("insert into t values (?)", [(number,) for number in range(rows)])
    database.commit()
    database.close()


def test_a_database_whose_check_uses_much_memory_and_time_does_not_delay_the_backup(host, app):
    evil(host.state / "a.db.upload")
    started = time.monotonic()
    host.do("now")
    assert time.monotonic() - started < 30
    host.restore()
    assert sqlite3.connect(host.state / "a.db.upload").execute("select count(*) from t").fetchone() == (200,)
    assert len(host.content()["data/sample *.db"]) == 500


def check_sqlite(_path):
    """Stands in for a check that uses even more memory than the known attacks."""
    return bytearray(2**30)


@pytest.mark.parametrize(
    ("seconds", "job", "reason"), [(1e-6, appdata_sqlite.check_sqlite, "more than 0 seconds"), (30, check_sqlite, "too much memory")]
)
def test_sqlite_s_time_and_memory_are_limited_and_the_next_database_is_unaffected(tmp_path, monkeypatch, seconds, job, reason):
    path, worker = str(tmp_path / "db"), appdata_sqlite.Worker()
    evil(path)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(appdata_sqlite, "check_sqlite", job)
            state, text = worker.do(job, seconds, 10**9, path)
        assert state == "failed" and reason in text
        assert worker.do(appdata_sqlite.check_sqlite, 30, 10**9, path) == ("done", "")
    finally:
        worker.end()


def test_a_permanently_locked_database_is_saved_as_a_plain_file(host, app):
    holder = sqlite3.connect(host.state / "locked", isolation_level=None)
    holder.execute("pragma locking_mode = exclusive")
    holder.execute("create table t (a)")
    program = host.directory / "lib/appdata_sqlite.py"
    program.write_text(
        program.read_text().replace(
            "LOCKED_SECONDS, BASE_SECONDS, BYTES_A_SECOND = 5,", "LOCKED_SECONDS, BASE_SECONDS, BYTES_A_SECOND = 1,"
        )
    )
    host.do("now")
    assert host.warnings()["count"] == 1 and "database is locked" in host.warnings()["first"][0]
    host.restore()
    assert (host.state / "locked").read_bytes() == (host.before / "files/locked").read_bytes()
    assert len(host.content()["data/sample *.db"]) == 500
    holder.close()


def test_databases_that_exceed_the_time_limit_are_saved_as_plain_files(host, app, monkeypatch):
    program = host.directory / "lib/appdata_sqlite.py"
    program.write_text(program.read_text().replace("COPY_SECONDS, CHECK_SECONDS = 1800, 300", "COPY_SECONDS, CHECK_SECONDS = 0, 0"))
    host.do("now")
    assert "no time was left to copy all databases" in host.warnings()["first"][0]
    name = host.fetch()
    assert {path.name for path in (host.fetched / "files/data").iterdir()} >= {"sample *.db", "sample *.db-wal"}, (
        "the rows are in the write-ahead log"
    )
    host.do("restore", name)
    assert len(host.content()["data/sample *.db"]) == 500


def test_thousands_of_databases_are_backed_up(host):
    """Their names would exceed the length limit of a command line."""
    (host.state / "a").write_bytes(b"")
    database = sqlite3.connect(host.state / "a")
    database.execute("create table t (a)")
    database.close()
    for number in range(3000):
        shutil.copy(host.state / "a", host.state / f"{'x' * 180}{number}.db")
    host.do("now")
    host.fetch()
    assert host.warnings()["count"] == 0 and len(list((host.fetched / "files").iterdir())) == 3001


def test_a_file_replaced_by_a_fifo_during_the_backup_does_not_block_it(host, app):
    host.chown_state()
    stop, path = threading.Event(), host.state / "uploads"

    def swap():
        while not stop.is_set():
            for make in (lambda new: new.write_bytes(appdata_sqlite.MAGIC * 99), os.mkfifo, lambda new: new.symlink_to("/etc/shadow")):
                with contextlib.suppress(FileExistsError):
                    make(path / "new")
                os.replace(path / "new", path / "swapped")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        started = time.monotonic()
        for _ in range(3):
            backup.Backup("shop").now()
        assert time.monotonic() - started < 60
    finally:
        stop.set()
        thread.join()
    host.restore()
    assert len(host.content()["data/sample *.db"]) == 500


def test_files_that_cannot_be_saved_are_reported_and_all_others_are_saved(host, capsys):
    odd = os.fsencode(host.state) + b"/\xff \x1b[31m\n"
    (host.state / "deep").mkdir()
    below = os.open(host.state / "deep", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 60, dir_fd=below)
        below, above = os.open("d" * 60, os.O_RDONLY, dir_fd=below), below
        os.close(above)
    os.close(below)
    os.close(os.open(odd, os.O_CREAT | os.O_WRONLY))
    os.mkfifo(host.state / "fifo")
    socket.socket(socket.AF_UNIX).bind(os.path.relpath(host.state / "socket"))
    (host.state / "secret").write_text("x")
    host.chown_state()
    (host.state / "secret").chmod(0)
    (host.state / "shadow").symlink_to("/etc/shadow")
    with open(host.state / "hole", "wb") as file:
        file.seek(8 * 1024**4 - 1)
        file.write(b"x")
    host.do("now")
    report = host.warnings()
    assert report["count"] == 4 and {line.rsplit(":", 1)[1].strip() for line in report["first"]} == {
        "a FIFO, a socket or a device",
        "Permission denied",
        "more than 500 directories deep",
    }
    assert "4 of the app's files were left out" in capsys.readouterr().out
    host.restore()
    assert os.path.lexists(odd) and os.readlink(host.state / "shadow") == "/etc/shadow"
    found = (host.state / "hole").stat()
    assert found.st_size == 8 * 1024**4 and found.st_blocks * 512 < 1024**2
    with open(host.state / "hole", "rb") as file:
        file.seek(-1, os.SEEK_END)
        assert file.read() == b"x"
    assert sum(len(directories) for _, directories, _, _ in os.fwalk(host.state / "deep")) == 499
    capsys.readouterr()
    host.do("now")


@pytest.mark.parametrize(
    "text", ["", "junk", "[]", '{"count": "x"}', '{"count": 1e999, "first": []}', "[" * 5000, '{"count": 1, "first": 7}', "\udcff"]
)
def test_an_invalid_report_from_the_sandbox_is_ignored(text):
    assert backup_sandbox.warnings(text) == {"count": 0, "first": []}


def test_a_report_is_truncated_and_stripped_of_control_characters():
    found = backup_sandbox.warnings(json.dumps({"count": 99, "first": ["\x1b[31m\u202e" + "x" * 9999] * 99}))
    assert len(found["first"]) == 20 and set(found["first"][0]) == {"?", "[", "3", "1", "m", "x"} and len(found["first"][0]) == 400


@pytest.mark.parametrize("length", [250, 251, 254, 255])
def test_a_database_with_a_long_name_is_restored_unchanged(host, length):
    (host.state / ("u" * length)).write_bytes(b"SQLite format 3\0" + b"junk" * 100)
    (host.state / "valuable").write_text("x")
    expected = host.content()
    host.do("now")
    destroy(host)
    host.restore()
    assert host.content() == expected


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENOMEM, errno.ETIMEDOUT])
@pytest.mark.parametrize("function", ["lstat", "readlink", "open", "lseek", "pread"])
def test_an_error_of_one_file_does_not_stop_the_backup(tmp_path, monkeypatch, function, error):
    """E.g. a link that becomes a file while it is read causes EINVAL. With any error, the other files are saved."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "link").symlink_to("valuable")
    with (state / "holes").open("wb") as file:
        file.truncate(3 * appdata_files.MB)
        file.write(b"end")
    (state / "valuable").write_text("x")
    real = getattr(os, function)
    failed = []

    def fails_once(first, *arguments, **options):
        if not failed and first != "valuable" and (function != "open" or "dir_fd" in options):
            failed.append(first)
            raise OSError(error, os.strerror(error))
        return real(first, *arguments, **options)

    warnings = appdata_files.Warnings()
    with (tmp_path / "saved.tar").open("wb") as stream, appdata_files.Archive(os.dup(stream.fileno()), warnings) as archive:
        root = os.open(state, appdata_files.DIRECTORY)
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fails_once)
            archive.add_tree(root)
    assert failed and warnings.count == 1, warnings.first
    with tarfile.open(tmp_path / "saved.tar") as tar:
        assert tar.extractfile("files/valuable").read() == b"x" and tar.getnames()[-1] == "end"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_without_a_reader_fails_the_backup(tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(2 * appdata_files.MB))
    reader, writer = os.pipe()
    os.close(reader)
    archive = appdata_files.Archive(writer, appdata_files.Warnings())
    with pytest.raises(appdata_files.Failure, match="the reader has closed the stream"), archive:
        archive.add_tree(os.open(tmp_path, appdata_files.DIRECTORY))


@pytest.mark.parametrize("time", ["inf", "nan", "1e300", str(2**63 - 1), str(-(2**63))])
def test_any_modification_time_in_the_archive_is_accepted(host, time):
    host.do("now")
    member = tarfile.TarInfo("files/file")
    member.pax_headers = {"mtime": time}
    for path in host.directory.glob("*here/*/shop.tar"):
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(member)
            tar.addfile(tarfile.TarInfo("end"))
    host.restore()
    assert (host.state / "file").exists()


def test_a_name_that_leads_out_of_the_directory_is_rejected(host):
    host.do("now")
    member = tarfile.TarInfo("files/../../evil")
    for path in host.directory.glob("*here/*/shop.tar"):
        with tarfile.open(path, "w") as tar:
            tar.addfile(member)
            tar.addfile(tarfile.TarInfo("end"))
    with pytest.raises(backup.Trouble, match="a path outside of its directory"):
        host.do("fetch", "latest")


# -- backups in the previous format: two directories, the dumps and the files ---------------------------------------


def previous_format(host, dumps):
    """Make a backup as an earlier version of Flaskhost did."""
    host.chown_state()
    place = backup.Backup("shop").places[0]
    place.open()
    desk = host.work / "desk/dump"
    for name, make in dumps.items():
        (desk / name).parent.mkdir(parents=True, exist_ok=True)
        make(desk / name)
    place.restic("backup", "--json", *place.selection(), str(desk), str(host.state))
    shutil.rmtree(host.work / "desk")


def database_at(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("create table entry (id integer primary key, text text)")
        database.execute("insert into entry values (1, 'one')")
        database.commit()


@REAL
def test_a_backup_in_the_previous_format_is_restored(host):
    (host.state / "data").mkdir()
    (host.state / "data/link").symlink_to("/etc")
    (host.state / "note").write_text("one")
    previous_format(host, {"sqlite/data/shop.db": database_at, "sqlite/new/other.db": database_at})
    destroy(host)
    host.restore()
    rows = [(1, "one")]
    assert host.content() == {"data/link": "/etc", "data/shop.db": rows, "new/other.db": rows, "note": b"one"}
    assert {path.owner() for path in host.state.rglob("*") if not path.is_symlink()} == {host.user}


@REAL
def test_a_directory_that_became_a_link_after_the_dump_is_not_followed(host, capsys):
    """Otherwise, the restored database would become a program that root runs."""
    (host.directory / "profile.d").mkdir(mode=0o777)
    (host.directory / "profile.d").chmod(0o777)
    (host.state / "d").symlink_to(host.directory / "profile.d")
    (host.state / "note").write_text("one")
    previous_format(host, {"sqlite/d/evil.sh": database_at})
    destroy(host)
    host.restore()
    assert list((host.directory / "profile.d").iterdir()) == [] and host.content() == {
        "d": str(host.directory / "profile.d"),
        "note": b"one",
    }
    assert "d/evil.sh: not restored" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of files")
def test_the_owner_of_files_outside_the_app_s_directory_does_not_change(host):
    """While root changes the owner of files, the app can have an open handle to their directory and put links into it."""
    (host.directory / "etc/shadow").write_text("x")
    (host.directory / "etc/shadow").chmod(0o600)
    for name in "shadow", "dir":
        (host.state / name).symlink_to(host.directory / "etc" / ("shadow" if name == "shadow" else ""))
    previous_format(host, {"sqlite/dir/shadow": database_at, "database": lambda path: path.symlink_to(host.directory / "etc/shadow")})
    host.restore()
    assert (host.directory / "etc/shadow").owner() == (host.directory / "etc").owner() == "root"
    assert (host.directory / "etc/shadow").read_text() == "x"


def test_a_damaged_backup_in_the_previous_format_is_rejected(host):
    previous_format(host, {"sqlite/shop.db": lambda path: path.write_bytes(b"x" * 9999)})
    with pytest.raises(backup.Trouble, match=r"shop\.db in the backup is damaged"):
        host.do("fetch", "latest")


# -- a backup that hangs --------------------------------------------------------------------------------------------


@pytest.fixture
def hung(host):
    """A host on which another process holds the lock for a backup."""
    host.do("now")
    with backup.Backup("shop").lock("now"):
        yield host


def test_backups_can_be_listed_while_another_is_being_made(hung, capsys):
    capsys.readouterr()
    assert hung.main("list") == "" and len(json.loads(capsys.readouterr().out)) == 2


@pytest.mark.parametrize("verb", ["fetch", "restore", "now", "unfetch"])
def test_a_command_that_waits_for_a_backup_names_it_and_times_out(hung, monkeypatch, capsys, verb):
    monkeypatch.setitem(backup.WAIT, "fetch", 1)
    monkeypatch.setitem(backup.WAIT, "now", 1)
    arguments = {"fetch": ["latest"], "restore": ["5e5e"]}.get(verb, [])
    output = hung.main(verb, *arguments)
    assert f"Process {os.getpid()} has been creating a backup since 20" in output and "systemctl stop shop-backup.service" in output
    if verb in ("fetch", "now"):
        assert "Waiting at most 1 seconds for it to finish" in capsys.readouterr().err


def test_a_helper_process_that_hangs_is_killed(host, monkeypatch, short_timeout):
    monkeypatch.setattr(backup_sandbox, "HOURS_6", -59)
    (host.directory / "bin/systemd-run").write_text("#!/bin/sh\nexec sleep 100\n")
    with pytest.raises(backup.Trouble, match=r"shop-backup-save\.service did not finish"):
        host.do("now")
    assert backup.Backup("shop").all() == []


# -- exclude patterns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "excluded"),
    [
        ("*.tmp", "a/b/c.tmp", True),
        ("*.tmp", "a/b/c.txt", False),
        ("/var/lib/shop/cache", "cache", True),
        ("/var/lib/shop/cache", "uploads/cache", False),
        ("/disk/shop/ca*", "cache", True),
        ("/srv/cache", "cache", False),
        ("cache/*", "a/cache/b", True),
        ("cache/*", "cache", False),
        ("/var/lib/shop/**/thumbs", "a/b/thumbs", True),
        ("/var/lib/shop/**/thumbs", "thumbs", True),
        ("/var/**/x/**/y", "a/x/b/c/y", True),
        ("[a-c]?", "b1", True),
        ("[^a-c]?", "b1", False),
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
    ],
)
def test_patterns_match_as_in_restic(pattern, path, excluded):
    patterns = appdata_files.Patterns([pattern], ["/var/lib/shop", "/disk/shop"])
    states = patterns.start()
    for name in path.split("/"):
        states = patterns.step(states, name)
    assert patterns.match(states) == excluded


def test_excluded_files_are_not_backed_up(host, app):
    (host.state / "cache").mkdir()
    (host.state / "cache/x").write_text("x")
    host.set(exclude=["*.png", f"{host.state}/cache", "!*.keep", "uploads/*.keep", "!uploads/a.keep"])
    for name in "a.keep", "b.keep":
        (host.state / "uploads" / name).write_text("x")
    host.do("now")
    host.fetch()
    saved = host.fetched / "files"
    found = {str(path.relative_to(saved)) for path in saved.rglob("*")}
    assert found == {"data", "data/sample *.db", "uploads", "uploads/a.keep", "uploads/deep [1]", "uploads/link"}


def test_control_characters_in_another_host_s_name_are_replaced(host, app, capsys):
    """Anyone with write access to the place can choose this name."""
    host.set(of="evil\x1b]0;title\x07\u202e")
    host.do("now")
    host.set()
    output = host.main("fetch", "2001")
    assert "There is no backup '2001' of production/web." in output and "of evil?]0;title??)" in output and output.isprintable()


def test_control_characters_in_a_list_of_backups_are_replaced(tmp_path):
    listed = [{"id": "1a2b", "time": "2026-01-30T00:00:00Z", "place": "s3", "of": "evil\x1b]0;title\x07\u202e"}]
    (tmp_path / "program").write_text(f"#!/bin/sh\ncat <<'EOF'\n{json.dumps(listed)}\nEOF\n")
    (tmp_path / "program").chmod(0o755)
    variables = {"app_name": "shop", "backup_app": "shop", "backup_name": "", "app_services": ["backup"]}
    task = {
        "ansible.builtin.include_role": {"name": "flaskhost.flaskhost.backup", "tasks_from": "restore"},
        "vars": {"__backup_program": str(tmp_path / "program")},
    }
    printed = run_playbook(tmp_path, [task], {"here": variables}, succeeds=None).output
    assert "1a2b  2026-01-30T00:00:00Z  s3  evil\ufffd" in printed and not {"\x1b", "\x07", "\u202e"} & {*printed}, printed
