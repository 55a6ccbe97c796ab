"""Find out what an app's venv is built from: the dependency file of its source, everything that this file refers to, and its Python.

The digest covers every input in the source. If a part of the source is installed, the whole version is an input, because a build may read any
file. An archive (wheel) in the source is only read, so its own content is the input.
"""

import fnmatch
import hashlib
import json
import os
import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import credentials
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text as texts
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import locks, python_versions, requirements, uv_projects
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.text_files import TextFiles
from packaging.utils import canonicalize_name

# The first of these files that the source contains is used. A lock file comes before the file that it was made from.
DEPENDENCY_FILES = (
    *("uv.lock", "poetry.lock", "pylock.toml", "Pipfile.lock", "requirements.txt", "Pipfile", "pyproject.toml", "setup.py", "setup.cfg"),
)
# Usual places of requirements for production. One of them is used if it is the only one.
PRODUCTION = ("requirements/{}.txt", "requirements-{}.txt", "requirements_{}.txt", "{}-requirements.txt")
OTHER_REQUIREMENTS = [pattern.format(name) for pattern in PRODUCTION for name in ("production", "prod")]
# a lock file that is of no use without the file that it was made from
NEEDS_PYPROJECT = ("uv.lock", "poetry.lock")
KINDS = {"uv.lock": "uv", "poetry.lock": "poetry", "Pipfile.lock": "pipenv", "Pipfile": "pipenv"} | dict.fromkeys(
    ("pyproject.toml", "setup.py", "setup.cfg"), "project"
)
ARCHIVES = (".whl", ".tar.gz", ".zip")
MAX_LINES = 100_000


def kind_of(name):
    base = os.path.basename(name)
    return "" if not name else KINDS.get(base) or ("pylock" if fnmatch.fnmatch(base, "pylock*.toml") else "requirements")


class Dependencies(TextFiles):
    """The inputs of a venv. SETTINGS are the operator's: file, extras, groups, overrides and extra requirements."""

    def __init__(self, tar, members, version, settings=None):
        super().__init__(tar, members)
        self.version, self.settings, self.room_for_lines = version, settings or {}, MAX_LINES
        self.inputs, self.files, self.local_lines, self.problems = {}, [], [], []
        self.installs_source = self.uses_git = False
        self.converted = locks.Converted()
        self.name = self.kind = self.directory = self.package = ""

    # -- which file --

    def find(self):
        """Return the name of the dependency file, or an empty string."""
        usable = [name for name in DEPENDENCY_FILES if self.member(name) and self.is_usable(name)]
        if usable:
            return usable[0]
        others = [name for name in OTHER_REQUIREMENTS if self.member(name)]
        return others[0] if len(others) == 1 else ""

    def is_usable(self, name):
        if name in NEEDS_PYPROJECT:
            return bool(self.member("pyproject.toml"))
        if name == "pyproject.toml":
            project = self.toml(name)
            # without these tables, the file only configures tools
            return "project" in project or "poetry" in project.get("tool", {}) or "build-system" in project
        return True

    def missing_problem(self):
        """Say why the source has no usable dependency file."""
        alone = [name for name in NEEDS_PYPROJECT if self.member(name) and not self.member("pyproject.toml")]
        if alone:
            return f"{alone[0]} needs the pyproject.toml that it was made from. Add this file beside it."
        several = [name for name in OTHER_REQUIREMENTS if self.member(name)]
        others = several or sorted(name for name in self.members if re.fullmatch(r"([^/]+/)?[^/]*req[^/]*\.(txt|in|pip)", name))
        if others:
            return f"the source has requirements in {', '.join(others[:5])}. Set app_requirements to the file to install."
        return (
            "the source does not list its dependencies. Add a requirements.txt, pyproject.toml, setup.py or lock file (uv.lock, poetry.lock, "
            "Pipfile.lock, pylock.toml) to its top directory, or set app_requirements to the file that lists them."
        )

    def ignored(self):
        """Return the other lock files and requirements beside the one that is used."""
        names = [name for name in DEPENDENCY_FILES[:5] if self.member(name)]
        return [name for name in names if name != self.name] if self.kind else []

    def beside(self, name):
        """Return the path of another file of the project."""
        return os.path.join(self.directory, name)

    # -- inputs --

    def read_all(self):
        """Return what the build needs to know, and a digest of everything in the source that goes into the venv."""
        install, python = "", dict(python_versions.NOTHING)
        try:
            self.choose()
            project = self.toml(self.project_file) if self.kind else {}
            install = self.examine(project)
            self.check_names(project)
            python |= python_versions.of_source(self, project)
        except locks.LockError as error:
            self.problems.append(("app_source", None, f"{self.name or self.reading} of the source cannot be used: {error}"))
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError) as error:
            text = f"{self.reading} of the source cannot be read ({type(error).__name__}: {error}). Correct it, or create it again."
            self.problems.append(("app_source", None, text))
        # the source can contain any text
        self.problems = [
            (name, value, texts.one_line(credentials.without_credentials(text), texts.LINE)) for name, value, text in self.problems
        ]
        found = self.converted
        described = {
            "kind": self.kind,
            "file": self.name,
            "directory": self.directory or ".",
            "package": self.package,
            "install": install,
            "build": self.installs_source,
            "local": self.local_lines,
            "requirements": found.indexes + found.requirements,
            "constraints": found.constraints,
            "files": self.files,
            "extras": self.settings.get("extras") or [],
            "groups": self.settings.get("groups") or [],
            "overrides": self.settings.get("overrides") or [],
        }
        inputs = [described, sorted(self.inputs.items()), self.version if self.installs_source else ""]
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]
        git = self.uses_git or any(map(requirements.uses_git, found.requirements))
        return described | {"digest": digest, "git": git, "ignored": self.ignored(), "python": python, "problems": self.problems}

    def choose(self):
        self.name = os.path.normpath(self.settings["file"]) if self.settings.get("file") else self.find()
        if self.name and not self.member(self.name):
            self.problems.append(("app_requirements", self.name, f"the source has no file '{self.name}'. Use a path relative to its top."))
            self.name = ""
        elif not self.name and not self.settings.get("extra"):
            self.problems.append(("app_source", None, self.missing_problem()))
        self.kind = kind_of(self.name)
        # paths in requirements start at the top of the source, as for pip
        self.directory = "" if self.kind == "requirements" else os.path.dirname(self.name)
        self.project_file = self.beside("pyproject.toml")
        if self.kind == "project" and self.directory and self.member("uv.lock"):
            self.package = uv_projects.member_of_workspace(self.toml("uv.lock"), self.directory)
        if self.package:
            self.name, self.kind, self.directory = "uv.lock", "uv", ""

    def examine(self, project):
        """Note all inputs. Return the requirement that installs the project itself, or an empty string."""
        # uv reads its own settings beside any kind of dependency file, such as the index to use
        self.inputs["tool.uv"] = project.get("tool", {}).get("uv", {})
        self.note(self.beside("uv.toml"))
        lines = [*(self.settings.get("extra") or []), *(self.settings.get("overrides") or [])]
        for settings in project.get("tool", {}).get("uv", {}), self.toml(self.beside("uv.toml")):
            lines += uv_projects.override_lines(settings)
            for directory in uv_projects.linked_directories(settings):
                self.note_directory(directory)
        for line in lines:
            if (path := requirements.local_path(str(line))) is not None:
                self.note_local(path)
        if self.kind == "requirements":
            self.examine_requirements()
        elif self.kind:
            self.note(self.name)
        if self.kind in ("uv", "poetry", "project"):
            self.note(self.beside("pyproject.toml"))
        if self.kind == "uv":
            self.examine_uv()
        if self.kind == "project":
            self.examine_pyproject(project)
        extras, groups = self.settings.get("extras") or [], self.settings.get("groups") or []
        if self.kind == "poetry":
            overridden = {canonicalize_name(re.split(r"[^\w.-]", text.strip())[0]) for text in self.settings.get("overrides") or []}
            self.converted = locks.from_poetry(self.toml(self.name), project, extras, groups, overridden)
        elif self.kind == "pipenv":
            lock = self.name.endswith(".lock")
            self.converted = locks.from_pipenv(self.parsed(self.name, json.loads) if lock else self.toml(self.name), groups)
        elif self.kind == "pylock":
            self.converted = locks.from_pylock(self.toml(self.name), extras, groups)
        for line in self.converted.local:
            self.note_local(requirements.local_path(line), line)
        return self.examine_project(project)

    def examine_project(self, project):
        """Decide whether the project itself is installed, as its own tool does."""
        poetry = project.get("tool", {}).get("poetry", {})
        is_poetrys = "poetry" in str(project.get("build-system", {}).get("build-backend", "")) or (poetry and "project" not in project)
        packages = poetry.get("package-mode") is not False and self.has_package(project)
        if self.kind == "project" and is_poetrys and "project" not in project and not packages:
            raise locks.LockError("it lists its dependencies in Poetry's own format. Run `poetry lock`, and add poetry.lock to the source.")
        if self.kind not in ("poetry", "project"):
            return ""
        if is_poetrys:
            installs = packages
        elif project:
            installs = self.is_package(project) or (self.kind == "project" and "project" not in project)
        else:
            installs = True
        self.installs_source = self.installs_source or bool(installs)
        return requirements.with_extras(".", self.settings.get("extras") or []) if installs else ""

    def has_package(self, project):
        """Return whether Poetry finds the project's package. Most apps are not one, and are installed with --no-root."""
        poetry = project.get("tool", {}).get("poetry", {})
        name = re.sub(r"[-.]+", "_", str(project.get("project", {}).get("name") or poetry.get("name", "")))
        places = [f"{parent}{name}{end}" for parent in ("", "src/") for end in (".py", "/__init__.py")]
        return bool(poetry.get("packages")) or any(self.member(self.beside(place)) for place in places)

    def is_package(self, project):
        """Return whether the project is meant to be installed: uv's rule, and the layouts that setuptools finds without configuration."""
        tool = project.get("tool", {})
        if isinstance(tool.get("uv", {}).get("package"), bool):
            return tool["uv"]["package"]
        has_src = any(re.fullmatch(r"src/[^/]+/__init__\.py", name.removeprefix(f"{self.directory}/")) for name in self.members)
        has_setup = any(self.member(self.beside(name)) for name in ("setup.py", "setup.cfg")) and self.kind == "project"
        return "build-system" in project or "setuptools" in tool or has_setup or (self.kind == "project" and has_src)

    def examine_requirements(self):
        names = [self.name]
        while names:
            name = names.pop()
            if name in self.inputs:
                continue
            self.note(name)
            self.files.append(name)
            for first, line in requirements.lines(self.read(name)):
                self.room_for_lines -= 1
                if self.room_for_lines < 0:
                    raise locks.LockError(f"the requirements have more than {MAX_LINES} lines. Use a lock file.")
                self.uses_git = self.uses_git or requirements.uses_git(line)
                if include := requirements.included(line):
                    names.append(os.path.normpath(os.path.join(os.path.dirname(name), include)))
                elif directory := requirements.linked_directory(line):
                    self.note_directory(directory)
                elif (path := requirements.local_path(line)) is not None:
                    self.note_local(path, first)

    def examine_uv(self):
        for package in self.toml(self.name).get("package", []):
            source = package.get("source", {})
            self.uses_git = self.uses_git or "git" in source
            for kind in ("editable", "directory", "path", "virtual"):
                if kind in source:
                    path = self.beside(source[kind])
                    self.note(os.path.normpath(os.path.join(path, "pyproject.toml")))
                    if kind != "virtual":
                        self.note_local(source[kind])

    def examine_pyproject(self, project):
        if uv_projects.is_outside_of_workspace(project):
            self.problems.append(("app_source", None, uv_projects.OUTSIDE.format(self.name)))
            return
        for path in uv_projects.local_paths(project):
            self.note_local(path)

    def note(self, name):
        """Add a file to the inputs, with its content."""
        self.inputs[os.path.normpath(name)] = self.read(os.path.normpath(name))

    def note_local(self, path, line=""):
        """Add a part of the source to the inputs. LINE is what installs it."""
        name = self.inside(path)
        if self.member(name) and name.endswith(ARCHIVES):
            self.note_archive(name)
            # for the converted lock files; a requirements file has the line already
            self.converted.requirements += [line] if line in self.converted.local else []
        else:
            self.installs_source = True
            self.local_lines += [line] if line else []

    def inside(self, path):
        """Return the path in the source. All relative paths start at the working directory of the build, which is the project's."""
        name = os.path.normpath(self.beside(path))
        if not name.startswith(("../", "/")) and name != "..":
            return name
        fix = "Use a relative path." if name.startswith("/") else "Leave app_directory empty, so that the whole repository is the source."
        if "${" not in path:
            text = f"{self.name} of the source refers to '{path}', which is outside of the app's source. {fix}"
            self.problems.append(("app_source", None, text))
        return "."

    def note_archive(self, name):
        digest = hashlib.sha256()
        with self.tar.extractfile(self.member(name)) as content:
            while block := content.read(2**20):
                digest.update(block)
        self.inputs[name] = digest.hexdigest()

    def note_directory(self, path):
        directory = self.inside(path)
        for name in self.members:
            if os.path.dirname(name) == directory and self.member(name):
                self.note_archive(name)

    # -- settings --

    def check_names(self, project):
        """Check that the source has the extras and groups of the settings."""
        poetry, tables = project.get("tool", {}).get("poetry", {}), {"extras": {}, "groups": {}}
        if self.kind in ("uv", "poetry", "project"):
            tables["extras"] = {**project.get("project", {}).get("optional-dependencies", {}), **poetry.get("extras", {})}
            tables["groups"] = {**project.get("dependency-groups", {}), **poetry.get("group", {})}
            tables["groups"] |= {"dev": {}} if "dev-dependencies" in poetry else {}
        elif self.kind == "pipenv":
            lock = self.parsed(self.name, json.loads) if self.name.endswith(".lock") else self.toml(self.name)
            known = {*lock} - {"_meta", "default", "source", "packages", "requires", "scripts", "pipenv"}
            tables["groups"] = dict.fromkeys([*known, *(["dev"] if {"develop", "dev-packages"} & known else [])])
        elif self.kind == "pylock":
            lock = self.toml(self.name)
            tables = {"extras": dict.fromkeys(lock.get("extras", [])), "groups": dict.fromkeys(lock.get("dependency-groups", []))}
        if self.kind == "project" and self.installs_source and "project" not in project:
            # only a build reveals the extras
            return
        for name, key, thing in ("app_extras", "extras", "extra"), ("app_dependency_groups", "groups", "dependency group"):
            known = {canonicalize_name(entry) for entry in tables[key]}
            for wanted in self.settings.get(key) or []:
                if canonicalize_name(str(wanted)) not in known:
                    text = f"{self.name or 'the source'} has no {thing} '{wanted}'. It has {', '.join(sorted(known)) or 'none'}."
                    self.problems.append((name, self.settings[key], text))
