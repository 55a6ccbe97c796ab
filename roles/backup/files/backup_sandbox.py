"""Run appdata.py, the only program that opens an app's files, as the app's user in the app's sandbox.

Root passes descriptors to it and does not trust its output, which the app may control. Managed by Flaskhost (role backup).
"""

import fcntl
import json
import os
import subprocess
from pathlib import Path

PATH = "/usr/local/bin:/usr/bin:/bin"
PROGRAM = Path(__file__).with_name("appdata.py")
HOURS_6 = 6 * 3600
# the same values as in appdata.py
OPTIONS_BYTES, REPORT_BYTES, NAMED = 256 * 1024, 256 * 1024, 20
# Python rejects a directory as a standard stream
LAUNCHER = 'exec "$@" 3<&0 4>&1 0</dev/null 1>&2'


class Trouble(Exception):
    """An error whose text is for the operator."""


class Sandbox:
    def __init__(self, app, lines, state):
        self.app, self.lines, self.state = app, lines, state

    def run(self, verb, *arguments, trouble, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, file_bytes=None, **options):
        """Run a verb and return its warnings. C(options) may contain a password, so they are not passed on the command line."""
        unit = f"{self.app}-backup-{verb}.service"
        lines = [
            # systemd would create the directory, and rejects one that is a link to another disk
            *(line for line in self.lines if not line.startswith("StateDirectory")),
            f"ReadWritePaths={self.state}" if self.state in arguments else f"InaccessiblePaths=-{self.state}",
            "WorkingDirectory=/",
            # the app's profile allows writes only in the app's directory, but root passes other directories too
            "AppArmorProfile=",
            # on disk, for copies of databases
            "PrivateTmp=yes",
            "MemoryMax=50%",
            "OOMPolicy=continue",
            "TasksMax=64",
            "TimeoutStopSec=10",
            f"RuntimeMaxSec={HOURS_6}",
            "Nice=10",
            "IOSchedulingClass=idle",
            f"Environment=HOME={self.state} LC_ALL=C.UTF-8 PATH={PATH}",
        ]
        if file_bytes is not None:
            lines.append(f"LimitFSIZE={file_bytes}")
        command = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}"]
        command += [f"--property={line}" for line in lines]
        command += ["/bin/sh", "-c", LAUNCHER, "sh", "/usr/bin/python3", "-I", str(PROGRAM), verb, *map(str, arguments)]
        # left over from a run that was killed
        self.stop(unit)
        with open(report_sheet(options), "rb", buffering=0) as report:
            try:
                done = subprocess.run(
                    command, stdin=stdin, stdout=stdout, stderr=report, env={"PATH": PATH}, timeout=HOURS_6 + 60, check=False
                )
            except subprocess.TimeoutExpired:
                raise Trouble(f"{trouble}: {unit} did not finish within {HOURS_6 // 3600} hours") from None
            finally:
                self.stop(unit)
            text = os.pread(report.fileno(), REPORT_BYTES, OPTIONS_BYTES).rstrip(b"\0").decode(errors="replace")
        if done.returncode:
            why = clean(" ".join(text.split())[-600:], 600)
            raise Trouble(f"{trouble} ({why or f'{unit} did not start or was killed; see journalctl -u {unit}'})")
        return warnings(text)

    def stop(self, unit):
        subprocess.run(["systemctl", "stop", "--quiet", unit], env={"PATH": PATH}, stderr=subprocess.DEVNULL, timeout=120, check=False)


def report_sheet(options):
    """A file in memory with the options and space for the report. Its size is fixed, because the app may control the report."""
    text = json.dumps(options).encode()
    if len(text) > OPTIONS_BYTES:
        raise Trouble("backup_exclude is longer than 256 KB.")
    sheet = os.memfd_create("report", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(sheet, OPTIONS_BYTES + REPORT_BYTES)
    os.pwrite(sheet, text, 0)
    os.lseek(sheet, OPTIONS_BYTES, os.SEEK_SET)
    fcntl.fcntl(sheet, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return sheet


def warnings(text):
    """Parse the last line of the report: {count, first}. Returns no warnings if the line is invalid."""
    try:
        found = json.loads(text.splitlines()[-1])
        return {"count": int(found["count"]), "first": [clean(line, 400) for line in found["first"][:NAMED]]}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError):
        return {"count": 0, "first": []}


def clean(text, length):
    """Make a text safe to print on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:length])
