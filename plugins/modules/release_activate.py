#!/usr/bin/python
"""Activate a release, watch the site, and revert if it is unhealthy."""

DOCUMENTATION = r"""
module: release_activate
short_description: Activate a release, watch the site, and revert if it is unhealthy
description:
  - Stops the workers of other releases after their current job. Moves the link C(ROOT/live), which nginx resolves for each connection, by a
    single rename. Then requests the health page through nginx until it is healthy, and watches it for O(watch_seconds).
  - The response must come from the release. Another site with the same name, or another program on the port, makes the site unhealthy.
  - Warns about a redirect to a login or setup page, which counts as healthy.
  - If the site is unhealthy, reverts at once in the same call. It moves the link back, stops the release, and starts the workers of the
    previous release again. Then the module fails and returns RV(reverted) and RV(reason).
  - If the site is healthy, installs the release's scheduled jobs, C(APP-schedule-NAME.timer).
  - If the release is already live, moves no link, but checks the site and the scheduled jobs.
  - In check mode, only reports a change.
author: The Flaskhost authors (@flaskhost)
options:
  id:
    description: The release to activate. It must already be started.
    type: str
    required: true
  by:
    description: The operator to record in C(ROOT/history).
    type: str
    default: ''
  watch_seconds:
    description: Seconds to watch the site after it is healthy. The activation fails after one unhealthy response, or if a process ends.
    type: float
    default: 0
  mark_previous_bad:
    description: Reason for which to mark the previously live release as bad, so that no rollback activates it. If empty, it is not marked.
    type: str
    default: ''
extends_documentation_fragment:
  - flaskhost.flaskhost.release
  - flaskhost.flaskhost.release.page
  - flaskhost.flaskhost.release.health
seealso:
  - module: flaskhost.flaskhost.release_start
  - module: flaskhost.flaskhost.release_prune
"""

EXAMPLES = r"""
- name: Activate the release and watch the site
  flaskhost.flaskhost.release_activate:
    app: shop
    root: /srv/shop
    id: 3f2a91c0de-7b1d22aa
    by: ann@laptop
    host: shop.example
    path: /healthz
    timeout_seconds: 10
    watch_seconds: 0.5
"""

RETURN = r"""
status: {description: The HTTP status of the last response., type: int, returned: success}
reason: {description: Why the site is unhealthy., type: str, returned: failure}
reverted: {description: Whether the previously live release is live again., type: bool, returned: failure}
"""

import contextlib
import json
import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import write
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import now
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.release import (
    HEALTH_OPTIONS,
    PAUSE,
    RELEASE_OPTIONS,
    ReleaseError,
    run_step,
    site_page,
)

# seconds to wait until systemd has signalled the workers of other releases
SIGNAL_SECONDS = 2
# seconds to wait until nginx has closed its connections to a reverted release
LEAVE_SECONDS = 5


def main():
    module = AnsibleModule(
        argument_spec={
            **RELEASE_OPTIONS,
            **HEALTH_OPTIONS,
            "by": {"type": "str", "default": ""},
            "watch_seconds": {"type": "float", "default": 0},
            "mark_previous_bad": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    run_step(module, "activate", activate)


def activate(release, params):
    before = release.layout.live()
    # a worker of the previous release must not take a job of the new one, because it may not know it
    stop_other_workers(release)
    move_live_link(release.layout, release.id, params["by"])
    page = site_page(params, release.layout)
    try:
        release.wait_until_healthy(page, release.units.values())
        release.watch(page, params["watch_seconds"])
    except ReleaseError as error:
        if before not in ("", release.id):
            revert(release, before, params["by"])
            error.reverted = True
        raise
    if before != release.id:
        release.layout.mark_bad(before, params["mark_previous_bad"])
    scheduled = install_schedule(release)
    return {"changed": before != release.id or scheduled, "status": page.status, "warnings": [text] if (text := page.warning()) else []}


def revert(release, before, by):
    move_live_link(release.layout, before, f"{by} (reverted automatically)")
    workers = [unit for process, unit in release.layout.units(before).items() if process != "web"]
    if workers:
        release.systemd.attempt("start", "--no-block", *workers)
    release.app_units.stop_and_disable(release.id)
    # wait for nginx's remaining connections to the release, so that it serves no more visitors
    release.drain(release.id, LEAVE_SECONDS)


def stop_other_workers(release):
    """Stop the workers of other releases after their current job, without waiting for it."""
    layout, systemd = release.layout, release.systemd
    others = [unit for unit in release.app_units.active() if unit not in release.units.values() and layout.process_of(unit) != "web"]
    if others:
        systemd.stop(*others, wait=False)
    end = time.monotonic() + SIGNAL_SECONDS
    while others and time.monotonic() < end and "active" in [unit["ActiveState"] for unit in systemd.show(others)]:
        time.sleep(PAUSE)


def move_live_link(layout, release_id, by):
    """Move the link with one rename, so that it always points to a release."""
    before = layout.live()
    if before == release_id:
        return
    if before:
        point(layout.previous_link, before)
    point(layout.live_link, release_id)
    # the history is only a record, so a full disk must not cause a revert
    with contextlib.suppress(OSError), open(layout.history_file, "a") as history:
        history.write(json.dumps({"at": now(), "id": release_id, "by": by, "before": before}) + "\n")
    if os.path.exists(layout.bad_marker(release_id)):
        os.unlink(layout.bad_marker(release_id))


def point(link, release_id):
    if os.path.isdir(link) and not os.path.islink(link):
        raise ReleaseError(f"{link} must be a link to a release, but is a directory. Move it away")
    temporary = f"{link}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(os.path.join("releases", release_id), temporary)
    os.rename(temporary, link)


def install_schedule(release):
    """Install the release's scheduled jobs, and remove those of other releases. An unchanged timer is not touched, so it misses no run."""
    if not release.app_units.missing_schedule(release.id):
        return False
    layout, systemd = release.layout, release.systemd
    wanted, installed = layout.schedule(release.id), layout.installed_schedule()
    changed = [name for name, text in wanted.items() if installed.get(name) != text]
    removed = [name for name in installed if name not in wanted]
    removed_timers = [f"{release.app}-{name}" for name in removed if name.endswith(".timer")]
    if removed_timers:
        systemd.disable(*removed_timers, stop=True)
    for name in removed:
        os.unlink(layout.installed_unit(f"{release.app}-{name}"))
    for name in changed:
        write(layout.installed_unit(f"{release.app}-{name}"), wanted[name])
    systemd.reset_failed(*(f"{release.app}-{name}" for name in removed + changed))
    systemd.reload()
    for name in wanted:
        if name.endswith(".timer"):
            systemd.enable(f"{release.app}-{name}")
            systemd.start(f"{release.app}-{name}", restart=name in changed)
    return True


if __name__ == "__main__":
    main()
