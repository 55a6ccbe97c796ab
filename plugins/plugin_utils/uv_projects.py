"""Find what uv reads in a source besides a lock file's packages: members of a workspace, and local packages named in pyproject.toml."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import requirements

OUTSIDE = (
    "{} is a member of a uv workspace whose pyproject.toml and uv.lock are outside of the app's source. Leave app_directory empty, so that the "
    "whole repository is the source, and set app_requirements to the path of this file."
)


def member_of_workspace(lock, directory):
    """Return the name of the package that a uv.lock has for a directory of its workspace, or an empty string."""
    for package in lock.get("package", []):
        source = package.get("source", {})
        if directory in (source.get("editable"), source.get("virtual"), source.get("directory")):
            return package["name"]
    return ""


def local_paths(project):
    """Yield the paths that a pyproject.toml installs from the source without a lock file. A workspace's packages can be anywhere in it."""
    table, uv = project.get("project", {}), project.get("tool", {}).get("uv", {})
    optional = [line for lines in table.get("optional-dependencies", {}).values() for line in lines]
    groups = [line for lines in project.get("dependency-groups", {}).values() for line in lines if isinstance(line, str)]
    for line in [*table.get("dependencies", []), *optional, *groups]:
        if (path := requirements.local_path(line)) is not None:
            yield path
    for entry in sources(uv):
        if entry.get("workspace"):
            yield "."
        elif "path" in entry:
            yield entry["path"]


def is_outside_of_workspace(project):
    """Return whether a project needs packages of a workspace that it does not contain."""
    uv = project.get("tool", {}).get("uv", {})
    return "workspace" not in uv and any(entry.get("workspace") for entry in sources(uv))


def sources(uv):
    """Return the places of packages in tool.uv.sources. A package can have several, with markers."""
    listed = [entry if isinstance(entry, list) else [entry] for entry in uv.get("sources", {}).values()]
    return [entry for entries in listed for entry in entries]


def linked_directories(uv):
    """Yield the directories of the source in which uv looks for packages. UV is a uv.toml, or the table tool.uv of a pyproject.toml."""
    settings = uv.get("pip", {})
    places = [*uv.get("find-links", []), *settings.get("find-links", [])]
    places += [entry.get("url", "") for entry in uv.get("index", []) if entry.get("format") == "flat"]
    for place in places:
        if not requirements.REMOTE.match(place):
            yield requirements.path_of(place)


def override_lines(uv):
    """Return requirements that replace those of the app or of its dependencies."""
    return [*uv.get("override-dependencies", []), *uv.get("constraint-dependencies", [])]
