#!/usr/bin/python
"""Stop a release that failed, and return its final log lines."""

DOCUMENTATION = r"""
module: release_stop
short_description: Stop a release that failed, and return its final log lines
description:
  - Stops the release immediately and disables it at boot, unless it is live. Its workers finish their current job first.
  - Returns the final log lines of the release, safe to print and with limited length, and the exception that ended it.
  - In check mode, only reports a change.
author: The Flaskhost authors (@flaskhost)
options:
  id:
    description: The release to stop.
    type: str
    required: true
  mark_bad:
    description: >-
      Reason for which to mark the release as bad, so that no rollback activates it, and the next deployment rebuilds it. If empty, it is
      not marked.
    type: str
    default: ''
extends_documentation_fragment: [flaskhost.flaskhost.release]
"""

EXAMPLES = r"""
- name: Stop the release and mark it as bad
  flaskhost.flaskhost.release_stop:
    app: shop
    root: /srv/shop
    id: 3f2a91c0de-7b1d22aa
    mark_bad: /healthz returned 500 (checked for 30 seconds)
"""

RETURN = r"""
log: {description: "The release's final log lines, at most 40.", type: str, returned: success}
cause: {description: The last Python exception in its last 200 log lines. Empty if there is none., type: str, returned: success}
reason: {description: Why the release could not be stopped., type: str, returned: failure}
"""

import contextlib

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import journal
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.activation import forget_next
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.release import RELEASE_OPTIONS, run_step


def main():
    module = AnsibleModule(argument_spec={**RELEASE_OPTIONS, "mark_bad": {"type": "str", "default": ""}}, supports_check_mode=True)
    run_step(module, "stop", stop)


def stop(release, params):
    # podman logs the output and end of a container under other identifiers
    identifiers = [release.app, "systemd"] if release.layout.runs_in_container(release.id) else []
    lines = journal.final_lines(release.app, release.units.values(), identifiers)
    # if the disk is full or read-only, the log lines must still be returned
    with contextlib.suppress(OSError):
        release.layout.mark_bad(release.id, params["mark_bad"])
    started = {*release.app_units.running_releases(), *release.app_units.enabled_releases()}
    stops = release.id in started and release.id != release.layout.live()
    if stops:
        kill(release)
    forget_next(release.layout, release.id)
    return {"changed": stops, "log": "\n".join(lines[-40:]), "cause": journal.last_exception(lines)}


def kill(release):
    """Kill the server, which has no requests to finish and may hang. Its workers may be processing a job, so stop them gracefully."""
    release.app_units.stop_and_disable(release.id)
    for command in (("kill", "--signal=KILL"), ("stop",), ("reset-failed",)):
        release.systemd.attempt(*command, release.server_unit)
    if release.layout.runs_in_container(release.id):
        # podman was also killed before it could remove the container, which would keep its image forever. The first of two calls may only
        # detect that the container is dead.
        for _attempt in range(2):
            release.run_command(["podman", "rm", "--force", "--ignore", "--time=0", f"{release.app}-web-{release.id}"])


if __name__ == "__main__":
    main()
