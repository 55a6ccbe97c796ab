"""Rules for the files and directories of the source that the app writes to (shared), that nginx serves (static), and that are added to it.

The settings are `app_shared`, `app_static` and `app_files`. `release_shared` and so on, of the role release, override them.
"""

import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

TYPES = {"shared": list, "static": dict, "files": dict}
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


def files(value, settings):
    if settings.get("app_runtime") == "container" and value:
        return "an image has its own files. Remove this setting, and pass the values in app_secrets."
    if problem := checks.texts(value, settings):
        return problem
    paths = list(value)
    for path in paths:
        if not re.fullmatch(r"[\w.@+-]+(/[\w.@+-]+)*", path) or {".", ".."} & {*path.split("/")}:
            return f"{path!r} must be the path of a file within the source, such as settings.py or config/production.ini."
        if inner := next((other for other in paths if other != path and archives.is_within(other, path)), None):
            return f"'{path}' can't be a file and the directory of '{inner}'. Rename one of the two."
    return next(file_problems(paths, settings, [], {}), None)


def file_problems(paths, settings, members, links):
    """Yield the conflicts of files to add with the source, and with directories that the app writes to or that nginx serves."""
    (shared_name, shared), (static_name, served) = effective_setting(settings, "shared"), effective_setting(settings, "static")
    parents = {parent for member in [*members, *links] for parent in archives.parents(member)}
    known = {*members, *links}
    for path in paths:
        if path in known:
            yield f"the source has the file '{path}' itself. Remove it from the source (git rm --cached), or choose another path."
        elif path in parents:
            yield f"'{path}' is a directory of the source. Choose another path."
        elif found := next((parent for parent in archives.parents(path) if parent in known), None):
            yield f"'{path}' is below '{found}', which is a file or a link of the source. Choose another path."
        for directory in shared:
            if archives.overlap(path, archives.normal(directory)):
                yield f"'{path}' overlaps with '{directory}' in {shared_name}, which outlives releases. Choose another path."
        for directory in served.values():
            if archives.overlap(path, archives.normal(directory)):
                yield f"'{path}' overlaps with '{directory}' in {static_name}, so visitors could read it. Choose another path."


def problems(settings, source):
    """Yield (setting, value, what is allowed) if the source conflicts with a setting or has no files to serve."""
    links = source["links"]
    (shared_name, shared), (static_name, served) = effective_setting(settings, "shared"), effective_setting(settings, "static")
    name, added = effective_setting(settings, "files")
    for problem in file_problems(map(str, added), settings, source["files"], links):
        yield name, added, problem
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
