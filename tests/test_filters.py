import os
import stat
import subprocess

import pytest
from conftest import PROJECT, load, plugin

names_of_machine = plugin("filter/inventory").names_of_machine
facts, shell_lock, lock = plugin("filter/facts"), plugin("filter/shell_lock"), plugin("module_utils/lock")


def test_hosts_with_the_same_address_and_port_are_one_machine():
    hosts = {
        "shop": {"ansible_host": "192.0.2.7"},
        "blog": {"ansible_host": "192.0.2.7", "ansible_port": 22},
        "jail": {"ansible_host": "192.0.2.7", "ansible_port": "2222"},
        "jail-too": {"ansible_host": "192.0.2.7", "ansible_port": 2222},
        "192.0.2.8": {},
    }
    assert names_of_machine("blog", list(hosts), hosts) == ["shop", "blog"]
    assert names_of_machine("jail", list(hosts), hosts) == ["jail", "jail-too"]
    assert names_of_machine("192.0.2.8", list(hosts), hosts) == ["192.0.2.8"]


def test_a_distribution_has_the_name_that_the_roles_use():
    ubuntu = {"distribution": "Ubuntu", "distribution_version": "24.04", "distribution_major_version": "24"}
    debian = {"distribution": "Debian", "distribution_version": "12.5", "distribution_major_version": "12"}
    assert facts.distribution({}) == ""
    assert facts.distribution(ubuntu) == "Ubuntu 24.04" and facts.distribution(debian) == "Debian 12"


@pytest.mark.parametrize(
    ("cores", "memory", "minimum", "workers"), [(1, 460, 2, 2), (1, 290, 2, 1), (1, 100, 2, 1), (8, 900, 1, 6), (1, 4000, 1, 1)]
)
def test_a_server_has_one_worker_per_core_within_the_memory_limit(cores, memory, minimum, workers):
    host = {"processor_vcpus": cores, "memtotal_mb": memory}
    assert facts.worker_count(host, minimum=minimum) == workers
    assert facts.worker_count({}) == 1


def test_a_script_and_a_module_use_the_same_lock(tmp_path, monkeypatch):
    directory = tmp_path / "run"
    monkeypatch.setattr(shell_lock, "DIRECTORY", str(directory))
    monkeypatch.setattr(shell_lock, "WAIT_SECONDS", 1)
    script = shell_lock.shell_lock("host") + "\numask; echo done"
    first = subprocess.run(["sh", "-c", f"umask 027\n{script}"], capture_output=True, text=True)
    assert (first.returncode, first.stdout, first.stderr) == (0, "0027\ndone\n", "")
    assert stat.S_IMODE((directory / "host.lock").stat().st_mode) == 0o600 and stat.S_IMODE(directory.stat().st_mode) == 0o755
    held = lock.acquire("host", "a test", directory=str(directory))
    try:
        second = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    finally:
        os.close(held)
    assert second.returncode == 75 and second.stdout == ""
    assert second.stderr == f"Another run has held {directory}/host.lock for 1 seconds (fuser -v shows it).\n"


def test_the_certificate_program_uses_the_same_lock_directory():
    program = load(PROJECT / "roles/tls/files/certificate.py")
    assert str(program.RUN / "flaskhost") == lock.DIRECTORY
