#!/usr/bin/python
"""Read which releases a host has, which is live, and which run."""

DOCUMENTATION = r"""
module: release_info
short_description: Read which releases a host has, which is live, and which run
description:
  - Changes nothing on the host.
  - Returns all that a release's plan depends on - what has to be built, started, activated and pruned.
  - Sets the facts of the host on which a release depends, under the names that M(ansible.builtin.setup) gives them, so that
    a release needs no other facts - C(processor_vcpus), C(memtotal_mb), C(python.version), C(systemd.version).
author: The Flaskhost authors (@flaskhost)
options:
  check_health:
    description: Also request the site's health page through nginx, and measure the live release's memory.
    type: bool
    default: false
extends_documentation_fragment:
  - flaskhost.flaskhost.release
  - flaskhost.flaskhost.release.page
seealso:
  - module: flaskhost.flaskhost.release_lock
    description: Returns the same, and acquires the deploy lock first.
"""

EXAMPLES = r"""
- name: Read the releases and check the site's health
  flaskhost.flaskhost.release_info:
    app: shop
    root: /srv/shop
    check_health: true
    host: shop.example
    path: /healthz
"""

RETURN = r"""
live: {description: The live release; empty if there is none., type: str, returned: success}
previous: {description: The release to which a rollback goes; empty if there is none., type: str, returned: success}
activation:
  description: "The live release's line of the history: C(at), C(id), C(by), C(before). Empty if there is none."
  type: dict
  returned: success
ansible_facts:
  description: C(processor_vcpus), C(memtotal_mb), C(python.version), C(systemd.version).
  type: dict
  returned: success
history: {description: "The last 20 activations, oldest first, each like RV(activation).", type: list, elements: dict, returned: success}
releases:
  description: "By release: its C(manifest), empty if it is unfinished, and C(bad), why it must not be activated, else empty."
  type: dict
  returned: success
built:
  description: "The finished releases: the last one activated first, those never activated last."
  type: list
  elements: str
  returned: success
unfinished: {description: Releases whose build did not end., type: list, elements: str, returned: success}
running: {description: Releases of which a unit is active., type: list, elements: str, returned: success}
enabled: {description: Releases of which a unit starts at boot., type: list, elements: str, returned: success}
missing:
  description: >-
    By release: its processes (C(web) is the server) that are not active or do not start at boot; for the live release also
    C(schedule-NAME), the scheduled jobs that are not installed, active and enabled as it has them.
  type: dict
  returned: success
processes: {description: "The live release's workers, such as C(worker.1).", type: list, elements: str, returned: success}
schedule: {description: "The live release's scheduled jobs.", type: list, elements: str, returned: success}
dangling: {description: Whether the live release has no directory any more., type: bool, returned: success}
edited: {description: Files of the live release that changed after it was built., type: list, elements: str, returned: success}
memory_mb: {description: Memory in MB that the live release's processes use., type: int, returned: when O(check_health)}
restarts: {description: How often systemd has restarted the live release's processes., type: int, returned: when O(check_health)}
health: {description: "What is wrong with the health page; empty if it is healthy.", type: str, returned: when O(check_health)}
lock_holder:
  description: >-
    Who holds the deploy lock: C(who) (USER@CONTROLLER), C(what) (its purpose), C(since) (seconds since 1970), C(controller), C(pid),
    C(token), and C(dead), whether its run is known to have died. Empty if nobody does.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import memory, releases
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import Layout
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.release import APP_OPTIONS, PAGE_OPTIONS, errors_reported, site_page
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.systemd import Systemd
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable_values


def main():
    module = AnsibleModule(
        argument_spec={**APP_OPTIONS, **PAGE_OPTIONS, "check_health": {"type": "bool", "default": False}},
        supports_check_mode=True,
    )
    with errors_reported(module):
        found = releases.read(module)
        if module.params["check_health"]:
            found.update(health(module))
    module.exit_json(changed=False, **printable_values(found))


def health(module):
    layout, systemd = Layout(module.params["root"], module.params["app"]), Systemd(module.run_command)
    units = systemd.show(layout.units(layout.live()).values())
    return {
        "memory_mb": memory.used_mb(unit["ControlGroup"] for unit in units),
        "restarts": sum(unit["NRestarts"] for unit in units),
        "health": site_page(module.params, layout).ask(),
    }


if __name__ == "__main__":
    main()
