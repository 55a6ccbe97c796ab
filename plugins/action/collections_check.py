"""Action plugin `collections_check`: report all missing collections in one message, on the controller.

Without this check, a controller that only has ansible-core fails in the middle of a run, at the first task from a missing collection.
"""

import json
import operator
import os
import re

import yaml
from ansible.plugins.action import ActionBase
from ansible.utils.collection_loader._collection_finder import _get_collection_path
from ansible.utils.version import LooseVersion
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.arguments import checked

PROJECT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
REQUIREMENTS = os.path.join(PROJECT, "requirements.yml")
COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq, "!=": operator.ne}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        checked(self, "collections_check")
        with open(REQUIREMENTS, encoding="utf-8") as handle:
            required = {entry["name"]: entry["version"] for entry in yaml.safe_load(handle)["collections"]}
        found = {name: installed_version(name) for name in required}
        missing = [name for name, version in found.items() if version is None]
        outdated = [name for name, version in found.items() if version and not fits(version, required[name])]
        if missing or outdated:
            result.update(failed=True, msg=message(missing, outdated, required, found))
        return dict(result, changed=False, missing=missing, outdated=outdated)


def installed_version(name):
    """Return None if the collection is missing, or an empty string if it states no version, as in a git clone."""
    try:
        path = _get_collection_path(name)
    except ValueError:
        return None
    try:
        with open(os.path.join(path, "MANIFEST.json"), encoding="utf-8") as handle:
            return str(json.load(handle)["collection_info"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def fits(version, required):
    conditions = re.findall(r"(>=|<=|==|!=|>|<)\s*([^,\s]+)", required)
    return all(COMPARE[sign](LooseVersion(version), LooseVersion(limit)) for sign, limit in conditions)


def message(missing, outdated, required, found):
    lines = [f"- {name} {required[name]}: not installed." for name in missing]
    lines += [f"- {name} {required[name]}: version {found[name]} is installed." for name in outdated]
    count = "One Ansible collection is" if len(lines) == 1 else f"{len(lines)} Ansible collections are"
    relative = os.path.relpath(REQUIREMENTS)
    path = REQUIREMENTS if relative.startswith("..") else relative
    command = f"ansible-galaxy collection install {'--upgrade ' if outdated else ''}-r {path}"
    return f"{count} missing or too old on this controller. No host was touched.\n\n" + "\n".join(lines) + f"\n\nRun: {command}"
