"""The default of app_name: the name of the app's source, made safe."""

import re

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories, find

MAX_LENGTH = 25


def source_name(source, inventory_directory=""):
    """Return the last part of a git URL or of a directory's path, in the form that app_name requires."""
    text = str(source or "").rstrip("/")
    if not re.match(r"[a-z]+://|[\w.-]+@[\w.-]+:", text):
        # a path such as . or .. has no name of its own
        text = find(text, directories({"inventory_dir": inventory_directory}))
    last = re.split(r"[/:]", text.rstrip("/"))[-1]
    return safe_name(last.removesuffix(".git"))


def safe_name(text):
    # the rules import this file
    from ansible_collections.flaskhost.flaskhost.roles.app.meta.rules import app_name as rule

    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:MAX_LENGTH].strip("_")
    if rule(name, {}):
        # it is empty, begins with a digit, or belongs to a user or service of the distribution
        name = f"app_{name}".strip("_") if not re.match("[a-z]", name) else f"{name}_app"
    return name if len(name) <= MAX_LENGTH else name[:MAX_LENGTH].strip("_")


def name_of_app(settings):
    """Return the name of a host's app from its inventory variables, or an empty string if neither the name nor the source is set."""
    if settings.get("app_name"):
        return str(settings["app_name"])
    source = settings.get("app_source")
    return source_name(source, str(settings.get("inventory_dir") or "")) if source else ""
