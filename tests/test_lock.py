"""A lock of the host can be held by root only, is waited for with an end, and says who holds it."""

import os
import re
import stat
import subprocess
import sys

import pytest
from conftest import COLLECTIONS, PROJECT, plugin

lock = plugin("module_utils/lock")
HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import lock
lock.acquire("shop", "laying out release r1", directory=sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLDER, COLLECTIONS, tmp_path / "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_that_is_held_is_waited_for_with_an_end_and_its_holder_is_named(holder, tmp_path):
    told = rf"process {holder.pid} \(laying out release r1\) has held \S+/run/shop.lock for more than 0.3 seconds. Wait until it ends, or stop it"
    with pytest.raises(lock.LockTimeout, match=told):
        lock.acquire("shop", "me", seconds=0.3, directory=tmp_path / "run")


def test_a_lock_of_the_controller_is_free_after_its_block(tmp_path):
    for _ in range(2):
        told = pytest.raises(lock.LockTimeout, match=rf"process {os.getpid()} \(fetching\) has held")
        with lock.locked(tmp_path / "lock", "fetching", seconds=0.3), told:
            lock.open_locked(tmp_path / "lock", "me", seconds=0.1)


def test_a_lock_is_free_when_its_holder_was_killed(holder, tmp_path):
    holder.kill()
    holder.wait()
    lock.acquire("shop", "me", seconds=5, directory=tmp_path / "run")


def test_a_holder_that_writes_nothing_is_found_by_fuser(tmp_path):
    (tmp_path / "shop.lock").touch()
    with subprocess.Popen(
        ["flock", tmp_path / "shop.lock", "sh", "-c", "echo held; exec sleep 60"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(lock.LockTimeout, match=r"another process .`fuser -v` on the file shows it. has held"):
            lock.acquire("shop", "me", seconds=0.3, directory=tmp_path)
        subprocess.run(["pkill", "--parent", str(process.pid)])


def test_nobody_else_can_open_it_whatever_the_umask_and_whatever_it_was_before(tmp_path):
    (tmp_path / "shop.lock").touch(mode=0o644)
    before = os.umask(0o077)
    try:
        handle = lock.acquire("shop", "me", directory=tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shop.lock").stat().st_mode) == 0o600
    # nginx passes through to the sockets of the apps
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    # a process that the step starts, and that stays, would hold the lock for ever
    assert not os.get_inheritable(handle)


def test_no_program_of_the_project_locks_what_an_app_can_open():
    """The app could hold the lock: a directory of its own group, or a file that others can read."""
    files = [path for folder in ("plugins/modules", "roles") for path in (PROJECT / folder).rglob("*") if path.is_file()]
    places = [(path, line) for path in files for line in path.read_text().splitlines() if re.search(r"\bflock\b", line)]
    assert places
    for path, line in places:
        assert "/run/flaskhost/" in line or "flock --timeout 300 9" in line or path.name in ("backup.py", "certificate.py"), (
            f"{path}: {line}"
        )
