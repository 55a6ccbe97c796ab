"""Rules for the files and directories of the source that the app writes to (shared) and that nginx serves (static).

The settings are `app_shared` and `app_static`. `release_shared` and `release_static` of the role release override them.
"""

import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

TYPES = {"shared": list, "static": dict}
SHARED = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


def effective_setting(settings, kind):
    """Return the name and value of the effective setting. A value of the wrong type counts as empty, because it is reported separately."""
    name = f"release_{kind}" if f"release_{kind}" in settings else f"app_{kind}"
    value = settings.get(name)
    return name, value if isinstance(value, TYPES[kind]) else TYPES[kind]()


def shared(value, _settings):
    for path in value:
        if not SHARED.fullmatch(str(path)):
            return f"{str(path)!r} must be a directory or file within the source, such as instance or app.db."
    return next(archives.shared_problems(value, (), {}), None)


def static(value, settings):
    if problem := checks.texts(value, settings):
        return problem
    for url, directory in value.items():
        if not re.fullmatch(r"(/[\w.-]+)+/", str(url)) or {".", ".."} & {*str(url).split("/")}:
            return f"'{url}' is not the URL of a directory. Begin and end it with /, such as /static/."
        path = archives.normal(directory)
        if path == "." or path.startswith(("/", "../")) or path == ".." or not str(directory).isprintable():
            return f"{str(directory)!r} must be a directory within the source, such as myapp/static."
    return next(archives.static_problems(value.values(), effective_setting(settings, "shared")[1], {}), None)


def problems(settings, source):
    """Yield (setting, value, what is allowed) if the source conflicts with a setting or has no files to serve."""
    links = source["links"]
    (shared_name, shared), (static_name, served) = effective_setting(settings, "shared"), effective_setting(settings, "static")
    for problem in archives.shared_problems(shared, source["files"], links):
        yield shared_name, shared, problem
    # the build may create a directory, so release_layout checks it after the build
    builds = settings.get("release_build_command", settings.get("app_build_command"))
    for url, directory in served.items():
        problem = next(archives.static_problems([directory], shared, links), None)
        if not problem and not builds and not has_files(source["files"], archives.resolve(str(directory), links)[-1]):
            problem = f"the source has no directory '{directory}' that contains files. If a build creates it, set app_build_command."
        if problem:
            yield static_name, f"{url}: {directory}", problem


def has_files(files, directory):
    return any(path.startswith(f"{directory}/") for path in files)
