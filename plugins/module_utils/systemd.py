"""Run systemctl for several units at a time."""

import re

PROPERTIES = ("ActiveState", "SubState", "NRestarts", "Result", "ExecMainStatus", "ControlGroup", "NeedDaemonReload", "Job")


class SystemdError(Exception):
    """systemctl failed. The message contains the command."""


class Systemd:
    def __init__(self, run_command):
        self.run_command = run_command

    def systemctl(self, *arguments):
        """Run systemctl, and raise SystemdError if it fails."""
        code, out, err = self.attempt(*arguments)
        if code != 0:
            raise SystemdError(f"`systemctl {' '.join(arguments)}` failed: {(err or out).strip()}")

    def attempt(self, *arguments):
        """Run systemctl. Return its exit code, stdout and stderr, even if it fails."""
        return self.run_command(["systemctl", "--quiet", *arguments])

    def start(self, *units, restart=False, wait=True):
        self.systemctl("restart" if restart else "start", *([] if wait else ["--no-block"]), *units)

    def stop(self, *units, wait=True):
        self.systemctl("stop", *([] if wait else ["--no-block"]), *units)

    def enable(self, *units):
        # no reload of all units is needed, because systemd reads a unit that was never loaded from disk
        self.systemctl("enable", "--no-reload", *units)

    def disable(self, *units, stop=False):
        self.systemctl("disable", "--no-reload", *(["--now"] if stop else []), *units)

    def reload(self):
        """Reload all units."""
        self.systemctl("daemon-reload")

    def reset_failed(self, *units):
        """Make systemd forget failed units. Otherwise it keeps the state of a removed unit, and ignores a new file with the same name."""
        self.attempt("reset-failed", *units)

    def show(self, units):
        """Return the PROPERTIES of each unit, in the given order."""
        if not units:
            return []
        command = ["systemctl", "show", *(f"--property={key}" for key in PROPERTIES), *units]
        blocks = self.run_command(command)[1].split("\n\n")
        found = [dict(line.split("=", 1) for line in text.splitlines() if "=" in line) for text in blocks]
        return [{key: one.get(key, "") for key in PROPERTIES} | {"NRestarts": int(one.get("NRestarts") or 0)} for one in found]

    def restarts(self, units):
        """Return how often systemd has restarted each unit."""
        return [unit["NRestarts"] for unit in self.show(units)]

    def list_units(self, states, *patterns):
        """Return the names of the loaded units in one of these states."""
        command = ["systemctl", "list-units", "--plain", "--no-legend", "--full", f"--state={states}", *patterns]
        return [line.split()[0] for line in self.run_command(command)[1].splitlines() if line.split()]

    def version(self):
        found = re.match(r"systemd (\d+)", self.run_command(["systemctl", "--version"])[1])
        return int(found[1]) if found else 0

    def verify(self, paths):
        """Return the lines of these units that systemd does not understand. It ignores such lines, even if they restrict the app."""
        err = self.run_command(["systemd-analyze", "verify", "--man=no", *paths])[2]
        rejected = [line.partition(": ")[2] for line in err.splitlines() if line.startswith(tuple(f"{path}:" for path in paths))]
        # several units share most lines, so remove duplicates
        return list(dict.fromkeys(rejected))
