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
  - module: flaskhost.flaskhost.release_revert
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.activation import (
    install_schedule,
    move_live_link,
    revert,
    stop_other_workers,
)
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.release import (
    HEALTH_OPTIONS,
    RELEASE_OPTIONS,
    ReleaseError,
    run_step,
    site_page,
)


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
    scheduled = install_schedule(release, release.id)
    return {"changed": before != release.id or scheduled, "status": page.status, "warnings": [text] if (text := page.warning()) else []}


if __name__ == "__main__":
    main()
