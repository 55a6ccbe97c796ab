"""What preflight reports: a setting, its value, what is allowed, and the file and line to change."""

import glob
import os
import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import credentials

# the directory that holds the collection, also if it was found by a link: messages name the owner's own files
PROJECT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
UNREADABLE = object()


class Problem:
    """A setting whose value is not allowed. The value None stands for a setting that is missing."""

    def __init__(self, name, value, allowed):
        self.name, self.value, self.allowed = name, value, allowed

    def text(self, sources):
        return f"- {self.name} {self.shown()}: {self.allowed}\n  Set it in {sources.of(self.name) or sources.best}."

    def shown(self):
        if self.value is None:
            return "is not set"
        if self.value is UNREADABLE:
            return "can't be read"
        # a password in a URL is one, wherever the URL is
        whole = credentials.without_credential if isinstance(self.value, str) else credentials.without_credentials
        return "is wrong" if is_secret(self.name) else f"is {whole(repr(self.value))}"


class UnknownName(Problem):
    """A name that no role knows."""

    def __init__(self, name, near):
        hint = f"Did you mean {near[0]}?" if near else "docs/variables.md has all that there are."
        super().__init__(name, None, f"there is no setting of this name. {hint}")

    def text(self, sources):
        return f"- {self.name}: {self.allowed}\n  It is set in {sources.of(self.name) or 'no file of this inventory; on the command line?'}"


def is_secret(name):
    return "secret" in name or name.endswith("_password")


class Sources:
    """Where a variable is set, or would be: the files of the inventory outrank those of the project."""

    def __init__(self, settings):
        inventory = str(settings.get("inventory_dir") or ".")
        self.best = f"{os.path.relpath(inventory)}/group_vars/app_servers.yml"
        if os.path.isdir(f"{PROJECT}/group_vars"):
            self.best += " or group_vars/all/app.yml"
        directories = (f"{inventory}/host_vars/**", f"{inventory}/group_vars/**", f"{PROJECT}/group_vars/**", inventory)
        # an inventory may lie in a directory that holds anything, such as a clone of this project, whose links lead back to its top
        self.files = [path for directory in directories for path in sorted(glob.glob(f"{directory}/*.y*ml", recursive=True))]

    def of(self, name):
        for path in self.files:
            with open(path, errors="replace") as handle:
                for number, line in enumerate(handle, 1):
                    if re.match(rf"\s*['\"]?{re.escape(name)}['\"]?\s*:", line):
                        return f"{os.path.relpath(path)}, line {number}"
        return None
