"""An error of git shows the reason that git, ssh or the server gives, and the fix, before any host is touched."""

import os
import re
import shutil
import socket
import subprocess

import pytest
from conftest import plugin
from test_credentials import Server
from test_hostile_source import committed, git, home, rejected, source  # noqa: F401

app_source, run_git, git_errors = plugin("action/app_source"), plugin("plugin_utils/git"), plugin("plugin_utils/git_errors")
CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Host key verification failed.
"""
# what OpenSSH and the servers print, by host
SSH = {
    "unknown.test": (
        "Host key verification failed.\n",
        "(Host key verification failed.). This controller does not know the server's SSH key",
    ),
    "changed.test": (CHANGED, "(WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!). The server's SSH key is not the one in known_hosts"),
    "key.test": (
        "git@key.test: Permission denied (publickey).\n",
        "(git@key.test: Permission denied (publickey).). The server accepts none of this controller's SSH keys",
    ),
    "private.test": ("ERROR: Repository not found.\n", "(ERROR: Repository not found.). Check the URL. If the repository is private"),
    "gone.test": (
        "ssh: Could not resolve hostname gone.test: Name or service not known\n",
        "(ssh: Could not resolve hostname gone.test: Name or service not known). Check the server's name",
    ),
    "slow.test": (
        "Connection timed out during banner exchange\nConnection to 192.0.2.1 port 22 timed out\n",
        "(Connection timed out during banner exchange). The server does not answer.",
    ),
}


def test_the_reason_that_ssh_gives_is_shown(tmp_path, source, monkeypatch):  # noqa: F811
    """git's own last line only says that it could not read from the remote repository (B22)"""
    (tmp_path / "bin").mkdir()
    program = '#!/bin/sh\necho "$*" >>' + f'{tmp_path}/arguments\ncase "$*" in\n'
    program += "".join(f"*@{host}*) cat >&2 <<'END'\n{text}END\n;;\n" for host, (text, _message) in SSH.items())
    (tmp_path / "bin/ssh").write_text(f"{program}esac\nexit 255\n")
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    urls = {host: f"git@{host}:shop/app.git" for host in SSH} | {"key.test": "ssh://git@key.test/shop/app.git"}
    rejected(tmp_path, *(({"app_source": urls[host]}, f"git cannot read the source {message}") for host, (_text, message) in SSH.items()))
    # otherwise, ssh waits for a person at a terminal
    assert all("BatchMode=yes" in line for line in (tmp_path / "arguments").read_text().splitlines())


def test_the_operator_s_own_ssh_command_is_used(tmp_path, monkeypatch):
    """(B22)"""
    for name in "GIT_SSH_COMMAND", "GIT_SSH":
        monkeypatch.setenv(name, "/opt/ssh")
        assert run_git.git_environment().get("GIT_SSH_COMMAND", "/opt/ssh") == "/opt/ssh"
        monkeypatch.delenv(name)
    assert run_git.git_environment()["GIT_SSH_COMMAND"].startswith("ssh -o BatchMode=yes")
    monkeypatch.setenv("HOME", str(tmp_path))
    subprocess.run(["git", "config", "--global", "core.sshCommand", "/opt/ssh"], check=True)
    run_git.own_ssh_command.cache_clear()
    assert "GIT_SSH_COMMAND" not in run_git.git_environment()
    run_git.own_ssh_command.cache_clear()


@pytest.fixture
def silent():
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_never_answers_is_reported(tmp_path, source, silent, monkeypatch):  # noqa: F811
    """In place of a run that hangs (B22)"""
    monkeypatch.setenv("GIT_HTTP_LOW_SPEED_TIME", "2")
    text = rejected(tmp_path, ({"app_source": f"http://{silent}/x.git"}, "The server does not answer. Check the server's name and port"))
    assert "Operation too slow" in text


@pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh client here")
def test_an_ssh_server_that_never_answers_is_reported(tmp_path, silent, monkeypatch):
    """(B22)"""
    monkeypatch.setattr(run_git, "SSH", run_git.SSH.replace("ConnectTimeout=30", "ConnectTimeout=2") + " -F none")
    with pytest.raises(app_source.SourceError, match=r"\(Connection timed out during banner exchange\)\. The server does not answer\."):
        app_source.find({"source": f"ssh://git@{silent}/x.git"}, str(tmp_path))


def test_a_problem_of_a_repository_is_reported_with_the_fix(tmp_path, source, monkeypatch):  # noqa: F811
    """A private repository, a wrong token, no commit, no default branch, no such branch, an incomplete clone (B22)"""
    # the operator's own git may ask a desktop program for a password
    monkeypatch.setenv("GIT_ASKPASS", "false")
    committed(source)
    for name in "feature/login", "release-1.4":
        git(source, "branch", name)
    first = git(source, "rev-parse", "HEAD")
    git(source, "commit", "-q", "--allow-empty", "-m", "two")
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "empty.git")
    git(tmp_path, "clone", "-q", "--bare", source, "headless.git")
    git(tmp_path / "headless.git", "symbolic-ref", "HEAD", "refs/heads/none")
    git(tmp_path, "clone", "-q", "--bare", "--depth=1", f"file://{source}", "shallow.git")
    server = Server(tmp_path, ["ann:right"])
    private = "Check the URL. If the repository is private, write a token that may read it and an @ before the server's name"
    url = f"file://{source}"
    rejected(
        tmp_path,
        ({"app_source": f"http://{server.place}/x.git"}, private),
        ({"app_source": f"http://ann:wrong@{server.place}/x.git"}, private),
        ({"app_source": f"http://ann:right@{server.place}/none.git"}, private),
        (
            {"app_source": f"file://{tmp_path}/empty.git"},
            f"app_source is 'file://{tmp_path}/empty.git': file://{tmp_path}/empty.git has no commits",
        ),
        ({"app_source": f"file://{tmp_path}/headless.git"}, "has no default branch. Set app_version to a branch, tag or commit, such as "),
        (
            {"app_source": url, "app_version": "release-1.5"},
            f"no such branch, tag or commit in {url}. Use an existing one, such as release-1.4",
        ),
        ({"app_source": url, "app_version": "origin/main"}, "Use an existing one, such as main"),
        (
            {"app_source": f"file://{tmp_path}/shallow.git", "app_version": first},
            "It is an incomplete (shallow) clone. Use an existing one",
        ),
    )


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ("fatal: detected dubious ownership in repository at '/src'\nTo add an exception", r"\(fatal: detected dubious .*safe\.directory"),
        ("remote: Invalid username or token.\nfatal: Authentication failed for 'x'", r"\(Invalid username or token\.\)\. Check the URL"),
        ("fatal: unable to access 'https://x/': SSL certificate problem: self-signed certificate", "Install the server's CA"),
        ("error: object file .git/objects/aa/b is empty\nfatal: loose object aab is corrupt", "The repository is damaged"),
        ("fatal: write error: No space left on device", "Free disk space on this controller"),
        ("error: cannot run ssh: No such file or directory\nfatal: unable to fork", "Install an SSH client"),
        ("fatal: attempt to fetch/clone from a shallow repository", "git fetch --unshallow"),
        ("fatal: unable to find remote helper for 'https'", "Use a URL that begins"),
        ("fatal: something new", r"\(fatal: something new\)\. Check the URL"),
        ("", r"\(git failed without a message\)\. Check the URL"),
    ],
)
def test_each_error_has_a_fix(errors, message):
    """(B22)"""
    assert re.search(message, git_errors.explain(errors, is_url=True))
