"""Rules that several roles use in their meta/rules.py. Each returns None if the value is allowed, otherwise what is allowed."""

import os
import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import networks as lists
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories, find
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.spec import text_problem

FILE = (
    "it must be a file on this controller. A relative path is looked up in the inventory's directory, in the two directories above it, "
    "and in the working directory."
)


def matches(pattern, allowed, or_empty=False):
    """Return a rule: the whole value must match the pattern, or may be empty with `or_empty`."""
    compiled = re.compile(pattern)
    return lambda value, _settings: None if (or_empty and not value) or compiled.fullmatch(str(value)) else allowed


def texts(value, _settings, allowed=()):
    """Each name and value of a dictionary must be text, or one of the allowed types."""
    for name, item in value.items():
        if problem := text_problem(name) or (
            None if isinstance(item, allowed) and not isinstance(item, bool) else text_problem(item, name)
        ):
            return problem
    return None


def texts_or_numbers(value, settings):
    """As `texts`, for configuration files in which numbers are usual, and yes and no are words."""
    return texts(value, settings, (int, float))


def networks(value, settings):
    """Each entry must be an address, a network or a file of them, as in the filter `addresses`."""
    try:
        list(lists.networks(value, directories(settings)))
    except (ValueError, OSError) as error:
        return str(error)
    return None


def file_on_controller(value, settings):
    return None if not value or is_file(value, settings) else f"{FILE} It can also be empty."


def is_file(path, settings):
    """Return whether the filter `find_file` finds the file."""
    return os.path.isfile(find(str(path), directories(settings)))
