"""Commands that run for an app: each in a transient unit, with the lines of a sandbox, until it ends or its time is over."""

# pylint: disable=ansible-bad-function  # a failure must raise, so that the caller stops what it has started
import subprocess
import time

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import command
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.credentials import without_credentials

# a unit that was killed needs no longer to be gone
GRACE_SECONDS = 30


class SandboxError(Exception):
    """A unit is in the way, or can't be."""


def run(unit, properties, argv, seconds, wait_seconds=300):
    """Run a command as the transient `unit`; gives its exit code, and the end of what it printed on stdout and on stderr, without credentials.

    All of its processes end with it: systemd kills what is left in the unit's control group. The command does not inherit
    a descriptor but those of its output, so it can hold no lock.
    """
    wait_until_inactive(unit, wait_seconds)
    words = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", f"--unit={unit}"]
    words += [f"--property={line}" for line in [*properties, f"RuntimeMaxSec={seconds}", "TimeoutStopSec=10"]]
    code, *outputs = command.run([*words, "--", *argv], seconds=seconds + GRACE_SECONDS)
    # a task that fails prints them whole
    out, err = map(without_credentials, outputs)
    if code and err.startswith("Unknown assignment: "):
        raise SandboxError(f"systemd does not understand a line of the unit (systemd_service_lines?): {err.strip()}")
    # systemd-run ends when the main process has; the unit is gone when the rest is
    wait_until_inactive(unit, GRACE_SECONDS)
    return code, out, err


def failure(code, seconds, took):
    return f"it took longer than {seconds} seconds" if took >= seconds else f"it failed with exit code {code}"


def wait_until_inactive(unit, seconds):
    """A run whose connection broke may have left its command at work."""
    show = ["systemctl", "show", "--property=ActiveState", "--value", f"{unit}.service"]
    end = time.monotonic() + seconds
    while subprocess.run(show, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False).stdout.strip() not in (
        "inactive",
        "failed",
    ):
        if time.monotonic() > end:
            raise SandboxError(
                f"{unit}.service still runs after {seconds:g} seconds. Wait until it ends, or end it on the host (systemctl kill {unit})."
            )
        time.sleep(0.1)
