"""Read what each role of this collection says about its settings.

A role says it in two files, side by side:

`meta/argument_specs.yml` has the type of each setting, its choices, and whether it is required.

`meta/rules.py` has what a type can't express; a role without such rules doesn't need the file. A rule is a function with the name of
the setting. It returns None if the value is allowed, else the text that says what is allowed:

    def ssh_port(value, settings):
        return None if 0 <= int(value) < 65536 else "a port is a number from 1 to 65535 (0 leaves it as it is)."

VALUE has the right type already. SETTINGS holds what the owner has set, by name, without the roles' defaults, and the facts that
preflight hands over. `checks.py` has rules that several roles use, such as `matches(pattern, allowed)`. The name of a helper begins
with _; helpers of other files are imported as modules.

Three names in `meta/rules.py` have a meaning of their own:

`combined(settings)` yields (setting, value, what is allowed) for problems that only several settings, or the source, show. One of a
setting that is wrong by itself is not reported.

`CHOSEN_BY = "app_server"` says that this setting may name the role. `CHOSEN_BY = "app_services"` is for a service, whose `tasks/spec.yml` says
what it gives to the app.

`RESERVED_PREFIX = "app_"` says that nobody else's variables begin like this, so that each unknown one is reported. Other unknown
names are reported only if they resemble a setting.
"""

import functools
import importlib
import inspect
import os

from ansible.errors import AnsibleError
from ansible.module_utils.common.yaml import yaml_load

COLLECTION = __name__.partition(".plugins.")[0]
# those of the collection that this file is part of
ROLES = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "roles"))


class Role:
    def __init__(self, name, options, module=None):
        self.name, self.options = name, options
        self.chosen_by = getattr(module, "CHOSEN_BY", "")
        self.reserved_prefix = getattr(module, "RESERVED_PREFIX", "")
        self.combined = getattr(module, "combined", lambda _settings: ())
        functions = inspect.getmembers(module, inspect.isfunction) if module else []
        self.rules = {key: rule for key, rule in functions if not key.startswith("_") and key != "combined"}
        for key in self.rules:
            if key not in options:
                raise AnsibleError(
                    f"roles/{name}/meta/rules.py: {key} is no setting of this role. Give the rule the name that meta/argument_specs.yml has, "
                    "or begin the name of a helper with _."
                )


@functools.cache
def read_roles():
    return [read_role(name) for name in sorted(os.listdir(ROLES)) if os.path.exists(os.path.join(ROLES, name, "meta/argument_specs.yml"))]


def read_role(name):
    with open(os.path.join(ROLES, name, "meta/argument_specs.yml")) as handle:
        # other entry points are called by roles, not set up by owners
        options = yaml_load(handle)["argument_specs"]["main"].get("options", {})
    has_rules = os.path.exists(os.path.join(ROLES, name, "meta/rules.py"))
    return Role(name, options, importlib.import_module(f"{COLLECTION}.roles.{name}.meta.rules") if has_rules else None)


def service_environment(name):
    """The names of the environment variables that a service gives to the app."""
    with open(os.path.join(ROLES, name, "tasks/spec.yml")) as handle:
        facts = [task.get("ansible.builtin.set_fact", {}) for task in yaml_load(handle)]
    spec = next(fact[f"{name}_service"] for fact in facts if f"{name}_service" in fact)
    return list(spec["environment"])


def roles_chosen_by(setting):
    """The names of the roles that a setting may name."""
    return [role.name for role in read_roles() if role.chosen_by == setting]
