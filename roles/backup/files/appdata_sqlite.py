"""Consistent copies of SQLite databases that an app may have made to do harm. For appdata.py. Managed by Flaskhost (role backup)."""

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import tempfile
import time
from urllib.parse import quote

from appdata_files import BESIDE, MB, REGULAR, NotRegular, opened, shown

MAGIC = b"SQLite format 3\0"
# A database that is locked for longer is saved as the file that it is. A large one gets more time: a second for each 4 MB.
LOCKED_SECONDS, BASE_SECONDS, BYTES_A_SECOND = 5, 15, 4 * MB
# for all databases together
COPY_SECONDS, CHECK_SECONDS = 1800, 300
SQLITE_MEMORY = 256 * MB


class Damaged(Exception):
    """SQLite finds the database damaged, or no database at all."""


class Databases:
    """SQLite databases among the files. As a file, one to which the app writes meanwhile would be damaged; so SQLite makes a copy.

    It does so in a process of its own that can neither take long nor much memory. What can't be copied is saved as the file that it is.
    """

    def __init__(self, directory, warnings):
        self.directory, self.warnings = os.path.realpath(directory), warnings
        self.copy_seconds, self.check_seconds = COPY_SECONDS, CHECK_SECONDS

    @staticmethod
    def is_one(parent, name):
        try:
            with opened(parent, name) as (file, _):
                return os.pread(file, len(MAGIC), 0) == MAGIC
        except (OSError, NotRegular):
            return False

    def goes_with_one(self, parent, name):
        """It is saved with its database, or not at all."""
        base = next((name.removesuffix(suffix) for suffix in BESIDE if name.endswith(suffix)), "")
        return bool(base) and self.is_one(parent, base)

    def copy(self, path, file, found):
        """A context with the descriptor of the copy; None if the file is none, or can't be copied."""
        if os.pread(file, len(MAGIC), 0) != MAGIC:
            return None
        source = f"{self.directory}/{path}"
        size = found.st_size + sum(map(size_of, (source + suffix for suffix in BESIDE)))
        seconds = min(self.copy_seconds, BASE_SECONDS + found.st_blocks * 512 / BYTES_A_SECOND)
        if seconds <= 0:
            return self.warn(path, "there was no time left to copy all databases")
        room = os.statvfs("/var/tmp")
        if size > room.f_bavail * room.f_frsize // 2:
            return self.warn(path, "there is no room for a copy in /var/tmp")
        return self.made(path, source, size, seconds)

    def made(self, path, source, size, seconds):
        scratch = tempfile.mkdtemp(dir="/var/tmp")
        try:
            target, begun = f"{scratch}/db", time.monotonic()
            state, text = limited(lambda: copy_sqlite(source, target), seconds, size + MB)
            self.copy_seconds -= time.monotonic() - begun
            if state != "done":
                return self.warn(path, text)
            state, text = self.checked(target, seconds)
            if state == "damaged":
                return self.warn(path, f"SQLite finds it damaged: {text}")
            if state != "done":
                self.warnings.add(path, f"it was copied, but not checked: {text}")
            copy = os.open(target, REGULAR)
            return closing(copy)
        finally:
            # an open descriptor is enough
            shutil.rmtree(scratch, ignore_errors=True)

    def checked(self, target, seconds):
        if self.check_seconds <= 0:
            return "failed", "there was no time left to check all databases"
        begun = time.monotonic()
        result = limited(lambda: check_sqlite(target), min(seconds, self.check_seconds))
        self.check_seconds -= time.monotonic() - begun
        return result

    def warn(self, path, reason):
        self.warnings.add(path, f"an SQLite database, saved as the file that it is, maybe not consistent: {reason}")


@contextlib.contextmanager
def closing(descriptor):
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def size_of(path):
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def copy_sqlite(source, target):
    database = connect(source, timeout=LOCKED_SECONDS)
    # takes the lock, or fails in time; backup() alone would try for ever
    database.execute("begin")
    database.execute("pragma schema_version").fetchone()
    copy = connect(target, "rwc")
    # it is for this process alone
    copy.execute("pragma synchronous = off")
    database.backup(copy)
    if not os.path.getsize(target):
        raise Damaged("it is empty")


def check_sqlite(path):
    database = connect(path)
    # expressions from the file are not evaluated where that can be avoided; they may take any time
    for setting in "ignore_check_constraints = on", "trusted_schema = off":
        database.execute(f"pragma {setting}")
    found = database.execute("pragma quick_check(1)").fetchone()[0]
    if found != "ok":
        raise Damaged(found)


def connect(path, mode="rw", timeout=0):
    return sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode={mode}", uri=True, isolation_level=None, timeout=timeout)


def limited(job, seconds, file_bytes=resource.RLIM_INFINITY):
    """Run a job in a process of its own, whose time, memory and files are limited: (`done`, `damaged` or `failed`; why)."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            # without a handler, the signal ends the process, also one that never comes back from C
            signal.setitimer(signal.ITIMER_REAL, seconds)
            resource.setrlimit(resource.RLIMIT_AS, (SQLITE_MEMORY, SQLITE_MEMORY))
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
                score.write("1000")
            job()
            status = 0
        except sqlite3.OperationalError as error:
            os.write(writer, str(error).encode()[:500])
        except (Damaged, sqlite3.DatabaseError) as error:
            status = 2
            os.write(writer, str(error).encode(errors="replace")[:500])
        except (OSError, ValueError, MemoryError, OverflowError, sqlite3.Error, sqlite3.Warning) as error:
            os.write(writer, (str(error) or type(error).__name__).encode(errors="replace")[:500])
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = shown(pipe.read(500).decode(errors="replace"))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGALRM:
        text = f"it takes more than {seconds:.0f} seconds"
    return {0: "done", 2: "damaged"}.get(code, "failed"), text or "it takes too much memory"
