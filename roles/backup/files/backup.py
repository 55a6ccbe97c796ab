#!/usr/bin/python3
"""An app's backups: its database and its files, by restic, on this host and in an S3-compatible place.

  backup.py APP now          make one, wherever one is to be, and forget those that are too old
  backup.py APP list         tell which there are, as JSON
  backup.py APP fetch NAME   make one ready to be restored, and tell its id; the app goes on meanwhile
  backup.py APP restore ID   put that one in place; the app has to be stopped
  backup.py APP unfetch      remove what was fetched, and what the restore before this one had kept

NAME is the id of one; or, of those that this host has made, a time such as 2026-11-21 or 2026-11-21T03 (the last of then), or `latest`.

Managed by Flaskhost (role backup), which also writes /etc/flaskhost/backup-APP.json.
"""

import contextlib
import errno
import fcntl
import grp
import json
import os
import pwd
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

# nothing is left beside the programs
sys.dont_write_bytecode = True
import backup_sandbox
from backup_repository import SETTINGS, Repository
from backup_sandbox import HOURS_6, Sandbox, Trouble

WORK = Path("/var/lib/flaskhost")
# for how many seconds a run waits for another one; `list` needs no lock, and while the app is stopped nobody waits
WAIT = {"now": 300, "fetch": 60, "restore": 0, "unfetch": 0}


def main():
    if len(sys.argv) < 3 or sys.argv[2] not in ("list", *WAIT):
        sys.exit(__doc__)
    # what is made here says itself who may read it, whatever the session's own says
    os.umask(0o022)
    try:
        backup = Backup(sys.argv[1])
        with contextlib.nullcontext() if sys.argv[2] == "list" else backup.lock(sys.argv[2]):
            getattr(backup, sys.argv[2])(*sys.argv[3:])
    except Trouble as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(reason(error))
    except subprocess.TimeoutExpired as error:
        sys.exit(f"{error.cmd[0]} did not end within {error.timeout:.0f} seconds")


class Backup:
    def __init__(self, app):
        self.app = app
        self.settings = json.loads((SETTINGS / f"backup-{app}.json").read_text())
        # it may be a link to another disk, or a mount point
        self.state = Path(self.settings["state"])
        self.sandbox = Sandbox(app, self.settings["sandbox"], self.state)
        # root's alone: what is in it, no app can reach by any path
        self.root = WORK / app
        # what was fetched: `id`, `files` and perhaps `database`; and what stood in its place
        self.fetched, self.before, self.discarded = self.root / "fetched", self.root / "before", self.root / "discarded"
        self.places = [Repository(app, name, url, self.settings) for name, url in self.settings["places"].items()]
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # a former version let others pass
        os.chmod(self.root, 0o700)

    @contextlib.contextmanager
    def lock(self, verb):
        """One at a time, until this process ends. Who waits says for whom."""
        file = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        begun, told, holder = time.monotonic(), False, ""
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = self.holder(file)
            if time.monotonic() - begun >= WAIT[verb]:
                raise Trouble(
                    f"{holder}. Wait for its end (journalctl -fu {self.app}-backup), or stop it (systemctl stop {self.app}-backup.service, "
                    f"or kill its process), and try again."
                )
            if not told:
                print(f"{holder}. Waiting for its end, at most {WAIT[verb]} seconds.", file=sys.stderr, flush=True)
                told = True
            time.sleep(min(1, WAIT[verb]))
        # on a disk that is full, nobody is told who holds it
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"pid": os.getpid(), "since": time.time(), "verb": verb}).encode(), 0)
        try:
            yield
        finally:
            os.close(file)

    def holder(self, file):
        doing = {"now": "A backup is being made", "fetch": "A backup is being fetched", "restore": "A backup is being restored"}
        try:
            held = json.loads(os.pread(file, 1000, 0))
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(held["since"]))
            return f"{doing.get(held['verb'], held['verb'])} by process {held['pid']} since {since}"
        except (ValueError, KeyError, TypeError):
            return "A backup is being made at this moment"

    # -- the verbs --------------------------------------------------------------------------------------------------

    def now(self):
        if not os.path.lexists(self.state):
            raise Trouble(f"{self.state} is not there: nothing was ever released.")
        service, wrong = self.service(), []
        for place in self.places:
            try:
                place.open()
                try:
                    self.save(place, service)
                except (OSError, Trouble) as error:
                    wrong.append(reason(error))
                    # the disk may be full: what is too old, and what this one has left, makes room for the next
                    # 1, since restic before 0.13 takes 0 for no limit
                    place.forget("--max-repack-size=1")
                    wrong.append(f"backups in {place} that are older than {self.settings['keep_days']} days were removed nevertheless")
                else:
                    place.forget()
            except (OSError, Trouble) as error:
                wrong.append(reason(error))
        if wrong:
            raise Trouble("; ".join(wrong))

    def save(self, place, service):
        name, warnings = place.save(self.file(), lambda stream: self.write(stream, service))
        self.note(place.name, {"id": name, "at": time.time(), "warnings": warnings})
        print(f"backup {name} was written to {place}")
        self.tell(warnings, "of the app's files were left out, or may not be consistent")

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
        self.fetched.mkdir(mode=0o700)
        place = next(place for place in self.places if place.name == found[-1]["place"])
        if len(found[-1]["paths"]) == 1:
            self.fetch_stream(place, found[-1]["id"], found[-1]["paths"])
        else:
            self.fetch_paths(place, found[-1]["id"], found[-1]["paths"])
        if self.is_dumped():
            with open(self.fetched / "database", "rb") as dump:
                self.sandbox.run("check", stdin=dump, trouble="The database in that backup can't be read. Nothing was changed")
        (self.fetched / "id").write_text(found[-1]["id"])
        print(json.dumps(found[-1]))

    def restore(self, name):
        """The files, then the database in one transaction. What fails leaves all as it was."""
        if not (self.fetched / "id").exists() or (self.fetched / "id").read_text() != name:
            raise Trouble(f"Backup {name} was not fetched, or another one since.")
        unfinished = self.before / "unfinished"
        if unfinished.exists():
            # of a run that died: the only copy of what it had moved
            aside = self.before.with_name(f"before-{time.strftime('%Y%m%dT%H%M%S')}")
            self.before.rename(aside)
            print(f"What a restore that was cut short had moved is kept in {aside}.")
        elif self.before.exists():
            # to remove it takes time, and the app is stopped
            remove(self.discarded)
            self.before.rename(self.discarded)
        self.before.mkdir(mode=0o700)
        unfinished.touch()
        files = Swap(self) if self.is_whole() else Copy(self)
        try:
            try:
                files.replace()
            except OSError as error:
                # an overlay file system, such as a container's, renames no directory that came with its image
                if error.errno != errno.EXDEV or not isinstance(files, Swap) or files.done:
                    raise
                files = Copy(self)
                files.replace()
            if self.is_dumped() and self.service():
                self.replace_database()
        except (OSError, Trouble):
            files.undo()
            unfinished.unlink()
            raise
        unfinished.unlink()
        (self.fetched / "id").unlink()
        print(f"What stood in its place is kept in {self.before}, until the next time.")

    def unfetch(self):
        remove(self.fetched)
        remove(self.discarded)

    # -- saving -----------------------------------------------------------------------------------------------------

    def file(self):
        """The name of the stream in the repository."""
        return f"{self.app}.tar"

    def write(self, stream, service):
        roots = [str(self.state), str(self.state.resolve())]
        trouble = "the app's files or its database could not be read"
        return self.sandbox.run(
            "save", self.state, stdout=stream, trouble=trouble, service=service, exclude=self.settings["exclude"], roots=roots
        )

    def service(self):
        """How libpq gets to the database, as an entry of its service file; empty if there is none, or SQLite."""
        named = self.database()
        return "[app]\n" + "".join(f"{key}={value}\n" for key, value in named.items()) if named else ""

    def database(self):
        """What its URL says, as libpq names it."""
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

    def note(self, name, made):
        """For those who ask when the last one was made. Whole or not at all."""
        path = self.root / "made.json"
        notes = json.loads(path.read_text()) if path.exists() else {}
        path.with_suffix(".new").write_text(json.dumps(notes | {name: made}))
        path.with_suffix(".new").rename(path)

    @staticmethod
    def tell(warnings, what, file=None):
        if warnings["count"]:
            more = warnings["count"] - len(warnings["first"])
            lines = [f"{warnings['count']} {what}:", *warnings["first"], *([f"and {more} more"] if more > 0 else [])]
            print("\n  ".join(lines), file=file)

    # -- fetching ---------------------------------------------------------------------------------------------------

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

    def fetch_stream(self, place, name, paths):
        trouble = f"Backup {name} can't be unpacked. Nothing was changed"
        with open(self.fetched / "database", "wb") as dump, place.stream(name, paths[0]) as stream:
            self.sandbox.run("database", stdin=stream, stdout=dump, file_bytes=self.room(), trouble=trouble)
        with opened(self.app_directory(self.fetched / "files")) as files, place.stream(name, paths[0]) as stream:
            self.tell(self.sandbox.run("extract", stdin=stream, stdout=files, trouble=trouble), "files could not be unpacked", sys.stderr)

    def fetch_paths(self, place, name, paths):
        """One that a former version has made: a snapshot of two directories, the dumps and the app's files."""
        dumps = self.root / "desk/dump"
        state = next(path for path in paths if Path(path) != dumps)
        tree = self.fetched / "tree"
        tree.mkdir(mode=0o700)
        place.load(name, tree)
        for path in str(dumps), state:
            found = tree / path.lstrip("/")
            if not found.is_dir() or found.resolve() != found:
                raise Trouble(f"Backup {name} is not whole: it has no {path}. Nothing was changed.")
        found = tree / str(dumps).lstrip("/")
        if is_kind(found / "database", stat.S_ISREG):
            (found / "database").rename(self.fetched / "database")
        if is_kind(found / "sqlite", stat.S_ISDIR):
            (found / "sqlite").rename(self.fetched / "sqlite")
        (tree / state.lstrip("/")).rename(self.fetched / "files")
        remove(tree)
        sqlite = self.app_directory(self.fetched / "sqlite")
        files = self.app_directory(self.fetched / "files")
        with opened(sqlite) as source, opened(files) as target:
            warnings = self.sandbox.run("merge", stdin=source, stdout=target, trouble=f"Backup {name} can't be used. Nothing was changed")
        self.tell(warnings, "files could not be unpacked", sys.stderr)
        remove(sqlite)

    def is_dumped(self):
        path = self.fetched / "database"
        return path.exists() and path.stat().st_size > 0

    def room(self):
        """How long a file of the app's may become in here, so that it fills no disk."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize * 9 // 10

    # -- restoring --------------------------------------------------------------------------------------------------

    def is_whole(self):
        """Whether a rename is enough: the app's directory is one, on the disk where backups are fetched to, and nothing is mounted in it."""
        if self.state.is_symlink() or any(path.is_relative_to(self.state) for path in mount_points()):
            return False
        return mount_id(self.state.parent) == mount_id(self.root)

    def replace_database(self):
        # if it can't be dumped as it is, that may be why it is to be restored
        with contextlib.suppress(Trouble), open(self.before / "database", "wb") as kept:
            self.sandbox.run("dump", stdout=kept, file_bytes=self.room(), service=self.service(), trouble="")
        trouble = "the database could not be restored, and is as it was"
        with open(self.fetched / "database", "rb") as dump:
            self.sandbox.run("load", stdin=dump, service=self.service(), trouble=trouble)

    def app_directory(self, path):
        """In a directory that only root can enter, so that what is made or changed there can't be exchanged meanwhile."""
        path.mkdir(mode=0o700, exist_ok=True)
        user, group = pwd.getpwnam(self.settings["user"]).pw_uid, grp.getgrnam(self.settings["group"]).gr_gid
        command = ["chown", "--no-dereference", "--recursive", f"{user}:{group}", path]
        subprocess.run(command, check=True, env={"PATH": backup_sandbox.PATH}, timeout=HOURS_6)
        os.chmod(path, 0o700)
        return path


class Swap:
    """By two renames, between directories that are root's."""

    def __init__(self, backup):
        self.moves = [(backup.state, backup.before / "files"), (backup.fetched / "files", backup.state)]
        self.done = []

    def replace(self):
        for source, target in self.moves:
            if os.path.lexists(source):
                os.rename(source, target)
                self.done.append((source, target))

    def undo(self):
        for source, target in reversed(self.done):
            os.rename(target, source)


class Copy:
    """Where something is mounted: the app's user copies, from descriptor to descriptor, and what is mounted stays where it is."""

    def __init__(self, backup):
        self.backup, self.begun = backup, False
        self.state = backup.state
        self.kept = backup.before / "files"

    def replace(self):
        self.backup.app_directory(self.kept)
        with opened(self.kept) as kept:
            warnings = self.run("copy", self.state, "-", stdout=kept, trouble="What is there could not be kept. Nothing was changed")
        self.backup.tell(warnings, "files are not kept")
        self.begun = True
        self.fill(self.backup.fetched / "files")

    def fill(self, source):
        trouble = f"{self.state} could not be replaced"
        self.run("empty", self.state, trouble=trouble)
        with opened(source) as directory:
            self.run("copy", "-", self.state, stdin=directory, trouble=trouble)

    def undo(self):
        if self.begun:
            self.fill(self.kept)

    def run(self, *words, **options):
        return self.backup.sandbox.run(*words, **options)


def reason(error):
    return f"{error.filename or sys.argv[2]}: {error.strerror or error}" if isinstance(error, OSError) else str(error)


@contextlib.contextmanager
def opened(directory):
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_kind(path, kind):
    return os.path.lexists(path) and kind(path.lstat().st_mode)


def mount_id(directory):
    """A rename from one mount to another fails, even on the same disk."""
    with opened(directory) as descriptor:
        return re.search(r"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)[1]


def mount_points():
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        yield Path(os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1")))


def remove(path):
    """rm goes from directory to directory by descriptors, however deep they are, follows no link and stays on its disk."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", path], env={"PATH": backup_sandbox.PATH}, timeout=HOURS_6, check=True)


if __name__ == "__main__":
    main()
