#!/usr/bin/python
"""Start a release beside the live one, and wait until it is healthy."""

DOCUMENTATION = r"""
module: release_start
short_description: Start a release beside the live one, and wait until it is healthy
description:
  - Installs the release's units, enables its server, C(APP@ID.service), at boot, and starts it. Waits until it is healthy on its own
    socket.
  - When it is healthy, lets the link C(ROOT/next) point to it, so that nginx already serves its static files.
  - Then starts its workers, C(APP-TYPE.N@ID.service), which must stay up for O(settle_seconds).
  - Does not affect the live release. If the new release is unhealthy, the module fails with RV(reason) and does not stop it. Use
    M(flaskhost.flaskhost.release_stop) for that.
  - Fails if the host has less memory available than the live release uses, or if systemd does not understand a unit.
  - In check mode, only reports a change.
author: The Flaskhost authors (@flaskhost)
options:
  id:
    description: The release to start.
    type: str
    required: true
  restart:
    description: Whether to restart units that are already running.
    type: bool
    default: false
  settle_seconds:
    description: Seconds that workers must stay up.
    type: float
    default: 3
extends_documentation_fragment:
  - flaskhost.flaskhost.release
  - flaskhost.flaskhost.release.page
  - flaskhost.flaskhost.release.health
seealso:
  - module: flaskhost.flaskhost.release_activate
  - module: flaskhost.flaskhost.release_stop
"""

EXAMPLES = r"""
- name: Start the release and wait until it is healthy
  flaskhost.flaskhost.release_start:
    app: shop
    root: /srv/shop
    id: 3f2a91c0de-7b1d22aa
    host: shop.example
    path: /healthz
    timeout_seconds: 30
"""

RETURN = r"""
status: {description: The HTTP status of the last response., type: int, returned: success}
reason: {description: Why the release could not be started or is unhealthy., type: str, returned: failure}
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import memory
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.activation import point
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import read, write
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.health import Page
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.release import HEALTH_OPTIONS, RELEASE_OPTIONS, ReleaseError, run_step


def main():
    module = AnsibleModule(
        argument_spec={
            **RELEASE_OPTIONS,
            **HEALTH_OPTIONS,
            "restart": {"type": "bool", "default": False},
            "settle_seconds": {"type": "float", "default": 3},
        },
        supports_check_mode=True,
    )
    run_step(module, "start", start)


def start(release, params):
    check_memory(release)
    install_units(release)
    # enabled from now on: if the host reboots before the activation, both releases start, and the live one serves
    release.systemd.enable(*release.units.values())
    release.systemd.start(release.server_unit, restart=params["restart"])
    page = Page(params, os.readlink(release.layout.release(release.id, "wsgi.sock")))
    release.wait_until_healthy(page, [release.server_unit])
    workers = [unit for unit in release.units.values() if unit != release.server_unit]
    if workers:
        # A worker has no health page; it is healthy if it stays up. Workers start before the activation, so that a release with broken
        # workers never becomes live, and after the server is healthy, so that a release that cannot start takes no jobs.
        # In a rollback right after a release, workers may still be finishing a job; systemd starts them when it has ended.
        release.systemd.start(*workers, restart=params["restart"], wait=False)
        release.watch(page, params["settle_seconds"])
    if release.layout.live() != release.id:
        # while the hosts of an app activate the release, a page of one host may load its files from another
        point(release.layout.next_link, release.id)
    return {"changed": True, "status": page.status}


def check_memory(release):
    """Two releases run at the same time. If there is not enough memory, the kernel may kill the live one."""
    live, running = release.layout.live(), release.app_units.running_releases()
    if live not in running or release.id in running:
        return
    groups = [unit["ControlGroup"] for unit in release.systemd.show(release.layout.units(live).values())]
    needed, available = memory.used_mb(groups), memory.available_mb()
    if needed > available:
        raise ReleaseError(
            f"not enough memory to start it beside the live release, which uses {needed} MB: only {available} MB are available. "
            "Add memory or swap (base_swap_mb), or run fewer workers"
        )


def install_units(release):
    """Copy the units instead of linking them, because systemd reads them before other disks are mounted."""
    written, replaced = [], False
    for process, unit in release.units.items():
        text = read(release.layout.unit_source(release.id, process))
        path = release.layout.installed_unit(unit)
        if read(path) != text:
            replaced |= os.path.exists(path)
            write(path, text)
            written.append(path)
    if replaced:
        release.systemd.reload()
    if written:
        release.systemd.reset_failed(*map(os.path.basename, written))
        verify_units(release, written)


def verify_units(release, written):
    schedule = [release.layout.release(release.id, name) for name in release.layout.schedule(release.id)]
    rejected = release.systemd.verify(written + schedule)
    if rejected:
        for path in written:
            os.unlink(path)
        raise ReleaseError(f"systemd does not understand the unit ({' '.join(rejected)}). Check systemd_service_lines")


if __name__ == "__main__":
    main()
