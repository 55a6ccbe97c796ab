"""An app's image: its transfer to a host, the settings of its quadlet unit, and the proxy to its command."""

import contextlib
import errno
import gzip
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from unittest.mock import MagicMock

import pytest
from conftest import PROJECT, foreign_listeners, load, plugin, run_playbook, survivors

container_image = plugin("action/container_image")
quadlet_units = plugin("modules/quadlet_units")
flaskhost_port = load(PROJECT / "roles/release/files/flaskhost_port.py")

# -- the image ---------------------------------------------------------------------------------------------------------


def packed_members(tmp_path, members, layers_on_host):
    layout, packed = tmp_path / "image.tar", tmp_path / "image.tar.gz"
    with tarfile.open(layout, "w") as tar:
        for name in members:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    container_image.pack(str(layout), str(packed), layers_on_host)
    with gzip.open(packed) as source, tarfile.open(fileobj=source) as tar:
        return {member.name: tar.extractfile(member).read().decode() for member in tar.getmembers()}


def test_layers_that_the_host_already_has_are_not_sent(tmp_path):
    members = ["oci-layout", "index.json", "blobs/sha256/aaa", "blobs/sha256/bbb"]
    packed = packed_members(tmp_path, members, {"sha256:other", "sha256:aaa"})
    assert packed == {name: name for name in members if not name.endswith("aaa")}


@pytest.fixture
def podman(tmp_path, monkeypatch):
    """A stand-in for the controller's podman that records its calls and its environment. Tests can set the build's script."""
    (tmp_path / "bin").mkdir()

    def stand_in(build="exit 0"):
        script = f"""#!/bin/sh
            printf '%s\\0' "$@" >>{tmp_path}/calls; echo >>{tmp_path}/calls
            case "$1 $2" in
                build*) env >{tmp_path}/environment; {build} ;;
                "image exists") exit 1 ;;
                save*) for word in "$@"; do case $word in --output=*) cp {tmp_path}/source.tar.gz "${{word#*=}}" ;; esac; done ;;
            esac
        """
        (tmp_path / "bin/podman").write_text(script)
        (tmp_path / "bin/podman").chmod(0o755)

    stand_in()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return stand_in


@pytest.fixture
def release(tmp_path, podman):
    """Runs the action that builds an image of a Dockerfile. By default, the host has no layers and all its commands succeed."""

    def run(dockerfile="FROM x\nCMD serve\n", host=lambda _script: {"rc": 0, "stdout": '{"Cmd": ["serve"]}', "stderr": ""}, **changes):
        with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as tar:
            info = tarfile.TarInfo("Dockerfile")
            info.size = len(dockerfile.encode())
            tar.addfile(info, io.BytesIO(dockerfile.encode()))
        args = {"root": "/srv/shop", "group": "shop", "key": "k", "image": "localhost/flaskhost/shop:k", "pulled": "", "shared": []}
        args |= {"archive": tmp_path / "source.tar.gz", "file": "Dockerfile", "build_args": {}, "build_options": [], "state": "/x"}
        task = MagicMock(args=args | {"cache": str(tmp_path / "cache")} | changes, check_mode=False, async_val=0)
        connection = MagicMock()
        connection._shell.join_path.return_value = "/tmp/image.tar.gz"
        action = container_image.ActionModule(task, connection, MagicMock(), MagicMock(), MagicMock(), MagicMock())
        action._low_level_execute_command = host
        action._transfer_file = action._remove_tmp_path = lambda *_: None
        return action.run(task_vars={})

    return run


def podman_calls(tmp_path):
    return [line.rstrip("\0").split("\0") for line in (tmp_path / "calls").read_text().splitlines()]


def test_a_failed_build_is_reported_with_its_output(podman, release):
    podman("echo STEP 2/2: RUN false; echo it went wrong >&2; exit 1")
    found = release()
    assert found["failed"] and found["msg"].startswith("Dockerfile: the build of the image failed on this controller")
    assert found["msg"].endswith("STEP 2/2: RUN false\nit went wrong")


def test_missing_podman_on_the_controller_is_reported(tmp_path, release, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert release()["msg"].startswith("app_runtime: podman, which builds the image, is not installed on this controller")


def test_output_of_podman_and_the_host_is_shortened_and_shown_without_credentials_and_escape_sequences(podman, release):
    hostile = r"\033]0;title\007\033[2J\342\200\256 https://ann:hunter2@registry.example/x"
    podman(f"printf '{hostile}\\n'; yes 0123456789 | head -c 3000000 | tr -d '\\n'; printf '{hostile}\\n'; exit 1")
    output = hostile.encode().decode("unicode_escape").encode("latin-1").decode()
    failed = release(host=lambda _script: {"rc": 1, "stdout": "", "stderr": output * 10_000})
    for found in release(), failed:
        assert found["failed"] and "hunter2" not in found["msg"] and len(found["msg"]) < 10_000
        assert found["msg"].replace("\n", "").isprintable()


def test_a_build_has_a_time_limit(tmp_path, podman, release, monkeypatch):
    monkeypatch.setattr(container_image, "BUILD_SECONDS", 1)
    podman("setsid yes 76543 & wait")
    found = release()
    assert found["failed"] and "did not finish within" in found["msg"]
    assert not survivors("yes 76543")


def test_a_build_has_no_git_and_no_ssh_agent_and_gets_its_arguments_from_the_environment(tmp_path, release, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    assert "failed" not in release(build_args={"TOKEN": "hunter2", "SIZE": 3, "USER": "app"})
    environment = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line)
    assert environment["TOKEN"] == "hunter2" and environment["SIZE"] == "3" and environment.get("USER") != "app"
    assert environment["GIT_ALLOW_PROTOCOL"] == "none" and "SSH_AUTH_SOCK" not in environment
    (build,) = [call for call in podman_calls(tmp_path) if call[0] == "build"]
    assert {"--build-arg=TOKEN", "--build-arg=SIZE", "--build-arg=USER=app"} < {*build}
    release(build_options=["--ssh=default"])
    assert "SSH_AUTH_SOCK=/run/agent" in (tmp_path / "environment").read_text()


def test_another_app_s_dockerfile_cannot_guess_an_image_s_name(tmp_path, release):
    assert release()["changed"] and release(image="localhost/flaskhost/blog:k")["changed"]
    secret = (tmp_path / "cache/secret").read_text()
    assert len(secret) == 32 and (tmp_path / "cache/secret").stat().st_mode & 0o777 == 0o600
    names = []
    for call in podman_calls(tmp_path):
        if call[0] == "build":
            assert names == [], "an image has a guessable name during a build"
            assert any(word.startswith("--tag=localhost/flaskhost/") and word.endswith(f":k-{secret}") for word in call)
        elif call[0] == "tag":
            names.append(call[2])
        elif call[0] == "untag":
            names.remove(call[2])
    assert names == []


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM x\nRUN --network=host curl http://127.0.0.1\n",
        "FROM x\n \trun\t--mount=type=cache,target=/x  --network=host curl x\n",
        "FROM x\nRUN \\\n# why\n\n  --network=host \\\n curl x\n",
        "# escape=`\nFROM x\nCOPY a\\\nRUN `\n--network=host x\n",
        "FROM x\r\nRUN \\\r\n--network=host x\r\n",
        "FROM x\nRUN\r--network=host x\n",
        "FROM x\nCOPY a b\\\v\nRUN \\\n--network=host x\n",
        "FROM x\nRUN <<EOF\necho \\\nEOF\nRUN --network=host x\n",
        "FROM x\nONBUILD RUN --network=host x\n",
        'FROM x\nRUN --mount="type=cache, target=/x" --network=host x\n',
        'FROM x\nRUN --network="ho"st x\n',
        "FROM x\nRUN --net\\work=host x\n",
        "FROM x\nARG N=host\nRUN --network=$N x\n",
    ],
)
def test_a_step_that_uses_the_controller_s_network_is_rejected(tmp_path, release, dockerfile):
    found = release(dockerfile)
    assert found["failed"] and found["msg"].startswith("Dockerfile: RUN --net") and "is not allowed: a build must not" in found["msg"]
    assert not any(call[0] == "build" for call in podman_calls(tmp_path))


@pytest.mark.parametrize(
    "step",
    ["RUN --network=none make", "RUN --network=default make", "RUN echo --network=host", "# RUN --network=host", "COPY --network=host a b"],
)
def test_other_steps_are_accepted(release, step):
    assert release(f"FROM x\n{step}\n")["changed"]


@pytest.fixture
def pulled(tmp_path):
    """Pulls the image with a script in place of the host's podman. Returns the failed run."""

    def run(script):
        (tmp_path / "podman").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "podman").chmod(0o755)
        variables = {"container_app": "shop", "container_app_root": "/srv/shop", "container_image": "registry.example/shop:1"}
        variables |= {"container_wanted": {"environment": [], "shared": [], "directories": []}, "__container_pull_seconds": 2}
        task = {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.container", "tasks_from": "identify"}}
        arguments, environment = ["--extra-vars", json.dumps(variables)], {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return run_playbook(tmp_path, [task], {"here": {}}, *arguments, succeeds=False, environment=environment, timeout=60)

    return run


def test_a_registry_that_never_responds_causes_a_timeout(pulled):
    output = pulled("exec sleep 50").text
    assert "can't pull registry.example/shop:1: the registry did not deliver it within 2 seconds." in output


def test_a_registry_s_output_is_shown_without_escape_sequences(pulled):
    run = pulled(
        r"{ printf 'no\033]0;title\007\033[2J https://ann:hunter2@registry.example\342\200\256 '; yes | head -c 9000 | tr -d '\n'; } >&2; exit 1"
    )
    output = run.output
    assert "can't pull registry.example/shop:1: no https://…@registry.example" in run.text
    assert "\x1b" not in output and "\u202e" not in output and "hunter2" not in output and "y" * 500 not in output


@pytest.mark.parametrize(
    "workdir",
    [
        '/x" --user=0:0 --volume=/:/host "--env=A=',
        "/x\nExecStartPre=/bin/sh",
        "/x:/etc",
        "/a b",
        "/%i",
        "/$HOME",
        "/a\\b",
        "/a/../b",
        "x",
        "/é",
    ],
)
def test_a_working_directory_that_is_not_a_plain_path_is_rejected(workdir):
    with pytest.raises(
        container_image.ImageError, match=r"^Dockerfile: the image's working directory .* is not supported.*No unit was written"
    ) as error:
        container_image.check({"WorkingDir": workdir, "Cmd": ["serve"]}, "Dockerfile")
    assert str(error.value).isprintable() and str(error.value).isascii()


@pytest.mark.parametrize("workdir", ["", "/", "/app", "/usr/src/my-app_2.0"])
def test_a_plain_working_directory_is_accepted(workdir):
    container_image.check({"WorkingDir": workdir, "Entrypoint": ["serve"]}, "Dockerfile")


def test_an_image_has_links_to_the_shared_directories(tmp_path):
    lines = container_image.link_commands(["uploads", "data/cache", "data/cache/small", "uploads2"], "/var/lib/shop")
    subprocess.run(["sh", "-ec", lines], cwd=tmp_path, check=True)
    found = {str(path.relative_to(tmp_path)): os.readlink(path) for path in tmp_path.rglob("*") if path.is_symlink()}
    assert found == {name: f"/var/lib/shop/{name}" for name in ("uploads", "data/cache", "uploads2")}


# -- the units ---------------------------------------------------------------------------------------------------------


def test_values_known_only_to_the_host_are_filled_in():
    known = {"user": "7:8", "number": "2"}
    assert quadlet_units.fill("--user=${user} shop.${number} ${HOME} $user", known) == "--user=7:8 shop.2 ${HOME} $user"


# -- the image's command -----------------------------------------------------------------------------------------------

ON_PORT = """
import http.server, os, signal, sys
class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"""
ON_SOCKET = """
import os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ["SOCKET"])
listener.listen()
while True:
    listener.accept()[0].sendall(b"mine")
"""


@pytest.fixture
def serve(tmp_path):
    started = []
    for file in "container/files/serve.py", "release/files/flaskhost_port.py":
        shutil.copy(PROJECT / "roles" / file, tmp_path)

    def start(entrypoint, command, **more):
        (tmp_path / "image.json").write_text(json.dumps({"Entrypoint": entrypoint, "Cmd": command, **more}))
        arguments = [sys.executable, tmp_path / "serve.py", tmp_path / "image.json"]
        environment = dict(os.environ, SOCKET=str(tmp_path / "wsgi.sock"))
        process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        end = time.monotonic() + 10
        while not (tmp_path / "wsgi.sock").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        # with the app that it started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def connect(tmp_path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(tmp_path / "wsgi.sock"))
    return client


def test_a_command_that_listens_on_a_port_is_reachable_through_the_socket(serve, tmp_path):
    process = serve([sys.executable], ["-c", ON_PORT])
    body = os.urandom(300_000)
    with connect(tmp_path) as client:
        # the connection is kept open, as nginx does
        for _ in range(2):
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            answer = client.makefile("rb")
            headers = b"".join(iter(answer.readline, b"\r\n"))
            assert b" 200 " in headers and answer.read(len(body)) == body
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 7, "the command gets the signal, and its exit code is passed on"


# responds after a second, then exits
SLOW = """
import os, signal, socket, time
signal.signal(signal.SIGTERM, lambda *_: None)
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
listener.accept()  # the proxy's probe
client = listener.accept()[0]
client.recv(10)
time.sleep(1)
client.sendall(b"x" * 3_000_000)
"""


def test_a_response_is_completed_after_the_command_has_exited(serve, tmp_path):
    """The command exits after its response, which the proxy must still deliver."""
    process = serve([sys.executable], ["-c", SLOW])
    with connect(tmp_path) as client:
        client.sendall(b"?")
        process.send_signal(signal.SIGTERM)
        time.sleep(2)
        assert len(client.makefile("rb").read()) == 3_000_000
    assert process.wait(10) == 0


def test_the_image_s_stop_signal_stops_its_command(serve, tmp_path):
    process = serve([sys.executable], ["-c", ON_PORT.replace("signal.SIGTERM", "signal.SIGQUIT")], StopSignal="SIGQUIT")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 7


def test_a_command_that_opens_the_socket_itself_needs_no_proxy(serve, tmp_path):
    serve(None, [sys.executable, "-c", ON_SOCKET])
    with connect(tmp_path) as client:
        assert client.recv(10) == b"mine"


def test_a_command_that_listens_on_ipv6_too_is_reachable(serve, tmp_path):
    dual = ON_PORT.replace(
        'http.server.ThreadingHTTPServer(("127.0.0.1",',
        'socket = __import__("socket")\nclass Dual(http.server.ThreadingHTTPServer):\n    address_family = socket.AF_INET6\nDual(("::",',
    )
    serve([sys.executable], ["-c", dual])
    with connect(tmp_path) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n!")
        assert b" 200 " in client.recv(100)


# accepts the proxy's probe, then leaves its port to another user of the host
STOLEN = """
import os, signal, socket, time
signal.alarm(30)
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
listener.accept()
while not os.path.exists(os.environ["SOCKET"]):
    time.sleep(0.1)
listener.close()
if os.fork() == 0:
    signal.alarm(30)
    os.setuid(65534)
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
    while True:
        listener.accept()[0].sendall(b"stolen")
os.wait()
"""


TAKEN = """
import os, socket, time
os.setuid(65534)
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
time.sleep(60)
"""


@pytest.mark.skipif(os.geteuid(), reason="another user's listener needs root")
def test_a_port_taken_by_another_user_before_the_start_is_not_served(serve, tmp_path):
    process = serve([sys.executable], ["-c", TAKEN])
    assert process.wait(10) == 1 and "was taken by another user of the host" in process.stderr.read()
    assert not (tmp_path / "wsgi.sock").exists()


@pytest.mark.skipif(os.geteuid(), reason="another user's listener needs root")
def test_a_port_taken_by_another_user_later_gets_no_requests(serve, tmp_path):
    serve([sys.executable], ["-c", STOLEN])
    time.sleep(1)
    # the proxy may close the connection before the request is sent
    with connect(tmp_path) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100) == b""


@pytest.mark.skipif(os.geteuid(), reason="another user's listeners need root")
def test_many_listeners_of_another_user_do_not_slow_down_requests(serve, tmp_path):
    with foreign_listeners("127.0.0.2", 10_000):
        serve([sys.executable], ["-c", ON_PORT])
        started = time.monotonic()
        for _ in range(50):
            with connect(tmp_path) as client:
                client.sendall(b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\n!")
                assert b" 200 " in client.recv(100)
        assert time.monotonic() - started < 1


def test_a_port_s_owner_is_found_without_netlink(monkeypatch):
    def fail(_port):
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(flaskhost_port, "owner_by_netlink", fail)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.2", 0)) as other:
        assert flaskhost_port.owners(listener.getsockname()[1]) == {os.getuid()}
        assert flaskhost_port.owners(other.getsockname()[1]) == set()


def test_an_image_without_a_command_is_rejected(serve):
    process = serve(None, None)
    assert process.wait(10) == 1 and "the image has no command" in process.stderr.read()


def test_a_killed_command_is_reported(serve):
    process = serve(None, [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert process.wait(10) == 137
