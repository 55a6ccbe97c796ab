"""The host's locks can be held by root only, waiting for them has a time limit, and the error names the holder."""

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


def test_waiting_for_a_lock_times_out_and_the_holder_is_reported(holder, tmp_path):
    message = rf"process {holder.pid} \(laying out release r1\) has held \S+/run/shop.lock for more than 0.3 seconds. Wait until it ends, or stop it"
    with pytest.raises(lock.LockTimeout, match=message):
        lock.acquire("shop", "me", seconds=0.3, directory=tmp_path / "run")


def test_a_lock_on_the_controller_is_released_after_its_block(tmp_path):
    for _ in range(2):
        timeout = pytest.raises(lock.LockTimeout, match=rf"process {os.getpid()} \(fetching\) has held")
        with lock.locked(tmp_path / "lock", "fetching", seconds=0.3), timeout:
            lock.open_locked(tmp_path / "lock", "me", seconds=0.1)


def test_a_lock_is_released_when_its_holder_is_killed(holder, tmp_path):
    holder.kill()
    holder.wait()
    lock.acquire("shop", "me", seconds=5, directory=tmp_path / "run")


def test_the_error_mentions_fuser_if_the_holder_is_unknown(tmp_path):
    (tmp_path / "shop.lock").touch()
    with subprocess.Popen(
        ["flock", tmp_path / "shop.lock", "sh", "-c", "echo held; exec sleep 60"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(lock.LockTimeout, match=r"another process .`fuser -v` on the file shows it. has held"):
            lock.acquire("shop", "me", seconds=0.3, directory=tmp_path)
        subprocess.run(["pkill", "--parent", str(process.pid)])


def test_only_root_can_open_the_lock_file_with_any_umask_and_previous_mode(tmp_path):
    (tmp_path / "shop.lock").touch(mode=0o644)
    before = os.umask(0o077)
    try:
        handle = lock.acquire("shop", "me", directory=tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shop.lock").stat().st_mode) == 0o600
    # nginx must be able to traverse the directory to the apps' sockets
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    # a background process that inherits the handle would hold the lock forever
    assert not os.get_inheritable(handle)


def test_no_program_uses_a_lock_that_an_app_can_open():
    """An app could hold a lock on any file or directory that it can open."""
    files = [path for directory in ("plugins/modules", "roles") for path in (PROJECT / directory).rglob("*") if path.is_file()]
    uses = [(path, line) for path in files for line in path.read_text().splitlines() if re.search(r"\bflock\b", line)]
    assert uses
    for path, line in uses:
        assert "/run/flaskhost/" in line or "flock --timeout 300 9" in line or path.name in ("backup.py", "certificate.py", "share.py"), (
            f"{path}: {line}"
        )
