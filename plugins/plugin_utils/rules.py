"""Read the specifications and rules of the settings of each role in this collection.

A role defines them in two files:

`meta/argument_specs.yml` contains the type of each setting, its choices, and whether it is required.

`meta/rules.py` contains rules that a type cannot express. A role without such rules does not need the file. A rule is a function with the
name of the setting. It returns None if the value is allowed, otherwise a text that says what is allowed:

    def ssh_port(value, settings):
        return None if 0 <= int(value) < 65536 else "it must be a port from 1 to 65535, or 0 to keep the current port."

VALUE already has the right type. SETTINGS contains the operator's settings by name, without the roles' defaults, and the facts that
preflight passes. `checks.py` provides rules that several roles use, such as `matches(pattern, allowed)`. Names of helper functions begin
with _. Helpers in other files are imported as modules.

Five names in `meta/rules.py` have a special meaning:

`combined(settings)` yields (setting, value, what is allowed) for problems that involve several settings or the source. Such a problem is
not reported if another rule already rejected the setting.

`between_hosts(hosts)` yields (host, setting, value, what is allowed) for problems between hosts. HOSTS maps each host of the run to its settings.

`CHOSEN_BY = "app_server"` means that the setting app_server can name this role. `CHOSEN_BY = "app_services"` marks the role of a service.
Its `tasks/spec.yml` defines what the service provides to the app.

`RESERVED_PREFIX = "app_"` reserves this prefix for settings, so that every unknown variable with the prefix is reported. Other unknown
variables are reported only if their name is similar to a setting.

`RENAMED = {"tls_folder": "tls_directory"}` maps the old name of a renamed setting to its current name.
"""

import functools
import importlib
import inspect
import os

from ansible.errors import AnsibleError
from ansible.module_utils.common.yaml import yaml_load

COLLECTION = __name__.partition(".plugins.")[0]
# the roles of the collection that contains this file
ROLES = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "roles"))


class Role:
    def __init__(self, name, options, module=None):
        self.name, self.options = name, options
        self.chosen_by = getattr(module, "CHOSEN_BY", "")
        self.reserved_prefix = getattr(module, "RESERVED_PREFIX", "")
        self.renamed = getattr(module, "RENAMED", {})
        self.combined = getattr(module, "combined", lambda _settings: ())
        self.between_hosts = getattr(module, "between_hosts", lambda _hosts: ())
        functions = inspect.getmembers(module, inspect.isfunction) if module else []
        self.rules = {key: rule for key, rule in functions if not key.startswith("_") and key not in ("combined", "between_hosts")}
        for key in self.rules:
            if key not in options:
                raise AnsibleError(
                    f"roles/{name}/meta/rules.py: {key} is not a setting of this role. Name the rule after a setting in "
                    "meta/argument_specs.yml. If it is a helper function, begin its name with _."
                )


@functools.cache
def read_roles():
    return [read_role(name) for name in sorted(os.listdir(ROLES)) if os.path.exists(os.path.join(ROLES, name, "meta/argument_specs.yml"))]


def read_role(name):
    with open(os.path.join(ROLES, name, "meta/argument_specs.yml")) as handle:
        # other entry points are called by roles; operators do not set their options
        options = yaml_load(handle)["argument_specs"]["main"].get("options", {})
    has_rules = os.path.exists(os.path.join(ROLES, name, "meta/rules.py"))
    return Role(name, options, importlib.import_module(f"{COLLECTION}.roles.{name}.meta.rules") if has_rules else None)


def service_environment(name):
    """Return the names of the environment variables that a service provides to the app."""
    with open(os.path.join(ROLES, name, "tasks/spec.yml")) as handle:
        facts = [task.get("ansible.builtin.set_fact", {}) for task in yaml_load(handle)]
    spec = next(fact[f"{name}_service"] for fact in facts if f"{name}_service" in fact)
    return list(spec["environment"])


def roles_chosen_by(setting):
    """Return the names of the roles that a setting can name."""
    return [role.name for role in read_roles() if role.chosen_by == setting]
