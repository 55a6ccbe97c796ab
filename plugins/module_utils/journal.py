"""Read the final log lines of an app, and the exception that ended it."""

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.command import run
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import shortened

SYNC_SECONDS, READ_SECONDS = 10, 30


def final_lines(app, units, identifiers=()):
    """Return the last log lines of these units and syslog identifiers, without control characters and with limited length.

    The app's output is in a separate journal namespace. Messages of systemd about its units are in the host's journal.
    """
    # make journald write the latest lines
    for namespace in [], [f"--namespace={app}"]:
        # this returns when the queue of journald is empty, which never happens while the app logs continuously
        run(["journalctl", *namespace, "--sync"], seconds=SYNC_SECONDS)
    wanted = [*(f"--unit={unit}" for unit in units), *(f"--identifier={name}" for name in identifiers)]
    command = ["journalctl", f"--namespace=+{app}", *wanted, "--lines=200", "--no-pager", "--output=cat", "--since=-15min"]
    # the length of an entry is not limited
    return without_server_tracebacks(shortened(run(command, seconds=READ_SECONDS)[1].strip()).splitlines())


def without_server_tracebacks(lines):
    """Remove the tracebacks that gunicorn prints when it exits, which are long enough to hide the app's own."""
    kept, traceback = [], []
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            traceback = [line]
        elif not traceback:
            kept.append(line)
        elif line.strip() and not line.startswith(" "):
            if "HaltServer" in line:
                # also remove the line that links it to the previous traceback
                while kept and (not kept[-1].strip() or kept[-1].startswith("During handling of the above exception")):
                    kept.pop()
            else:
                kept += [*traceback, line]
            traceback = []
        else:
            traceback.append(line)
    return kept + traceback


def last_exception(lines):
    """Return the last line of the last Python traceback, or an empty string if there is none."""
    found, traceback = "", False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            traceback = True
        elif traceback and line.strip() and not line.startswith(" "):
            traceback, found = False, line
    return found
