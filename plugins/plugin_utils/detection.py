"""Detect the settings of an app from its source: what `flask run` and other platforms would find, without importing the app.

`detect` reads the archive that is released, never the working directory. It returns a value only if the source states it; a value that the
operator sets always takes precedence, because the detected values are only the defaults of the role app.
"""

import posixpath
import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text as texts
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import procfile, source_paths
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.detection_flask import SHOWN, Finder
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.detection_state import shared_paths
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.modules_of_source import TooComplex, read_modules
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.start_commands import (
    MODULE,
    NAME,
    app_of_command,
    flask_app,
    has_own_workers,
)

PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
MAX_NAME, MAX_PROBLEM = 200, 2000
MAX_TEXT_BYTES = 4 * 2**20
DEPENDENCY_FILE = re.compile(
    r"(?:requirements[^/]*/)?[\w.-]+\.(?:txt|in)|pyproject\.toml|setup\.(?:py|cfg)|Pipfile|[\w.]+\.lock|[\w.]*pylock[\w.]*\.toml"
)
SERVICES = {
    "postgresql": ("psycopg", "psycopg2", "psycopg2-binary", "asyncpg", "pg8000"),
    "mariadb": ("pymysql", "mysqlclient", "mysql-connector-python", "mariadb", "aiomysql", "asyncmy"),
    "redis": ("redis", "rq", "flask-redis"),
    "memcached": ("pymemcache", "pylibmc", "python-memcached"),
}
LOOKED_FOR = (
    "the web line of the Procfile, FLASK_APP in .flaskenv and .env, wsgi.py, app.py, asgi.py, and other modules with `app`, `application`, "
    "a single Flask object, or create_app or make_app without required arguments"
)

INSIDE_PACKAGE = "The source is itself a package, because it has an __init__.py: set app_source to the directory that contains the package."


class Archive:
    """Read files of the source's archive, through links that stay inside it."""

    def __init__(self, tar, members):
        self.tar, self.members, self.links = tar, {member.name: member for member in members}, archives.links_of(members)
        self.files = [name for name in self.members if self.member(name)]

    def member(self, name):
        try:
            found = self.members.get(archives.resolve(name, self.links)[-1])
        except (archives.Outside, archives.LinkLoop):
            return None
        return found if found and found.isfile() else None

    def size(self, name):
        return self.member(name).size

    def read_bytes(self, name):
        return self.tar.extractfile(self.member(name)).read()

    def read(self, name):
        """Return a file's text, or an empty string if it is missing or too large to be written by a person."""
        member = self.member(name)
        return self.read_bytes(name).decode(errors="replace") if member and member.size <= MAX_TEXT_BYTES else ""

    def has_files(self, directory):
        return any(archives.is_within(name, directory) for name in self.files)


def detect(tar, members, settings):
    """Return the detected settings by name without app_, where each was found (`found_in`), and a `problem` if there is no app.

    SETTINGS has the operator's settings. Only app_env, app_module, app_processes, app_server, app_runtime and app_shared have an influence.
    """
    if settings.get("app_runtime") == "container":
        # the image defines all of it
        return {"found_in": {}, "hints": [], "problem": ""}
    try:
        return Detection(Archive(tar, members), settings).result()
    except (RecursionError, TooComplex):
        return {"found_in": {}, "hints": [], "problem": "the source is too complex to find its app."}


class Detection:
    def __init__(self, archive, settings):
        self.archive, self.settings, self.found_in = archive, settings, {}
        self.dependencies = self.read_dependencies()
        self.commands = self.read_procfile()
        self.finder = Finder(read_modules(archive, self.roots()))
        self.modules = self.finder.modules
        self.shared = settings["app_shared"] if isinstance(settings.get("app_shared"), list) else self.find_shared()

    def result(self):
        candidates, problem = self.candidates()
        app = candidates[0].app if len(candidates) == 1 else None
        found = {"module": candidates[0].text} if app and not self.settings.get("app_module") else {}
        if app:
            found["server"] = "uvicorn" if self.is_asgi(app) else "gunicorn"
            found["static"] = self.static(app)
            found["health_path"] = self.finder.health(app) or "/"
        is_chosen = self.settings.get("app_server") not in (None, "", "procfile")
        is_set = "web" in self.own_commands()
        if is_set or (not is_chosen and "web" in self.commands and (has_own_workers(self.commands["web"]) or (problem and not candidates))):
            found |= {"server": "procfile"}
            self.found_in["server"], problem = "app_processes" if is_set else "Procfile", ""
            found.pop("module", None)
        if self.settings.get("app_server") == "procfile":
            found.pop("module", None)
            problem = ""
        found["shared"] = self.shared
        found["release_command"] = self.release_command(candidates[0] if app else None)
        return {
            **{name: value for name, value in found.items() if value},
            "found_in": self.found_in,
            "hints": self.hints(),
            "problem": texts.one_line(problem, MAX_PROBLEM),
        }

    # -- the app

    def candidates(self):
        """Return the candidates for app_module, and the problem unless there is exactly one."""
        given = str(self.settings.get("app_module") or "")
        if given:
            found = self.finder.from_name(given) if MODULE.fullmatch(given) else None
            return ([found] if found else []), ""
        for place, name in self.named():
            candidate = self.usable(self.finder.from_name(name)) if name else None
            if candidate:
                self.found_in["module"] = place
                return [candidate], ""
        found = [candidate for candidate in self.finder.find(self.preferred()) if self.usable(candidate)]
        if len(found) == 1:
            self.found_in["module"] = self.modules.paths[found[0].module]
            return found, ""
        if found:
            listed = [f"{candidate.text} ({self.modules.paths[candidate.module]})" for candidate in found]
            more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
            return found, f"the source has several apps: {', '.join(listed[:SHOWN])}{more}. Choose one."
        unread = [f"{path} cannot be parsed ({problem})." for path, problem in self.modules.problems.items()]
        inside = [INSIDE_PACKAGE] if "__init__.py" in self.archive.files else []
        notes = list(dict.fromkeys([*inside, *self.finder.notes, *unread]))[:SHOWN]
        return [], " ".join([f"no app was found in the source (looked for {LOOKED_FOR}).", *notes, "Set it to module:object."])

    def usable(self, candidate):
        """Return the candidate if its name is safe and its modules can import each other."""
        if not candidate or len(candidate.text) > MAX_NAME or not MODULE.fullmatch(candidate.text):
            return None
        top = candidate.module.partition(".")[0]
        if name := self.import_from(top):
            self.finder.notes.append(
                f"{candidate.text} imports {name} from {top}/, which is not on Python's path: set app_env: {{ PYTHONPATH: {top} }}, or "
                f"app_directory: {top} if the dependencies are listed there, or make the project installable ([build-system] in pyproject.toml)."
            )
            return None
        return candidate

    def import_from(self, directory):
        """Return a module that others import as if this directory, which is no package, were on Python's path."""
        if directory in self.modules.facts:
            return ""
        inside = {name.split(".")[1] for name in self.modules.facts if name.startswith(f"{directory}.")}
        for name, facts in self.modules.facts.items():
            for target, _name, level in facts["imports"].values() if name.startswith(f"{directory}.") else ():
                first = target.partition(".")[0]
                if not level and first in inside and not self.modules.has(first):
                    return first
        return ""

    def named(self):
        """Yield where the source names its app, and the name."""
        if "web" in self.commands:
            name, is_flask = app_of_command(self.commands["web"], self.modules.facts)
            yield "Procfile", self.app_of_flask(name) if is_flask else name
        # python-dotenv keeps the first value that it finds
        for file in ".env", ".flaskenv":
            found = re.findall(r"^[ \t]*(?:export[ \t]+)?FLASK_APP[ \t]*=[ \t]*(.+)$", self.archive.read(file), re.MULTILINE)
            if found:
                quoted = re.match(r"(['\"])(.*)\1", found[-1])
                yield file, self.app_of_flask(quoted[2] if quoted else found[-1].partition(" #")[0].strip())

    def app_of_flask(self, text):
        """Return module:object for a value of FLASK_APP or --app, which can also be a file."""
        path, _colon, name = text.partition(":")
        if "/" in path or path.endswith(".py"):
            path = posixpath.normpath(path)
            file = next((one for one in (path, f"{path}.py", f"{path}/__init__.py") if one in self.archive.files), "")
            path = next((module for module, one in self.modules.paths.items() if one == file), "")
        return f"{path}:{name}" if path and name else path

    def is_asgi(self, app):
        if app.constructor[0] == "connexion":
            # connexion is an ASGI framework since version 3
            return not re.search(
                r"(?im)^\s*\"?connexion[^\n]*(<=?\s*3|==\s*2|~=\s*2|\^2)|name = \"connexion\"\nversion = \"2", self.dependencies
            )
        return app.asgi

    def preferred(self):
        """Return the packages that the project's scripts and its name refer to."""
        text = self.archive.read("pyproject.toml")
        scripts = re.findall(r"^\[(?:project|tool\.poetry)\.(?:gui-)?scripts\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
        named = re.findall(rf"=\s*['\"]({NAME})", "\n".join(scripts))
        name = re.search(r"^\[(?:project|tool\.poetry)\]\n(?:[^\[].*\n|\n)*?name\s*=\s*['\"]([\w.-]+)", text, re.MULTILINE)
        return {one.partition(".")[0] for one in named} or ({re.sub(r"[.-]", "_", name[1]).lower()} if name else set())

    # -- what belongs to it

    def find_shared(self):
        """Return the files and directories of the source to which the app writes."""
        plain = {name: member for name, member in self.archive.members.items() if member.isfile()}
        sizes = {name: member.size for name, member in plain.items()}
        return shared_paths(sizes, self.archive.links, lambda name, size: self.archive.tar.extractfile(plain[name]).read(size))

    def static(self, app):
        """Return {URL: directory} for the app's static files if nginx can serve them."""
        found = self.finder.static(app)
        if not found:
            return {}
        url, directory = found[0], posixpath.normpath(found[1])
        value = {url: directory}
        if not PATH.fullmatch(directory) or source_paths.static(value, {"app_shared": self.shared}):
            return {}
        if next(archives.static_problems([directory], self.shared, self.archive.links), None):
            return {}
        return value if self.archive.has_files(archives.resolve(directory, self.archive.links)[-1]) else {}

    def release_command(self, candidate):
        """Return the command that migrates the database."""
        if "release" in self.commands and not procfile.shell_problem(self.commands["release"]):
            self.found_in["release_command"] = "Procfile"
            return "procfile"
        given = str(self.settings.get("app_module") or "")
        module = given if MODULE.fullmatch(given) else candidate.text if candidate else ""
        if module and self.depends_on("flask-migrate") and PATH.fullmatch(directory := self.migrations()):
            self.found_in["release_command"] = f"{directory}/"
            # Flask before 2.2 has no option --app
            return f"FLASK_APP={flask_app(module)} flask db upgrade"
        if self.depends_on("alembic") and not self.depends_on("flask-migrate"):
            script = re.search(r"^script_location\s*=\s*(?:%\(here\)s/)?(\S+)", self.archive.read("alembic.ini"), re.MULTILINE)
            if script and posixpath.normpath(f"{script[1]}/env.py") in self.archive.files:
                self.found_in["release_command"] = "alembic.ini"
                # with -m, Python finds the app's modules, which migrations import, also without prepend_sys_path in alembic.ini
                return "python -m alembic upgrade head"
        return ""

    def migrations(self):
        """Return the directory of Flask-Migrate's scripts, if `flask db` will use it."""
        given = [directory for facts in self.modules.facts.values() for directory in facts["migrate"]]
        found = [name.removesuffix("/env.py") for name in self.archive.files if re.fullmatch(r"(.*/)?migrations/env\.py", name)]
        constant = [posixpath.normpath(directory) for directory in given if directory]
        if constant:
            return constant[0] if f"{constant[0]}/env.py" in self.archive.files else ""
        if False in given:
            # the directory is an expression
            return found[0] if len(found) == 1 else ""
        return "migrations" if "migrations" in found else ""

    def hints(self):
        """Return what the operator may want to set, in words."""
        found = []
        if any(facts["reads_secret_key"] for facts in self.modules.facts.values()):
            found.append(["secret", "the app reads SECRET_KEY from its environment: app_secrets sets it (in a clone: make secrets)."])
        for service, packages in SERVICES.items():
            used = next((package for package in packages if self.depends_on(package)), "")
            if used:
                found.append([service, f"{used} is among the dependencies: app_services: [{service}] provides it on the host."])
        workers = [kind for kind in self.commands if kind not in ("web", "release")]
        if workers:
            kinds = ", ".join(f"{kind}: 1" for kind in workers[:SHOWN])
            found.append(["processes", f"the Procfile has more processes: app_processes: {{{kinds}}} starts them."])
        return found

    # -- files

    def read_procfile(self):
        try:
            return procfile.commands(self.archive.read("Procfile"))
        except procfile.ProcfileError:
            return {}  # its rule reports it if a setting uses the Procfile

    def own_commands(self):
        processes = self.settings.get("app_processes")
        return procfile.own_commands(processes) if isinstance(processes, dict) else {}

    def read_dependencies(self):
        names = [name for name in self.archive.files if DEPENDENCY_FILE.fullmatch(name)][:50]
        return "\n".join(re.sub(r"#.*", "", self.archive.read(name)) for name in sorted(names))

    def depends_on(self, package):
        pattern = re.escape(package).replace(r"\-", "[-_.]")
        return bool(re.search(rf"(?im)(?<![\w./-]){pattern}(?![\w-])", self.dependencies))

    def roots(self):
        """Return the directories of the source that are on Python's path, besides its top."""
        environment = self.settings.get("app_env")
        paths = str(environment.get("PYTHONPATH") or "").split(":") if isinstance(environment, dict) else []
        return [*(posixpath.normpath(path) for path in paths if path), *(["src"] if self.src_is_installed() else [])]

    def src_is_installed(self):
        """Return whether the environment will contain the project itself, so that modules in src/ are on Python's path."""
        if not any(name.startswith("src/") for name in self.archive.files):
            return False
        project = self.archive.read("pyproject.toml")
        is_package = ("[build-system]" in project or "setup.py" in self.archive.files) and not re.search(
            r"(?m)^package(-mode)?\s*=\s*false", project
        )
        if "uv.lock" in self.archive.files or "requirements.txt" not in self.archive.files:
            return is_package
        return is_package and bool(re.search(r"(?m)^\s*(?:-e\s*|--editable[ =])?\.(?:/|\[|\s|$)", self.archive.read("requirements.txt")))
