"""Read the state of a host: its releases, the live one, the running ones, the holder of the deploy lock, and facts that a release needs."""

import os
import platform

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import memory
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.deploy_lock import read_lock
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import Layout
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.systemd import Systemd
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.units import Units


def read(module):
    layout, systemd = Layout(module.params["root"], module.params["app"]), Systemd(module.run_command)
    units = Units(layout, systemd)
    live, releases, history = layout.live(), layout.releases(), layout.history()
    active, enabled = units.active(), layout.enabled_units()
    return {
        "live": live,
        "previous": layout.previous(),
        "activation": next((line for line in reversed(history) if line["id"] == live), {}),
        "history": history[-20:],
        "releases": releases,
        "built": layout.built(),
        "unfinished": [name for name, release in releases.items() if not release["manifest"]],
        "running": layout.releases_of(active),
        "enabled": layout.releases_of(enabled),
        "missing": {name: units.missing(name, {*active} & {*enabled}) for name in releases},
        "processes": [process for process in layout.units(live) if process != "web"],
        "schedule": layout.jobs_here(live),
        "schedule_elsewhere": os.path.exists(layout.schedule_elsewhere),
        "dangling": live != "" and live not in releases,
        "edited": layout.edited(live, module.run_command),
        "lock_holder": read_lock(layout.lock_file),
        "ansible_facts": facts(systemd),
    }


def facts(systemd):
    return {
        "processor_vcpus": os.cpu_count(),
        "memtotal_mb": memory.total_mb(),
        "python": {"version": dict(zip(("major", "minor", "micro"), platform.python_version_tuple(), strict=True))},
        "systemd": {"version": systemd.version()},
    }
