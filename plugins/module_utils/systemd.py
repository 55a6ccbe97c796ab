"""systemctl, for several units at a time."""

import re

PROPERTIES = ("ActiveState", "SubState", "NRestarts", "Result", "ExecMainStatus", "ControlGroup", "NeedDaemonReload", "Job")


class SystemdError(Exception):
    """systemctl failed; the text names the command."""


class Systemd:
    def __init__(self, run_command):
        self.run_command = run_command

    def systemctl(self, *words):
        """Run systemctl, which must succeed."""
        code, out, err = self.attempt(*words)
        if code != 0:
            raise SystemdError(f"`systemctl {' '.join(words)}` failed: {(err or out).strip()}")

    def attempt(self, *words):
        """Run systemctl, which may fail."""
        return self.run_command(["systemctl", "--quiet", *words])

    def start(self, *units, restart=False, wait=True):
        self.systemctl("restart" if restart else "start", *([] if wait else ["--no-block"]), *units)

    def stop(self, *units, wait=True):
        self.systemctl("stop", *([] if wait else ["--no-block"]), *units)

    def enable(self, *units):
        # a unit that was never loaded is read from disk anyway: no need to reload all units
        self.systemctl("enable", "--no-reload", *units)

    def disable(self, *units, stop=False):
        self.systemctl("disable", "--no-reload", *(["--now"] if stop else []), *units)

    def reload(self):
        """Read all units again."""
        self.systemctl("daemon-reload")

    def reset_failed(self, *units):
        """systemd remembers a unit that failed when it was last here, though its file has gone since, and then does not load the new file."""
        self.attempt("reset-failed", *units)

    def show(self, units):
        """The PROPERTIES of each unit, in their order."""
        if not units:
            return []
        command = ["systemctl", "show", *(f"--property={key}" for key in PROPERTIES), *units]
        answers = self.run_command(command)[1].split("\n\n")
        found = [dict(line.split("=", 1) for line in text.splitlines() if "=" in line) for text in answers]
        return [{key: one.get(key, "") for key in PROPERTIES} | {"NRestarts": int(one.get("NRestarts") or 0)} for one in found]

    def restarts(self, units):
        """How often systemd has restarted each unit."""
        return [unit["NRestarts"] for unit in self.show(units)]

    def list_units(self, states, *patterns):
        """The names of the loaded units in one of these states."""
        command = ["systemctl", "list-units", "--plain", "--no-legend", "--full", f"--state={states}", *patterns]
        return [line.split()[0] for line in self.run_command(command)[1].splitlines() if line.split()]

    def version(self):
        found = re.match(r"systemd (\d+)", self.run_command(["systemctl", "--version"])[1])
        return int(found[1]) if found else 0

    def verify(self, paths):
        """The lines of these units that systemd does not understand. It ignores them, even one that was to restrict the app."""
        err = self.run_command(["systemd-analyze", "verify", "--man=no", *paths])[2]
        wrong = [line.partition(": ")[2] for line in err.splitlines() if line.startswith(tuple(f"{path}:" for path in paths))]
        # several units share most of their lines
        return list(dict.fromkeys(wrong))
