"""Validate the arguments of an action plugin that runs no module, against the documentation of the module with the same name."""

import importlib

import yaml

SPEC_KEYS = ("type", "elements", "required", "default", "choices")


def checked(action, name):
    """Return the action's arguments, converted and with defaults. A missing, unknown or invalid argument fails the task."""
    module = importlib.import_module(f"ansible_collections.flaskhost.flaskhost.plugins.modules.{name}")
    options = yaml.safe_load(module.DOCUMENTATION)["options"]
    spec = {option: {key: value[key] for key in SPEC_KEYS if key in value} for option, value in options.items()}
    return action.validate_argument_spec(spec)[1]
