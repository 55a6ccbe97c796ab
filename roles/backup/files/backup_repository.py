"""A restic repository that stores an app's backups. Managed by Flaskhost (role backup)."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import backup_sandbox
from backup_sandbox import HOURS_6, Trouble, clean

SETTINGS = Path("/etc/flaskhost")
CACHE = Path("/var/cache/flaskhost")
# time limits in seconds; a remote repository can be slow, and another host can hold its lock
SECONDS = {"cat": 120, "snapshots": 300}
REACH_SECONDS = 10
LOCKED_SECONDS, LOCKED_TRIES = 30, 20
# at the end of a stream, restic only has to write the last megabytes
END_SECONDS = 1800
# restic's errors for a missing repository. "Is there a repository …?" is not one of them: restic also prints it for a repository that it
# can't read, and initializing that repository would overwrite its keys.
MISSING = re.compile("no such file or directory|The specified (key|bucket) does not exist|repository does not exist")


class Repository:
    def __init__(self, app, name, url, settings):
        self.app, self.name, self.url, self.settings = app, name, url, settings
        self.key = SETTINGS / f"backup-{app}.key"

    def __str__(self):
        return self.url.removeprefix("s3:")

    def password(self):
        """Return backup_password, or a password that the host generates once and keeps."""
        if self.settings["password"]:
            return self.settings["password"]
        if not self.key.exists():
            with os.fdopen(os.open(f"{self.key}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
            os.rename(f"{self.key}.new", self.key)
        return self.key.read_text()

    # -- repository -------------------------------------------------------------------------------------------------

    def check_reachable(self):
        """Fail early if the server is unreachable: restic retries for minutes before it reports the reason."""
        url = urlsplit(str(self))
        if url.hostname:
            try:
                socket.create_connection((url.hostname, url.port or {"http": 80}.get(url.scheme, 443)), REACH_SECONDS).close()
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise Trouble(f"{self} is unreachable ({why}); check backup_s3_url, and that this host can connect to it") from None

    def open(self):
        self.check_reachable()
        try:
            self.restic("cat", "config")
        except Trouble as error:
            message = str(error)
            if MISSING.search(message):
                self.restic("init")
            elif "unsupported repository version" in message:
                raise Trouble(
                    f"{self} was created by a newer restic than this host's, which can't read it; move the host to a newer distribution, "
                    "or set another directory in backup_directory or backup_s3_url"
                ) from None
            elif "wrong password" not in message:
                raise
            elif not self.add_configured_password():
                raise Trouble(f"{self} was created with another backup_password") from None
        # removes locks of dead processes only
        self.restic("unlock", "--quiet")

    def add_configured_password(self):
        """Add backup_password to a repository that was created with the password that the host generated."""
        if not self.settings["password"] or not self.key.exists():
            return False
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(self.settings["password"])
            file.flush()
            try:
                self.restic("key", "add", f"--new-password-file={file.name}", password=self.key.read_text())
            except Trouble:
                return False
        return True

    def selection(self):
        """Return the options that select this host's backups in a shared repository."""
        return f"--host={self.settings['of']}", f"--tag={self.app}"

    def snapshots(self):
        """List the backups without a lock, so that a prune on any host doesn't delay it, and without a cache, because two processes of
        restic before 0.13 can't share one."""
        self.check_reachable()
        # anyone with write access to the repository can choose the host name
        found = json.loads(self.restic("snapshots", "--json", "--no-lock", "--no-cache", f"--tag={self.app}") or "null") or []
        return [
            {
                "id": one["short_id"],
                "time": one["time"][:19] + "Z",
                "place": self.name,
                "of": clean(one["hostname"], 255),
                "paths": one["paths"],
            }
            for one in found
        ]

    def forget(self, *options):
        """Remove old backups. The days count back from the newest backup, which is always kept."""
        days = self.settings["keep_days"]
        self.restic("forget", "--quiet", "--prune", *self.selection(), "--group-by=host", f"--keep-within={days}d", *options)

    # -- streams ----------------------------------------------------------------------------------------------------

    def save(self, name, write):
        """Store what write(stream) writes as a file with this name, or nothing if it fails. Returns the ID and the result of write."""
        for attempt in range(LOCKED_TRIES):
            try:
                return self.save_once(name, write)
            except Trouble as error:
                if "already locked" not in str(error) or attempt + 1 == LOCKED_TRIES:
                    raise
                time.sleep(LOCKED_SECONDS)

    def save_once(self, name, write):
        arguments = ["backup", "--json", "--quiet", *self.selection(), "--stdin", f"--stdin-filename={name}"]
        reader, writer = os.pipe()
        failed = result = None
        with open(writer, "wb") as stream, self.started(arguments, stdin=reader) as program:
            os.close(reader)
            try:
                result = write(stream)
            except Trouble as error:
                failed = error
            if failed:
                # This process holds the stream open, so restic has not seen its end. If restic has not failed itself, interrupt it.
                try:
                    program.wait(10)
                except subprocess.TimeoutExpired:
                    interrupt(program)
                    raise failed from None
            stream.close()
            # limited, because the app may hold the stream open
            out = self.wait(program, END_SECONDS)
        if failed:
            raise failed
        return json.loads(out.splitlines()[-1])["snapshot_id"][:8], result

    @contextlib.contextmanager
    def stream(self, name, path):
        """Read a file in a backup. The reader detects a truncated stream itself and can stop early."""
        with self.started(["dump", name, path], stdout=subprocess.PIPE) as program:
            try:
                yield program.stdout
            except Trouble:
                program.stdout.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(10)
                errors = output_of(program.stderr_file)
                if (program.returncode or 0) > 0 and b"broken pipe" not in errors.lower():
                    raise Trouble(f"{self}: {printable(errors)}") from None
                raise
            finally:
                program.stdout.close()
                if program.poll() is None:
                    interrupt(program)

    def load(self, name, target):
        """Restore a backup of plain files, as earlier versions created it."""
        self.restic("restore", name, f"--target={target}", "--verify", "--quiet")

    # -- restic -----------------------------------------------------------------------------------------------------

    def restic(self, *arguments, password=None):
        for attempt in range(LOCKED_TRIES):
            with self.started(arguments, password=password) as program:
                try:
                    return self.wait(program, SECONDS.get(arguments[0], HOURS_6))
                except Trouble as error:
                    if "already locked" not in str(error) or attempt + 1 == LOCKED_TRIES:
                        raise
            time.sleep(LOCKED_SECONDS)

    @contextlib.contextmanager
    def started(self, arguments, stdin=subprocess.DEVNULL, stdout=None, password=None):
        environment = {
            "PATH": backup_sandbox.PATH,
            "HOME": "/root",
            "RESTIC_REPOSITORY": self.url,
            "RESTIC_PASSWORD": password or self.password(),
            "RESTIC_CACHE_DIR": str(CACHE / "restic"),
            "TZ": "UTC",
            **self.settings["environment"],
        }
        # in memory, so that old backups can be removed from a full disk
        with open(os.memfd_create("stdout"), "w+b") as out, open(os.memfd_create("stderr"), "w+b") as errors:
            program = subprocess.Popen(["restic", *arguments], env=environment, stdin=stdin, stdout=stdout or out, stderr=errors)
            program.stdout_file, program.stderr_file = out, errors
            try:
                yield program
            finally:
                if program.poll() is None:
                    program.kill()
                    program.wait()

    def wait(self, program, seconds):
        try:
            program.wait(seconds)
        except subprocess.TimeoutExpired:
            interrupt(program)
            raise Trouble(f"{self} did not respond within {seconds} seconds") from None
        if program.returncode:
            raise Trouble(f"{self}: {printable(output_of(program.stderr_file) or output_of(program.stdout_file))}")
        return output_of(program.stdout_file).decode(errors="replace")


def interrupt(program):
    """Interrupt restic so that it removes its lock from the repository."""
    program.send_signal(signal.SIGINT)
    try:
        program.wait(30)
    except subprocess.TimeoutExpired:
        program.kill()


def output_of(file):
    file.seek(0)
    return file.read()


def printable(output):
    return clean(" ".join(output.decode(errors="replace").split())[-600:], 600)
