"""Resolve relative paths in settings."""

import os


def directories(variables):
    """Return the inventory's directory, the two above it (the inventory may be inventories/STAGE), and the working directory."""
    inventory = str(variables.get("inventory_dir") or "")
    above = [inventory, os.path.dirname(inventory), os.path.dirname(os.path.dirname(inventory))] if inventory else []
    return [*above, os.getcwd()]


def find(path, directories, default=None):
    """Return the absolute path of the first match, otherwise the default, or the path below the last directory."""
    candidates = [os.path.normpath(os.path.join(directory, os.path.expanduser(path))) for directory in directories]
    return next(filter(os.path.exists, candidates), candidates[-1] if default is None else default)
