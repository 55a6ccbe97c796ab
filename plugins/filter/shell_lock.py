"""The filter `shell_lock`: acquire one of the host's locks in a shell script."""

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import DIRECTORY, WAIT_SECONDS

# Only root can open the lock file. The umask applies in the subshell only, so files that the script creates later get the usual mode.
SCRIPT = """\
mkdir -p -m 0755 {directory}
(umask 077; : >>{path})
exec 9<>{path}
flock --timeout {seconds} 9 || {{ echo "Another run has held {path} for {seconds} seconds (fuser -v shows it)." >&2; exit 75; }}"""


class FilterModule:
    def filters(self):
        return {"shell_lock": shell_lock}


def shell_lock(name):
    return SCRIPT.format(directory=DIRECTORY, path=f"{DIRECTORY}/{name}.lock", seconds=WAIT_SECONDS)
