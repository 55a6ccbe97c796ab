"""Make consistent copies of SQLite databases that may be hostile, for appdata.py. Managed by Flaskhost (role backup)."""

import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import tempfile
import time
from contextlib import closing
from urllib.parse import quote

from appdata_files import BESIDE, MB, NotRegular, opened, shown

MAGIC = b"SQLite format 3\0"
# A database that is locked for longer is saved as a plain file. A large database gets more time: a second for each 4 MB.
LOCKED_SECONDS, BASE_SECONDS, BYTES_A_SECOND = 5, 15, 4 * MB
# total for all databases
COPY_SECONDS, CHECK_SECONDS = 1800, 300
SQLITE_MEMORY = 256 * MB


class Damaged(Exception):
    """SQLite reports that the database is damaged, or that the file is not a database."""


class Databases:
    """Copies the SQLite databases among the files. A plain copy of a database in use could be damaged, so SQLite itself makes the copy.

    SQLite runs in a separate process with limited time and memory. A database that can't be copied is saved as a plain file.
    """

    def __init__(self, directory, warnings):
        self.directory, self.warnings = os.path.realpath(directory), warnings
        self.copy_seconds, self.check_seconds = COPY_SECONDS, CHECK_SECONDS
        self.worker, self.scratch = Worker(), tempfile.mkdtemp(dir="/var/tmp")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.worker.end()
        shutil.rmtree(self.scratch, ignore_errors=True)

    @staticmethod
    def looks_like_database(file):
        return os.pread(file, len(MAGIC), 0) == MAGIC

    def belongs_to_database(self, parent, name):
        """Whether the file belongs to a database. Such a file is saved with its database or not at all."""
        base = next((name.removesuffix(suffix) for suffix in BESIDE if name.endswith(suffix)), "")
        try:
            with opened(parent, base) as (file, _state):
                return self.looks_like_database(file)
        except (OSError, NotRegular):
            return False

    def copy(self, path, found):
        """Return the copy as an open file, or None if no copy can be made."""
        source = f"{self.directory}/{path}"
        size = found.st_size + sum(map(size_of, (source + suffix for suffix in BESIDE)))
        seconds = min(self.copy_seconds, BASE_SECONDS + found.st_blocks * 512 / BYTES_A_SECOND)
        if seconds <= 0:
            return self.warn(path, "no time was left to copy all databases")
        room = os.statvfs("/var/tmp")
        if size > room.f_bavail * room.f_frsize // 2:
            return self.warn(path, "/var/tmp has not enough free space for a copy")
        return self.copy_within(seconds, path, source, size)

    def copy_within(self, seconds, path, source, size):
        target = f"{self.scratch}/db"
        try:
            begun = time.monotonic()
            state, text = self.worker.do(copy_sqlite, seconds, size + MB, source, target)
            self.copy_seconds -= time.monotonic() - begun
            if state != "done":
                return self.warn(path, text)
            state, text = self.checked(target, seconds)
            if state == "damaged":
                return self.warn(path, f"SQLite reports damage: {text}")
            if state != "done":
                self.warnings.add(path, f"copied, but not checked: {text}")
            return open(target, "rb")
        finally:
            # the open file remains readable without its name
            for suffix in "", *BESIDE:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(target + suffix)

    def checked(self, target, seconds):
        if self.check_seconds <= 0:
            return "failed", "no time was left to check all databases"
        begun = time.monotonic()
        result = self.worker.do(check_sqlite, min(seconds, self.check_seconds), resource.RLIM_INFINITY, target)
        self.check_seconds -= time.monotonic() - begun
        return result

    def warn(self, path, reason):
        self.warnings.add(path, f"an SQLite database that was saved as a plain file and may be inconsistent: {reason}")


def size_of(path):
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def copy_sqlite(source, target):
    with closing(connect(source, timeout=LOCKED_SECONDS)) as database, closing(connect(target, "rwc")) as copy:
        # acquires the lock or times out; backup() alone would retry forever
        database.execute("begin")
        database.execute("pragma schema_version").fetchone()
        # only this process uses the copy
        copy.execute("pragma synchronous = off")
        database.backup(copy)
    if not os.path.getsize(target):
        raise Damaged("it is empty")


def check_sqlite(path):
    with closing(connect(path)) as database:
        # avoid evaluating expressions from the file: they can take any amount of time
        for setting in "ignore_check_constraints = on", "trusted_schema = off":
            database.execute(f"pragma {setting}")
        found = database.execute("pragma quick_check(1)").fetchone()[0]
    if found != "ok":
        raise Damaged(found)


def connect(path, mode="rw", timeout=0):
    return sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode={mode}", uri=True, isolation_level=None, timeout=timeout)


class Worker:
    """A separate process for SQLite, with limited time, memory and file size. A process that exceeds a limit is replaced."""

    def __init__(self):
        self.process = 0

    def do(self, job, seconds, file_bytes, *arguments):
        """Return a state (`done`, `damaged` or `failed`) and the reason."""
        if not self.process:
            self.start()
        try:
            self.requests.write(json.dumps([job.__name__, seconds, file_bytes, arguments]).encode() + b"\n")
            self.requests.flush()
            state, text = json.loads(self.answers.readline())
        except (OSError, ValueError):
            ended = self.end()
            state, text = (
                "failed",
                f"SQLite needs more than {seconds:.0f} seconds" if ended == -signal.SIGALRM else "SQLite needs too much memory",
            )
        if state != "done":
            self.end()
        return state, shown(text)

    def start(self):
        (request, self.request), (self.answer, answer) = os.pipe(), os.pipe()
        self.process = os.fork()
        if not self.process:
            try:
                os.close(self.request)
                os.close(self.answer)
                work(open(request, "rb"), open(answer, "wb", buffering=0))  # noqa: SIM115
            finally:
                os._exit(1)
        os.close(request)
        os.close(answer)
        self.requests, self.answers = open(self.request, "wb"), open(self.answer, "rb")  # noqa: SIM115

    def end(self):
        """Stop the process and return its exit code. Returns 0 if no process is running."""
        if not self.process:
            return 0
        process, self.process = self.process, 0
        with contextlib.suppress(OSError):
            self.requests.close()
        self.answers.close()
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def work(requests, answers):
    resource.setrlimit(resource.RLIMIT_AS, (SQLITE_MEMORY, SQLITE_MEMORY))
    for request in requests:
        job, seconds, file_bytes, arguments = json.loads(request)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
        # without a handler, the signal terminates the process even if it never returns from C code
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = ("done", "")
        try:
            {"copy_sqlite": copy_sqlite, "check_sqlite": check_sqlite}[job](*arguments)
        except (sqlite3.OperationalError, OSError, MemoryError) as error:
            answer = ("failed", str(error) or "SQLite needs too much memory")
        except (Damaged, sqlite3.Error, ValueError) as error:
            answer = ("damaged", str(error))
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
