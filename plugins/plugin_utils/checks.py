"""Rules that several roles use in their meta/rules.py. Each returns None if the value is allowed, else what is allowed."""

import os
import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import networks as lists
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories, find

FILE = "it must be a file on this controller. A relative path is looked for in the inventory's directory, the two above it, and the working directory."


def matches(pattern, allowed, or_empty=False):
    """Make a rule: the whole value matches a pattern, or is empty."""
    compiled = re.compile(pattern)
    return lambda value, _settings: None if (or_empty and not value) or compiled.fullmatch(str(value)) else allowed


def networks(value, settings):
    """Each entry is an address, a network or a file of such, as the filter `addresses` reads them."""
    try:
        list(lists.networks(value, directories(settings)))
    except (ValueError, OSError) as error:
        return str(error)
    return None


def file_on_controller(value, settings):
    return None if not value or is_file(value, settings) else f"{FILE} It may be empty."


def is_file(path, settings):
    """Whether there is such a file where the filter `find_file` looks for it."""
    return os.path.isfile(find(str(path), directories(settings)))
