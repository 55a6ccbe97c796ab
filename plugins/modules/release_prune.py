#!/usr/bin/python
"""Drain and stop all other releases, and remove old ones."""

DOCUMENTATION = r"""
module: release_prune
short_description: Drain and stop all other releases, and remove old ones
description:
  - Waits for the connections to each release other than O(id) to close, for at most O(drain_seconds). Then stops the release and disables
    it at boot.
  - Removes old and unfinished releases, and the venvs and images that no release uses. It always keeps the live and the previous release,
    and a release whose worker is still finishing a job.
  - In check mode, only reports a change.
author: The Flaskhost authors (@flaskhost)
options:
  id:
    description: The release that keeps running.
    type: str
    required: true
  drain_seconds:
    description: Seconds that each of the other releases has to finish its current requests.
    type: float
    default: 60
  keep:
    description: Number of finished releases to keep, including O(id).
    type: int
    default: 5
  unlock:
    description:
      - Whether to release the deploy lock at the end, if this run holds it.
      - M(flaskhost.flaskhost.release_lock) with O(flaskhost.flaskhost.release_lock#module:state=absent) does the same, but needs an
        additional remote call.
    type: bool
    default: false
extends_documentation_fragment:
  - flaskhost.flaskhost.release
  - flaskhost.flaskhost.release.holder
seealso:
  - module: flaskhost.flaskhost.release_lock
"""

EXAMPLES = r"""
- name: Drain and prune old releases
  flaskhost.flaskhost.release_prune:
    app: shop
    root: /srv/shop
    id: 3f2a91c0de-7b1d22aa
    keep: 5
    unlock: true
"""

RETURN = r"""
stopped: {description: Releases that were stopped., type: list, elements: str, returned: success}
removed: {description: "What was removed: releases by ID, C(venv KEY) and C(image KEY).", type: list, elements: str, returned: success}
unlocked: {description: Whether the deploy lock was released., type: bool, returned: success}
reason: {description: Why a release could not be stopped., type: str, returned: failure}
"""

import glob
import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import deploy_lock
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import list_directories, read_link, remove_tree
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import has_images
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.release import RELEASE_OPTIONS, run_step


def main():
    module = AnsibleModule(
        argument_spec={
            **RELEASE_OPTIONS,
            **deploy_lock.HOLDER_OPTION,
            "drain_seconds": {"type": "float", "default": 60},
            "keep": {"type": "int", "default": 5},
            "unlock": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )

    def prune_and_unlock(release, params):
        result = prune(release, params)
        if params["unlock"]:
            deploy_lock.release(module, release.layout)
        return {**result, "unlocked": params["unlock"]}

    run_step(module, "prune", prune_and_unlock)


def prune(release, params):
    others = sorted({*release.app_units.running_releases(), *release.app_units.enabled_releases()} - {release.id})
    for other in others:
        release.drain(other, params["drain_seconds"])
        release.app_units.stop_and_disable(other)
    removed = remove_releases(release, params["keep"]) + remove_venvs(release.layout)
    # left over from interrupted builds
    for directory in release.layout.release(".building"), release.layout.venv(".building"):
        remove_tree(directory)
    removed += remove_images(release)
    if "yes" in [unit["NeedDaemonReload"] for unit in release.systemd.show(release.units.values())]:
        # earlier steps changed units without a reload; reloading here does not delay the release
        release.systemd.reload()
    return {"changed": bool(others or removed), "stopped": others, "removed": removed}


def remove_releases(release, keep):
    """Remove all unfinished releases and old finished ones. Always keep the live and the previous release."""
    layout = release.layout
    stay = {release.id, layout.live(), read_link(layout.previous_link), *layout.built()[:keep]}
    # a worker may still be finishing a job
    stay |= {*layout.releases_of(unit for unit in release.app_units.active("deactivating") if layout.process_of(unit) != "web")}
    removed = [name for name in list_directories(layout.path("releases")) if name not in stay]
    for name in removed:
        # remove the manifest first, so that an interrupted removal does not leave a release that looks finished
        for path in layout.release(name, "manifest.json"), layout.bad_marker(name):
            if os.path.lexists(path):
                os.unlink(path)
        remove_tree(layout.release(name))
    for unit in layout.installed_units():
        if not stay.issuperset(layout.releases_of([unit])):
            os.unlink(layout.installed_unit(unit))
    return removed


def remove_venvs(layout):
    """Remove the venvs that no release links to."""
    links = [link for link in glob.glob(layout.release("*", ".venv")) if os.path.islink(link)]
    used = {os.path.basename(os.readlink(link)) for link in links}
    unused = [key for key in list_directories(layout.path("venvs")) if key not in used]
    for key in unused:
        remove_tree(layout.venv(key))
    return [f"venv {key}" for key in unused]


def remove_images(release):
    """Remove the app's images that no longer have a directory in venvs. An image that is still in use is removed next time."""
    if not (has_images() and shutil.which("podman")):
        return []
    repository, keys, removed = f"localhost/flaskhost/{release.app}", list_directories(release.layout.path("venvs")), []
    tags = release.run_command(["podman", "image", "ls", "--format={{.Tag}}", f"--filter=reference={repository}"])[1].split()
    in_use = any(os.path.exists(release.layout.venv(key, "image")) for key in keys)
    for tag in tags:
        needed = in_use if tag == "pulled" else tag in keys
        if not needed and release.run_command(["podman", "image", "rm", f"{repository}:{tag}"])[0] == 0:
            removed.append(f"image {tag}")
    return removed


if __name__ == "__main__":
    main()
