"""Kernel settings are compared with the required values, and only those that differ are written."""

import pytest
from conftest import plugin

kernel = plugin("modules/kernel_settings")


@pytest.fixture(autouse=True)
def proc(tmp_path, monkeypatch):
    """A directory in place of /proc/sys."""
    monkeypatch.setattr(kernel, "ROOT", str(tmp_path))
    for name, value in {
        "kernel/kptr_restrict": "0",
        "kernel/core_pattern": "|/usr/share/apport %p %s",
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/eth0.100/rp_filter": "2",
        "net/ipv4/conf/lo/rp_filter": "1",
        "net/ipv4/tcp_rmem": "4096\t131072\t6291456",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return tmp_path


def differing(settings):
    return {kernel.name(path): (before, after) for path, before, after in kernel.differences(settings)}


def test_a_star_matches_every_interface():
    found = differing({"net.ipv4.conf.*.rp_filter": 1})
    assert list(found.values()) == [("0", "1"), ("2", "1")] and "net.ipv4.conf.all.rp_filter" in found


def test_a_correct_value_is_not_a_difference():
    assert differing({"net.ipv4.conf.lo.rp_filter": 1, "net.ipv4.tcp_rmem": "4096 131072 6291456"}) == {}


def test_a_setting_that_the_kernel_lacks_is_skipped():
    assert differing({"kernel.yama.ptrace_scope": 2, "kernel.kptr_restrict": 2}) == {"kernel.kptr_restrict": ("0", "2")}


def test_a_value_is_written_unchanged(proc):
    ((path, _before, after),) = kernel.differences({"kernel.core_pattern": "|/bin/false"})
    kernel.write(path, after)
    assert (proc / "kernel/core_pattern").read_text() == "|/bin/false\n"
    assert differing({"kernel.core_pattern": "|/bin/false"}) == {}


def test_a_container_sets_only_its_own_kernel_settings():
    settings = {"net.ipv4.conf.*.rp_filter": 1, "net.ipv6.conf.all.accept_redirects": 0, "net.core.bpf_jit_harden": 2, "kernel.sysrq": 0}
    assert kernel.applicable(settings, in_container=False) == settings
    assert list(kernel.applicable(settings, in_container=True)) == ["net.ipv4.conf.*.rp_filter", "net.ipv6.conf.all.accept_redirects"]
