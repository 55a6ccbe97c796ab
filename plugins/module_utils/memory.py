"""Measure the memory of a host and of its units, in MB."""

import os
import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import read


def total_mb():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def available_mb():
    """Return the memory that is available without affecting running programs (MemAvailable in proc(5)), plus free swap."""
    found = dict(line.split()[:2] for line in read("/proc/meminfo").splitlines())
    return (int(found.get("MemAvailable:", 0)) + int(found.get("SwapFree:", 0))) // 1024


def used_mb(control_groups):
    """Return the memory that the processes in these control groups use. Shared memory is counted once."""
    # processes of a container are in nested control groups
    tops = [f"/sys/fs/cgroup{group}" for group in control_groups if group]
    pids = [pid for top in tops for group, _below, _files in os.walk(top) for pid in read(f"{group}/cgroup.procs").split()]
    rollups = [read(f"/proc/{pid}/smaps_rollup") for pid in pids]
    return sum(int(found[1]) for found in (re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE) for text in rollups) if found) // 1024
