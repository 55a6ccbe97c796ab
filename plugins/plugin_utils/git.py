"""Run git on the controller, on a repository that is not trusted: neither its content nor its configuration makes git run a program."""

import contextlib
import os
import subprocess
import tarfile
import tempfile

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import command
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError

GIT_SECONDS = 1800
# they outrank a repository's own configuration
SETTINGS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "safe.bareRepository=explicit",
    "http.lowSpeedLimit=100",
    "http.lowSpeedTime=60",
)
GIT = ["git", *(word for setting in SETTINGS for word in ("-c", setting))]
PROTOCOLS = "https:http:ssh:git:file"
# such as git sets for its hooks: another repository would be read
GIT_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_PREFIX")
AT_URL = "Check the URL, and that this controller may read it (ssh key, token)."
IN_WORKING_COPY = "Make `git status` succeed in it for the user who deploys."


def git(*words, environment=()):
    """Run git with these arguments; return (its output, its messages)."""
    try:
        process = subprocess.Popen(
            [*GIT, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=git_environment() | dict(environment),
        )
    except FileNotFoundError:
        raise SourceError("app_source: git is not installed on this controller, and is needed to read it. Install git.") from None
    with process, command.deadline(process, GIT_SECONDS) as late:
        out, said = process.communicate()
    said = said.decode(errors="replace")
    if late.is_set():
        raise too_slow()
    if process.returncode != 0:
        raise git_problem(said, IN_WORKING_COPY if words[0] == "-C" else AT_URL)
    # a name may be of any bytes
    return out.decode(errors="surrogateescape"), said


@contextlib.contextmanager
def output_of_git(clone, *words):
    """Stream the output of a git command. Git is killed after GIT_SECONDS, or when the reader fails."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            [*GIT, f"--git-dir={clone}", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=git_environment()
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
            # git knows better why it has stopped
            broken = error
        code = process.wait()
        if late.is_set():
            raise too_slow()
        if code != 0:
            said.seek(0)
            raise git_problem(said.read().decode(errors="replace"), AT_URL)
        if broken:
            raise broken


def git_environment():
    ours = {
        "GIT_ALLOW_PROTOCOL": PROTOCOLS,
        "GIT_LITERAL_PATHSPECS": "1",
        # or a repository could put another commit in the place of the one that app_version names
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    return {name: value for name, value in os.environ.items() if name not in GIT_ELSEWHERE} | ours


def too_slow():
    return SourceError(f"app_source: git has not read it within {GIT_SECONDS // 60} minutes. Try the same with `git clone`.")


def git_problem(said, remedy):
    lines = said.strip().splitlines() or ["it failed without a message"]
    why = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1])[:500]
    return SourceError(f"app_source: git could not read it ({why}). {remedy}")
