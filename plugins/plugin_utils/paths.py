"""Where a relative path in the owner's settings leads to."""

import os


def directories(variables):
    """The inventory's directory, the two above it (it may be inventories/STAGE), and the working directory."""
    inventory = str(variables.get("inventory_dir") or "")
    above = [inventory, os.path.dirname(inventory), os.path.dirname(os.path.dirname(inventory))] if inventory else []
    return [*above, os.getcwd()]
