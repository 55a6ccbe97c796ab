"""The problems that preflight reports: a setting, its value, what is allowed, and the file and line to change."""

import os

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import credentials
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import origins

# realpath, because the collection may be found through a link, but messages must name the operator's own files
PROJECT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
UNREADABLE = object()


class Problem:
    """A setting whose value is not allowed. The value None means that the setting is missing."""

    def __init__(self, name, value, allowed):
        self.name, self.value, self.allowed = name, value, allowed

    def text(self, sources):
        return f"- {self.name} {self.shown()}: {self.allowed}\n  Set it in {sources.of(self.name) or sources.best}."

    def shown(self):
        if self.value is None:
            return "is not set"
        if self.value is UNREADABLE:
            return "cannot be read"
        # a value of any type can contain a URL with a password
        redact = credentials.without_credential if isinstance(self.value, str) else credentials.without_credentials
        return "is invalid" if is_secret(self.name) else f"is {redact(repr(self.value))}"


class UnknownName(Problem):
    """A variable that is not a setting of any role."""

    def __init__(self, name, similar=""):
        hint = f"Did you mean {similar}?" if similar else "docs/variables.md lists all settings."
        super().__init__(name, None, f"no such setting exists. {hint}")

    def text(self, sources):
        place = sources.of(self.name) or "no file of this inventory. It may be set on the command line"
        return f"- {self.name}: {self.allowed}\n  It is set in {place}."


class RenamedSetting(UnknownName):
    """The old name of a setting that was renamed."""

    def __init__(self, name, new_name):
        super().__init__(name)
        self.allowed = f"this setting was renamed to {new_name}. Use that name."


def is_secret(name):
    return "secret" in name or name.endswith(("_password", "_files"))


class Sources:
    """The files in which a variable of a host is or can be set. Files of the inventory take precedence over those of the project."""

    def __init__(self, settings):
        inventory, host = str(settings.get("inventory_dir") or "."), str(settings.get("inventory_hostname") or "")
        project = PROJECT if os.path.isdir(f"{PROJECT}/group_vars") else ""
        self.origins = origins.Origins(inventory, host, settings.get("group_names") or [], project)
        own = origins.variable_files(inventory, "host", host)
        self.best = os.path.relpath(own[0]) if own else f"{os.path.relpath(inventory)}/group_vars/app_servers.yml"
        if project and not own:
            self.best += " or group_vars/all/app.yml"

    def of(self, name):
        if found := self.origins.of(name):
            path, line = found
            return f"{os.path.relpath(path)}, line {line}"
        return None
