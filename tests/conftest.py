"""What the unit tests share: the project's plugins, imported as Ansible would."""

import importlib.util
from pathlib import Path

import ansible.module_utils

PROJECT = Path(__file__).resolve().parents[1]
# as the setting module_utils of ansible.cfg
ansible.module_utils.__path__.append(str(PROJECT / "plugins/module_utils"))


def plugin(path):
    """A plugin as a Python module, e.g. plugin("modules/ufw_rules")."""
    return load(PROJECT / f"plugins/{path}.py")


def load(file):
    spec = importlib.util.spec_from_file_location(f"{file.parent.name}_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
