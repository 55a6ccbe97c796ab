"""Run commands for an app, each in a transient unit with sandbox properties and a time limit."""

# pylint: disable=ansible-bad-function  # a failure must raise an exception, so that the caller can clean up
import subprocess
import time

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import command
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.credentials import without_credentials

# time for a killed unit to end
GRACE_SECONDS = 30


class SandboxError(Exception):
    """The unit is still running, or systemd rejects it."""


def run(unit, properties, argv, seconds, wait_seconds=300):
    """Run a command in the transient `unit`. Return its exit code and the end of its stdout and stderr, without credentials.

    All of its processes end with it, because systemd kills the rest of the unit's control group. The command inherits only the descriptors
    of its output, so it cannot hold a lock.
    """
    wait_until_inactive(unit, wait_seconds)
    arguments = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", f"--unit={unit}"]
    arguments += [f"--property={line}" for line in [*properties, f"RuntimeMaxSec={seconds}", "TimeoutStopSec=10"]]
    # systemd would replace $NAME, ${NAME} and $$ in the arguments, which are meant for a shell
    arguments += ["--", *(argument.replace("$", "$$") for argument in argv)]
    code, *outputs = command.run(arguments, seconds=seconds + GRACE_SECONDS)
    # a failed task prints the full output
    out, err = map(without_credentials, outputs)
    if code and err.startswith("Unknown assignment: "):
        raise SandboxError(f"systemd does not understand a line of the unit ({err.strip()}). Check systemd_service_lines")
    # systemd-run ends with the main process; the unit ends with the last process
    wait_until_inactive(unit, GRACE_SECONDS)
    return code, out, err


def failure(code, seconds, took):
    return f"it took longer than {seconds} seconds" if took >= seconds else f"it failed with exit code {code}"


def wait_until_inactive(unit, seconds):
    """Wait for a command that a run left behind when it lost its connection."""
    show = ["systemctl", "show", "--property=ActiveState", "--value", f"{unit}.service"]
    end = time.monotonic() + seconds
    while subprocess.run(show, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False).stdout.strip() not in (
        "inactive",
        "failed",
    ):
        if time.monotonic() > end:
            raise SandboxError(
                f"{unit}.service is still running after {seconds:g} seconds. Wait, or run `systemctl kill {unit}` on the host."
            )
        time.sleep(0.1)
