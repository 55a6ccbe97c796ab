"""The final log lines of an app, and the exception that ended it."""

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.command import run
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import shortened

SYNC_SECONDS, READ_SECONDS = 10, 30


def final_lines(app, units, identifiers=()):
    """The last log lines of units, and of programs with these syslog identifiers, without control characters and of bounded length.

    What the app prints is in a journal namespace of its own; what systemd says of it is in the host's journal.
    """
    # the latest lines may not have been written yet
    for namespace in [], [f"--namespace={app}"]:
        # journald answers when its queue is empty, which it never is while the app logs without a pause
        run(["journalctl", *namespace, "--sync"], seconds=SYNC_SECONDS)
    wanted = [*(f"--unit={unit}" for unit in units), *(f"--identifier={name}" for name in identifiers)]
    command = ["journalctl", f"--namespace=+{app}", *wanted, "--lines=200", "--no-pager", "--output=cat", "--since=-15min"]
    # one entry may be as long as the app likes
    return without_server_tracebacks(shortened(run(command, seconds=READ_SECONDS)[1].strip()).splitlines())


def without_server_tracebacks(lines):
    """gunicorn exits with tracebacks of its own, long enough to hide the app's."""
    kept, traceback = [], []
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            traceback = [line]
        elif not traceback:
            kept.append(line)
        elif line.strip() and not line.startswith(" "):
            if "HaltServer" in line:
                # the line that links it to the traceback before goes too
                while kept and (not kept[-1].strip() or kept[-1].startswith("During handling of the above exception")):
                    kept.pop()
            else:
                kept += [*traceback, line]
            traceback = []
        else:
            traceback.append(line)
    return kept + traceback


def last_exception(lines):
    """The last line of the last Python traceback; empty if there is none."""
    found, traceback = "", False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            traceback = True
        elif traceback and line.strip() and not line.startswith(" "):
            traceback, found = False, line
    return found
