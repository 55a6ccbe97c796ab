"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

import difflib
import re
import shutil
import unicodedata

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text, urls
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks, names, procfile, python_versions, rules, source_paths
from packaging import requirements

RESERVED_PREFIX = "app_"
RENAMED = {"app_folder": "app_directory"}
DOMAIN = re.compile(r"(?=.{1,253}$)(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
IDENTIFIERS = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
MODULE = re.compile(rf"{IDENTIFIERS}:{IDENTIFIERS}(\(.*\))?")
IMAGE = re.compile(r"(?!-)[\w.-]+(:\d+)?(/[\w.-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})")
# users and units of the distributions: an app with such a name would take them over
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
        "mysql",
        "mariadb",
        "redis",
        "valkey",
        "memcache",
        "memcached",
        "ubuntu",
        "debian",
        # directories of systemd, ufw, podman and Flaskhost in /var/lib
        "private",
        "ufw",
        "containers",
        "flaskhost",
    ),
}
SINGLE = {
    "web": "app_server runs it, and the settings of the server's role set its number of workers. With app_server: procfile, write only a "
    "command: web: { command: python server.py }.",
    "release": "app_release_command: procfile runs it once for each release.",
}

app_directory = checks.matches(
    r"[\w-][\w.-]*(/[\w-][\w.-]*)*",
    "it must be a directory within the source, such as backend or examples/tutorial, or empty.",
    or_empty=True,
)
app_health_path = checks.matches(r"(?s)/.*", "it must be a path on the site that begins with /, such as /healthz.")
app_root = checks.matches(r"(/[\w.-]+)+", "it must be an absolute path, such as /srv/mysite.")
app_shared, app_static, app_files = source_paths.shared, source_paths.static, source_paths.files


def app_name(value, _settings):
    # NAME-build is a user, and the name of a user has at most 31 characters
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,24}", str(value)):
        return "it must begin with a lower-case letter and contain only lower-case letters, digits and underscores, at most 25 characters."
    if value in TAKEN:
        return f"a user or service of the distribution has this name. Choose another name, such as {value}_app."
    return None


def app_domains(value, _settings):
    if not value:
        return "it must list the site's domains, such as [example.com, www.example.com]."
    for name in value:
        if re.fullmatch(r"[\d.]+|[0-9a-f:]+:[0-9a-f:]*", str(name), re.IGNORECASE):
            domain = f"{re.sub('[.:]', '-', str(name))}.sslip.io"
            return f"'{name}' is an IP address, but a certificate needs a domain name. Without DNS of your own, use {domain}."
        if not str(name).isascii() and DOMAIN.fullmatch(ascii_name := _punycode(str(name))):
            return f"'{name}' has letters that DNS, nginx and certificates know in another form only. Write it as {ascii_name}."
        if not DOMAIN.fullmatch(str(name)):
            return f"'{name}' is not a domain name. Write names such as example.com, without https:// and without a path."
    return None


def _punycode(name):
    """Return the ASCII form of an internationalized domain name. Python's own codec follows the older IDNA 2003, which makes ss of ß."""
    labels = re.split("[.。]", unicodedata.normalize("NFKC", name.lower()))
    return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels)


def app_module(value, settings):
    # a Procfile and an image have their own start command
    needed = not _is_container(settings) and settings.get("app_server") != "procfile"
    right = MODULE.fullmatch(str(value)) if value or needed else True
    return None if right else "it must be module:object or module:factory(), such as wsgi:app or mysite:create_app()."


def app_server(value, _settings):
    known = rules.roles_chosen_by("app_server")
    return None if value in known else f"it must be the role of a server: {', '.join(known)}."


def app_env(value, settings):
    if problem := checks.texts(value, settings):
        return problem
    # systemd passes the app's environment to podman, which runs as root
    taken = [name for name in value if re.fullmatch(r"PATH|HOME|TMPDIR|(LD|XDG|CONTAINERS|REGISTRY)_.*", str(name))]
    if taken and settings.get("app_runtime") == "container":
        return f"'{taken[0]}' would change how podman itself runs. Remove it, or set it in the image (ENV)."
    bad = [name for name in value if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(name))]
    if bad:
        return (
            f"'{bad[0]}' is not a valid environment variable name. Use only letters, digits and underscores, and don't begin with a digit."
        )
    problem = urls.database_problem(str(value["DATABASE_URL"])) if "DATABASE_URL" in value else ""
    return f"DATABASE_URL is invalid: {problem}" if problem else None


app_secrets = app_env


def app_build_secrets(value, _settings):
    for name, secret in value.items():
        is_host = re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", str(name))
        if not is_host and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(name)):
            return f"'{name}' is neither a host name, such as github.com, nor the name of an environment variable."
        # the file .netrc, from which uv and git read it, separates words by spaces
        if is_host and not re.fullmatch(r"[^\s:\"'#\\]+:[^\s\"'#\\]+", str(secret)):
            return f"the value for {name} must be USER:PASSWORD, without spaces, quotes, # and \\. For a token, use the user name that its server expects."
        if not is_host and (not isinstance(secret, str) or not secret.isprintable()):
            return f"the value of {name} must be a string on one line. Put it in quotes."
        if name in ("PATH", "HOME", "SCRIPT", "VIRTUAL_ENV", "LANG") or re.match(r"(LD|PYTHON)_?", str(name)):
            return f"'{name}' would change how the build itself runs. Remove it."
    return None


app_python = checks.matches(
    python_versions.VERSION.pattern,
    f"it must be a version of Python, such as '3.14', in quotes. Use {python_versions.OFFERED}.",
    or_empty=True,
)


def app_overrides(value, _settings):
    for requirement in value:
        try:
            requirements.Requirement(str(requirement))
        except requirements.InvalidRequirement:
            return f"'{requirement}' is not a requirement. Write it as in a requirements file, such as sqlalchemy>=2."
    return None


def app_requirements(value, _settings):
    right = re.fullmatch(r"(?!/)[^\x00-\x1f\\]*", str(value)) and ".." not in str(value).split("/")
    return None if right else "it must be the path of a file in the source, such as requirements/prod.txt."


def app_build_command(value, settings):
    return (
        "with app_runtime: container, write the command into the Dockerfile as a RUN line." if value and _is_container(settings) else None
    )


def app_image(value, settings):
    right = not value or (_is_container(settings) and IMAGE.fullmatch(str(value)))
    return (
        None if right else "it must be REGISTRY/NAME:TAG (or @sha256:…), such as ghcr.io/you/mysite:1.4, and app_runtime must be container."
    )


def app_processes(value, settings):
    for kind, entry in value.items():
        is_web_command = kind == "web" and isinstance(entry, dict) and [*entry] == ["command"]
        if kind in SINGLE and not is_web_command:
            return f"'{kind}' is not a worker process: {SINGLE[kind]}"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(kind)) or not isinstance(kind, str):
            return f"'{kind}' is not a valid process type. Use only letters, digits, - and _."
        if isinstance(entry, dict) and (problem := _process_problem(kind, entry)):
            return problem
        if is_web_command:
            if settings.get("app_server", "procfile") != "procfile" or _is_container(settings):
                return "the command of 'web' replaces app_server. Remove one of the two settings."
            continue
        count = procfile.counts({kind: entry})[kind]
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 64:
            hint = f" If '{entry}' is the command, write {kind}: {{ command: {entry} }}." if isinstance(entry, str) else ""
            return f"the number of '{kind}' processes must be a whole number from 0 to 64.{hint}"
    return None


def _process_problem(kind, entry):
    unknown = [key for key in entry if key not in ("command", "count")]
    if unknown or not entry:
        return f"'{kind}' must have a command, a count or both, such as {kind}: {{ command: celery -A app worker, count: 2 }}."
    if "command" not in entry:
        return None
    command = entry["command"]
    if problem := checks.texts({"command": command}, None):
        return f"{kind}: {problem}"
    if not command.strip() or text.FORBIDDEN_IN_LINE.search(command):
        return f"the command of '{kind}' must be one line without control characters."
    if problem := procfile.shell_problem(command):
        return f"the command of '{kind}' is not valid shell syntax: {problem}."
    return None


def app_schedule(value, _settings):
    names = [entry.get("name") for entry in value]
    for job in value:
        entry = {name: text for name, text in job.items() if name != "on_each_host"}
        if problem := checks.texts(entry, None):
            return problem
        if {*entry} != {"name", "command", "at"} or not all(map(str.strip, entry.values())):
            return f"each job must have a name, a command and at, all of them non-empty strings. Check {entry.get('name') or entry}."
        if not isinstance(job.get("on_each_host", False), bool):
            return f"on_each_host of the job '{entry['name']}' must be true or false."
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", entry["name"]):
            return (
                f"'{entry['name']}' is not a valid name. Begin with a lower-case letter, and use only lower-case letters, digits, - and _."
            )
        if names.count(entry["name"]) > 1:
            return f"two jobs have the name '{entry['name']}'. Names must be unique."
        if problem := procfile.shell_problem(entry["command"]):
            return f"the command of '{entry['name']}' is not valid shell syntax: {problem}."
    return None


def app_services(value, settings):
    known = rules.roles_chosen_by("app_services")
    unknown = [name for name in value if name not in known]
    if unknown:
        return f"'{unknown[0]}' is not a service. Choose from {', '.join(known)}."
    names = [(service, name) for service in value for name in rules.service_environment(service)]
    for number, (service, name) in enumerate(names):
        if other := next((other for other, same in names[:number] if same == name and other != service), None):
            return f"{other} and {service} both set {name} for the app. Choose one of the two."
    given = {}
    for name in "app_env", "app_secrets":
        given |= settings[name] if isinstance(settings.get(name), dict) else {}
    twice = [(service, name) for service, name in names if name in given]
    if not twice:
        return None
    service, name = twice[0]
    options = {option for role in rules.read_roles() for option in role.options}
    instead = f", or set {service}_url, which {service} passes to the app" if f"{service}_url" in options else ""
    return f"{service} sets {name} for the app, but app_env or app_secrets sets it too. Remove one of the two{instead}."


def combined(settings):
    """Problems between settings, and problems of the source if preflight has read it."""
    source = settings.get("app_source_found")
    if source is None:
        return
    # preflight sets failed_when: false to report all problems at once, so a missing key is the only sign of a failure
    if "files" not in source:
        message = source.get("msg") or "it could not be read."
        name = message.partition(":")[0] if message.startswith("app_") else "app_source"
        yield name, settings.get(name), message.removeprefix(f"{name}: ")
        return
    detected = source.get("detected") or {}
    if "app_module" not in settings and (problem := detected["problem"] if detected else app_module("", settings)):
        yield "app_module", None, problem
    settings = {f"app_{name}": value for name, value in detected.items()} | settings
    if _is_container(settings):
        if problem := _image_problem(settings, source):
            yield "app_runtime", "container", problem
        # the image's own command starts the server
        settings = settings | {"app_module": "", "app_server": "container"}
    else:
        yield from _dependency_problems(settings, source.get("dependencies") or {})
    yield from _module_problems(settings, source)
    if isinstance(settings.get("app_processes", {}), dict):
        for name, problem in procfile.problems(source.get("procfile"), settings):
            yield name, settings.get(name), problem
    yield from source_paths.problems(settings, source)


def between_hosts(hosts):
    """Apps with the same name are the same app: its release command runs on the first of its hosts only, and they share its directories."""
    first = {}
    for host, settings in hosts.items():
        name, source = names.name_of_app(settings), (str(settings.get("app_source")), str(settings.get("app_directory", "")))
        other, other_source = first.setdefault(name, (host, source))
        if name and source != other_source and not ("app_name" in settings and "app_name" in hosts[other]):
            yield host, "app_name", name, f"the app of host {other} has the same name, but another source. Set app_name for one of the two."


def _is_container(settings):
    return settings.get("app_runtime") == "container"


def _image_problem(settings, source):
    if settings.get("app_image"):
        return None
    file = settings.get("container_file", "Dockerfile")
    if file not in source["files"]:
        return f"the source has no {file} to build the image from. Add one, or set app_image to an image to pull."
    return (
        None
        if shutil.which("podman")
        else "podman, which builds the image, is not installed on this controller. Install it, or set app_image to an image to pull."
    )


def _dependency_problems(settings, dependencies):
    for name, value, problem in dependencies.get("problems", []):
        yield name, settings.get(name) if value is None else value, problem
    yield from python_versions.problems(str(settings.get("app_python") or ""), dependencies.get("python") or {})


def _module_problems(settings, source):
    modules = {path.removeprefix("src/").split("/")[0].removesuffix(".py") for path in source["files"] if path.endswith(".py")}
    wanted = str(settings.get("app_module", "")).partition(":")[0].partition(".")[0]
    near = difflib.get_close_matches(wanted, modules, n=1, cutoff=0.7)
    if wanted and wanted not in modules and near:
        yield "app_module", settings["app_module"], f"the source has no module '{wanted}'. Did you mean {near[0]}?"
