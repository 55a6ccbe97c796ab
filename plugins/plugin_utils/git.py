"""Run git on the controller in an untrusted repository: neither its content nor its configuration can make git run a program."""

import contextlib
import functools
import os
import subprocess
import tarfile
import tempfile

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import command
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git_errors import explain
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError

GIT_SECONDS = 1800
# Settings on the command line override the repository's own configuration. The content of a commit must not depend on the operator's
# line ends and attributes.
SETTINGS = (
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.eol=lf",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "safe.bareRepository=explicit",
    "http.lowSpeedLimit=100",
    "http.lowSpeedTime=60",
)
GIT = ["git", *(word for setting in SETTINGS for word in ("-c", setting))]
PROTOCOLS = "https:http:ssh:git:file"
# git sets such variables for its hooks; with them, git would read another repository
GIT_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_PREFIX")
# ssh would wait for a person to confirm an unknown host key or to type a passphrase
SSH = "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"


def git(*arguments, environment=()):
    """Run git with these arguments. Return its stdout and its stderr."""
    try:
        process = subprocess.Popen(
            [*GIT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=git_environment() | dict(environment),
        )
    except FileNotFoundError:
        raise SourceError("app_source: git is not installed on this controller. Install it to read the source.") from None
    with process, command.deadline(process, GIT_SECONDS) as late:
        output, errors = process.communicate()
    errors = errors.decode(errors="replace")
    if late.is_set():
        raise too_slow()
    if process.returncode != 0:
        raise SourceError(explain(errors, is_url=arguments[0] != "-C"))
    # file names can contain any bytes
    return output.decode(errors="surrogateescape"), errors


@contextlib.contextmanager
def output_of_git(clone, *arguments):
    """Stream the output of a git command. Kill git after GIT_SECONDS, or if the reader fails."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*GIT, f"--git-dir={clone}", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=git_environment()
        ) as process,
        command.deadline(process, GIT_SECONDS) as late,
    ):
        broken = None
        try:
            yield process.stdout
        except BaseException as error:
            command.kill_all(process)
            if not isinstance(error, tarfile.TarError):
                raise
            # git's own error explains the truncated archive better
            broken = error
        code = process.wait()
        if late.is_set():
            raise too_slow()
        if code != 0:
            errors.seek(0)
            raise SourceError(explain(errors.read().decode(errors="replace"), is_url=True))
        if broken:
            raise broken


def git_environment():
    settings = {
        "GIT_ALLOW_PROTOCOL": PROTOCOLS,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        # a repository's replacement objects could substitute another commit for the one that app_version names
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    if not {"GIT_SSH", "GIT_SSH_COMMAND"} & {*os.environ} and not own_ssh_command():
        settings["GIT_SSH_COMMAND"] = SSH
    return {name: value for name, value in os.environ.items() if name not in GIT_ELSEWHERE} | settings


@functools.cache
def own_ssh_command():
    """Return the operator's own core.sshCommand, which GIT_SSH_COMMAND would override."""
    done = subprocess.run(["git", "config", "--global", "core.sshCommand"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout.strip()


def too_slow():
    return SourceError(
        f"app_source: git did not finish within {GIT_SECONDS // 60} minutes. Check whether `git clone` works on this controller."
    )
