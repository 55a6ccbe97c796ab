"""Check the owner's settings of all hosts at once, before any of them is touched.

Types and choices come from the roles' `meta/argument_specs.yml`; what a type can't say is in RULES. Every problem
becomes one line of one message: the variable, its value, what is allowed, and the file to change.

Options: `source` (the name of the variable that holds what app_source found for each host).
"""

import difflib
import glob
import os
import re
import shutil

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives, credentials, urls
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.networks import networks, port_rule
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import procfile
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories

PROJECT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
UNREADABLE = object()
PLACEHOLDER = re.compile(r"\bYOUR_[A-Z_]+\b")
DOMAIN = re.compile(r"(?=.{1,253}$)(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
# with -build, it is the name of a user, which has at most 31 letters
NAME = re.compile(r"[a-z][a-z0-9_]{0,24}")
IDENTIFIERS = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
MODULE = re.compile(rf"{IDENTIFIERS}:{IDENTIFIERS}(\(.*\))?")
IMAGE = re.compile(r"(?!-)[\w.-]+(:\d+)?(/[\w.-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})")
PROCESS_TYPE = re.compile(r"[A-Za-z0-9_-]+")
# users and units of the distributions, which an app of that name would take over
TAKEN = {
    *("root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "backup", "list", "irc", "nobody"),
    *("user", "getty", "ssh", "sshd", "sudo", "systemd", "dbus", "nginx", "postgres", "postgresql", "redis", "valkey", "ubuntu", "debian"),
}
WHY_PASSWORD = ", for one that was made on the host would be lost with the host"
SINGLE = {
    "web": "app_server runs it, with as many workers as that role's own settings say.",
    "release": "it runs once for each release, by app_release_command: procfile.",
}
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        specs = read_specs()
        found, source = {}, self._task.args["source"]
        for host in task_vars["ansible_play_hosts_all"]:
            settings = task_vars["hostvars"][host]
            sources = Sources(settings)
            for problem in check(settings, specs, settings[source]):
                found.setdefault(problem.text(sources), []).append(host)
        if found:
            lines = [f"{text}{whose(hosts, task_vars)}" for text, hosts in found.items()]
            count = "One setting needs" if len(lines) == 1 else f"{len(lines)} settings need"
            result.update(failed=True, msg=f"{count} your attention. No host was touched.\n\n" + "\n".join(lines))
        return result


class Problem:
    """A setting whose value is not allowed."""

    def __init__(self, name, value, allowed):
        self.name, self.value, self.allowed = name, value, allowed

    def text(self, sources):
        return f"- {self.name} {self.shown()}: {self.allowed}\n  Set it in {sources.of(self.name) or sources.best}."

    def shown(self):
        if self.value is None:
            return "is not set"
        if self.value is UNREADABLE:
            return "can't be read"
        # a password in a URL is one, wherever the URL is
        whole = credentials.without_credential if isinstance(self.value, str) else credentials.without_credentials
        return "is wrong" if is_secret(self.name) else f"is {whole(repr(self.value))}"


class UnknownName(Problem):
    """A name that no role knows."""

    def __init__(self, name, near):
        hint = f"Did you mean {near[0]}?" if near else "docs/variables.md has all that there are."
        super().__init__(name, None, f"there is no setting of this name. {hint}")

    def text(self, sources):
        return f"- {self.name}: {self.allowed}\n  It is set in {sources.of(self.name) or 'no file of this inventory; on the command line?'}"


def is_secret(name):
    return "secret" in name or name.endswith("_password")


def whose(hosts, task_vars):
    return "" if len(hosts) == len(task_vars["ansible_play_hosts_all"]) else f" (host {', '.join(hosts)})"


def read_specs():
    """All variables of all roles: name -> its spec."""
    specs = {}
    for path in sorted(glob.glob(f"{PROJECT}/roles/*/meta/argument_specs.yml")):
        with open(path) as handle:
            specs.update(yaml.safe_load(handle)["argument_specs"]["main"]["options"])
    return specs


class Sources:
    """Where a variable is set, or would be: the files of the inventory outrank those of the project."""

    def __init__(self, settings):
        inventory = str(settings.get("inventory_dir") or ".")
        self.best = f"{os.path.relpath(inventory)}/group_vars/app_servers.yml or group_vars/all/app.yml"
        self.files = [
            path
            for folder in (f"{inventory}/host_vars", f"{inventory}/group_vars", f"{PROJECT}/group_vars", inventory)
            for path in sorted(glob.glob(f"{folder}/**/*.y*ml", recursive=True))
        ]

    def of(self, name):
        for path in self.files:
            with open(path, errors="replace") as handle:
                for number, line in enumerate(handle, 1):
                    if re.match(rf"\s*['\"]?{re.escape(name)}['\"]?\s*:", line):
                        return f"{os.path.relpath(path)}, line {number}"
        return None


def check(settings, specs, source):
    names = [name for name in settings if isinstance(name, str)]
    settings, unreadable = read(settings, ["ansible_host", "ansible_user", "inventory_dir", *specs])
    yield from unreadable
    yield from placeholders(settings)
    yield from unknown_names(names, specs)
    specs = {name: spec for name, spec in specs.items() if name not in {problem.name for problem in unreadable}}
    wrong = {name: problem for name, spec in specs.items() if (problem := value_problem(name, spec, settings))}
    yield from wrong.values()
    yield from (problem for problem in source_problems(settings, source) if problem.name not in wrong)


def value_problem(name, spec, settings):
    if name not in settings:
        return Problem(name, None, describe(spec)) if spec.get("required") else None
    value = settings[name]
    if PLACEHOLDER.search(str(value)):
        return None
    allowed = type_problem(value, spec) or (RULES[name](value, settings) if name in RULES else None)
    return Problem(name, value, allowed) if allowed else None


def describe(spec):
    text = spec["description"]
    return (text if isinstance(text, str) else text[0]).rstrip(".") + "."


def read(settings, names):
    """Their values; a template in one, or a vault, may fail to give any."""
    values, problems = {}, []
    for name in names:
        try:
            if name in settings:
                values[name] = settings[name]
                str(values[name])
        except AnsibleError as error:
            values.pop(name, None)
            problems.append(Problem(name, UNREADABLE, f"{error.message.rstrip('.')}."))
    return values, problems


def placeholders(settings):
    for name, value in settings.items():
        found = PLACEHOLDER.search(str(value)) if value is not None else None
        if found:
            yield Problem(name, found[0] if is_secret(name) else value, f"{found[0]} is a placeholder; put your own value in its place.")


def unknown_names(names, specs):
    prefixes = sorted({name.split("_")[0] for name in specs})
    for name in names:
        prefix = name.split("_")[0]
        if name in specs or "_" not in name or prefix not in prefixes:
            continue
        near = difflib.get_close_matches(name, specs, n=1, cutoff=0.8)
        # any name may begin with a role's, but those that begin with app_ are ours
        if prefix == "app" or near:
            yield UnknownName(name, near)


def type_problem(value, spec):
    known = {key: spec[key] for key in ("type", "elements", "choices") if key in spec}
    outcome = ArgumentSpecValidator({"it": known}).validate({"it": value})
    # Ansible would make a list of "a,b" and a dict of "a=1" for a module; a template gets them as they are
    python = {"list": list, "dict": dict}.get(spec["type"], object)
    if isinstance(value, python) and not outcome.error_messages:
        return None
    wanted = f"one of {', '.join(map(str, spec['choices']))}" if "choices" in spec else article(spec)
    return f"it must be {wanted}. {describe(spec)}"


def article(spec):
    words = {
        "str": "a text",
        "int": "a whole number",
        "bool": "true or false",
        "dict": "names with values",
        "path": "a path",
        "float": "a number",
    }
    if spec["type"] == "list":
        return f"a list, each of it {words.get(spec.get('elements', 'str'), spec.get('elements'))}"
    return words[spec["type"]]


def source_problems(settings, source):
    # that it failed is not in there: preflight goes on, to report everything that is wrong
    if "files" not in source:
        text = source.get("msg") or "it could not be read."
        name = text.partition(":")[0] if text.startswith("app_") else "app_source"
        yield Problem(name, settings.get(name), text.removeprefix(f"{name}: "))
        return
    if settings.get("app_runtime") == "container":
        if problem := image_problem(settings, source):
            yield Problem("app_runtime", "container", problem)
    elif not source.get("dependency_file"):
        yield Problem(
            "app_source",
            settings.get("app_source"),
            "it says nowhere what the app depends on. Add a uv.lock, requirements.txt, pyproject.toml or setup.py at its top.",
        )
    if settings.get("app_runtime") == "container":
        # what an image serves, its own command says
        settings = settings | {"app_module": "", "app_server": "container"}
    modules = {path.removeprefix("src/").split("/")[0].removesuffix(".py") for path in source["files"] if path.endswith(".py")}
    wanted = str(settings.get("app_module", "")).split(":")[0].split(".")[0]
    near = difflib.get_close_matches(wanted, modules, n=1, cutoff=0.7)
    if wanted and wanted not in modules and near:
        yield Problem("app_module", settings["app_module"], f"the source has no module '{wanted}'. Did you mean {near[0]}?")
    if isinstance(settings.get("app_processes", {}), dict):
        for name, text in procfile.problems(source.get("procfile"), settings):
            yield Problem(name, settings.get(name), text)
    links, (shared_name, shared), (static_name, served) = source["links"], in_force(settings, "shared"), in_force(settings, "static")
    for problem in archives.shared_problems(shared, source["files"], links):
        yield Problem(shared_name, shared, problem)
    for url, folder in served.items():
        problem = next(archives.static_problems([folder], shared, links), None)
        if not problem and not any(archives.is_within(path, archives.resolve(str(folder), links)[-1]) for path in source["files"]):
            problem = f"the source has no folder '{folder}' with files in it."
        if problem:
            yield Problem(static_name, f"{url}: {folder}", problem)


def image_problem(settings, source):
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


# -- what a type can't say: each rule gives what is allowed, or nothing if the value is right -----------------------


def domains(value, dummy):
    if not value:
        return "name the site's domains, such as [example.com, www.example.com]."
    for name in value:
        if re.fullmatch(r"[\d.]+|[0-9a-f:]+:[0-9a-f:]*", str(name), re.IGNORECASE):
            return f"'{name}' is an address. A certificate needs a name; {re.sub('[.:]', '-', str(name))}.sslip.io is one that needs no DNS of yours."
        if not DOMAIN.fullmatch(str(name)):
            return f"'{name}' is no domain name. Write names such as example.com, without https:// and without a path."
    return None


def health_path(value, dummy):
    return None if str(value).startswith("/") else "it is a path on the site, and begins with /, such as /healthz."


def environment(value, dummy):
    bad = [name for name in value if not ENVIRONMENT_NAME.fullmatch(str(name))]
    if bad:
        return f"'{bad[0]}' can't be the name of an environment variable: letters, digits and underscores only."
    problem = urls.database_problem(str(value["DATABASE_URL"])) if "DATABASE_URL" in value else ""
    return f"DATABASE_URL leads nowhere: {problem}" if problem else None


def container_environment(value, settings):
    """systemd gives the app's environment to podman, which is root's."""
    taken = [name for name in value if re.fullmatch(r"PATH|HOME|TMPDIR|(LD|XDG|CONTAINERS|REGISTRY)_.*", str(name))]
    if taken and settings.get("app_runtime") == "container":
        return f"'{taken[0]}' would change how podman itself runs. Set it in the image (ENV), or take it out."
    return environment(value, settings)


def unit_words(value, dummy):
    """What lands in a unit between quotes."""
    bad = [word for word in value if re.search(r'["\\%$`\x00-\x1f\x7f]', str(word))]
    return (
        f"{bad[0]!r} has a character that a unit of systemd reads in its own way: quotes, \\, %, $, ` and control characters."
        if bad
        else None
    )


def writable(value, dummy):
    bad = [path for path in value if not re.fullmatch(r"(/[\w.@+-]+)+", str(path)) or ".." in str(path).split("/")]
    return f"{bad[0]!r} is not a plain absolute path, such as /mnt/uploads." if bad else None


def static(value, settings):
    for url, folder in value.items():
        if not re.fullmatch(r"(/[\w.-]+)+/", str(url)) or {".", ".."} & {*str(url).split("/")}:
            return f"'{url}' is no URL of a folder; write it with a / at both ends, such as /static/."
        path = archives.normal(folder)
        if path == "." or path.startswith(("/", "../")) or path == ".." or not str(folder).isprintable():
            return f"{str(folder)!r} must be a folder within the source, such as myapp/static."
    return next(archives.static_problems(value.values(), in_force(settings, "shared")[1], {}), None)


def shared(value, dummy):
    for folder in value:
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", str(folder)):
            return f"{str(folder)!r} must be a folder within the source, such as instance."
    return next(archives.shared_problems(value, (), {}), None)


def in_force(settings, name):
    """The role release has the last word: (the setting's name, its value); a value of a wrong type is reported on its own."""
    kind = {"shared": list, "static": dict}[name]
    name = f"release_{name}" if f"release_{name}" in settings else f"app_{name}"
    value = settings.get(name)
    return name, value if isinstance(value, kind) else kind()


def server(value, dummy):
    """A server's role is one that says how to serve (`release_server`)."""
    known = []
    for path in sorted(glob.glob(f"{PROJECT}/roles/*/tasks/main.yml")):
        with open(path) as handle:
            # an image brings its own; app_runtime chooses that
            if "release_server:" in handle.read() and "/container/" not in path:
                known.append(path.split("/")[-3])
    return None if value in known else f"it must be the role of a WSGI server: {', '.join(known)}."


def app_name(value, dummy):
    if not NAME.fullmatch(str(value)):
        return "it must begin with a lower-case letter, and hold only lower-case letters, digits and underscores, at most 25."
    if value in TAKEN:
        return "the host itself has a user or a service of this name. Choose another, such as " + f"{value}_app."
    return None


def processes(value, dummy):
    for kind, count in value.items():
        if kind in ("web", "release"):
            return f"'{kind}' is not counted here: {SINGLE[kind]}"
        if not PROCESS_TYPE.fullmatch(str(kind)):
            return f"'{kind}' is no type of process: letters, digits, - and _ only."
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 64:
            return f"of '{kind}', say how many run: a whole number from 0 to 64."
    return None


def schedule(value, dummy):
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


def services(value, settings):
    given = {}
    for name in "app_env", "app_secrets":
        given |= settings[name] if isinstance(settings.get(name), dict) else {}
    for service, name in ("postgresql", "DATABASE_URL"), ("redis", "REDIS_URL"):
        if service in value and name in given:
            return f"{service} gives the app {name}, which app_env or app_secrets sets too. Take one of the two out."
    kind = str(given.get("DATABASE_URL", "")).partition(":")[0].partition("+")[0]
    if "backup" in value and kind not in ("", "postgres", "postgresql", "sqlite") and settings.get("backup_database_url") != "":
        return f"backup knows PostgreSQL and SQLite, and no {kind}: set backup_database_url to '', and see to that database otherwise."
    return None


def backup_place(value, settings):
    if value and not re.fullmatch(r"https?://[^/\s]+/[^/\s].*", str(value)):
        return "it must be the URL of a bucket, and of a folder in it, such as https://fra1.digitaloceanspaces.com/BUCKET/mysite."
    missing = [name for name in ("backup_s3_access_key", "backup_s3_secret_key", "backup_password") if not settings.get(name)]
    if value and missing:
        return f"it needs {missing[0]} too{WHY_PASSWORD if missing[0] == 'backup_password' else ''}."
    return None


def firewall_rules(value, dummy):
    """As the module on the host will judge them."""
    try:
        for rule in value:
            port_rule(rule)
    except ValueError as error:
        return str(error).partition(": ")[2]
    return None


def addresses(value, settings):
    """As the filter will read them."""
    try:
        list(networks(value, directories(settings)))
    except (ValueError, OSError) as error:
        return str(error)
    return None


def let_in(value, settings):
    """A door that is open to a list only would be shut if the list is empty."""
    name = {"allowed": "ufw_allowed", "proxies": "nginx_trusted_proxies"}.get(value)
    return (
        f"{name} has nobody in it, so nobody would be let in. Name some there, or set this to everyone."
        if name and not settings.get(name)
        else None
    )


def certificate_source(value, settings):
    """What HTTP-01 can't do, and no public CA does."""
    if value != "letsencrypt":
        return None
    names = [str(name).lower() for name in settings.get("tls_domains") or settings.get("app_domains") or []]
    stars = [name for name in names if name.startswith("*.")]
    if stars:
        return f"'{stars[0]}' can't have a certificate in this way, which proves one name after another. Name each, or use provided."
    inner = [
        name
        for name in names
        if "." not in name or name.rpartition(".")[2] in ("example", "internal", "invalid", "local", "localhost", "test")
    ]
    if inner and not settings.get("tls_acme_directory"):
        return f"'{inner[0]}' is no name of the internet, so Let's Encrypt gives no certificate for it. Use self_signed or provided."
    return None


def file_on_controller(value, dummy):
    return None if not value or os.path.isfile(os.path.expanduser(str(value))) else "it must be a file on this controller, or empty."


def port(value, dummy):
    return None if 0 <= int(value) < 65536 else "a port is a number from 1 to 65535 (0 leaves it as it is)."


def needs(condition, text):
    return lambda value, settings: None if condition(value, settings) else text


RULES = {
    "app_name": app_name,
    "app_processes": processes,
    "app_schedule": schedule,
    "app_services": services,
    "backup_folder": needs(
        lambda value, settings: value or settings.get("backup_s3_url"),
        "backups need a place: this one, or backup_s3_url.",
    ),
    "backup_keep_days": needs(
        lambda value, dummy: int(value) > 0, "keep them for a day at least; without backup in app_services there are none."
    ),
    "backup_s3_url": backup_place,
    "postgresql_clients": addresses,
    "postgresql_listen": needs(
        lambda value, settings: not value or (settings.get("postgresql_clients") and settings.get("postgresql_password")),
        "beyond its socket it needs postgresql_clients, for whom that is, and postgresql_password, the app's.",
    ),
    "app_domains": domains,
    "app_module": needs(
        lambda value, dummy: MODULE.fullmatch(str(value)),
        "it must be module:object or module:factory(), such as wsgi:app or mysite:create_app().",
    ),
    "app_health_path": health_path,
    "app_env": container_environment,
    "app_secrets": container_environment,
    "container_options": unit_words,
    "systemd_writable": writable,
    "app_server": server,
    "app_shared": shared,
    "app_static": static,
    "release_shared": shared,
    "release_static": static,
    "app_build_command": needs(
        lambda value, settings: not value or settings.get("app_runtime") != "container",
        "an image is built by its Dockerfile: put it in there as a RUN line.",
    ),
    "app_folder": needs(
        lambda value, dummy: not value or re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", str(value)),
        "it is a folder within the source, such as backend or examples/tutorial, or empty.",
    ),
    "app_image": needs(
        lambda value, settings: not value or (settings.get("app_runtime") == "container" and IMAGE.fullmatch(str(value))),
        "it is REGISTRY/NAME:TAG (or @sha256:…), such as ghcr.io/you/mysite:1.4, and goes with app_runtime: container.",
    ),
    "app_root": needs(lambda value, dummy: re.fullmatch(r"(/[\w.-]+)+", str(value)), "it must be an absolute path, such as /srv/mysite."),
    "ssh_port": port,
    "tls_source": certificate_source,
    "tls_acme_directory": needs(
        lambda value, dummy: re.fullmatch(r"https://\S+", str(value)), "it is the https:// URL of an ACME directory, as the CA gives it."
    ),
    "tls_acme_ca_file": file_on_controller,
    "tls_acme_email": needs(
        lambda value, dummy: not value or re.fullmatch(r"[^@\s,:]+@[^@\s,:]+", str(value)),
        "it must be one address, such as you@example.com, or empty.",
    ),
    "tls_acme_eab_id": needs(
        lambda value, settings: bool(value) == bool(settings.get("tls_acme_eab_secret")),
        "tls_acme_eab_id and tls_acme_eab_secret go together.",
    ),
    "tls_acme_eab_secret": needs(
        lambda value, settings: bool(value) == bool(settings.get("tls_acme_eab_id")), "tls_acme_eab_id and tls_acme_eab_secret go together."
    ),
    "nginx_hsts": needs(
        lambda value, dummy: not value or re.fullmatch(r"max-age=\d+(; includeSubDomains)?(; preload)?", str(value)),
        "it must be the header's value, such as max-age=63072000; includeSubDomains, or empty.",
    ),
    "base_reboot_time": needs(
        lambda value, dummy: re.fullmatch(r"|([01]\d|2[0-3]):[0-5]\d", str(value)),
        'it is a time of the day, such as "04:30" (in quotes, or YAML makes a number of it), or empty.',
    ),
    "nginx_trusted_proxies": addresses,
    "nginx_unlimited": addresses,
    "ufw_allowed": addresses,
    "ufw_blocked": addresses,
    "ufw_rules": firewall_rules,
    "ufw_ssh_from": let_in,
    "ufw_web_from": let_in,
    "tls_certificate_file": needs(
        lambda value, settings: settings.get("tls_source") != "provided" or os.path.isfile(os.path.expanduser(str(value))),
        "with tls_source: provided it must be a file on this controller.",
    ),
    "tls_key_file": needs(
        lambda value, settings: settings.get("tls_source") != "provided" or os.path.isfile(os.path.expanduser(str(value))),
        "with tls_source: provided it must be a file on this controller.",
    ),
}
