#!/usr/bin/python3
"""An app's backups: its database and its files, by restic, on this host and in an S3-compatible place.

  backup.py APP now          make one, wherever one is to be, and forget those that are too old
  backup.py APP list         tell which there are, as JSON
  backup.py APP fetch NAME   make one ready to be restored, and tell its id; the app goes on meanwhile
  backup.py APP restore ID   put that one in place; the app has to stand still
  backup.py APP unfetch      let go of it

NAME is the id of one; or, of those that this host has made, a time such as 2026-11-21 or 2026-11-21T03 (the last of then), or `latest`.

Managed by Flaskhost (role backup), which also writes /etc/flaskhost/backup-APP.json.
"""

import contextlib
import fcntl
import grp
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

SETTINGS = Path("/etc/flaskhost")
WORK = Path("/var/lib/flaskhost")
CACHE = Path("/var/cache/flaskhost")
PATH = "/usr/local/bin:/usr/bin:/bin"
SQLITE = b"SQLite format 3\0"
# a place may be far away, but not for ever; another host may be at work in it
SECONDS = {"cat": 120, "snapshots": 300}
HOURS_6 = 6 * 3600
LOCKED_SECONDS, LOCKED_TRIES = 30, 20

# Run as the app's user: what root leaves beside a database, the app could not open. What begins as a database does and is damaged,
# or never was one (a visitor may upload anything), gets no copy.
COPY = """
import os, sqlite3, sys
os.makedirs(os.path.dirname(sys.argv[2]), exist_ok=True)
try:
    copy = sqlite3.connect(sys.argv[2])
    sqlite3.connect(sys.argv[1], timeout=60).backup(copy)
    good = copy.execute('pragma quick_check').fetchone()[0] == 'ok'
except sqlite3.OperationalError:
    raise
except sqlite3.DatabaseError:
    good = False
if not good:
    os.remove(sys.argv[2])
"""
CHECK = "import sqlite3, sys; sys.exit(sqlite3.connect(sys.argv[1]).execute('pragma quick_check').fetchone()[0] != 'ok')"
# The schema `public` goes with the rest if it is the app's own, and no dump brings it back.
EMPTY = """
drop owned by current_user cascade;
do $$ begin if to_regnamespace('public') is null then create schema public; end if; end $$;
"""
# What is in the database goes and what is in the dump comes, or neither. By a file: of a pipe that breaks, psql would take the half.
# The client of PostgreSQL 17 and newer begins with a setting that older servers don't know.
REPLACE = r"""
{ echo "$3"; pg_restore --no-owner --no-comments --file=- "$1"; } >"$2" &&
sed --in-place '1,40{/^SET transaction_timeout = 0;$/d}' "$2" &&
psql --no-psqlrc --quiet --output=/dev/null --single-transaction --set=ON_ERROR_STOP=1 --file="$2" --dbname=service=app
"""


class Trouble(Exception):
    """Its text is for the operator."""


def main():
    if len(sys.argv) < 3 or sys.argv[2] not in ("now", "list", "fetch", "restore", "unfetch"):
        sys.exit(__doc__)
    # what is made here says itself who may read it, whatever the session's own says
    os.umask(0o022)
    try:
        backup = Backup(sys.argv[1])
        # one at a time, until this process ends; while the app stands still, nobody waits
        lock = os.open(backup.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if sys.argv[2] == "restore" else 0))
        except BlockingIOError:
            raise Trouble(
                f"A backup is being made at this moment: wait for its end (journalctl -fu {sys.argv[1]}-backup), and try again."
            ) from None
        getattr(backup, sys.argv[2])(*sys.argv[3:])
    except Trouble as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error.filename or sys.argv[2]}: {error.strerror or error}")


class Backup:
    def __init__(self, app):
        self.app = app
        self.settings = json.loads((SETTINGS / f"backup-{app}.json").read_text())
        # it may be a link to another disk
        self.state = Path(self.settings["state"]).resolve()
        self.root = WORK / app
        # the app's own, while something is done in it
        self.desk = self.root / "desk"
        self.dump = self.desk / "dump"
        # what was fetched: `dump` and `files`; and what stood in its place
        self.fetched, self.before = self.root / "fetched", self.root / "before"
        self.places = [Place(self, name, repository) for name, repository in self.settings["places"].items()]
        self.root.mkdir(parents=True, exist_ok=True)
        os.chmod(self.root, 0o711)

    def password(self):
        """The owner's; or one of the host's own, which lives as long as what it opens."""
        path = SETTINGS / f"backup-{self.app}.key"
        if self.settings["password"]:
            return self.settings["password"]
        if not path.exists():
            with os.fdopen(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as key:
                key.write(secrets.token_hex(32))
            os.rename(f"{path}.new", path)
        return path.read_text()

    # -- the verbs --------------------------------------------------------------------------------------------------

    def now(self):
        wrong = []
        with self.clean_desk():
            self.make_dump()
            for place in self.places:
                try:
                    name = place.save([self.dump, self.state], self.excluded())
                    self.note(place.name, {"id": name, "at": time.time()})
                    print(f"backup {name} was written to {place}")
                    place.forget(self.settings["keep_days"])
                except Trouble as error:
                    wrong.append(str(error))
        if wrong:
            raise Trouble("; ".join(wrong))

    def list(self):
        print(json.dumps(self.all()))

    def fetch(self, name):
        try:
            self.fetch_whole(name)
        except BaseException:
            self.unfetch()
            raise

    def fetch_whole(self, name):
        there = self.all()
        # what another host has made, of a stage that shares the place or one that is gone, comes only if it is asked for itself
        own = [one for one in there if one["of"] == self.settings["of"] and (name == "latest" or one["time"].startswith(name))]
        found = [one for one in there if one["id"] == name] or own
        if not found:
            names = ", ".join(f"{one['id']} ({one['time']}, of {one['of']})" for one in there[-20:])
            raise Trouble(f"There is no backup '{name}' of {self.settings['of']}. There are: {names or 'none'}.")
        self.unfetch()
        with self.clean_desk():
            place = next(place for place in self.places if place.name == found[-1]["place"])
            place.load(found[-1]["id"], self.desk / "tree")
            self.fetched.mkdir(mode=0o711)
            # where the app's files were then
            state = next(path for path in found[-1]["paths"] if Path(path) != self.dump)
            for source, target in (self.dump, "dump"), (state, "files"):
                tree = self.desk / "tree" / str(source).lstrip("/")
                if tree.is_symlink() or not tree.is_dir():
                    raise Trouble(f"Backup {found[-1]['id']} is not whole: it has no {source}. Nothing was changed.")
                tree.rename(self.fetched / target)
                self.own(self.fetched / target)
                os.chmod(self.fetched / target, 0o700)
            (self.fetched / "id").write_text(found[-1]["id"])
            for path in files(self.fetched / "dump/sqlite"):
                self.run([sys.executable, "-c", CHECK, path], f"{path.name} in that backup is damaged")
            if self.is_dumped():
                self.run(["pg_restore", "--list", self.fetched / "dump/database"], "the database in that backup can't be read")
        print(json.dumps(found[-1]))

    def restore(self, name):
        """The files by renames, then the database in one transaction. What fails leaves all as it was."""
        if not (self.fetched / "id").exists() or (self.fetched / "id").read_text() != name:
            raise Trouble(f"Backup {name} was not fetched, or another one since.")
        unfinished = self.before / "unfinished"
        if unfinished.exists():
            # of a run that died: the only copy of what it had moved
            aside = self.before.with_name(f"before-{time.strftime('%Y%m%dT%H%M%S')}")
            self.before.rename(aside)
            print(f"What a restore that was cut short had moved is kept in {aside}.")
        shutil.rmtree(self.before, ignore_errors=True)
        self.before.mkdir(mode=0o700)
        unfinished.touch()
        for path in files(self.fetched / "dump/sqlite"):
            target = self.fetched / "files" / path.relative_to(self.fetched / "dump/sqlite")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        self.own(self.fetched / "files")
        moved = []
        try:
            self.swap(moved)
            if self.is_dumped() and self.database():
                self.replace_database()
        except (OSError, Trouble):
            for was, now in reversed(moved):
                move(now, was)
            self.own(self.state)
            unfinished.unlink()
            raise
        unfinished.unlink()
        self.unfetch()
        print(f"What stood in its place is kept in {self.before}, until the next time.")

    def unfetch(self):
        shutil.rmtree(self.fetched, ignore_errors=True)

    # -- pieces -----------------------------------------------------------------------------------------------------

    def all(self):
        """The oldest first; of one place that can't be asked, the others tell."""
        found, wrong = [], []
        for place in self.places:
            try:
                found += place.snapshots()
            except Trouble as error:
                wrong.append(str(error))
        if wrong and not found:
            raise Trouble("; ".join(wrong))
        return sorted(found, key=lambda one: one["time"])

    def make_dump(self):
        """The database before the files: a row never names an upload that isn't in the same backup."""
        if not self.state.exists():
            raise Trouble(f"{self.state} is not there: nothing was ever released.")
        if self.database():
            with self.service() as service:
                # not compressed: what is as it was yesterday is then seen to be so, and stored once
                command = ["pg_dump", "--format=custom", "--compress=0", f"--file={self.dump}/database", "--dbname=service=app"]
                self.run(command, "the database could not be dumped", service)
        for path in self.sqlite():
            copy = self.dump / "sqlite" / path.relative_to(self.state)
            self.run([sys.executable, "-c", COPY, path, copy], f"{path} could not be copied")
            if not copy.exists():
                print(f"{path} begins as an SQLite database does, and is damaged, or none: it is in the backup as it is")

    def sqlite(self):
        """Databases among the app's files: copied as files, while the app writes to them, they would be damaged."""
        for path in files(self.state):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                if file.read(len(SQLITE)) == SQLITE:
                    yield path

    def excluded(self):
        """Databases that were copied; what got no copy is taken as the file that it is."""
        for copy in files(self.dump / "sqlite"):
            for beside in "", "-wal", "-shm", "-journal":
                yield f"{self.state / copy.relative_to(self.dump / 'sqlite')}{beside}"

    def replace_database(self):
        with self.clean_desk(), self.service() as service:
            # if it can't be dumped as it is, that may be why it is to be restored
            if self.run(["pg_dump", "--format=custom", f"--file={self.desk}/kept", "--dbname=service=app"], "", service):
                shutil.move(self.desk / "kept", self.before / "database")
            command = ["sh", "-c", REPLACE, "sh", self.fetched / "dump/database", self.desk / "sql", EMPTY]
            self.run(command, "the database could not be restored, and is as it was", service)

    def is_dumped(self):
        return (self.fetched / "dump/database").exists()

    def database(self):
        """What its URL says, as libpq names it; empty if it is none, or SQLite."""
        parts = urlsplit(self.settings["database"])
        kind = parts.scheme.partition("+")[0]
        if kind in ("", "sqlite"):
            return {}
        if kind not in ("postgres", "postgresql"):
            raise Trouble(
                f"Only PostgreSQL and SQLite are known here, and no {kind}: set backup_database_url to '', and see to it otherwise."
            )
        named = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password, "dbname": parts.path[1:]}
        return {key: unquote(str(value)) for key, value in named.items() if value} | dict(parse_qsl(parts.query))

    @contextlib.contextmanager
    def service(self):
        """The database's password goes by a file, which only the app can read; a command's words, all can."""
        path = self.desk / "pg_service.conf"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("[app]\n" + "".join(f"{key}={value}\n" for key, value in self.database().items()))
        self.own(path)
        yield {"PGSERVICEFILE": str(path)}

    @contextlib.contextmanager
    def clean_desk(self):
        shutil.rmtree(self.desk, ignore_errors=True)
        self.dump.mkdir(parents=True)
        os.chmod(self.desk, 0o700)
        self.own(self.desk)
        try:
            yield
        finally:
            shutil.rmtree(self.desk, ignore_errors=True)

    def own(self, path):
        """All of it is the app's."""
        user, group = pwd.getpwnam(self.settings["user"]).pw_uid, grp.getgrnam(self.settings["group"]).gr_gid
        for one in [path, *path.rglob("*")]:
            os.chown(one, user, group, follow_symlinks=False)

    def run(self, command, trouble, environment=None):
        """As the app's user. Without a word for trouble, it is no trouble."""
        user = {} if os.geteuid() else {"user": self.settings["user"], "group": self.settings["group"], "extra_groups": []}
        base = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": str(self.state)}
        done = subprocess.run(
            [str(word) for word in command], cwd="/", env=base | (environment or {}), capture_output=True, text=True, **user
        )
        if done.returncode and trouble:
            raise Trouble(f"{trouble} ({' '.join((done.stderr or done.stdout).split())})")
        return not done.returncode

    def note(self, name, made):
        """For those who ask when the last one was made. Whole or not at all."""
        path = self.root / "made.json"
        notes = json.loads(path.read_text()) if path.exists() else {}
        path.with_suffix(".new").write_text(json.dumps(notes | {name: made}))
        path.with_suffix(".new").rename(path)

    def swap(self, moved):
        """Entry by entry, for the folder itself is systemd's. C(moved) gets what was moved from where to where."""
        self.state.mkdir(mode=0o700, exist_ok=True)
        (self.before / "files").mkdir()
        for source, target in (self.state, self.before / "files"), (self.fetched / "files", self.state):
            for was, now in entries(source, target):
                move(was, now)
                moved.append((was, now))
        self.own(self.state)


class Place:
    """A repository of restic's."""

    def __init__(self, backup, name, repository):
        self.backup, self.name, self.repository = backup, name, repository

    def __str__(self):
        return self.repository.removeprefix("s3:")

    def save(self, paths, excluded):
        self.open()
        # of a run that died; one that is at work keeps its lock
        self.restic("unlock", "--quiet")
        words = [f"--exclude={escaped(path)}" for path in excluded] + [
            f"--exclude={pattern}" for pattern in self.backup.settings["exclude"]
        ]
        command = ["backup", "--json", *self.whose(), *words, *map(str, paths)]
        try:
            out = self.restic(*command)
        except Trouble:
            # a file may just have gone, which is no reason to wake anybody; twice in a row is
            out = self.restic(*command)
        return json.loads(out.splitlines()[-1])["snapshot_id"][:8]

    def open(self):
        try:
            self.restic("cat", "config")
        except Trouble as error:
            if "wrong password" not in str(error):
                self.restic("init")
            elif not self.gets_the_owner_s_password():
                raise Trouble(f"{self} was made with another backup_password") from None

    def gets_the_owner_s_password(self):
        """One that was made before there was any opens with the host's own."""
        key = SETTINGS / f"backup-{self.backup.app}.key"
        if not self.backup.settings["password"] or not key.exists():
            return False
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(self.backup.settings["password"])
            file.flush()
            try:
                self.restic("key", "add", f"--new-password-file={file.name}", password=key.read_text())
            except Trouble:
                return False
        return True

    def forget(self, days):
        self.restic("forget", "--quiet", "--prune", *self.whose(), "--group-by=host", f"--keep-within={days}d")

    def whose(self):
        """What sets this host's backups apart from others in the same place."""
        return f"--host={self.backup.settings['of']}", f"--tag={self.backup.app}"

    def snapshots(self):
        found = json.loads(self.restic("snapshots", "--json", f"--tag={self.backup.app}") or "null") or []
        return [
            {"id": one["short_id"], "time": one["time"][:19] + "Z", "place": self.name, "of": one["hostname"], "paths": one["paths"]}
            for one in found
        ]

    def load(self, name, target):
        self.restic("restore", name, f"--target={target}", "--verify", "--quiet")

    def restic(self, *words, password=None):
        environment = {
            "PATH": PATH,
            "HOME": "/root",
            "RESTIC_REPOSITORY": self.repository,
            "RESTIC_PASSWORD": password or self.backup.password(),
            "RESTIC_CACHE_DIR": str(CACHE / "restic"),
            "TZ": "UTC",
            **self.backup.settings["environment"],
        }
        seconds = SECONDS.get(words[0], HOURS_6)
        for attempt in range(LOCKED_TRIES):
            try:
                done = subprocess.run(["restic", *words], env=environment, capture_output=True, text=True, timeout=seconds)
            except subprocess.TimeoutExpired:
                raise Trouble(f"{self} gave no answer within {seconds} seconds") from None
            if not done.returncode or "already locked" not in done.stderr:
                break
            time.sleep(LOCKED_SECONDS if attempt + 1 < LOCKED_TRIES else 0)
        if done.returncode:
            raise Trouble(f"{self}: {' '.join((done.stderr or done.stdout).split())[-600:]}")
        return done.stdout


def entries(source, target):
    """What there is to move from one folder to another. A disk that is mounted among it stays where it is, and what is on it moves."""
    for entry in sorted(source.iterdir()):
        there = target / entry.name
        if entry.is_mount() or there.is_mount():
            there.mkdir(mode=0o700, exist_ok=True)
            yield from entries(entry, there)
        elif entry.name != "lost+found":
            yield entry, there


def move(source, target):
    """By a rename; to another disk by a copy, of which nothing is left if it fails."""
    try:
        shutil.move(source, target)
    except OSError:
        if source.exists() or source.is_symlink():
            shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink(missing_ok=True)
        raise


def files(folder):
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def escaped(path):
    """As a pattern that fits no other."""
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in path)


if __name__ == "__main__":
    main()
