"""Shared code of release_activate and release_revert: move the live link, and start and stop what belongs to the live release only."""

import contextlib
import json
import os
import time

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import read_link, write
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import now
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.release import PAUSE, ReleaseError

# seconds to wait until systemd has signalled the workers of other releases
SIGNAL_SECONDS = 2
# seconds to wait until nginx has closed its connections to a reverted release
LEAVE_SECONDS = 5


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
    forget_next(layout, release_id)
    # the history is only a record, so a full disk must not cause a revert
    with contextlib.suppress(OSError), open(layout.history_file, "a") as history:
        history.write(json.dumps({"at": now(), "id": release_id, "by": by, "before": before}) + "\n")
    if os.path.exists(layout.bad_marker(release_id)):
        os.unlink(layout.bad_marker(release_id))


def forget_next(layout, release_id):
    """Remove the link `next` if it points to this release."""
    if read_link(layout.next_link) == release_id:
        os.unlink(layout.next_link)


def point(link, release_id):
    if os.path.isdir(link) and not os.path.islink(link):
        raise ReleaseError(f"{link} must be a link to a release, but is a directory. Move it away")
    temporary = f"{link}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(os.path.join("releases", release_id), temporary)
    os.rename(temporary, link)


def install_schedule(release, release_id):
    """Install a release's scheduled jobs, and remove those of other releases. An unchanged timer is not touched, so it misses no run."""
    if not release.app_units.missing_schedule(release_id):
        return False
    layout, systemd = release.layout, release.systemd
    wanted, installed = layout.schedule(release_id), layout.installed_schedule()
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
