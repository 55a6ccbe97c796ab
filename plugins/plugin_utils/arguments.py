"""The arguments of an action that has no module behind it: checked as the documentation of its module says, which is their only home."""

import importlib

import yaml

OF_A_SPEC = ("type", "elements", "required", "default", "choices")


def checked(action, name):
    """Return the action's arguments with their types and defaults; an argument that is missing, unknown or of another type fails the task."""
    module = importlib.import_module(f"ansible_collections.flaskhost.flaskhost.plugins.modules.{name}")
    options = yaml.safe_load(module.DOCUMENTATION)["options"]
    spec = {option: {key: value[key] for key in OF_A_SPEC if key in value} for option, value in options.items()}
    return action.validate_argument_spec(spec)[1]
