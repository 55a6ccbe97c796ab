"""A credential in a URL of the settings appears neither in Ansible's output with -vvv, nor on a host, nor in a process's arguments."""

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from urllib.parse import quote

import pytest
from conftest import LOCAL, PROJECT, run_playbook, with_modules

# in a URL, the token is percent-encoded
TOKEN, ENCODED = "tok3n/of@the:owner", quote("tok3n/of@the:owner", safe="")
MARKS = ["tok3n", base64.b64encode(f"ann:{TOKEN}".encode()).decode(), base64.b64encode(f"{TOKEN}:".encode()).decode()]


class Server(http.server.ThreadingHTTPServer):
    """Serves a git repository to clients with the credential, and records the credentials of all requests."""

    def __init__(self, directory, allowed=(), redirect=""):
        self.allowed, self.redirect, self.credentials = allowed, redirect, []
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.place = f"127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        sent = self.headers.get("Authorization", "")
        self.server.credentials.append(sent)
        if self.server.redirect:
            self.send_response(302)
            self.send_header("Location", self.server.redirect + self.path)
        elif base64.b64decode(sent.removeprefix("Basic ")).decode() in self.server.allowed:
            super().do_GET()
            return
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def controller(tmp_path, monkeypatch):
    """A controller with a separate home directory, and a git that records its arguments."""
    git = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text(
        f'#!/bin/sh\ncat /proc/$$/cmdline >>{tmp_path}/arguments; echo >>{tmp_path}/arguments\nexec {git} "$@"\n'
    )
    (tmp_path / "bin/git").chmod(0o755)
    (tmp_path / "home").mkdir()
    values = {"HOME": tmp_path / "home", "GIT_CONFIG_NOSYSTEM": 1}
    values |= {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "ANSIBLE_LOG_PATH": tmp_path / "ansible.log"}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path


@pytest.fixture
def repository(controller):
    directory = controller / "repositories/x.git"
    source = controller / "source"
    source.mkdir()
    (source / "requirements.txt").write_text("Flask\n")
    identity = ["-c", "user.name=ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=main"]
    for arguments in ["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]:
        subprocess.run(["git", *identity, "-C", source, *arguments], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", source, directory], check=True)
    subprocess.run(["git", "-C", directory, "update-server-info"], check=True)
    shutil.copytree(directory, directory.with_name("z.git"))
    (controller / "arguments").unlink()
    return directory.parent


def play(controller, book, hosts, succeeds=None, **options):
    return run_playbook(controller, book, hosts, "-vvv", "--diff", settings={}, succeeds=succeeds, timeout=300, **options)


def settings(**changes):
    common = {"ansible_host": "127.0.0.1", "ansible_port": 9, "app_name": "shop", "app_domains": ["shop.example"], "app_module": "shop:app"}
    return {**common, "app_static": {}, "app_secrets": {"SECRET_KEY": "5f3c9a"}, **changes}


def assert_no_credential(controller, output):
    texts = {"the output": output}
    for path in controller.rglob("*"):
        if path.is_file() and path != controller / "hosts.json":
            texts[str(path)] = path.read_bytes().decode(errors="replace")
    for name, text in texts.items():
        for mark in MARKS:
            assert mark not in text, f"{name}: {[line for line in text.splitlines() if mark in line]}"


def test_preflight_does_not_show_a_credential(controller, repository):
    """In no output, also with a wrong version (B16, S25)"""
    server, wrong = Server(repository, [f"ann:{TOKEN}", f"{TOKEN}:"]), Server(repository)
    elsewhere = Server(repository, redirect=f"http://{wrong.place}")
    hosts = {
        "version": settings(app_source=f"http://ann:{ENCODED}@{server.place}/x.git", app_version="v9"),
        "directory": settings(app_source=f"http://ann:{ENCODED}@{server.place}/x.git", app_directory="nowhere"),
        "module": settings(app_source=f"http://{ENCODED}@{server.place}/z.git", app_static={"/s/": "none"}),
        "missing": settings(app_source=f"http://ann:{ENCODED}@{server.place}/y.git"),
        "denied": settings(app_source=f"http://ann:{ENCODED}@{wrong.place}/x.git"),
        "redirected": settings(app_source=f"http://ann:{ENCODED}@{elsewhere.place}/x.git"),
        "refused": settings(app_source=f"http://ann:{ENCODED}@127.0.0.1:9/x.git"),
        "raw": settings(app_source=f"https://ann:{TOKEN}@127.0.0.1:9/x.git"),
        "space": settings(app_source="https://ann:a tok3n@127.0.0.1:9/x.git"),
        "typed": settings(app_source="https:/ann:tok3n@127.0.0.1:9/x.git"),
        "bare": settings(app_source="ann:tok3n@127.0.0.1/x.git"),
        "query": settings(app_source=f"http://{wrong.place}/x.git?access_token=tok3n"),
        "ssh": settings(app_source="ssh://git:tok3n@127.0.0.1:9/x.git"),
        "database": settings(
            app_source=str(PROJECT / "sample_app"), app_secrets={"DATABASE_URL": "postgresql://ann:tok3n/x@127.0.0.1/shop"}
        ),
        "index": settings(app_source=str(PROJECT / "sample_app"), python_venv_index_url="https://ann:tok3n@YOUR_INDEX/simple"),
    }
    run = play(controller, "playbooks/preflight.yml", hosts, succeeds=False)
    text = run.text
    assert "No host was touched" in text, run.output
    assert f"app_version is 'v9': no such branch, tag or commit in http://{server.place}/x.git" in text
    assert "has no directory 'nowhere'" in text and "the source has no directory 'none'" in text
    for name in hosts:
        assert f"(host {name})" in text or f", {name})" in text or f"host {name}," in text, name
    assert_no_credential(controller, run.output)
    used = {base64.b64decode(sent.removeprefix("Basic ")).decode() for sent in server.credentials if sent}
    assert used == {f"ann:{TOKEN}", f"{TOKEN}:"}
    assert b"clone" in (controller / "arguments").read_bytes()


def test_a_credential_does_not_follow_a_redirect(controller, repository):
    other = Server(repository)
    server = Server(repository, redirect=f"http://{other.place}")
    play(controller, "playbooks/preflight.yml", {"h": settings(app_source=f"http://ann:{ENCODED}@{server.place}/x.git")})
    assert server.credentials and other.credentials and {*other.credentials} == {""}


def test_a_host_gets_no_credential(controller, repository, monkeypatch):
    """Checks the arguments of the modules that write the lock and the release's manifest on the host (B16, S25)"""
    server = Server(repository, [f"ann:{TOKEN}"])
    roles = PROJECT / "roles/release/tasks"
    variables = {
        "release_source": f"http://ann:{ENCODED}@{server.place}/x.git",
        "release_app": "shop",
        "release_root": str(controller),
        "release_version": "",
        "release_lock_expires_seconds": 1,
        "release_source_directory": "",
        "release_venv": "v",
        "__release_dependencies": {},
        "release_id": "r",
        "release_command": "",
        "release_build_command": "",
        "release_static": {},
        "release_files": {},
        "release_shared": [],
        "release_server_role": "gunicorn",
        "__release_phase": "unpacked",
        "__release_files": {},
        "__release_secret_files": {},
        "__release_socket": "/run/x",
        "__release_health_path": "/healthz",
        "__release_by": "ann",
    }
    tasks = [
        {"name": "lock", "ansible.builtin.include_tasks": str(roles / "lock.yml")},
        {
            "name": "identify",
            "flaskhost.flaskhost.app_source": {"source": "{{ release_source }}", "cache": "~/.cache/flaskhost/source"},
            "register": "release_source_found",
        },
        {"name": "lay out", "ansible.builtin.include_tasks": str(roles / "lay_out.yml")},
        {"name": "develop", "ansible.builtin.include_tasks": str(roles / "develop.yml")},
    ]
    result = {"lock_taken_over": {}, "edited": [], "live": ""}
    stub = f"#!/bin/sh\ncat $1 >>{controller}/received\necho '{json.dumps(result)}'\n"
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", str(with_modules(controller, release_lock=stub, release_layout=stub)))
    run = play(controller, tasks, {"h": LOCAL}, succeeds=False, variables=variables)
    assert "To develop the app here, set app_source to a local directory" in run.text, run.output
    received = (controller / "received").read_text()
    assert (
        f"releasing http://…@{server.place}/x.git" in received.encode().decode("unicode_escape", errors="replace") or "manifest" in received
    )
    (controller / "book.yml").unlink()
    assert_no_credential(controller, run.output)


def test_the_content_of_the_operator_s_files_is_not_shown(controller, repository):
    """Not even with -vvv and --diff, if the task that writes them fails. The host has no such build user. (A9)"""
    tasks = [
        {
            "name": "identify",
            "flaskhost.flaskhost.app_source": {"source": "{{ release_source }}", "cache": "~/.cache/x"},
            "register": "release_source_found",
        },
        {"name": "lay out", "ansible.builtin.include_tasks": str(PROJECT / "roles/release/tasks/lay_out.yml")},
    ]
    variables = {
        **dict.fromkeys(("release_build_command", "release_version", "__release_by", "__release_socket"), ""),
        "release_static": {},
        "__release_files": {},
        "__release_secret_files": {},
        "release_source": str(controller / "source"),
        "release_app": "nosuchapp",
        "release_root": str(controller / "srv"),
        "release_id": "r",
        "release_venv": "v",
        "release_shared": [],
        "release_server_role": "gunicorn",
        "__release_phase": "unpacked",
        "release_files": {"settings.py": "KEY = 'tok3n'\nOTHER = 1\n", "config/x.ini": "password = tok3n"},
    }
    run = play(controller, tasks, {"h": LOCAL}, succeeds=False, variables=variables)
    assert "release_layout" in run.output and "failed=1" in run.output
    (controller / "book.yml").unlink()
    assert_no_credential(controller, run.output)
