"""Whichever server serves it, the app is the same, is reached the same way, and its visitors are never cut off."""

import configparser
import contextlib
import json
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
# a value that a shell would take apart
TRICKY = "a 'b' $HOME \"c\""


@pytest.fixture(scope="session")
def contracts(tmp_path_factory):
    """What each server's role says, on a host as most are (plain), and with settings of its owner's on a small one (own)."""
    folder = tmp_path_factory.mktemp("servers")
    provision = yaml.safe_load((PROJECT / "playbooks/provision.yml").read_text())[0]
    hosts = {}
    for server in SERVERS:
        base = {"server": server, "release_root": str(folder / server), "release_command": ""}
        hosts[f"{server}-plain"] = {**base, "memory": 2000, "app_module": "wsgi:app"}
        own = {f"{server}_settings": {"own-setting": TRICKY, "own-flag": True, "own-number": 7}}
        hosts[f"{server}-own"] = {**base, "memory": 460, "app_module": MODULE, **own}
    web = {"release_source_found": {"commands": {"web": "exec python server.py"}}}
    hosts["procfile-plain"] = {
        "server": "procfile",
        "release_root": str(folder / "procfile"),
        "memory": 2000,
        "app_module": "wsgi:app",
        **web,
    }
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
    return evaluate(folder, tasks, contract, hosts, settings=settings)


@pytest.fixture
def release(contracts, tmp_path):
    """A release on disk, in an environment as its unit gives it; programs of the venv are stood in for."""

    class Release:
        folder, run = tmp_path / "release", tmp_path / "run"
        programs, said = tmp_path / "bin", tmp_path / "said"

        def __init__(self):
            for folder in (self.folder / "app", self.run, self.programs):
                folder.mkdir(parents=True)

        def of(self, host):
            for name, content in contracts[host]["files"].items():
                # a release is found by the folder of its app; here it is this one
                (self.folder / name).write_text(re.sub(r"^RELEASE=.*", f"RELEASE={self.folder}", content, flags=re.MULTILINE))
            for name in contracts[host]["server"].get("helpers", []):
                shutil.copy(PROJECT / "roles/release/files" / name, self.folder)
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
                "SAID": str(self.said),
            }
            return subprocess.Popen(["sh", str(self.folder / "start")], cwd=self.folder / "app", env=environment, **options)

        def command(self, name):
            """How the start script calls the server."""
            self.program(name, f"import json, os, sys; open({str(self.said)!r}, 'w').write(json.dumps(sys.argv[1:]))")
            assert self.start().wait(10) == 0
            return json.loads(self.said.read_text())

    return Release()


def test_every_server_can_be_chosen():
    (rule,) = [role.rules["app_server"] for role in plugin("plugin_utils/rules").read_roles() if "app_server" in role.rules]
    assert [server for server in SERVERS if rule(server, {})] == []
    assert all(server in rule("apache", {}) for server in SERVERS)


def test_settings_alike_in_meaning_are_alike_in_name():
    alike = ["requirement", "packages", "workers", "threads", "timeout_seconds", "graceful_timeout_seconds", "max_requests", "settings"]
    own = {"gunicorn_worker_class", "gunicorn_cpu_affinity", "uwsgi_cheaper"}
    for server in SERVERS:
        names = yaml.safe_load((PROJECT / f"roles/{server}/defaults/main.yml").read_text())
        assert {name for name in names if name.removeprefix(f"{server}_") not in alike} <= own
        assert {f"{server}_requirement", f"{server}_settings", f"{server}_graceful_timeout_seconds"} <= set(names)


# -- the app ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [server for server in SERVERS if server != "gunicorn"])
def test_a_factory_is_called_with_its_arguments(release, server):
    """In a process of its own: the app's folder is the current one, and is found first."""
    release.of(f"{server}-own")
    (release.folder / "app/shop").mkdir()
    (release.folder / "app/shop/__init__.py").touch()
    (release.folder / "app/shop/web.py").write_text("def create_app(name):\n    return f'made for {name}'\n")
    assert application(release) == "made for the shop"


@pytest.mark.parametrize("name", ["wsgi", "app", "application"])
def test_an_object_is_served_whatever_its_module_is_called(release, contracts, name):
    release.of("granian-plain")
    path = release.folder / "flaskhost_app.py"
    path.write_text(path.read_text().replace("import wsgi ", f"import {name} "))
    (release.folder / f"app/{name}.py").write_text("app = 'the app'\n")
    assert application(release) == "the app"


def application(release):
    command = [sys.executable, "-c", "import flaskhost_app; print(flaskhost_app.application)"]
    # the folder that Python itself would add is not there for a server's workers
    environment = {"PYTHONPATH": str(release.folder), "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, cwd=release.folder / "app", env=environment, text=True, capture_output=True, check=True).stdout.strip()


# -- the start line ----------------------------------------------------------------------------------------------------


def test_gunicorn_calls_the_factory_itself(release):
    assert release.of("gunicorn-own").command("gunicorn")[-1] == MODULE


@pytest.mark.parametrize(("cores", "kept"), [({4, 5}, [4, 5, 4]), ({4}, [4, 4, 4]), ({4, 5, 6}, None)])
def test_gunicorns_workers_share_the_cores_evenly_after_one_has_died_too(release, monkeypatch, cores, kept):
    """Two workers; the first core of two is free again when its worker dies. With more cores than workers, none is bound."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: cores)
    config = runpy.run_path(str(release.of("gunicorn-plain").folder / "gunicorn.conf.py"))
    if kept is None:
        assert "pre_fork" not in config and "post_fork" not in config
        return
    arbiter, workers = SimpleNamespace(WORKERS={}), [SimpleNamespace() for _ in range(3)]
    for worker in workers[:2]:
        config["pre_fork"](arbiter, worker)
        arbiter.WORKERS[id(worker)] = worker
    del arbiter.WORKERS[id(workers[0])]
    config["pre_fork"](arbiter, workers[2])
    assert [worker.core for worker in workers] == kept


@pytest.mark.parametrize(
    ("server", "app"),
    [("uwsgi", None), ("granian", "{}/flaskhost_app.py:application"), ("uvicorn", "flaskhost_app:application")],
)
def test_a_server_opens_the_socket_and_loads_the_app(release, server, app):
    words = release.of(f"{server}-plain").command(server)
    assert any(str(release.run / "wsgi.sock") in word for word in words)
    if app:
        assert words[-1] == app.format(release.folder)
    else:
        assert words[words.index("--ini") + 1] == str(release.folder / "uwsgi.ini")


@pytest.mark.parametrize("server", ["granian", "uvicorn"])
def test_an_owners_settings_reach_the_server_whole(release, server):
    words = release.of(f"{server}-own").command(server)
    assert words[words.index("--own-setting") + 1] == TRICKY
    assert words[words.index("--own-number") + 1] == "7"
    assert words[words.index("--own-flag") + 1].startswith("--")


def test_nothing_is_given_up_by_uwsgi_that_nginx_would_still_wait_for(contracts):
    settings = ini(contracts["uwsgi-plain"])
    timeout = yaml.safe_load((PROJECT / "roles/nginx/defaults/main.yml").read_text())["nginx_app_timeout_seconds"]
    assert int(settings["harakiri"]) >= timeout


def test_uwsgi_is_what_the_course_teaches_where_there_is_room(contracts):
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


def test_the_host_gets_the_packages_that_a_server_needs(contracts):
    assert contracts["gunicorn-plain"]["installed"] == ["libpam-pwquality", "ufw", "dumb-init", "nginx", "python3"]
    assert {"apache2-bin", "apache2-dev", "gcc"} <= set(contracts["mod_wsgi-plain"]["installed"])
    # Apache as the distribution runs it would take nginx's ports
    assert "apache2" not in contracts["mod_wsgi-plain"]["installed"]


# -- the end -----------------------------------------------------------------------------------------------------------

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
        assert application == "the app" and settings["unix_socket"].endswith("/wsgi.sock")
        assert settings["unix_socket_perms"] == "660"
        return SimpleNamespace(
            active_channels={1: channel}, adj=SimpleNamespace(asyncore_use_poll=True), asyncore=SimpleNamespace(loop=loop), _map={}
        )
"""


def test_waitress_answers_what_it_accepted_before_it_ends(release):
    release.of("waitress-plain")
    release.program("python", f"import os, sys; os.execv({sys.executable!r}, ['python', *sys.argv[1:]])")
    (release.folder / "waitress.py").write_text(textwrap.dedent(WAITRESS))
    (release.folder / "app/wsgi.py").write_text("app = 'the app'\n")
    server = release.start()
    wait_for(release.folder / "app/looping")
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert (release.folder / "app/answered").exists()


APACHE = """
    import json, os, signal, sys, time

    def end(*_):
        open(os.environ["SAID"], "a").write("drained")
        sys.exit()

    signal.signal(signal.SIGWINCH, end)
    open(os.environ["SAID"] + ".words", "w").write(json.dumps(sys.argv[1:]))
    open(os.environ["SAID"], "w").close()
    signal.pause()
"""
PYTHON = """
    import sys, time
    if sys.argv[1].endswith("flaskhost_port.py"):
        print(12345)
    else:
        time.sleep(20)
"""


def test_apache_is_asked_to_finish_not_to_stop(release):
    release.of("mod_wsgi-own").program("mod_wsgi-express", APACHE)
    release.program("python", PYTHON)
    server = release.start()
    wait_for(release.said)
    words = json.loads((release.said.parent / "said.words").read_text())
    assert words[:2] == ["start-server", str(release.folder / "flaskhost_app.py")]
    assert words[words.index("--port") + 1] == "12345"
    assert words[words.index("--own-setting") + 1] == TRICKY
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) is not None
    assert release.said.read_text() == "drained"


# finishes what it accepted, for which it needs no listener
SERVER = """
    import os, signal, socket, sys, time

    port = int(os.environ.get("PORT") or sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port))

    def end(*_):
        listener.close()
        open(os.environ["SAID"] + ".closed", "w").close()
        time.sleep(2)
        os._exit(0)

    signal.signal(signal.SIGTERM if os.environ.get("PORT") else signal.SIGWINCH, end)
    open(os.environ["SAID"], "w").write(str(port))
    while True:
        listener.accept()[0].sendall(b"ours")
"""
with_proxy = pytest.mark.skipif(not os.path.exists("/lib/systemd/systemd-socket-proxyd"), reason="this machine has no systemd")


@pytest.fixture
def behind_proxy(release):
    """A server that listens on a port, behind systemd's proxy; started, and ended."""
    started = []

    def start(host, port=0):
        release.of(host).program("mod_wsgi-express", SERVER)
        (release.folder / "app/server.py").write_text(textwrap.dedent(SERVER))
        real = f"os.execv({sys.executable!r}, ['python', *sys.argv[1:]])"
        release.program("python", f"import os, sys\nprint({port}) if {port} and sys.argv[1] == '-c' else {real}")
        started.append(release.start(start_new_session=True))
        return started[0]

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answer(release):
    """What a visitor gets by the release's socket."""
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
def test_nobody_is_led_to_another_app_that_takes_the_port_of_a_server_that_ends(release, behind_proxy, server):
    process = behind_proxy(f"{server}-plain")
    wait_for(release.run / "wsgi.sock")
    assert answer(release) == b"ours"
    process.send_signal(signal.SIGTERM)
    wait_for(f"{release.said}.closed")
    with socket.create_server(("127.0.0.1", int(release.said.read_text()))) as neighbor:
        thread = threading.Thread(target=steal, args=[neighbor])
        thread.start()
        assert answer(release) == b"" and process.poll() is None
        thread.join()


@with_proxy
@pytest.mark.skipif(os.geteuid() != 0, reason="another user's listener needs root")
@pytest.mark.parametrize("server", ["mod_wsgi", "procfile"])
@pytest.mark.parametrize("address", ["127.0.0.2", "::1"])
def test_another_app_on_the_same_port_of_another_address_is_no_matter(release, behind_proxy, server, address):
    """One that listens on all ports of it would keep the server from ever starting."""
    with foreign_listeners(address, 1) as ports:
        behind_proxy(f"{server}-plain", ports[0])
        wait_for(release.run / "wsgi.sock")
        assert answer(release) == b"ours"


def wait_for(path):
    end = time.monotonic() + 10
    while not os.path.exists(path):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)
