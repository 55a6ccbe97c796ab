"""Consistent copies of SQLite databases that an app may have made to do harm. For appdata.py. Managed by Flaskhost (role backup)."""

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
        self.worker, self.scratch = Worker(), tempfile.mkdtemp(dir="/var/tmp")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.worker.end()
        shutil.rmtree(self.scratch, ignore_errors=True)

    @staticmethod
    def begins_as_one(file):
        return os.pread(file, len(MAGIC), 0) == MAGIC

    def goes_with_one(self, parent, name):
        """It is saved with its database, or not at all."""
        base = next((name.removesuffix(suffix) for suffix in BESIDE if name.endswith(suffix)), "")
        try:
            with opened(parent, base) as (file, _state):
                return self.begins_as_one(file)
        except (OSError, NotRegular):
            return False

    def copy(self, path, found):
        """An open file; None if there can be no copy."""
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
        target = f"{self.scratch}/db"
        try:
            begun = time.monotonic()
            state, text = self.worker.do(copy_sqlite, seconds, size + MB, source, target)
            self.copy_seconds -= time.monotonic() - begun
            if state != "done":
                return self.warn(path, text)
            state, text = self.checked(target, seconds)
            if state == "damaged":
                return self.warn(path, f"SQLite finds it damaged: {text}")
            if state != "done":
                self.warnings.add(path, f"it was copied, but not checked: {text}")
            return open(target, "rb")
        finally:
            # an open file needs no name
            for suffix in "", *BESIDE:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(target + suffix)

    def checked(self, target, seconds):
        if self.check_seconds <= 0:
            return "failed", "there was no time left to check all databases"
        begun = time.monotonic()
        result = self.worker.do(check_sqlite, min(seconds, self.check_seconds), resource.RLIM_INFINITY, target)
        self.check_seconds -= time.monotonic() - begun
        return result

    def warn(self, path, reason):
        self.warnings.add(path, f"an SQLite database, saved as the file that it is, maybe not consistent: {reason}")


def size_of(path):
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def copy_sqlite(source, target):
    with closing(connect(source, timeout=LOCKED_SECONDS)) as database, closing(connect(target, "rwc")) as copy:
        # takes the lock, or fails in time; backup() alone would try for ever
        database.execute("begin")
        database.execute("pragma schema_version").fetchone()
        # it is for this process alone
        copy.execute("pragma synchronous = off")
        database.backup(copy)
    if not os.path.getsize(target):
        raise Damaged("it is empty")


def check_sqlite(path):
    with closing(connect(path)) as database:
        # expressions from the file are not evaluated where that can be avoided; they may take any time
        for setting in "ignore_check_constraints = on", "trusted_schema = off":
            database.execute(f"pragma {setting}")
        found = database.execute("pragma quick_check(1)").fetchone()[0]
    if found != "ok":
        raise Damaged(found)


def connect(path, mode="rw", timeout=0):
    return sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode={mode}", uri=True, isolation_level=None, timeout=timeout)


class Worker:
    """A process of its own for what SQLite does with a file, whose time, memory and files are limited. One that went too far is replaced."""

    def __init__(self):
        self.process = 0

    def do(self, job, seconds, file_bytes, *words):
        """Returns (`done`, `damaged` or `failed`; why)."""
        if not self.process:
            self.start()
        try:
            self.requests.write(json.dumps([job.__name__, seconds, file_bytes, words]).encode() + b"\n")
            self.requests.flush()
            state, text = json.loads(self.answers.readline())
        except (OSError, ValueError):
            ended = self.end()
            state, text = "failed", f"it takes more than {seconds:.0f} seconds" if ended == -signal.SIGALRM else "it takes too much memory"
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
        """Returns its exit code, once."""
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
        job, seconds, file_bytes, words = json.loads(request)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
        # without a handler, the signal ends the process, also one that never comes back from C
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = ("done", "")
        try:
            {"copy_sqlite": copy_sqlite, "check_sqlite": check_sqlite}[job](*words)
        except (sqlite3.OperationalError, OSError, MemoryError) as error:
            answer = ("failed", str(error) or "it takes too much memory")
        except (Damaged, sqlite3.Error, ValueError) as error:
            answer = ("damaged", str(error))
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
