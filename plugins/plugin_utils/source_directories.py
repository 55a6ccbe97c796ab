"""Rules for the directories of the source that the app writes to (shared) and that nginx serves (static).

The app names them (`app_shared`, `app_static`), and the role release has the last word (`release_shared`, `release_static`).
"""

import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives

TYPES = {"shared": list, "static": dict}


def in_force(settings, kind):
    """Return the name of the setting that counts, and its value; a value of a wrong type is reported on its own."""
    name = f"release_{kind}" if f"release_{kind}" in settings else f"app_{kind}"
    value = settings.get(name)
    return name, value if isinstance(value, TYPES[kind]) else TYPES[kind]()


def shared(value, _settings):
    for directory in value:
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", str(directory)):
            return f"{str(directory)!r} must be a folder within the source, such as instance."
    return next(archives.shared_problems(value, (), {}), None)


def static(value, settings):
    for url, directory in value.items():
        if not re.fullmatch(r"(/[\w.-]+)+/", str(url)) or {".", ".."} & {*str(url).split("/")}:
            return f"'{url}' is no URL of a folder; write it with a / at both ends, such as /static/."
        path = archives.normal(directory)
        if path == "." or path.startswith(("/", "../")) or path == ".." or not str(directory).isprintable():
            return f"{str(directory)!r} must be a folder within the source, such as myapp/static."
    return next(archives.static_problems(value.values(), in_force(settings, "shared")[1], {}), None)


def problems(settings, source):
    """Yield (setting, value, what is allowed) where the source has files or links in the way, or no files to serve."""
    links, (shared_name, shared), (static_name, served) = source["links"], in_force(settings, "shared"), in_force(settings, "static")
    for problem in archives.shared_problems(shared, source["files"], links):
        yield shared_name, shared, problem
    for url, directory in served.items():
        problem = next(archives.static_problems([directory], shared, links), None)
        if not problem and not any(archives.is_within(path, archives.resolve(str(directory), links)[-1]) for path in source["files"]):
            problem = f"the source has no folder '{directory}' with files in it."
        if problem:
            yield static_name, f"{url}: {directory}", problem
