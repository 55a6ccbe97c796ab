"""A repository of restic's: a place where an app's backups are. Managed by Flaskhost (role backup)."""

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
# a place may be far away, but not for ever; another host may be at work in it
SECONDS = {"cat": 120, "snapshots": 300}
REACH_SECONDS = 10
LOCKED_SECONDS, LOCKED_TRIES = 30, 20
# of a stream that has ended, only the last megabytes are yet to be written
END_SECONDS = 1800
# What restic says of a place that has no repository. It asks "Is there a repository …?" of one that it can't read, too: to initialise that
# would write over the keys of the one that is there.
MISSING = re.compile("no such file or directory|The specified (key|bucket) does not exist|repository does not exist")


class Repository:
    def __init__(self, app, name, url, settings):
        self.app, self.name, self.url, self.settings = app, name, url, settings
        self.key = SETTINGS / f"backup-{app}.key"

    def __str__(self):
        return self.url.removeprefix("s3:")

    def password(self):
        """The owner's; or one of the host's own, which lives as long as what it opens."""
        if self.settings["password"]:
            return self.settings["password"]
        if not self.key.exists():
            with os.fdopen(os.open(f"{self.key}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
            os.rename(f"{self.key}.new", self.key)
        return self.key.read_text()

    # -- what is there ----------------------------------------------------------------------------------------------

    def reach(self):
        """restic itself retries for minutes before it reports why."""
        url = urlsplit(str(self))
        if url.hostname:
            try:
                socket.create_connection((url.hostname, url.port or {"http": 80}.get(url.scheme, 443)), REACH_SECONDS).close()
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise Trouble(f"{self} is unreachable ({why}); check backup_s3_url, and that this host may connect to it") from None

    def open(self):
        self.reach()
        try:
            self.restic("cat", "config")
        except Trouble as error:
            said = str(error)
            if MISSING.search(said):
                self.restic("init")
            elif "unsupported repository version" in said:
                raise Trouble(
                    f"{self} was made by a newer restic than this host's, which can't read it; move the host to a newer distribution, or name "
                    "another folder in backup_folder or backup_s3_url"
                ) from None
            elif "wrong password" not in said:
                raise
            elif not self.gets_the_owner_s_password():
                raise Trouble(f"{self} was made with another backup_password") from None
        # of a run that died; one that is at work keeps its lock
        self.restic("unlock", "--quiet")

    def gets_the_owner_s_password(self):
        """One that was made before there was any opens with the host's own."""
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

    def whose(self):
        """What sets this host's backups apart from others in the same place."""
        return f"--host={self.settings['of']}", f"--tag={self.app}"

    def snapshots(self):
        """It takes no lock, so that it doesn't wait for a prune here or on another host. It uses no cache, because two processes of restic
        before 0.13 can't share one."""
        self.reach()
        # anyone else who may write here chooses the host's name
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

    def forget(self, *words):
        """Days count from the newest one, which always stays."""
        days = self.settings["keep_days"]
        self.restic("forget", "--quiet", "--prune", *self.whose(), "--group-by=host", f"--keep-within={days}d", *words)

    # -- streams ----------------------------------------------------------------------------------------------------

    def save(self, name, write):
        """Store what write(descriptor) writes, as a file of that name; nothing if that fails. Returns the id, and what write returned."""
        for attempt in range(LOCKED_TRIES):
            try:
                return self.save_once(name, write)
            except Trouble as error:
                if "already locked" not in str(error) or attempt + 1 == LOCKED_TRIES:
                    raise
                time.sleep(LOCKED_SECONDS)

    def save_once(self, name, write):
        words = ["backup", "--json", "--quiet", *self.whose(), "--stdin", f"--stdin-filename={name}"]
        reader, writer = os.pipe()
        failed = result = None
        with open(writer, "wb") as stream, self.started(words, stdin=reader) as program:
            os.close(reader)
            try:
                result = write(stream)
            except Trouble as error:
                failed = error
            if failed:
                # restic has not seen the end of the stream yet, for this process holds it open too; unless restic itself had failed before
                try:
                    program.wait(10)
                except subprocess.TimeoutExpired:
                    interrupt(program)
                    raise failed from None
            stream.close()
            # the app may have got hold of the stream, and keep it open
            out = self.ended(program, END_SECONDS)
        if failed:
            raise failed
        return json.loads(out.splitlines()[-1])["snapshot_id"][:8], result

    @contextlib.contextmanager
    def stream(self, name, path):
        """Read the file of that path in a backup. Who reads knows whether it was whole, and may stop early."""
        with self.started(["dump", name, path], stdout=subprocess.PIPE) as program:
            try:
                yield program.stdout
            except Trouble:
                program.stdout.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(10)
                said = output_of(program.stderr_file)
                if (program.returncode or 0) > 0 and b"broken pipe" not in said.lower():
                    raise Trouble(f"{self}: {told(said)}") from None
                raise
            finally:
                program.stdout.close()
                if program.poll() is None:
                    interrupt(program)

    def load(self, name, target):
        """For backups of files, as former versions made them."""
        self.restic("restore", name, f"--target={target}", "--verify", "--quiet")

    # -- restic -----------------------------------------------------------------------------------------------------

    def restic(self, *words, password=None):
        for attempt in range(LOCKED_TRIES):
            with self.started(words, password=password) as program:
                try:
                    return self.ended(program, SECONDS.get(words[0], HOURS_6))
                except Trouble as error:
                    if "already locked" not in str(error) or attempt + 1 == LOCKED_TRIES:
                        raise
            time.sleep(LOCKED_SECONDS)

    @contextlib.contextmanager
    def started(self, words, stdin=subprocess.DEVNULL, stdout=None, password=None):
        environment = {
            "PATH": backup_sandbox.PATH,
            "HOME": "/root",
            "RESTIC_REPOSITORY": self.url,
            "RESTIC_PASSWORD": password or self.password(),
            "RESTIC_CACHE_DIR": str(CACHE / "restic"),
            "TZ": "UTC",
            **self.settings["environment"],
        }
        # in memory: old backups are also removed from a disk that is full
        with open(os.memfd_create("out"), "w+b") as out, open(os.memfd_create("said"), "w+b") as said:
            program = subprocess.Popen(["restic", *words], env=environment, stdin=stdin, stdout=stdout or out, stderr=said)
            program.stdout_file, program.stderr_file = out, said
            try:
                yield program
            finally:
                if program.poll() is None:
                    program.kill()
                    program.wait()

    def ended(self, program, seconds):
        try:
            program.wait(seconds)
        except subprocess.TimeoutExpired:
            interrupt(program)
            raise Trouble(f"{self} gave no answer within {seconds} seconds") from None
        if program.returncode:
            raise Trouble(f"{self}: {told(output_of(program.stderr_file) or output_of(program.stdout_file))}")
        return output_of(program.stdout_file).decode(errors="replace")


def interrupt(program):
    """So that it takes its lock away from the repository."""
    program.send_signal(signal.SIGINT)
    try:
        program.wait(30)
    except subprocess.TimeoutExpired:
        program.kill()


def output_of(file):
    file.seek(0)
    return file.read()


def told(output):
    return clean(" ".join(output.decode(errors="replace").split())[-600:], 600)
