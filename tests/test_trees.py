"""Once root has taken over a build's files, they can't be changed, not even through a file descriptor that the build has passed on."""

import errno
import fcntl
import os
import pwd
import socket
import stat
import subprocess
import sys
import time

import pytest
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import trees
from conftest import plugin
from test_release_layout import release  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes users, as on a host")
venv = plugin("modules/venv")
# any process in the host's network namespace can connect to an abstract socket
ADDRESS = f"\0flaskhost-test-{os.getpid()}"
# stands in for the live release: it keeps the descriptor that it receives, and evaluates expressions from the test
KEEPER = """
import os, socket, sys
os.setgroups([]); os.setgid(60); os.setuid(60)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1].replace("@", chr(0)))
listener.listen()
print("ready", flush=True)
connection = listener.accept()[0]
held = socket.recv_fds(connection, 1, 1)[1][0]
connection.sendall(b"!")
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


@pytest.fixture
def keeper():
    command = [sys.executable, "-c", KEEPER, ADDRESS.replace("\0", "@")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def pass_descriptor(path, flags, lease=None):
    """Open the file as a build would, and pass the descriptor to the keeper."""
    descriptor = os.open(path, flags)
    if lease is not None:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, lease)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(ADDRESS)
        socket.send_fds(client, [b"?"], [descriptor])
        assert client.recv(1) == b"!"
    os.close(descriptor)


def do(keeper, expression):
    keeper.stdin.write(f"{expression}\n")
    return keeper.stdout.readline().strip()


@pytest.fixture
def building(tmp_path):
    (tmp_path / "building/package").mkdir(parents=True)
    (tmp_path / "building/package/code.py").write_text("x = 1\n")
    return tmp_path / "building"


def test_a_release_with_a_file_that_another_process_can_write_is_rejected(release, keeper, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(trees, "CLOSING_SECONDS", 0.1)
    shop = release(("shop.py", "x = 1"), build=True)
    shop.lay_out()
    pass_descriptor(tmp_path / "srv/releases/.building/r1/shop.py", os.O_WRONLY)
    shop.params["phase"] = "sealed"
    with pytest.raises(OSError, match=r"'shop\.py' is still open for writing by another process"):
        shop.lay_out()
    assert not (tmp_path / "srv/releases/r1/manifest.json").exists()


def test_a_venv_with_a_file_that_another_process_can_write_is_rejected(keeper, tmp_path, monkeypatch):
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(trees, "CLOSING_SECONDS", 0.1)
    monkeypatch.setattr(venv.pwd, "getpwnam", lambda _name: nobody)

    def run(unit, _lines, _argv, _seconds):
        if "build" in unit:
            path = tmp_path / "venvs/.building/key/code.py"
            path.write_text("x = 1\n")
            pass_descriptor(path, os.O_RDWR)
        return 0, "", ""

    monkeypatch.setattr(venv, "run", run)
    params = {
        "app": "games",
        "root": str(tmp_path),
        "key": "key",
        "release": "r1",
        "sandbox": [],
        "environment": {},
        "index": {},
        "seconds": 9,
    }
    environment = venv.Venv({**params, "fetch": "", "build": "", "finish": ""})
    with pytest.raises(OSError, match=r"'code\.py' is still open for writing by another process"):
        environment.make()
    assert not environment.is_complete()


def test_a_file_that_its_writer_closes_shortly_afterwards_is_accepted(keeper, building):
    pass_descriptor(building / "package/code.py", os.O_WRONLY)
    subprocess.Popen(["sh", "-c", f"sleep 0.3; kill {keeper.pid}"])
    trees.seal(str(building), 60)
    assert stat.S_IMODE((building / "package/code.py").stat().st_mode) == 0o640


def test_a_lease_held_by_another_process_does_not_block_root(keeper, building, monkeypatch):
    monkeypatch.setattr(trees, "CLOSING_SECONDS", 0.1)
    pass_descriptor(building / "package/code.py", os.O_RDWR, fcntl.F_WRLCK)
    started = time.process_time()
    with pytest.raises(OSError, match=r"'package/code\.py' is still open for writing"):
        trees.seal(str(building), 60)
    assert time.process_time() - started < 2


def test_no_file_can_be_added_through_an_open_directory(keeper, building, monkeypatch):
    """The directory is world-writable. Once root has listed it, no other process may add an entry that root has not seen."""
    os.chmod(building / "package", 0o777)
    pass_descriptor(building / "package", os.O_RDONLY)
    listdir, answers = os.listdir, []

    def slowly(path):
        found = listdir(path)
        if path.endswith("package"):
            answers.append(do(keeper, "os.mkdir('new', dir_fd=held)"))
        return found

    monkeypatch.setattr(trees.os, "listdir", slowly)
    trees.seal(str(building), 60)
    assert answers == ["Permission denied"]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (building, *building.rglob("*"))} == {(0, 60)}


def test_files_are_copied_on_a_file_system_without_leases(keeper, building, monkeypatch):
    path = building / "package/code.py"
    path.chmod(0o755)
    os.utime(path, (1_000_000, 1_000_000))
    pass_descriptor(path, os.O_WRONLY)

    def fail(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(trees.fcntl, "fcntl", fail)
    trees.seal(str(building), 60)
    assert do(keeper, "os.pwrite(held, b'x = 2', 0)") == "5"
    found = path.stat()
    assert path.read_text() == "x = 1\n" and sorted(os.listdir(building / "package")) == ["code.py"]
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), found.st_mtime) == (0, 60, 0o750, 1_000_000)


def test_ten_thousand_files_are_sealed_quickly(building):
    for number in range(10_000):
        (building / f"package/{number}").touch()
    started = time.process_time()
    trees.seal(str(building), 60)
    assert time.process_time() - started < 1
