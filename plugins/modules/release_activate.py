#!/usr/bin/python
"""Activate a release, watch the site, and revert if it is unhealthy."""

DOCUMENTATION = r"""
module: release_activate
short_description: Activate a release, watch the site, and revert if it is unhealthy
description:
  - Tells the workers of other releases to end their current job and take no more. Moves the link C(ROOT/live), which nginx follows at
    each connection, by one rename. Then requests the health page through nginx until it is healthy, and watches it for O(watch_seconds).
  - If the site is unhealthy, reverts at once, in the same call - the link goes back, the release is stopped, and the workers of the
    previous release start again. The module then fails, with RV(reverted) and RV(reason).
  - If it is healthy, installs the release's scheduled jobs, C(APP-schedule-NAME.timer).
  - Activating the live release moves no link; it checks the site and its scheduled jobs.
  - In check mode, only reports a change.
author: The Flaskhost authors (@flaskhost)
options:
  id:
    description: The release to activate; it has to be started.
    type: str
    required: true
  by:
    description: Who activates it, for C(ROOT/history).
    type: str
    default: ''
  watch_seconds:
    description: For how many seconds to watch the site once it is healthy. One unhealthy answer, or the end of a process, is a failure.
    type: float
    default: 0
  mark_previous_bad:
    description: Mark the release that was live before as bad, for this reason, so that no rollback activates it. Empty does not mark it.
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
status: {description: The HTTP status of the last answer., type: int, returned: success}
reason: {description: Why the site is unhealthy., type: str, returned: failure}
reverted: {description: Whether the release that was live before is live again., type: bool, returned: failure}
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

# how long to wait until systemd has signalled the workers of other releases
SIGNAL_SECONDS = 2
# how long to wait until nginx has closed its connections to a release that was reverted
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
    # a job that the new release asks for must not meet a worker of the previous one, which may not know it
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
    return {"changed": before != release.id or scheduled, "status": page.status}


def revert(release, before, by):
    move_live_link(release.layout, before, f"{by} (reverted automatically)")
    workers = [unit for process, unit in release.layout.units(before).items() if process != "web"]
    if workers:
        release.systemd.attempt("start", "--no-block", *workers)
    release.app_units.stop_and_disable(release.id)
    # nginx has connections to it left; once they are gone, no visitor meets it any more
    release.drain(release.id, LEAVE_SECONDS)


def stop_other_workers(release):
    """The workers of other releases end their current job, for which nobody waits here, and take no other."""
    layout, systemd = release.layout, release.systemd
    others = [unit for unit in release.app_units.active() if unit not in release.units.values() and layout.process_of(unit) != "web"]
    if others:
        systemd.stop(*others, wait=False)
    end = time.monotonic() + SIGNAL_SECONDS
    while others and time.monotonic() < end and "active" in [unit["ActiveState"] for unit in systemd.show(others)]:
        time.sleep(PAUSE)


def move_live_link(layout, release_id, by):
    """One rename: who follows the link gets the one release or the other, never none."""
    before = layout.live()
    if before == release_id:
        return
    if before:
        point(layout.previous_link, before)
    point(layout.live_link, release_id)
    # the history only records what is done: a disk that is full just now is no reason to revert
    with contextlib.suppress(OSError), open(layout.history_file, "a") as history:
        history.write(json.dumps({"at": now(), "id": release_id, "by": by, "before": before}) + "\n")
    if os.path.exists(layout.bad_marker(release_id)):
        os.unlink(layout.bad_marker(release_id))


def point(link, release_id):
    if os.path.isdir(link) and not os.path.islink(link):
        raise ReleaseError(f"{link} must be a link to a release, and is a directory. Move it out of the way")
    temporary = f"{link}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(os.path.join("releases", release_id), temporary)
    os.rename(temporary, link)


def install_schedule(release):
    """Install the release's scheduled jobs, and remove those of others. A timer that stays the same is not touched, and misses no run."""
    if not release.app_units.missing_schedule(release.id):
        return False
    layout, systemd = release.layout, release.systemd
    wanted, there = layout.schedule(release.id), layout.installed_schedule()
    changed = [name for name, text in wanted.items() if there.get(name) != text]
    gone = [name for name in there if name not in wanted]
    gone_timers = [f"{release.app}-{name}" for name in gone if name.endswith(".timer")]
    if gone_timers:
        systemd.disable(*gone_timers, stop=True)
    for name in gone:
        os.unlink(layout.installed_unit(f"{release.app}-{name}"))
    for name in changed:
        write(layout.installed_unit(f"{release.app}-{name}"), wanted[name])
    systemd.reset_failed(*(f"{release.app}-{name}" for name in gone + changed))
    systemd.reload()
    for name in wanted:
        if name.endswith(".timer"):
            systemd.enable(f"{release.app}-{name}")
            systemd.start(f"{release.app}-{name}", restart=name in changed)
    return True


if __name__ == "__main__":
    main()
