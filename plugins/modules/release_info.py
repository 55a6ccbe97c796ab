#!/usr/bin/python
"""Read the state of the releases on a host."""

DOCUMENTATION = r"""
module: release_info
short_description: Read the state of the releases on a host
description:
  - Returns the releases on a host, which one is live, which ones run, and everything else that determines what a deployment must build,
    start, activate and prune. It changes nothing.
  - Sets the facts C(processor_vcpus), C(memtotal_mb), C(python.version) and C(systemd.version) under the names that
    M(ansible.builtin.setup) uses. A deployment needs no other facts.
author: The Flaskhost authors (@flaskhost)
options:
  check_health:
    description: Whether to also request the site's health page through nginx and measure the memory of the live release. If O(path) is
      empty, the page is the one that the live release was checked with.
    type: bool
    default: false
extends_documentation_fragment:
  - flaskhost.flaskhost.release
  - flaskhost.flaskhost.release.page
seealso:
  - module: flaskhost.flaskhost.release_lock
    description: Acquires the deploy lock and returns the same values.
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
live: {description: The live release. Empty if there is none., type: str, returned: success}
previous: {description: The release that a rollback activates. Empty if there is none., type: str, returned: success}
activation:
  description: The last activation of the live release in the history, with C(at), C(id), C(by) and C(before). Empty if there is none.
  type: dict
  returned: success
ansible_facts:
  description: C(processor_vcpus), C(memtotal_mb), C(python.version) and C(systemd.version).
  type: dict
  returned: success
history: {description: "The last 20 activations, oldest first, each like RV(activation).", type: list, elements: dict, returned: success}
releases:
  description: For each release, its C(manifest) (empty if it is unfinished) and why it is C(bad) and must not be activated (empty if it is
    not).
  type: dict
  returned: success
built:
  description: The finished releases, ordered by their last activation, latest first. Releases that were never activated come last.
  type: list
  elements: str
  returned: success
unfinished: {description: Releases whose build did not complete., type: list, elements: str, returned: success}
running: {description: Releases with an active unit., type: list, elements: str, returned: success}
enabled: {description: Releases with a unit that starts at boot., type: list, elements: str, returned: success}
missing:
  description: >-
    For each release, its processes (C(web) is the server) that are not active or not enabled at boot. For the live release, also its
    scheduled jobs (C(schedule-NAME)) that are not installed, active or enabled as defined in the release.
  type: dict
  returned: success
processes: {description: "The workers of the live release, such as C(worker.1).", type: list, elements: str, returned: success}
schedule: {description: The scheduled jobs of the live release that run on this host., type: list, elements: str, returned: success}
schedule_elsewhere: {description: Whether another host of the app runs its scheduled jobs., type: bool, returned: success}
dangling: {description: Whether the directory of the live release is missing., type: bool, returned: success}
edited: {description: Files of the live release that were changed after it was built., type: list, elements: str, returned: success}
memory_mb: {description: Memory in MB that the processes of the live release use., type: int, returned: when O(check_health)}
restarts: {description: How often systemd has restarted processes of the live release., type: int, returned: when O(check_health)}
health: {description: Why the health page is unhealthy. Empty if it is healthy., type: str, returned: when O(check_health)}
health_warning:
  description: Why a healthy response proves little about the app, such as a redirect to a login page. Empty otherwise.
  type: str
  returned: when O(check_health)
lock_holder:
  description: >-
    The run that holds the deploy lock, with C(who) (USER@CONTROLLER), C(what) (its purpose), C(since) (seconds since 1970), C(controller),
    C(pid), C(token), and C(dead) (whether the run is known to have died). Empty if the lock is free.
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
    manifest = layout.releases().get(layout.live(), {}).get("manifest", {})
    units = systemd.show(layout.units(layout.live()).values())
    path = module.params["path"] or str(manifest.get("health_path") or "/")
    page = site_page(dict(module.params, path=path), layout)
    return {
        "memory_mb": memory.used_mb(unit["ControlGroup"] for unit in units),
        "restarts": sum(unit["NRestarts"] for unit in units),
        "health": page.probe(),
        "health_warning": page.warning(),
    }


if __name__ == "__main__":
    main()
