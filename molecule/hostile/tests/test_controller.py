"""The attacker targets the controller: with a repository, a compromised host or a leaked token."""

import http.server
import os
import shutil
import socket
import subprocess
import threading

import pytest
from sites import PROJECT, during

TOKEN = "marker-of-a-token-77aa"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments):
        pass


@pytest.fixture
def remote(source, tmp_path):
    """The source in a repository, behind a URL with a token."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "--quiet", source], check=True)
    subprocess.run([*git, "-C", source, "add", "--all"], check=True)
    subprocess.run([*git, "-C", source, "commit", "--quiet", "--message", "one"], check=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", source, tmp_path / "served/x.git"], check=True)
    subprocess.run(["git", "-C", tmp_path / "served/x.git", "update-server-info"], check=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *arguments: Quiet(*arguments, directory=tmp_path / "served"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://deployer:{TOKEN}@127.0.0.1:{server.server_address[1]}/x.git"
    server.shutdown()


@pytest.mark.parametrize(
    "wrong",
    [{"app_version": "nowhere"}, {"app_directory": "nowhere"}, pytest.param({"path": "/y.git"}, marks=pytest.mark.sample)],
    ids=["version", "directory", "repository"],
)
def test_read_a_token_in_an_error(attacker, remote, wrong):
    """The source's URL has a token, and its version, its directory or the URL itself is wrong: the error does not contain the token."""
    url = remote.replace("/x.git", wrong.pop("path", "/x.git"))
    run = attacker.attempt(app_source=url, options=["-vvv"], **wrong)
    assert not run.ok and not run.hung, run.output
    leaks = [line for line in run.output.splitlines() if TOKEN in line]
    # the test's own command line contains the token
    assert not [line for line in leaks if "extra-vars" not in line and "--extra_vars" not in line], leaks[:5]


def test_read_a_token_on_the_host(attacker, remote):
    """The source's URL has a token: during the release and afterwards, neither the lock nor the manifest nor anything else on the host
    contains it."""
    found = []

    def look(_process):
        found.append(
            attacker.host.run(
                "grep -rl marker-of-a-token /srv/hostile/lock /run/flaskhost /srv/hostile/releases/*/manifest.json /srv/hostile/history 2>/dev/null"
            ).stdout
        )

    ok, output = during(attacker, "release/lay_out/release_layout", look, app_source=remote)
    assert ok, output
    assert TOKEN not in output
    assert TOKEN not in attacker.bash("cat /srv/hostile/live/manifest.json /srv/hostile/history; env")
    assert (
        found == [""]
        and attacker.host.run(
            f"grep -rl {TOKEN} /srv /etc /var/lib/hostile /run/flaskhost* /var/log 2>/dev/null; journalctl --no-pager --since=-5min | grep {TOKEN}"
        ).stdout
        == ""
    )


@pytest.mark.parametrize("playbook", ["status.yml", "doctor.yml"])
def test_read_a_token_in_a_report(attacker, remote, playbook):
    """The source's URL has a token, and an operator runs `make status` or `make doctor`: the output does not contain it."""
    assert attacker.attempt(app_source=remote).ok
    assert TOKEN not in attacker.attempt(f"playbooks/{playbook}", app_source=remote).output


def test_read_a_token_of_the_package_index(attacker, source):
    """The package index's URL has a token, and the index is unreachable: neither the error nor any file that the app can read contains
    it."""
    (source / "requirements.txt").write_text("Flask\npsycopg[binary]\nredis\nsix\n")
    run = attacker.attempt(
        app_source=source,
        python_venv_index_url=f"http://deployer:{TOKEN}@127.0.0.1:9/simple",
        app_extra_requirements=["flask-nowhere-at-all"],
    )
    assert not run.ok and not run.hung, run.output
    assert TOKEN not in run.output
    assert TOKEN not in attacker.bash("cat /srv/hostile/releases/*/* 2>/dev/null; env")


HISTORY = [
    '{"id": 1}',
    '{"id": null}',
    "[1]",
    '"text"',
    "null",
    "{}",
    '{"id": {"a": 1}, "at": []}',
    "\\xff\\xfe",
    '{"id": "\\u001b[2J"}',
]


def test_break_a_run_with_the_history_of_another_stage(attacker, tmp_path, source):
    """The previous stage is compromised, and its history contains lines that are not releases: the run warns and continues."""
    for stage in ("before", "after"):
        shutil.copytree(PROJECT / "molecule/inventory/group_vars", tmp_path / stage / "group_vars")
        shutil.copy(PROJECT / "molecule/inventory/hostile.yml", tmp_path / stage / "hosts.yml")
    hosts = (tmp_path / "before/hosts.yml").read_text()
    others = [name for name in ("hostile-older", "hostile-newer", "victim-older", "victim-newer") if name != attacker.name]
    for name in others:
        hosts = hosts.replace(f"        {name}: {{}}\n", "")
    (tmp_path / "before/hosts.yml").write_text(hosts)
    kept = attacker.host.check_output("cat /srv/hostile/history")
    lines = "\\n".join(HISTORY).replace("'", "")
    attacker.host.check_output(
        f"cp /srv/hostile/history /root/history && {{ printf '%b\\n' '{lines}'; head -c 200000 /dev/zero | tr '\\0' x; echo; }} >>/srv/hostile/history"
    )
    try:
        inventory = attacker.inventory
        attacker.inventory = tmp_path / "after/hosts.yml"
        run = attacker.attempt(app_source=source, release_previous_stage="before")
        attacker.inventory = inventory
        status = attacker.attempt("playbooks/status.yml")
    finally:
        attacker.host.check_output("cp /root/history /srv/hostile/history")
    assert run.ok and "Traceback" not in run.output, run.output
    assert status.ok and "\x1b" not in status.output, status.output
    assert kept


def odd_fifo(source):
    os.mkfifo(source / "pipe")


def odd_socket(source):
    socket.socket(socket.AF_UNIX).bind(str(source / "a.sock"))


def odd_name(source):
    with open(os.fsencode(source) + b"/na\xefve.txt", "w") as file:
        file.write("x")


def odd_newline(source):
    (source / "a\nname\x1b[2J.txt").write_text("x")


def odd_loop(source):
    (source / "loop").symlink_to("loop")


def odd_device(source):
    os.mknod(source / "device", 0o600 | 0o020000, os.makedev(1, 5))


def odd_link_to_a_pipe(source):
    os.mkfifo(source.parent / "pipe")
    (source / "link.txt").symlink_to(source.parent / "pipe")


def odd_depth(source):
    directory = os.open(source, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=directory)
        directory, parent = os.open("d", os.O_RDONLY, dir_fd=directory), directory
        os.close(parent)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)


ODD = {
    function.__name__: function
    for function in (odd_fifo, odd_socket, odd_name, odd_newline, odd_loop, odd_device, odd_link_to_a_pipe, odd_depth)
}


@pytest.mark.parametrize("kind", [pytest.param(name, marks=pytest.mark.sample) if name == "odd_fifo" else name for name in ODD])
@pytest.mark.parametrize("in_git", [False, True], ids=["directory", "git"])
def test_hang_the_controller_with_a_source(attacker, source, kind, in_git):
    """The source has a pipe, a socket, a device, a name that is not UTF-8 or contains line breaks, a loop of links, or directories nested
    1,200 levels deep: it is released without them, with a warning, or rejected with one clear error."""
    ODD[kind](source)
    if in_git:
        subprocess.run(["git", "init", "--quiet", source], check=True)
    try:
        run = attacker.attempt(app_source=source, seconds=240)
    finally:
        # Python can't remove a path that long
        subprocess.run(["rm", "-rf", source], check=True)
    assert not run.hung, run.output
    assert "Traceback" not in run.output and "\x1b" not in run.output, run.output
    assert run.ok or "app_source" in run.output, run.output


def test_run_code_on_the_controller(attacker, source, tmp_path):
    """A repository has git hooks, filters and configuration, an ansible.cfg and a .env: none of it runs on the controller."""
    subprocess.run(["git", "init", "--quiet", source], check=True)
    mark = tmp_path / "ran"
    (source / ".gitattributes").write_text("* filter=evil diff=evil export-subst\n")
    with open(source / ".git/config", "a") as file:
        file.write(
            f'[core]\n\tfsmonitor = "touch {mark}; true"\n\tpager = touch {mark}\n[filter "evil"]\n\tclean = touch {mark}\n\tsmudge = touch {mark}\n'
        )
    (source / "ansible.cfg").write_text("[defaults]\nhost_key_checking = no\n")
    run = attacker.attempt(app_source=source)
    assert not run.hung, run.output
    assert not mark.exists()


def test_inject_expressions_with_names(attacker, source):
    """A Procfile and file names contain shell and Jinja expressions: they are rejected or taken literally, and never expanded."""
    (source / "{{ lookup('pipe', 'touch ran') }}.txt").write_text("x")
    with open(source / "Procfile", "a") as file:
        file.write('evil: echo \'{{ lookup("pipe", "touch /tmp/hostile-ran") }}\' $(touch /var/lib/hostile/shell-ran)\n')
    run = attacker.attempt(app_source=source, app_processes={"worker": 1})
    assert not run.hung and not os.path.exists("/tmp/hostile-ran"), run.output
