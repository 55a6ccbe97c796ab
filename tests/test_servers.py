"""Every server loads the same app, opens the same socket, and finishes its requests when it stops."""

import configparser
import contextlib
import json
import math
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest
import yaml
from conftest import LOCAL, PROJECT, READ_APP, evaluate, foreign_listeners, plugin

SERVERS = ["gunicorn", "uwsgi", "waitress", "granian", "uvicorn", "mod_wsgi"]
MODULE = 'shop.web:create_app("the shop")'
# a value with characters that are special to a shell
TRICKY = "a 'b' $HOME \"c\""


@pytest.fixture(scope="session")
def contracts(tmp_path_factory):
    """The spec and the files of each server's role, with the defaults (-plain), and with custom settings on a small host (-own)."""
    directory = tmp_path_factory.mktemp("servers")
    provision = yaml.safe_load((PROJECT / "playbooks/provision.yml").read_text())[0]
    hosts = {}
    for server in SERVERS:
        base = {"server": server, "release_root": str(directory / server), "release_command": ""}
        hosts[f"{server}-plain"] = {**base, "memory": 2000, "app_module": "wsgi:app"}
        own = {f"{server}_settings": {"own-setting": TRICKY, "own-flag": True, "own-number": 7}}
        hosts[f"{server}-slow"] = {**base, "memory": 2000, "app_module": "wsgi:app", "nginx_app_timeout_seconds": 300}
        hosts[f"{server}-own"] = {**base, "memory": 460, "app_module": MODULE, **own}
    web = {"release_source_found": {"commands": {"web": "exec python server.py"}}}
    hosts["procfile-plain"] = {
        "server": "procfile",
        "release_root": str(directory / "procfile"),
        "memory": 2000,
        "app_module": "wsgi:app",
        **web,
    }
    hosts["gunicorn-set"] = hosts["gunicorn-plain"] | {"gunicorn_timeout_seconds": 30, "gunicorn_workers": 5}
    settings = {
        **LOCAL,
        "hardening_packages": ["libpam-pwquality"],
        "ufw_packages": ["ufw"],
        "tls_packages": [],
        "nginx_packages": ["nginx"],
        "systemd_packages": ["dumb-init"],
        "__release_make_shared": "",
        "python_venv_packages": ["python3"],
        "python_venv_extra_packages": [],
        "installed": provision["vars"]["needed_packages"],
        "templates": f"{PROJECT}/roles/release/templates/",
        "app_server": "{{ server }}",
        "release_server_role": "{{ server }}",
        "release_server": yaml.safe_load((PROJECT / "roles/release/defaults/main.yml").read_text())["release_server"],
    }
    contract = {
        "server": "{{ release_server }}",
        "installed": "{{ installed }}",
        "files": "{{ release_server.files | combine({"
        "'start': lookup('ansible.builtin.template', templates ~ 'start.j2'),"
        "'flaskhost_app.py': lookup('ansible.builtin.template', templates ~ 'flaskhost_app.py.j2')}) }}",
    }
    tasks = [
        READ_APP,
        {"ansible.builtin.set_fact": {"ansible_facts": {"processor_vcpus": 2, "memtotal_mb": "{{ memory }}"}}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.{{ server }}"}},
    ]
    return evaluate(directory, tasks, contract, hosts, settings=settings)


@pytest.fixture
def release(contracts, tmp_path):
    """A release on disk, run in the environment that its unit provides, with stand-ins for the venv's programs."""

    class Release:
        directory, run = tmp_path / "release", tmp_path / "run"
        programs, output = tmp_path / "bin", tmp_path / "output"

        def __init__(self):
            for directory in (self.directory / "app", self.run, self.programs):
                directory.mkdir(parents=True)

        def of(self, host):
            for name, content in contracts[host]["files"].items():
                # use this directory as the release
                (self.directory / name).write_text(re.sub(r"^RELEASE=.*", f"RELEASE={self.directory}", content, flags=re.MULTILINE))
            for name in contracts[host]["server"].get("helpers", []):
                shutil.copy(PROJECT / "roles/release/files" / name, self.directory)
            return self

        def program(self, name, text):
            path = self.programs / name
            path.write_text(f"#!{sys.executable}\n" + textwrap.dedent(text))
            path.chmod(0o755)

        def start(self, **options):
            environment = {
                "PATH": f"{self.programs}:/usr/bin:/bin",
                "RUNTIME_DIRECTORY": str(self.run),
                "APP_RELEASE": "r1",
                "OUTPUT": str(self.output),
            }
            return subprocess.Popen(["sh", str(self.directory / "start")], cwd=self.directory / "app", env=environment, **options)

        def command(self, name):
            """The arguments with which the start script calls the server."""
            self.program(name, f"import json, os, sys; open({str(self.output)!r}, 'w').write(json.dumps(sys.argv[1:]))")
            assert self.start().wait(10) == 0
            return json.loads(self.output.read_text())

    return Release()


def test_app_server_accepts_every_server():
    (rule,) = [role.rules["app_server"] for role in plugin("plugin_utils/rules").read_roles() if "app_server" in role.rules]
    assert [server for server in SERVERS if rule(server, {})] == []
    assert all(server in rule("apache", {}) for server in SERVERS)


def test_servers_use_the_same_names_for_the_same_settings():
    common = ["requirement", "packages", "workers", "threads", "timeout_seconds", "graceful_timeout_seconds", "max_requests", "settings"]
    own = {"gunicorn_worker_class", "gunicorn_cpu_affinity", "uwsgi_cheaper"}
    for server in SERVERS:
        names = yaml.safe_load((PROJECT / f"roles/{server}/defaults/main.yml").read_text())
        assert {name for name in names if name.removeprefix(f"{server}_") not in common} <= own
        assert {f"{server}_requirement", f"{server}_settings", f"{server}_graceful_timeout_seconds"} <= set(names)


# -- the app ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS)
def test_a_factory_is_called_with_its_arguments(release, server):
    """In a separate process, whose working directory is the app's and first in the import path."""
    release.of(f"{server}-own")
    (release.directory / "app/shop").mkdir()
    (release.directory / "app/shop/__init__.py").touch()
    (release.directory / "app/shop/web.py").write_text(f"def create_app(name):\n{indent(APP)}\n    return app\n")
    assert answer_of_app(release) == "made for the shop"


@pytest.mark.parametrize("name", ["wsgi", "app", "application"])
def test_an_app_object_is_loaded_from_a_module_of_any_name(release, contracts, name):
    release.of("granian-plain")
    path = release.directory / "flaskhost_app.py"
    path.write_text(path.read_text().replace("import wsgi ", f"import {name} "))
    (release.directory / f"app/{name}.py").write_text(f"name = 'all'\n{APP}")
    assert answer_of_app(release) == "made for all"


APP = """
def app(environ, start_response):
    start_response('200 OK', [])
    return [f'made for {name}'.encode()]
"""


def indent(text):
    return textwrap.indent(text, "    ")


def answer_of_app(release):
    script = "import flaskhost_app; print(flaskhost_app.application({}, lambda status, headers: None)[0].decode())"
    command = [sys.executable, "-c", script]
    # a server's workers don't have the directory that Python adds to the import path
    environment = {"PYTHONPATH": str(release.directory), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        command, cwd=release.directory / "app", env=environment, text=True, capture_output=True, check=True
    ).stdout.strip()


# -- the start command -------------------------------------------------------------------------------------------------


def test_gunicorn_loads_the_app_from_the_release_and_leaves_the_size_of_requests_to_nginx(release):
    """nginx rejects what exceeds nginx_max_header_kb (B21)."""
    arguments = release.of("gunicorn-own").command("gunicorn")
    assert arguments[-1] == "flaskhost_app:application" and arguments[arguments.index("--pythonpath") + 1] == str(release.directory)
    config = runpy.run_path(str(release.of("gunicorn-plain").directory / "gunicorn.conf.py"))
    assert (config["limit_request_line"], config["limit_request_field_size"], config["limit_request_fields"]) == (0, 0, 32768)


@pytest.mark.parametrize(("cores", "expected"), [({4, 5}, [4, 5, 4]), ({4}, [4, 4, 4]), ({4, 5, 6}, None)])
def test_gunicorns_workers_are_spread_evenly_over_the_cores_even_after_one_has_died(release, monkeypatch, cores, expected):
    """There are two workers. A replacement worker gets the core of the dead one. With more cores than workers, no worker is bound."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: cores)
    config = runpy.run_path(str(release.of("gunicorn-plain").directory / "gunicorn.conf.py"))
    if expected is None:
        assert "pre_fork" not in config and "post_fork" not in config
        return
    arbiter, workers = SimpleNamespace(WORKERS={}), [SimpleNamespace() for _ in range(3)]
    for worker in workers[:2]:
        config["pre_fork"](arbiter, worker)
        arbiter.WORKERS[id(worker)] = worker
    del arbiter.WORKERS[id(workers[0])]
    config["pre_fork"](arbiter, workers[2])
    assert [worker.core for worker in workers] == expected


CONFIGURATION = """
import multiprocessing, os
bind = "0.0.0.0:8000"
workers = 3
timeout = 120
max_requests = 500
worker_class = "sync"
keepalive = 2
umask = 0o777
daemon = reload = True
user = group = "www-data"
pidfile, certfile = "/run/x.pid", os.path.join(os.path.dirname(__file__), "x.pem")
preload_app = True
forked = []

def post_fork(server, worker):
    forked.append(worker)

def when_ready(server):
    forked.clear()
"""


def test_the_source_s_gunicorn_configuration_is_read_under_the_role_s(release, monkeypatch):
    """It overrides defaults, but no setting of the inventory and nothing that a release needs. Its hooks run beside the role's. (B27)"""
    monkeypatch.chdir(release.directory / "app")
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0})
    monkeypatch.setattr("os.sched_setaffinity", lambda _pid, _cores: None)
    before = runpy.run_path(str(release.of("gunicorn-plain").directory / "gunicorn.conf.py"))
    assert (before["timeout"], before["workers"], before["threads"], before["worker_class"]) == (70, 2, 24, "gthread")
    (release.directory / "app/gunicorn.conf.py").write_text(CONFIGURATION)
    found = runpy.run_path(str(release.directory / "gunicorn.conf.py"))
    assert (found["timeout"], found["workers"], found["max_requests"], found["max_requests_jitter"]) == (120, 3, 500, 50)
    assert (found["worker_class"], found["threads"], found["preload_app"]) == ("sync", 1, True)
    assert (found["keepalive"], found["umask"], found["graceful_timeout"]) == (75, 0o007, 30)
    assert not {"daemon", "reload", "user", "group", "pidfile", "certfile"} & {*found} and "when_ready" in found
    worker = SimpleNamespace()
    found["pre_fork"](SimpleNamespace(WORKERS={}), worker)
    found["post_fork"](None, worker)
    assert worker.core == 0 and found["forked"] == [worker]
    # the inventory wins, also with the value of the default; the socket is an argument, which gunicorn prefers to `bind`
    of_inventory = runpy.run_path(str(release.of("gunicorn-set").directory / "gunicorn.conf.py"))
    assert (of_inventory["timeout"], of_inventory["workers"], of_inventory["worker_class"]) == (30, 5, "sync")
    assert f"unix:{release.run}/wsgi.sock" in release.command("gunicorn")


@pytest.mark.parametrize(
    ("server", "app"),
    [("uwsgi", None), ("granian", "{}/flaskhost_app.py:application"), ("uvicorn", "flaskhost_app:application")],
)
def test_a_server_opens_the_socket_and_loads_the_app(release, server, app):
    arguments = release.of(f"{server}-plain").command(server)
    assert any(str(release.run / "wsgi.sock") in argument for argument in arguments)
    if app:
        assert arguments[-1] == app.format(release.directory)
    else:
        assert arguments[arguments.index("--ini") + 1] == str(release.directory / "uwsgi.ini")


@pytest.mark.parametrize("server", ["granian", "uvicorn"])
def test_custom_settings_are_passed_to_the_server_unchanged(release, server):
    arguments = release.of(f"{server}-own").command(server)
    assert arguments[arguments.index("--own-setting") + 1] == TRICKY
    assert arguments[arguments.index("--own-number") + 1] == "7"
    assert arguments[arguments.index("--own-flag") + 1].startswith("--")


@pytest.mark.parametrize(
    ("server", "file", "pattern"),
    [
        ("gunicorn", "gunicorn.conf.py", r"^timeout = .*?(\d+)"),
        ("uwsgi", "uwsgi.ini", r"^harakiri = (\d+)"),
        ("uvicorn", "start", r"--timeout-worker-healthcheck (\d+)"),
        ("mod_wsgi", "serve.sh", r"--request-timeout (\d+)"),
    ],
)
def test_no_server_kills_a_request_before_nginx_times_out(contracts, server, file, pattern):
    """A killed worker closes the connection, so that nginx would repeat the request instead of answering with 504 (B25)."""
    timeout = yaml.safe_load((PROJECT / "roles/nginx/defaults/main.yml").read_text())["nginx_app_timeout_seconds"]
    for host, seconds in ((f"{server}-plain", timeout), (f"{server}-slow", 300)):
        found = int(re.search(pattern, contracts[host]["files"][file], re.MULTILINE)[1])
        # mod_wsgi allows a request longer if its other threads are free
        assert (found * (1 + math.log(24)) if server == "mod_wsgi" else found) > seconds, host


def test_uwsgi_has_six_processes_where_memory_allows_and_custom_settings(contracts):
    settings = ini(contracts["uwsgi-plain"])
    assert (settings["processes"], settings["master"], settings["need-app"]) == ("6", "true", "true")
    assert ini(contracts["uwsgi-own"])["processes"] == "3"
    assert ini(contracts["uwsgi-own"])["own-setting"] == TRICKY
    assert ini(contracts["uwsgi-own"])["own-flag"] == "true"


def test_a_uwsgi_worker_is_not_bound_to_an_idle_connection(contracts):
    assert ini(contracts["uwsgi-plain"])["add-header"] == "Connection: close"


def ini(contract):
    parser = configparser.ConfigParser(interpolation=None, delimiters=["="], comment_prefixes=["#", ";"])
    parser.read_string(contract["files"]["uwsgi.ini"])
    return parser["uwsgi"]


def test_the_packages_of_a_server_are_installed(contracts):
    assert contracts["gunicorn-plain"]["installed"] == ["libpam-pwquality", "ufw", "dumb-init", "nginx", "python3"]
    assert {"apache2-bin", "apache2-dev", "gcc"} <= set(contracts["mod_wsgi-plain"]["installed"])
    # the package apache2 starts Apache on nginx's ports
    assert "apache2" not in contracts["mod_wsgi-plain"]["installed"]


# -- stopping ----------------------------------------------------------------------------------------------------------

WAITRESS = """
    import time
    from types import SimpleNamespace

    channel = SimpleNamespace(requests=["in flight"], request=None, total_outbufs_len=0)
    started = time.monotonic()

    def loop(timeout, map, use_poll, count):
        open("looping", "w").close()
        time.sleep(0.05)
        if time.monotonic() - started > 1.5:
            channel.requests = []
            open("answered", "w").close()

    def create_server(application, **settings):
        assert application({}, None) == "the app" and settings["unix_socket"].endswith("/wsgi.sock")
        assert settings["unix_socket_perms"] == "660"
        return SimpleNamespace(
            active_channels={1: channel}, adj=SimpleNamespace(asyncore_use_poll=True), asyncore=SimpleNamespace(loop=loop), _map={}
        )
"""


def test_waitress_finishes_its_requests_before_it_exits(release):
    release.of("waitress-plain")
    release.program("python", f"import os, sys; os.execv({sys.executable!r}, ['python', *sys.argv[1:]])")
    (release.directory / "waitress.py").write_text(textwrap.dedent(WAITRESS))
    (release.directory / "app/wsgi.py").write_text("def app(environ, start_response):\n    return 'the app'\n")
    server = release.start()
    wait_for(release.directory / "app/looping")
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert (release.directory / "app/answered").exists()


APACHE = """
    import json, os, signal, sys, time

    def end(*_):
        open(os.environ["OUTPUT"], "a").write("drained")
        sys.exit()

    signal.signal(signal.SIGWINCH, end)
    open(os.environ["OUTPUT"] + ".arguments", "w").write(json.dumps(sys.argv[1:]))
    open(os.environ["OUTPUT"], "w").close()
    signal.pause()
"""
PYTHON = """
    import sys, time
    if sys.argv[1].endswith("flaskhost_port.py"):
        print(12345)
    else:
        time.sleep(20)
"""


def test_apache_is_stopped_gracefully(release):
    release.of("mod_wsgi-own").program("mod_wsgi-express", APACHE)
    release.program("python", PYTHON)
    server = release.start()
    wait_for(release.output)
    arguments = json.loads((release.output.parent / "output.arguments").read_text())
    assert arguments[:2] == ["start-server", str(release.directory / "flaskhost_app.py")]
    assert arguments[arguments.index("--port") + 1] == "12345"
    assert arguments[arguments.index("--own-setting") + 1] == TRICKY
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) is not None
    assert release.output.read_text() == "drained"


# closes its listener, and finishes its requests
SERVER = """
    import os, signal, socket, sys, time

    port = int(os.environ.get("PORT") or sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port))

    def end(*_):
        listener.close()
        open(os.environ["OUTPUT"] + ".closed", "w").close()
        time.sleep(2)
        os._exit(0)

    signal.signal(signal.SIGTERM if os.environ.get("PORT") else signal.SIGWINCH, end)
    open(os.environ["OUTPUT"], "w").write(str(port))
    while True:
        listener.accept()[0].sendall(b"ours")
"""
with_proxy = pytest.mark.skipif(not os.path.exists("/lib/systemd/systemd-socket-proxyd"), reason="this machine has no systemd")


@pytest.fixture
def behind_proxy(release):
    """Starts a server that listens on a port behind systemd's proxy, and kills it after the test."""
    started = []

    def start(host, port=0):
        release.of(host).program("mod_wsgi-express", SERVER)
        (release.directory / "app/server.py").write_text(textwrap.dedent(SERVER))
        real = f"os.execv({sys.executable!r}, ['python', *sys.argv[1:]])"
        release.program("python", f"import os, sys\nprint({port}) if {port} and sys.argv[1] == '-c' else {real}")
        started.append(release.start(start_new_session=True))
        return started[0]

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answer(release):
    """The response that a visitor gets through the release's socket."""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(FileNotFoundError, ConnectionError):
        client.settimeout(5)
        client.connect(str(release.run / "wsgi.sock"))
        return client.recv(10)
    return b""


def steal(neighbor):
    neighbor.settimeout(1)
    with contextlib.suppress(TimeoutError):
        neighbor.accept()[0].sendall(b"stolen")


@with_proxy
@pytest.mark.parametrize("server", ["mod_wsgi", "procfile"])
def test_requests_do_not_go_to_another_app_that_takes_the_port_of_a_stopping_server(release, behind_proxy, server):
    process = behind_proxy(f"{server}-plain")
    wait_for(release.run / "wsgi.sock")
    assert answer(release) == b"ours"
    process.send_signal(signal.SIGTERM)
    wait_for(f"{release.output}.closed")
    with socket.create_server(("127.0.0.1", int(release.output.read_text()))) as neighbor:
        thread = threading.Thread(target=steal, args=[neighbor])
        thread.start()
        assert answer(release) == b"" and process.poll() is None
        thread.join()


@with_proxy
@pytest.mark.skipif(os.geteuid() != 0, reason="another user's listener needs root")
@pytest.mark.parametrize("server", ["mod_wsgi", "procfile"])
@pytest.mark.parametrize("address", ["127.0.0.2", "::1"])
def test_another_app_can_use_the_same_port_on_another_address(release, behind_proxy, server, address):
    """Otherwise, an app that listens on all ports of another address could keep the server from starting."""
    with foreign_listeners(address, 1) as ports:
        behind_proxy(f"{server}-plain", ports[0])
        wait_for(release.run / "wsgi.sock")
        assert answer(release) == b"ours"


def wait_for(path):
    end = time.monotonic() + 10
    while not os.path.exists(path):
        assert time.monotonic() < end, f"{path} was not created"
        time.sleep(0.02)
