"""Commands that run for an app: each in a transient unit, with the lines of a sandbox, until it ends or its time is over."""

import subprocess
import time

# of what a command prints, the end is what tells why it failed
OUTPUT_BYTES = 64 * 1024
# it has been asked to end, or killed, by systemd itself
GRACE_SECONDS = 30


class SandboxError(Exception):
    """A unit could not be started."""


def run(unit, properties, command, seconds, wait_seconds=300):
    """Run `command` as the transient `unit`; gives its exit code and the end of its output.

    All of its processes end with it: systemd kills what is left in the unit's control group. The command does not inherit
    a descriptor but those of its output, so it can hold no lock.
    """
    wait_until_inactive(unit, wait_seconds)
    words = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", f"--unit={unit}"]
    # --wait ends when the main process has ended; the unit is gone only when the rest has been killed
    words += [f"--property={line}" for line in [*properties, f"RuntimeMaxSec={seconds}", "TimeoutStopSec=10"]]
    with subprocess.Popen([*words, "--", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        output = b""
        while chunk := process.stdout.read1(OUTPUT_BYTES):
            output = (output + chunk)[-OUTPUT_BYTES:]
        code = process.wait()
    wait_until_inactive(unit, GRACE_SECONDS)
    return code, output.decode(errors="replace")


def failure(code, seconds, took):
    return f"it took longer than {seconds} seconds" if took >= seconds else f"it failed with exit code {code}"


def wait_until_inactive(unit, seconds):
    """A run whose connection broke may have left its command at work."""
    command = ["systemctl", "show", "--property=ActiveState", "--value", f"{unit}.service"]
    end = time.monotonic() + seconds
    while subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.strip() not in ("inactive", "failed"):
        if time.monotonic() > end:
            raise SandboxError(
                f"{unit}.service still runs after {seconds:g} seconds. Wait until it ends, or end it on the host (systemctl kill {unit})."
            )
        time.sleep(0.1)
