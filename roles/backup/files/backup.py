#!/usr/bin/python3
"""Back up and restore an app's database and files with restic, on this host and in S3-compatible storage.

  backup.py APP now          create a backup in every destination and remove backups that are too old
  backup.py APP list         print all backups as JSON
  backup.py APP fetch NAME   fetch and check a backup and print its description as JSON; the app can run
  backup.py APP restore ID   replace the app's data with the fetched backup; the app must be stopped
  backup.py APP unfetch      remove the fetched backup, and the data that an older restore had kept

NAME is the ID of any backup. For backups of this host, it can also be a time such as 2026-11-21 or 2026-11-21T03 (the last backup of that
time), or `latest`.

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

# write no bytecode beside the programs
sys.dont_write_bytecode = True
import backup_sandbox
from backup_repository import SETTINGS, Repository
from backup_sandbox import HOURS_6, Sandbox, Trouble

WORK = Path("/var/lib/flaskhost")
# schemes of URLs, and the parameters of Python's drivers that MariaDB's clients know too
MARIADB = ("mariadb", "mysql")
MARIADB_OPTIONS = {"unix_socket": "socket", "ssl_ca": "ssl-ca", "ssl_cert": "ssl-cert", "ssl_key": "ssl-key"}
# in a quoted value of an option file
SPECIAL, BACKSLASH = r'[\\"]', r"\\\g<0>"
# seconds to wait for the lock. `list` needs no lock, and `restore` does not wait while the app is stopped.
WAIT = {"now": 300, "fetch": 60, "restore": 0, "unfetch": 0}


def main():
    if len(sys.argv) < 3 or sys.argv[2] not in ("list", *WAIT):
        sys.exit(__doc__)
    # don't depend on the session's umask: files that must be private set their own permissions
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
        # can be a link to another disk or a mount point
        self.state = Path(self.settings["state"])
        self.sandbox = Sandbox(app, self.settings["sandbox"], self.state)
        # only root can access this directory, so no app can access anything in it by path
        self.root = WORK / app
        # `fetched` has the fetched backup (`id`, `files` and possibly `database`), `before` the data that a restore replaced
        self.fetched, self.before, self.discarded = self.root / "fetched", self.root / "before", self.root / "discarded"
        self.places = [Repository(app, name, url, self.settings) for name, url in self.settings["places"].items()]
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # earlier versions created it with wider permissions
        os.chmod(self.root, 0o700)

    @contextlib.contextmanager
    def lock(self, verb):
        """Acquire the lock until this process ends. While waiting, report the process that holds it."""
        file = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        begun, reported, holder = time.monotonic(), False, ""
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = self.holder(file)
            if time.monotonic() - begun >= WAIT[verb]:
                raise Trouble(
                    f"{holder}. Wait until it has finished (journalctl -fu {self.app}-backup), or stop it (systemctl stop "
                    f"{self.app}-backup.service, or kill the process). Then try again."
                )
            if not reported:
                print(f"{holder}. Waiting at most {WAIT[verb]} seconds for it to finish.", file=sys.stderr, flush=True)
                reported = True
            time.sleep(min(1, WAIT[verb]))
        # on a full disk, the holder of the lock remains unknown
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"pid": os.getpid(), "since": time.time(), "verb": verb}).encode(), 0)
        try:
            yield
        finally:
            os.close(file)

    def holder(self, file):
        actions = {
            "now": "creating a backup",
            "fetch": "fetching a backup",
            "restore": "restoring a backup",
            "unfetch": "removing a fetched backup",
        }
        try:
            held = json.loads(os.pread(file, 1000, 0))
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(held["since"]))
            return f"Process {held['pid']} has been {actions.get(held['verb'], held['verb'])} since {since}"
        except (ValueError, KeyError, TypeError):
            return "Another process is creating, fetching or restoring a backup"

    # -- verbs ------------------------------------------------------------------------------------------------------

    def now(self):
        if not os.path.lexists(self.state):
            raise Trouble(f"{self.state} does not exist: no release was ever deployed.")
        service, errors = self.service(), []
        for place in self.places:
            try:
                place.open()
                try:
                    self.save(place, service)
                except (OSError, Trouble) as error:
                    errors.append(reason(error))
                    # The disk may be full: removing old backups and the remains of this one makes room for the next.
                    # The limit is 1 because restic before 0.13 interprets 0 as unlimited.
                    place.forget("--max-repack-size=1")
                    errors.append(f"backups in {place} that are older than {self.settings['keep_days']} days were removed anyway")
                else:
                    place.forget()
            except (OSError, Trouble) as error:
                errors.append(reason(error))
        if errors:
            raise Trouble("; ".join(errors))

    def save(self, place, service):
        name, warnings = place.save(self.file(), lambda stream: self.write(stream, service))
        self.note(place.name, {"id": name, "at": time.time(), "warnings": warnings})
        print(f"backup {name} was written to {place}")
        self.print_warnings(warnings, "of the app's files were left out or may be inconsistent")

    def list(self):
        print(json.dumps(self.all()))

    def fetch(self, name):
        try:
            self.fetch_backup(name)
        except BaseException:
            self.unfetch()
            raise

    def fetch_backup(self, name):
        available = self.all()
        # backups of other hosts or stages in a shared destination are selected by ID only
        own = [one for one in available if one["of"] == self.settings["of"] and (name == "latest" or one["time"].startswith(name))]
        found = [one for one in available if one["id"] == name] or own
        if not found:
            names = ", ".join(f"{one['id']} ({one['time']}, of {one['of']})" for one in available[-20:])
            raise Trouble(f"There is no backup '{name}' of {self.settings['of']}. Available backups: {names or 'none'}.")
        self.unfetch()
        self.fetched.mkdir(mode=0o700)
        place = next(place for place in self.places if place.name == found[-1]["place"])
        if len(found[-1]["paths"]) == 1:
            self.fetch_stream(place, found[-1]["id"], found[-1]["paths"])
        else:
            self.fetch_paths(place, found[-1]["id"], found[-1]["paths"])
        if self.is_dumped():
            with open(self.fetched / "database", "rb") as dump:
                self.sandbox.run("check", stdin=dump, trouble="The database in the backup can't be read. Nothing was changed")
        (self.fetched / "id").write_text(found[-1]["id"])
        print(json.dumps(found[-1]))

    def restore(self, name):
        """Replace the files, then the database in one transaction. If a step fails, all data is unchanged."""
        if not (self.fetched / "id").exists() or (self.fetched / "id").read_text() != name:
            raise Trouble(f"Backup {name} was not fetched, or another backup was fetched after it. Fetch it again.")
        unfinished = self.before / "unfinished"
        if unfinished.exists():
            # left over from an interrupted run: the only copy of the data that it moved
            aside = self.before.with_name(f"before-{time.strftime('%Y%m%dT%H%M%S')}")
            self.before.rename(aside)
            print(f"A previous restore was interrupted. The data that it had moved is kept in {aside}.")
        elif self.before.exists():
            # only rename it: removing it would take time while the app is stopped
            remove(self.discarded)
            self.before.rename(self.discarded)
        self.before.mkdir(mode=0o700)
        unfinished.touch()
        files = Swap(self) if self.can_rename() else Copy(self)
        try:
            try:
                files.replace()
            except OSError as error:
                # an overlay file system, as in a container, can't rename a directory of its image
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
        print(f"The replaced data is kept in {self.before} until the next restore.")

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
        """Return a service file of libpq, or an option file of MariaDB's clients, with the connection; empty without such a database."""
        parameters = self.database()
        if self.kind() in MARIADB and parameters:
            name = parameters.pop("database", "")
            lines = [f'{key}="{re.sub(SPECIAL, BACKSLASH, value)}"' if value else key for key, value in parameters.items()]
            return "\n".join(["[client]", *lines, "[flaskhost]", f"database={name}"])
        return "[app]\n" + "".join(f"{key}={value}\n" for key, value in parameters.items()) if parameters else ""

    def kind(self):
        return urlsplit(self.settings["database"]).scheme.partition("+")[0]

    def database(self):
        """Convert the database URL into parameters of libpq, or options of MariaDB's clients."""
        parts, kind = urlsplit(self.settings["database"]), self.kind()
        if kind in ("", "sqlite"):
            return {}
        if kind not in ("postgres", "postgresql", *MARIADB):
            raise Trouble(
                f"Backups support PostgreSQL, MariaDB, MySQL and SQLite, not {kind}. "
                "Set backup_database_url to '' and back up the database by other means."
            )
        parameters = {
            "host": parts.hostname,
            "port": parts.port,
            "user": parts.username,
            "password": parts.password,
            "database" if kind in MARIADB else "dbname": parts.path[1:],
        }
        parameters, query = {key: unquote(str(value)) for key, value in parameters.items() if value}, dict(parse_qsl(parts.query))
        if kind not in MARIADB:
            return parameters | query
        # the other parameters are those of Python's drivers
        parameters |= {option: query[name] for name, option in MARIADB_OPTIONS.items() if name in query}
        if {"ssl", "ssl-mode", "ssl_mode"} & {*query}:
            parameters["ssl"] = ""
        # as with these drivers, a certificate is checked only if its CA is given; clients before 11.4 don't know the option
        return parameters if "ssl-ca" in parameters or "socket" in parameters else parameters | {"loose-skip-ssl-verify-server-cert": ""}

    def note(self, name, made):
        """Record the last backup for host_report. The file is replaced atomically."""
        path = self.root / "made.json"
        notes = json.loads(path.read_text()) if path.exists() else {}
        path.with_suffix(".new").write_text(json.dumps(notes | {name: made}))
        path.with_suffix(".new").rename(path)

    @staticmethod
    def print_warnings(warnings, what, file=None):
        if warnings["count"]:
            more = warnings["count"] - len(warnings["first"])
            lines = [f"{warnings['count']} {what}:", *warnings["first"], *([f"and {more} more"] if more > 0 else [])]
            print("\n  ".join(lines), file=file)

    # -- fetching ---------------------------------------------------------------------------------------------------

    def all(self):
        """Return the backups of all destinations, the oldest first. Fails only if no destination returns any."""
        found, errors = [], []
        for place in self.places:
            try:
                found += place.snapshots()
            except Trouble as error:
                errors.append(str(error))
        if errors and not found:
            raise Trouble("; ".join(errors))
        return sorted(found, key=lambda one: one["time"])

    def fetch_stream(self, place, name, paths):
        trouble = f"Backup {name} can't be unpacked. Nothing was changed"
        with open(self.fetched / "database", "wb") as dump, place.stream(name, paths[0]) as stream:
            self.sandbox.run("database", stdin=stream, stdout=dump, file_bytes=self.max_file_bytes(), trouble=trouble)
        with opened(self.app_directory(self.fetched / "files")) as files, place.stream(name, paths[0]) as stream:
            warnings = self.sandbox.run("extract", stdin=stream, stdout=files, trouble=trouble)
        self.print_warnings(warnings, "files could not be unpacked", sys.stderr)

    def fetch_paths(self, place, name, paths):
        """Fetch a backup of an earlier version: a snapshot of two directories, the dumps and the app's files."""
        dumps = self.root / "desk/dump"
        state = next(path for path in paths if Path(path) != dumps)
        tree = self.fetched / "tree"
        tree.mkdir(mode=0o700)
        place.load(name, tree)
        for path in str(dumps), state:
            found = tree / path.lstrip("/")
            if not found.is_dir() or found.resolve() != found:
                raise Trouble(f"Backup {name} is incomplete: {path} is missing. Nothing was changed.")
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
        self.print_warnings(warnings, "files could not be unpacked", sys.stderr)
        remove(sqlite)

    def is_dumped(self):
        path = self.fetched / "database"
        return path.exists() and path.stat().st_size > 0

    def max_file_bytes(self):
        """Return the size limit for a file that the app's user writes here, so that it can't fill the disk."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize * 9 // 10

    # -- restoring --------------------------------------------------------------------------------------------------

    def can_rename(self):
        """Return whether renames suffice: the app's directory is no link, has no mount points, and is on the mount of the fetched backup."""
        if self.state.is_symlink() or any(path.is_relative_to(self.state) for path in mount_points()):
            return False
        return mount_id(self.state.parent) == mount_id(self.root)

    def replace_database(self):
        # a failed dump of the current database must not prevent its restore
        with contextlib.suppress(Trouble), open(self.before / "database", "wb") as kept:
            self.sandbox.run("dump", stdout=kept, file_bytes=self.max_file_bytes(), service=self.service(), trouble="")
        trouble = "the database could not be restored and is unchanged"
        with open(self.fetched / "database", "rb") as dump:
            self.sandbox.run("load", stdin=dump, service=self.service(), trouble=trouble)

    def app_directory(self, path):
        """Give a directory to the app's user. Only root can enter its parent, so the app can't replace anything in it at the same time."""
        path.mkdir(mode=0o700, exist_ok=True)
        user, group = pwd.getpwnam(self.settings["user"]).pw_uid, grp.getgrnam(self.settings["group"]).gr_gid
        command = ["chown", "--no-dereference", "--recursive", f"{user}:{group}", path]
        subprocess.run(command, check=True, env={"PATH": backup_sandbox.PATH}, timeout=HOURS_6)
        os.chmod(path, 0o700)
        return path


class Swap:
    """Replace the app's directory with two renames, between directories that root owns."""

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
    """Replace the app's files if its directory is a link or has mount points. The app's user copies them; mount points remain."""

    def __init__(self, backup):
        self.backup, self.begun = backup, False
        self.state = backup.state
        self.kept = backup.before / "files"

    def replace(self):
        self.backup.app_directory(self.kept)
        with opened(self.kept) as kept:
            warnings = self.run("copy", self.state, "-", stdout=kept, trouble="The current files could not be saved. Nothing was changed")
        self.backup.print_warnings(warnings, "files could not be saved")
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

    def run(self, *arguments, **options):
        return self.backup.sandbox.run(*arguments, **options)


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
    """Return the ID of the directory's mount. A rename between mounts fails, even on the same disk."""
    with opened(directory) as descriptor:
        return re.search(r"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)[1]


def mount_points():
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        yield Path(os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1")))


def remove(path):
    """Use rm, which opens directories by descriptor at any depth, follows no link and stays on one file system."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", path], env={"PATH": backup_sandbox.PATH}, timeout=HOURS_6, check=True)


if __name__ == "__main__":
    main()
