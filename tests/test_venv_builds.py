"""uv builds real venvs from the sources that people have, with the role's scripts and an index on the loopback."""

import base64
import hashlib
import http.server
import io
import json
import os
import pwd
import re
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from conftest import PROJECT, plugin, run_playbook, with_modules
from test_dependencies import write
from test_venv import with_tmp

module = plugin("modules/venv")
UV = shutil.which("uv") or str(PROJECT / ".uv/bin/uv")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="changes owners, as on a host"),
    pytest.mark.skipif(not os.path.exists(UV), reason="needs uv"),
]
# A build backend without dependencies. It packs the package that is named like the project.
BACKEND = """
import re, zipfile
def name():
    return re.search('name = "([a-z]+)"', open("pyproject.toml").read())[1]
def requires():
    return "".join(f"Requires-Dist: {r}\\n" for r in re.findall('# needs (.*)', open("pyproject.toml").read()))
def build_wheel(directory, config_settings=None, metadata_directory=None):
    import os
    file, info = f"{name()}-1-py3-none-any.whl", f"{name()}-1.dist-info"
    parent = "src/" if os.path.isdir("src") else ""
    with zipfile.ZipFile(os.path.join(directory, file), "w") as wheel:
        wheel.write(f"{parent}{name()}/__init__.py", f"{name()}/__init__.py")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: {name()}\\nVersion: 1\\nProvides-Extra: x\\n{requires()}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return file
def build_editable(*args):
    raise SystemExit("editable")
"""
BUILD = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def package(directory, name, text="X = 1\n", needs="", parent=""):
    """Files of a project in the source."""
    start = f"{directory}/" if directory else ""
    return {
        f"{start}pyproject.toml": f'[project]\nname = "{name}"\nversion = "1"\n{needs}{BUILD}',
        f"{start}backend.py": BACKEND,
        f"{start}{parent}{name}/__init__.py": text,
    }


def wheel(name, version, requires=()):
    """The content of a wheel with a module that has its version."""
    content, info = io.BytesIO(), f"{name}-{version}.dist-info"
    with zipfile.ZipFile(content, "w") as file:
        # a fixed time, so that a wheel always has the same hash
        def add(path, text):
            file.writestr(zipfile.ZipInfo(path), text)

        add(f"{name}/__init__.py", f"VERSION = '{version}'\n")
        lines = "".join(f"Requires-Dist: {text}\n" for text in requires)
        extras = "".join(f"Provides-Extra: {extra}\n" for extra in {*re.findall('extra == "(.*?)"', lines)})
        add(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{extras}{lines}")
        add(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        add(f"{info}/RECORD", "")
    return content.getvalue()


WHEELS = {
    f"{name}-{version}-py3-none-any.whl": wheel(name, version, requires)
    for name, version, requires in (
        ("gunicorn", "23.0", ()),
        ("gunicorn", "20.1.0", ()),
        ("web", "1.0", ["markup", 'speed ; extra == "fast"']),
        ("web", "2.0", ["markup", 'speed ; extra == "fast"']),
        ("markup", "1.0", ()),
        ("markup", "2.0", ()),
        ("speed", "1.0", ()),
        ("speed", "2.0", ()),
        ("lint", "1.0", ()),
        ("private", "1.0", ()),
        ("setuptools", "80", ()),
    )
}


def digest(name):
    return "sha256:" + hashlib.sha256(WHEELS[f"{name}-py3-none-any.whl"]).hexdigest()


class Index(http.server.BaseHTTPRequestHandler):
    """A package index at /simple/, and one at /private/ that asks for a password."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        root, name = self.path.strip("/").split("/")[0], self.path.strip("/").split("/")[-1]
        is_allowed = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"ann:tok3n").decode()
        if root == "private" and not is_allowed:
            return self.answer(401, b"", [("WWW-Authenticate", "Basic")])
        if name.endswith(".whl"):
            return self.answer(200, WHEELS[name]) if name in WHEELS else self.answer(404)
        files = [file for file in WHEELS if file.startswith(f"{name}-") and (name == "private") == (root == "private")]
        links = "".join(f'<a href="/{root}/files/{file}#sha256={hashlib.sha256(WHEELS[file]).hexdigest()}">{file}</a>' for file in files)
        return self.answer(200, links.encode()) if files else self.answer(404)

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in [*headers, ("Content-Type", "text/html"), ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_args):
        pass


@pytest.fixture(scope="module")
def index():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # uv closes connections when it has found what it needs
        server.handle_error = lambda *_args: None
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


PINS = f"web==1.0 --hash={digest('web-1.0')}\nmarkup==1.0 --hash={digest('markup-1.0')}\n"


def poetry_lock(url, *more, **hashes):
    entries = {"web": "1.0", "markup": "1.0", "speed": "1.0", "lint": "1.0"}
    text = "".join(
        f'[[package]]\nname = "{name}"\nversion = "{version}"\nfiles = [{{file = "x", hash = "{hashes.get(name) or digest(f"{name}-{version}")}"}}]\n'
        for name, version in entries.items()
    )
    return text + "".join(more)


POETRY = """[tool.poetry]
name = "shop"
{mode}
[tool.poetry.dependencies]
python = ">=3.9,<4"
web = {{version = "^1.0", extras = ["fast"]}}
{more}
[tool.poetry.group.dev.dependencies]
lint = "*"
"""


def uv_lock(url, local=""):
    def entry(name, version, more=""):
        file = f"{name}-{version}-py3-none-any.whl"
        return (
            f'[[package]]\nname = "{name}"\nversion = "{version}"\nsource = {{ registry = "{url}/simple" }}\n{more}'
            f'wheels = [{{ url = "{url}/simple/files/{file}", hash = "{digest(f"{name}-{version}")}", size = {len(WHEELS[file])} }}]\n'
        )

    text = 'version = 1\nrevision = 3\nrequires-python = ">=3.9"\n'
    text += entry("web", "1.0", 'dependencies = [{ name = "markup" }]\n') + entry("markup", "1.0") + entry("speed", "1.0")
    text += '[[package]]\nname = "shop"\nversion = "1"\nsource = { virtual = "." }\n'
    text += f'dependencies = [{{ name = "web" }}{", { name = " + chr(34) + local + chr(34) + " }" if local else ""}]\n'
    text += '[package.dev-dependencies]\nprod = [{ name = "speed" }]\n'
    text += f'[[package]]\nname = "{local}"\nversion = "1"\nsource = {{ directory = "libs/{local}" }}\n' if local else ""
    return text


def uv_workspace_lock(url):
    """Two apps and a library. The top directory has no project."""
    text = uv_lock(url, "mylib").replace('virtual = "."', 'virtual = "apps/web"').replace("directory =", "editable =")
    text = text.replace("[[package]]", '[manifest]\nmembers = ["mylib", "other", "shop"]\n[[package]]', 1)
    text += '[[package]]\nname = "other"\nversion = "1"\nsource = { virtual = "apps/lint" }\ndependencies = [{ name = "lint" }]\n'
    file = "lint-1.0-py3-none-any.whl"
    return text + (
        f'[[package]]\nname = "lint"\nversion = "1.0"\nsource = {{ registry = "{url}/simple" }}\n'
        f'wheels = [{{ url = "{url}/simple/files/{file}", hash = "{digest("lint-1.0")}", size = {len(WHEELS[file])} }}]\n'
    )


def uv_project(local=""):
    lib = ', "mylib"' if local else ""
    sources = '[tool.uv.sources]\nmylib = { path = "libs/mylib" }\n' if local else ""
    return (
        f'[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["web"{lib}]\n'
        f'[dependency-groups]\nprod = ["speed"]\n{sources}'
    )


WITHOUT_BUILD_SYSTEM = (
    '[project]\nname = "shop"\nversion = "1"\ndependencies = ["web<2"]\n[project.optional-dependencies]\nfast = ["speed<2"]\n'
)
EXTRA_INDEX = "--extra-index-url {url}/private/\nprivate\n"
LIB = package("libs/mylib", "mylib")
LOCKED = {"web": "1.0", "markup": "1.0"}
# name: files of the source, settings, the installed packages with versions. None: the build fails.
CASES = {
    # -- requirements --
    "requirements": ({"requirements.txt": "web<2\n"}, {}, {"web": "1.0", "markup": "2.0"}),
    "hashes": ({"requirements.txt": PINS}, {}, LOCKED),
    "a wrong hash": ({"requirements.txt": PINS.replace(digest("markup-1.0"), digest("web-1.0"))}, {}, None),
    "editable": (
        {"requirements.txt": "-r base.txt\n", "base.txt": "web<2\n-e .  # the app\n", **package("", "shop", "Y = 1\n", parent="src/")},
        {},
        {"web": "1.0", "shop": "1"},
    ),
    "nested": (
        {"requirements/prod.txt": "-r base.txt\n./libs/mylib\n", "requirements/base.txt": "web<2\n", **LIB},
        {},
        {"web": "1.0", "mylib": "1"},
    ),
    "any name": ({"deps/live.in": "web<2\n", "requirements.txt": "lint\n"}, {"app_requirements": "deps/live.in"}, {"web": "1.0"}),
    "overrides": ({"requirements.txt": "web==9\n"}, {"app_overrides": ["web<2"]}, {"web": "1.0"}),
    "app is a package": ({"README": ""}, {"app_extra_requirements": ["web<2"]}, {"web": "1.0"}),
    "two versions of the server": ({"requirements.txt": "gunicorn==20.1.0\n"}, {}, None),
    # -- uv --
    "uv": ({"uv.lock": uv_lock, "pyproject.toml": uv_project()}, {}, LOCKED),
    "uv with a path": (
        {"uv.lock": lambda url: uv_lock(url, "mylib"), "pyproject.toml": uv_project("mylib"), **LIB},
        {},
        {**LOCKED, "mylib": "1"},
    ),
    "uv with a group": (
        {"uv.lock": uv_lock, "pyproject.toml": uv_project()},
        {"app_dependency_groups": ["prod"]},
        {**LOCKED, "speed": "1.0"},
    ),
    "uv with an override": (
        {"uv.lock": uv_lock, "pyproject.toml": uv_project()},
        {"app_overrides": ["markup>=2"]},
        {"web": "1.0", "markup": "2.0"},
    ),
    "uv with a member of a workspace": (
        {
            "uv.lock": uv_workspace_lock,
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["apps/*", "libs/*"]\n',
            "apps/web/pyproject.toml": uv_project("mylib").replace('path = "libs/mylib"', "workspace = true"),
            "apps/lint/pyproject.toml": '[project]\nname = "other"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["lint"]\n',
            **LIB,
        },
        {"app_requirements": "apps/web/pyproject.toml"},
        {**LOCKED, "mylib": "1"},
    ),
    "uv with a wrong hash": (
        {"uv.lock": lambda url: uv_lock(url).replace(digest("markup-1.0"), digest("web-1.0")), "pyproject.toml": uv_project()},
        {},
        None,
    ),
    # -- Poetry --
    "poetry": (
        {"poetry.lock": poetry_lock, "pyproject.toml": POETRY.format(mode="package-mode = false", more="")},
        {},
        {**LOCKED, "speed": "1.0"},
    ),
    "poetry with a group": (
        {"poetry.lock": poetry_lock, "pyproject.toml": POETRY.format(mode="package-mode = false", more="")},
        {"app_dependency_groups": ["dev"]},
        {**LOCKED, "speed": "1.0", "lint": "1.0"},
    ),
    "poetry with a path": (
        {
            "poetry.lock": lambda url: poetry_lock(
                url, '[[package]]\nname = "mylib"\nversion = "1"\n[package.source]\ntype = "directory"\nurl = "libs/mylib"\n'
            ),
            "pyproject.toml": POETRY.format(mode="", more='mylib = {path = "libs/mylib", develop = true}'),
            **LIB,
        },
        {},
        {**LOCKED, "speed": "1.0", "mylib": "1"},
    ),
    "poetry with an override": (
        {"poetry.lock": poetry_lock, "pyproject.toml": POETRY.format(mode="package-mode = false", more="")},
        {"app_overrides": ["Markup>=2"]},
        {"web": "1.0", "markup": "2.0"},
    ),
    "poetry with a wrong hash": (
        {
            "poetry.lock": lambda url: poetry_lock(url, markup=digest("web-1.0")),
            "pyproject.toml": POETRY.format(mode="package-mode = false", more=""),
        },
        {},
        None,
    ),
    "poetry with two versions": (
        {
            "poetry.lock": lambda url: (
                poetry_lock(url).replace(
                    '[[package]]\nname = "markup"',
                    '[[package]]\nname = "markup"\ngroups = ["main"]\nmarkers = "python_version >= \'3.0\'"',
                    1,
                )
                + '[[package]]\nname = "markup"\nversion = "2.0"\ngroups = ["main"]\nmarkers = "python_version < \'3.0\'"\nfiles = []\n'
            ),
            "pyproject.toml": POETRY.format(mode="package-mode = false", more=""),
        },
        {},
        LOCKED,
    ),
    # -- Pipenv --
    "pipenv": (
        {
            "Pipfile.lock": json.dumps(
                {
                    "_meta": {"sources": [{"name": "pypi", "url": "https://pypi.org/simple"}]},
                    "default": {
                        "web": {"version": "==1.0", "hashes": [digest("web-1.0")], "markers": "python_version >= '3'"},
                        "markup": {"version": "==1.0", "hashes": [digest("markup-1.0")], "index": "pypi"},
                        "mylib": {"path": "./libs/mylib", "editable": True},
                    },
                    "develop": {"lint": {"version": "==1.0"}},
                }
            ),
            **LIB,
        },
        {},
        {**LOCKED, "mylib": "1"},
    ),
    "Pipfile": (
        {"Pipfile": '[packages]\nweb = {version = "<2", extras = ["fast"]}\n[dev-packages]\nlint = "*"\n'},
        {},
        {"web": "1.0", "speed": "2.0"},
    ),
    "Pipfile with a group": (
        {"Pipfile": '[packages]\nweb = "<2"\n[dev-packages]\nlint = "*"\n'},
        {"app_dependency_groups": ["dev"]},
        {"web": "1.0", "lint": "1.0"},
    ),
    # -- pylock --
    "pylock": (
        {
            "pylock.toml": f'lock-version = "1.0"\ncreated-by = "test"\n[[packages]]\nname = "web"\nversion = "1.0"\n'
            f'wheels = [{{url = "https://x.example/web-1.0-py3-none-any.whl", hashes = {{sha256 = "{digest("web-1.0")[7:]}"}}}}]\n'
            f'[[packages]]\nname = "speed"\nversion = "1.0"\nmarker = "\'fast\' in extras"\n'
            f'[[packages]]\nname = "markup"\nversion = "1.0"\nmarker = "python_version >= \'3\' and \'fast\' not in extras"\n'
        },
        {},
        LOCKED,
    ),
    # -- projects --
    "no build system": (
        {"pyproject.toml": WITHOUT_BUILD_SYSTEM, "shop/__init__.py": "", "migrations/__init__.py": ""},
        {"app_extras": ["fast"]},
        {"web": "1.0", "speed": "1.0"},
    ),
    "not a package": (
        {"pyproject.toml": WITHOUT_BUILD_SYSTEM + BUILD + "[tool.uv]\npackage = false\n", "backend.py": "raise SystemExit(1)"},
        {},
        {"web": "1.0"},
    ),
    "package": (package("", "shop", needs='dependencies = ["web<2"]\n# needs web<2\n'), {}, {"web": "1.0", "shop": "1"}),
    # -- a private index --
    "host's credentials": ({"requirements.txt": EXTRA_INDEX.format}, {"app_build_secrets": {"127.0.0.1": "ann:tok3n"}}, {"private": "1.0"}),
    "a variable": (
        {"requirements.txt": lambda url: EXTRA_INDEX.format(url=url.replace("//", "//ann:${INDEX_TOKEN}@"))},
        {"app_build_secrets": {"INDEX_TOKEN": "tok3n"}},
        {"private": "1.0"},
    ),
    "a wrong password": ({"requirements.txt": EXTRA_INDEX.format}, {"app_build_secrets": {"127.0.0.1": "ann:wr0ng"}}, None),
}


# stands in for the module, which needs the users and units of a host
DUMP = """#!/usr/bin/python3
# WANT_JSON
import json, sys
arguments = json.load(open(sys.argv[1]))
json.dump(arguments, open(arguments["root"] + "/arguments.json", "w"))
print(json.dumps({"changed": True}))
"""


@pytest.fixture(scope="module")
def wanted(tmp_path_factory, index):
    """Have the roles' own tasks read the source of each case and call the module venv. Return its arguments, and the output of the run."""
    directory, items = tmp_path_factory.mktemp("cases"), []
    for number, (files, settings, _installed) in enumerate(CASES.values()):
        root = directory / str(number)
        texts = {file: text if isinstance(text, str) else text(url=index) for file, text in files.items()}
        dependencies = {"file": settings.get("app_requirements"), "groups": settings.get("app_dependency_groups")}
        dependencies |= {name: settings.get(f"app_{name}") for name in ("extras", "overrides")}
        dependencies |= {"extra": settings.get("app_extra_requirements", [])}
        item = {"source": write(root / "source", texts), "root": str(root), "secrets": settings.get("app_build_secrets", {})}
        items.append(item | {"dependencies": dependencies})
    read = {
        "source": "{{ cases[item].source }}",
        "cache": str(directory / "cache"),
        "dependencies": "{{ cases[item].dependencies }}",
        "procfile_settings": {},
    }
    venv = {
        "app": "games",
        "root": "{{ cases[item].root }}",
        "key": "key",
        "release": "r1",
        "source": "{{ cases[item].source }}",
        "dependencies": "{{ found.results[item].dependencies }}",
        "requirement": "gunicorn>=23",
        "extra": "{{ cases[item].dependencies.extra }}",
        "python": "",
        "secrets": "{{ cases[item].secrets }}",
        "sandbox": [],
    }
    numbers = list(range(len(CASES)))
    tasks = [
        {"flaskhost.flaskhost.app_source": read, "loop": numbers, "register": "found"},
        {
            "ansible.builtin.include_role": {"name": "flaskhost.flaskhost.python_venv", "tasks_from": "venv"},
            "vars": {"python_venv_wanted": venv, "python_venv_index_url": f"{index}/simple/"},
            "loop": numbers,
        },
    ]
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(with_modules(directory, venv=DUMP))}
    run = run_playbook(directory, tasks, {"h": {}}, "-vvv", variables={"cases": items}, environment=environment)
    arguments = [json.loads((directory / str(number) / "arguments.json").read_text()) for number in numbers]
    return dict(zip(CASES, arguments, strict=True)), run.output


class Built:
    """A venv that the module builds from these arguments."""

    def __init__(self, params, monkeypatch):
        self.directory = Path(params["root"])
        self.tmp, self.arguments, self.steps = self.directory / "tmp", [], []
        for path in self.tmp, self.directory / "venvs":
            path.mkdir(exist_ok=True)
        # another test may have built it
        shutil.rmtree(self.directory / "venvs/key", ignore_errors=True)
        nobody = pwd.getpwnam("nobody")
        monkeypatch.setattr(module.pwd, "getpwnam", lambda _name: nobody)
        monkeypatch.setattr(module, "run", self.run)
        self.venv = module.Venv({**params, "seconds": 300})
        self.output = ""
        try:
            self.venv.make()
        except module.BuildFailed as error:
            self.output = error.output
        finally:
            self.venv.remove_unfinished()

    def run(self, unit, lines, argv, seconds):
        """Stands in for systemd-run: it has no sandbox, but the same environment, mounts and private /tmp."""
        text = Path(self.venv.environment).read_text()
        found = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.DOTALL | re.MULTILINE)
        values = {name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for name, value in found}
        for line in lines:
            if line.startswith("Environment="):
                values |= dict(pair.split("=", 1) for pair in line.partition("=")[2].split())
        shutil.rmtree(self.tmp)
        self.tmp.mkdir()
        values |= {
            "UV_HTTP_RETRIES": "0",
            "HOME": str(self.tmp),
            "UV_CACHE_DIR": str(self.tmp / "cache"),
            "PATH": f"{os.path.dirname(UV)}:{os.environ['PATH']}",
        }
        script = with_tmp(values["SCRIPT"], self.tmp)
        self.steps.append((unit, script, values))
        os.rmdir(self.venv.path)
        os.symlink(self.venv.building, self.venv.path)
        try:
            done = subprocess.run([*argv], env={**values, "SCRIPT": script}, capture_output=True, text=True, timeout=seconds)
        finally:
            os.unlink(self.venv.path)
            os.mkdir(self.venv.path)
        self.arguments += subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
        return done.returncode, done.stdout, done.stderr

    @property
    def installed(self):
        found = {}
        for path in self.directory.glob("venvs/*/lib/python*/site-packages/*.dist-info"):
            name, _dash, version = path.name.removesuffix(".dist-info").partition("-")
            found[name] = version
        return found


def assert_installs(wanted, name, monkeypatch):
    installed = CASES[name][2]
    built = Built(wanted[0][name], monkeypatch)
    if installed is None:
        assert not built.installed and built.output
        return
    assert built.installed, built.output
    assert installed.items() <= built.installed.items()
    # nothing of development
    assert "lint" in installed or "lint" not in built.installed
    if "app_extra_requirements" not in CASES[name][1]:
        assert built.installed["gunicorn"] == "23.0"


OVERRIDES = [name for name in CASES if "override" in name]
LOCAL_PACKAGES = ["editable", "nested"]
NOT_PACKAGES = ["no build system", "not a package", "poetry"]
INDEX_PACKAGE = "app is a package"
OTHERS = [name for name in CASES if name not in [*OVERRIDES, *LOCAL_PACKAGES, *NOT_PACKAGES, INDEX_PACKAGE]]


@pytest.mark.parametrize("name", OTHERS)
def test_a_venv_has_what_the_source_lists(wanted, name, monkeypatch):
    """Every kind of dependency file, with local packages, groups, hashes and private indexes. (A5)"""
    assert_installs(wanted, name, monkeypatch)


@pytest.mark.parametrize("name", OVERRIDES)
def test_an_override_replaces_a_requirement_that_cannot_be_met(wanted, name, monkeypatch):
    """Also the version of a lock file. (A18)"""
    assert_installs(wanted, name, monkeypatch)


@pytest.mark.parametrize("name", LOCAL_PACKAGES)
def test_requirements_install_a_copy_of_a_package_of_the_source(wanted, name, monkeypatch):
    """-e in an included file with a src layout, and a path. (B8)"""
    assert_installs(wanted, name, monkeypatch)


@pytest.mark.parametrize("name", NOT_PACKAGES)
def test_only_the_dependencies_of_a_project_that_is_no_package_are_installed(wanted, name, monkeypatch):
    """No build system, [tool.uv] package = false, and Poetry's package-mode = false. (B9)"""
    assert_installs(wanted, name, monkeypatch)


def test_an_app_can_be_a_package_of_the_index(wanted, monkeypatch):
    """The source has no dependency file. (A16)"""
    assert_installs(wanted, INDEX_PACKAGE, monkeypatch)


@pytest.mark.parametrize("name", ["host's credentials", "a variable", "a wrong password"])
def test_a_credential_is_only_in_the_environment_of_a_build(wanted, name, monkeypatch):
    """It is in no command line, no file of the venv, no script and no output, and the step after the build does not get it. (A5)"""
    arguments, output = wanted
    assert arguments[name]["secrets"] and "tok3n" not in output
    built = Built(arguments[name], monkeypatch)
    secret = "wr0ng" if name == "a wrong password" else "tok3n"
    assert not any(secret in line for line in built.arguments)
    fetch, rest = built.steps[0], built.steps[1:]
    assert secret in str(fetch[2]) and secret not in fetch[1]
    assert not any(secret in str(step) for step in rest if "finish" in step[0])
    files = [path for path in built.directory.glob("venvs/**/*") if path.is_file() and not path.is_symlink()]
    assert not any(secret.encode() in path.read_bytes() for path in files)


def test_the_module_hides_credentials_in_its_result(tmp_path, monkeypatch, capsys):
    """Also what a package prints while it is built, and the arguments that a run with -vvv shows. (A5)"""
    (tmp_path / "venvs").mkdir()
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(module.pwd, "getpwnam", lambda _name: nobody)
    monkeypatch.setattr(module, "acquire", lambda *_arguments: None)
    monkeypatch.setattr(
        module, "run", lambda *_arguments: (1, "setup.py prints t0p and s3cret\n", "cannot open https://ann:t0p@github.com/x")
    )
    arguments = {"app": "games", "root": str(tmp_path), "key": "key", "release": "r1", "sandbox": [], "environment": {}, "index": {}}
    arguments |= {"fetch": "true", "build": "true", "finish": "true", "seconds": 9}
    arguments["secrets"] = {"github.com": "ann:t0p", "INDEX_TOKEN": "s3cret"}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    output = capsys.readouterr().out
    assert "setup.py prints" in output and "t0p" not in output and "s3cret" not in output


def test_git_uses_https_and_the_credentials_for_ssh_urls(wanted):
    """A host has no ssh key, and people write git+ssh URLs for their private packages. (A5)"""
    script = wanted[0]["host's credentials"]["fetch"]
    assert '[url "https://127.0.0.1/"]\ninsteadOf = ssh://git@127.0.0.1/\ninsteadOf = git@127.0.0.1:\n' in script


def test_new_code_of_a_path_dependency_is_installed(wanted, monkeypatch):
    """The venv has another name (test_dependencies.py), and its build reads the changed file. (A1)"""
    arguments = wanted[0]["uv with a path"]
    (Path(arguments["root"]) / "source/libs/mylib/mylib/__init__.py").write_text("X = 2\n")
    built = Built(arguments, monkeypatch)
    (code,) = built.directory.glob("venvs/key/lib/python*/site-packages/mylib/__init__.py")
    assert code.read_text() == "X = 2\n"
