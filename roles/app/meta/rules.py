"""The rules of the app's settings: what the types in argument_specs.yml can't express; plugin_utils/rules.py explains it."""

import difflib
import re
import shutil

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import urls
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks, procfile, rules, source_directories

RESERVED_PREFIX = "app_"
DOMAIN = re.compile(r"(?=.{1,253}$)(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
IDENTIFIERS = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
MODULE = re.compile(rf"{IDENTIFIERS}:{IDENTIFIERS}(\(.*\))?")
IMAGE = re.compile(r"(?!-)[\w.-]+(:\d+)?(/[\w.-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})")
# users and units of the distributions, which an app of that name would take over
TAKEN = {
    *("root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "backup", "list", "irc", "nobody"),
    *(
        "user",
        "getty",
        "ssh",
        "sshd",
        "sudo",
        "systemd",
        "dbus",
        "nginx",
        "postgres",
        "postgresql",
        "redis",
        "valkey",
        "memcache",
        "memcached",
        "ubuntu",
        "debian",
    ),
}
SINGLE = {
    "web": "app_server runs it, with as many workers as that role's own settings say.",
    "release": "it runs once for each release, by app_release_command: procfile.",
}

app_folder = checks.matches(
    r"[\w-][\w.-]*(/[\w-][\w.-]*)*", "it is a folder within the source, such as backend or examples/tutorial, or empty.", or_empty=True
)
app_health_path = checks.matches(r"(?s)/.*", "it is a path on the site, and begins with /, such as /healthz.")
app_root = checks.matches(r"(/[\w.-]+)+", "it must be an absolute path, such as /srv/mysite.")
app_shared, app_static = source_directories.shared, source_directories.static


def app_name(value, _settings):
    # with -build, it is the name of a user, which has at most 31 letters
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,24}", str(value)):
        return "it must begin with a lower-case letter, and hold only lower-case letters, digits and underscores, at most 25."
    if value in TAKEN:
        return f"the host itself has a user or a service of this name. Choose another, such as {value}_app."
    return None


def app_domains(value, _settings):
    if not value:
        return "name the site's domains, such as [example.com, www.example.com]."
    for name in value:
        if re.fullmatch(r"[\d.]+|[0-9a-f:]+:[0-9a-f:]*", str(name), re.IGNORECASE):
            return f"'{name}' is an address. A certificate needs a name; {re.sub('[.:]', '-', str(name))}.sslip.io is one that needs no DNS of yours."
        if not DOMAIN.fullmatch(str(name)):
            return f"'{name}' is no domain name. Write names such as example.com, without https:// and without a path."
    return None


def app_module(value, settings):
    # the Procfile, or the image, says it in its own way
    needed = not _is_container(settings) and settings.get("app_server") != "procfile"
    right = MODULE.fullmatch(str(value)) if value or needed else True
    return None if right else "it must be module:object or module:factory(), such as wsgi:app or mysite:create_app()."


def app_server(value, _settings):
    known = rules.roles_chosen_by("app_server")
    return None if value in known else f"it must be the role of a WSGI server: {', '.join(known)}."


def app_env(value, settings):
    # systemd gives the app's environment to podman, which is root's
    taken = [name for name in value if re.fullmatch(r"PATH|HOME|TMPDIR|(LD|XDG|CONTAINERS|REGISTRY)_.*", str(name))]
    if taken and settings.get("app_runtime") == "container":
        return f"'{taken[0]}' would change how podman itself runs. Set it in the image (ENV), or take it out."
    bad = [name for name in value if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(name))]
    if bad:
        return f"'{bad[0]}' can't be the name of an environment variable: letters, digits and underscores only."
    problem = urls.database_problem(str(value["DATABASE_URL"])) if "DATABASE_URL" in value else ""
    return f"DATABASE_URL leads nowhere: {problem}" if problem else None


app_secrets = app_env


def app_build_command(value, settings):
    return "an image is built by its Dockerfile: put it in there as a RUN line." if value and _is_container(settings) else None


def app_image(value, settings):
    right = not value or (_is_container(settings) and IMAGE.fullmatch(str(value)))
    return (
        None if right else "it is REGISTRY/NAME:TAG (or @sha256:…), such as ghcr.io/you/mysite:1.4, and goes with app_runtime: container."
    )


def app_processes(value, _settings):
    for kind, count in value.items():
        if kind in SINGLE:
            return f"'{kind}' is not counted here: {SINGLE[kind]}"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(kind)):
            return f"'{kind}' is no type of process: letters, digits, - and _ only."
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 64:
            return f"of '{kind}', say how many run: a whole number from 0 to 64."
    return None


def app_schedule(value, _settings):
    names = [entry.get("name") for entry in value]
    for entry in value:
        if {*entry} != {"name", "command", "at"} or not all(isinstance(text, str) and text.strip() for text in entry.values()):
            return f"each needs a name, a command, and at (when), all of them texts. See {entry.get('name') or entry}."
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", entry["name"]):
            return f"'{entry['name']}' can't be a name: lower-case letters, digits, - and _ only."
        if names.count(entry["name"]) > 1:
            return f"two have the name '{entry['name']}'."
        if problem := procfile.shell_problem(entry["command"]):
            return f"the command of '{entry['name']}' is none that a shell understands: {problem}."
    return None


def app_services(value, settings):
    known = rules.roles_chosen_by("app_services")
    unknown = [name for name in value if name not in known]
    if unknown:
        return f"{unknown[0]} is no role of a service; there are {', '.join(known)}."
    given = {}
    for name in "app_env", "app_secrets":
        given |= settings[name] if isinstance(settings.get(name), dict) else {}
    twice = [(service, name) for service in value for name in rules.service_environment(service) if name in given]
    return "{} gives the app {}, which app_env or app_secrets sets too. Take one of the two out.".format(*twice[0]) if twice else None


def combined(settings):
    """Problems of several settings together, and of the source, if app_source was asked before."""
    if "app_module" not in settings and (problem := app_module("", settings)):
        yield "app_module", None, problem
    source = settings.get("preflight_source")
    if source is None:
        return
    # that it failed is not in there: preflight goes on, to report everything that is wrong
    if "files" not in source:
        text = source.get("msg") or "it could not be read."
        name = text.partition(":")[0] if text.startswith("app_") else "app_source"
        yield name, settings.get(name), text.removeprefix(f"{name}: ")
        return
    if _is_container(settings):
        if problem := _image_problem(settings, source):
            yield "app_runtime", "container", problem
        # what an image serves, its own command says
        settings = settings | {"app_module": "", "app_server": "container"}
    elif not source.get("dependency_file"):
        yield (
            "app_source",
            settings.get("app_source"),
            "it says nowhere what the app depends on. Add a uv.lock, requirements.txt, pyproject.toml or setup.py at its top.",
        )
    yield from _module_problems(settings, source)
    if isinstance(settings.get("app_processes", {}), dict):
        for name, text in procfile.problems(source.get("procfile"), settings):
            yield name, settings.get(name), text
    yield from source_directories.problems(settings, source)


def _is_container(settings):
    return settings.get("app_runtime") == "container"


def _image_problem(settings, source):
    if settings.get("app_image"):
        return None
    file = settings.get("container_file", "Dockerfile")
    if file not in source["files"]:
        return f"the source has no {file} to build an image of. Add one, or name an image to pull in app_image."
    return (
        None
        if shutil.which("podman")
        else "podman, which builds the image, is not installed on this controller. Install it, or name one to pull in app_image."
    )


def _module_problems(settings, source):
    modules = {path.removeprefix("src/").split("/")[0].removesuffix(".py") for path in source["files"] if path.endswith(".py")}
    wanted = str(settings.get("app_module", "")).partition(":")[0].partition(".")[0]
    near = difflib.get_close_matches(wanted, modules, n=1, cutoff=0.7)
    if wanted and wanted not in modules and near:
        yield "app_module", settings["app_module"], f"the source has no module '{wanted}'. Did you mean {near[0]}?"
