"""Preflight detects an app's settings in its source, prints them, and never imports the source. Settings of the operator take precedence."""

import ast
import io
import json
import re
import subprocess
import tarfile

import pytest
import yaml
from conftest import PROJECT, READ_APP, evaluate, plugin, run_playbook

detection, names = plugin("plugin_utils/detection"), plugin("plugin_utils/names")
HELLO = 'from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.route("/")\ndef hello():\n    return "hello"\n'
FACTORY = "from flask import Flask\n\n\ndef create_app(test_config=None):\n    app = Flask(__name__, instance_relative_config=True)\n"
FACTORY += '\n    @app.route("/healthz")\n    def health():\n        return "ok"\n\n    return app\n'
BUILD = '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
# the sources of the first "done when": each deploys with app_source, app_domains and its host's address
LAYOUTS = {
    "hello": {"app.py": HELLO, "requirements.txt": "Flask\n"},
    "tutorial": {
        "flaskr/__init__.py": FACTORY.replace("healthz", "hello"),
        "flaskr/static/style.css": "p {}\n",
        "flaskr/auth.py": "from flask import Blueprint\n\nbp = Blueprint('auth', __name__, url_prefix='/auth')\n",
        "pyproject.toml": f'[project]\nname = "flaskr"\ndependencies = ["flask"]\n{BUILD}',
        "tests/conftest.py": "from flaskr import create_app\n\napp = create_app({'TESTING': True})\n",
    },
    "microblog": {
        ".flaskenv": "FLASK_APP=microblog.py\nFLASK_DEBUG=1\n",
        "microblog.py": "from app import create_app\n\napp = create_app()\n\n\n@app.shell_context_processor\ndef names():\n    return {}\n",
        "app/__init__.py": "from flask import Flask\nfrom flask_migrate import Migrate\n\nmigrate = Migrate()\n\n\ndef create_app(config_class=None):\n"
        "    app = Flask(__name__)\n    migrate.init_app(app, None)\n    from app.main import bp as main_bp\n"
        "    app.register_blueprint(main_bp)\n    return app\n",
        "app/main/__init__.py": "from flask import Blueprint\n\nbp = Blueprint('main', __name__)\n\nfrom app.main import routes\n",
        "app/static/loading.gif": "GIF\n",
        "migrations/env.py": "from flask import current_app\n",
        "migrations/alembic.ini": "[alembic]\n",
        "requirements.txt": "flask==3.0.0\nflask-migrate==4.0.5\npsycopg2-binary==2.9.9\n",
    },
    "poetry": {
        "wsgi.py": "from shop import create_app\n\napp = create_app('production')\n",
        "shop/__init__.py": "from flask import Flask\n\n\ndef create_app(stage):\n    return Flask(__name__)\n",
        "pyproject.toml": '[tool.poetry]\nname = "shop"\npackage-mode = false\n',
        "poetry.lock": f'[[package]]\nname = "flask"\nversion = "3.1.0"\nfiles = [{{ file = "x.whl", hash = "sha256:{"0" * 64}" }}]\n',
    },
    "src": {
        "src/shop/__init__.py": "from shop.web import app\n",
        "src/shop/web.py": "from flask import Flask\n\napp = Flask('shop', static_folder='assets', static_url_path='/files')\n",
        "src/shop/assets/site.css": "p {}\n",
        "pyproject.toml": f'[project]\nname = "shop"\n{BUILD}',
        "uv.lock": "version = 1\n",
    },
    "package": {"shop/__init__.py": FACTORY, "requirements.txt": "Flask\n"},
    "procfile": {
        "Procfile": "web: FLAG=1 poetry run gunicorn -w 4 --bind 0.0.0.0:$PORT 'backend.main:make()' --log-file -\nrelease: flask db upgrade\n"
        "worker: celery -A backend worker\n",
        "backend/main.py": "from flask import Flask\n\n\ndef make():\n    return Flask(__name__)\n",
        "other.py": HELLO,
        "requirements.txt": "Flask\ncelery[redis]\nredis\n",
    },
    "quart": {"app.py": HELLO.replace("flask", "quart").replace("Flask", "Quart"), "requirements.txt": "quart\n"},
    "pipfile": {
        "main.py": HELLO,
        "Pipfile": '[packages]\nflask = "*"\n',
        "Pipfile.lock": json.dumps({"_meta": {}, "default": {"flask": {"version": "==3.1.0", "hashes": [f"sha256:{'0' * 64}"]}}}),
    },
}
FOUND = {
    "hello": "module app:app (app.py), gunicorn, dependencies from requirements.txt, health page /",
    "tutorial": "module flaskr:create_app() (flaskr/__init__.py), gunicorn, dependencies from pyproject.toml, "
    "static /static/ from flaskr/static, health page /hello",
    "microblog": "module microblog:app (.flaskenv), gunicorn, dependencies from requirements.txt, static /static/ from app/static, "
    "migrations by `FLASK_APP=microblog flask db upgrade` (migrations/), health page /",
    "poetry": "module wsgi:app (wsgi.py), gunicorn, dependencies from poetry.lock, health page /",
    "src": "module shop:app (src/shop/__init__.py), gunicorn, dependencies from uv.lock, static /files/ from src/shop/assets, health page /",
    "package": "module shop:create_app() (shop/__init__.py), gunicorn, dependencies from requirements.txt, health page /healthz",
    "procfile": "module backend.main:make() (Procfile), gunicorn, dependencies from requirements.txt, "
    "migrations by the release line of the Procfile, health page /",
    "quart": "module app:app (app.py), uvicorn, dependencies from requirements.txt, health page /",
    "pipfile": "module main:app (main.py), gunicorn, dependencies from Pipfile.lock, health page /",
}
JSON = {"ANSIBLE_STDOUT_CALLBACK": "default", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}


def write(directory, files):
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def preflight(directory, hosts, *arguments, playbook="preflight", succeeds=False):
    """Run a playbook for hosts that nothing can connect to, so the run ends after the checks on the controller."""
    common = {"ansible_host": "127.0.0.1", "ansible_port": 9, "app_domains": ["shop.example"]}
    hosts = {name: common | settings for name, settings in hosts.items()}
    return run_playbook(
        directory, PROJECT / f"playbooks/{playbook}.yml", hosts, *arguments, settings={}, succeeds=succeeds, environment=JSON, timeout=300
    )


def shown(run):
    """Return the lines that preflight printed, by host."""
    text = run.stdout.partition("TASK [flaskhost.flaskhost.preflight : Show the detected settings]")[2].partition("\n")[2]
    text = text.partition("\nTASK ")[0]
    messages = json.JSONDecoder().raw_decode(text, text.index("{"))[0]["msg"] if "\nok: " in f"\n{text}" else []
    found = {}
    for message in messages:
        line, _paren, hosts = message.rpartition(" (host ")
        for host in hosts.removesuffix(")").split(", "):
            found.setdefault(host, []).append(line)
    return found


def detect(files, **settings):
    """Detect the settings of a source that is only these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        return detection.detect(tar, tar.getmembers(), settings)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    directory = tmp_path_factory.mktemp("layouts")
    hosts = {name: {"app_source": str(write(directory / name, files))} for name, files in LAYOUTS.items()}
    return shown(preflight(directory, hosts))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_app_with_three_settings_passes_preflight_which_prints_what_it_found(lines, layout):
    assert lines[layout][0] == f"Found: name {layout}, {FOUND[layout]}. Set app_… to change."


def test_preflight_names_services_that_the_dependencies_suggest(lines):
    assert lines["microblog"][1:] == [
        "Not set up: psycopg2-binary is among the dependencies: app_services: [postgresql] provides it on the host."
    ]
    assert lines["procfile"][1:] == [
        "Not set up: redis is among the dependencies: app_services: [redis] provides it on the host.",
        "Not set up: the Procfile has more processes: app_processes: {worker: 1} starts them.",
    ]


@pytest.mark.parametrize("package", ["PyMySQL", "mysqlclient", "mysql-connector-python"])
def test_mariadb_is_hinted(package):
    hints = dict(detect({"app.py": HELLO, "requirements.txt": f"flask\n{package}==1.1\n"})["hints"])
    assert hints["mariadb"].endswith("app_services: [mariadb] provides it on the host.")


@pytest.mark.parametrize(
    ("code", "hinted"),
    [
        ("os.environ['SECRET_KEY']", True),
        ("os.environ.get('SECRET_KEY', 'dev')", True),
        ("os.getenv('SECRET_KEY')", True),
        ("getenv('SECRET_KEY')", True),
        ("env.str('SECRET_KEY')", True),
        ("os.environ['OTHER']", False),
        ("'SECRET_KEY'", False),
    ],
)
def test_a_secret_that_the_app_reads_is_named(code, hinted):
    hints = dict(detect({"app.py": HELLO, "config.py": f"class Config:\n    SECRET_KEY = {code}\n"})["hints"])
    assert ("secret" in hints) is hinted


def test_the_web_command_of_app_processes_replaces_the_detected_server():
    processes = {"web": {"command": "python server.py"}}
    found = detect({"app.py": HELLO, "Procfile": "web: gunicorn app:app\n"}, app_processes=processes)
    assert found["server"] == "procfile" and "module" not in found and found["found_in"]["server"] == "app_processes"
    assert not detect({"server.py": ""}, app_processes=processes)["problem"]


def effective(directory, *names, **settings):
    """Return the values that the roles get."""
    tasks = [READ_APP, {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.app", "tasks_from": "detect"}}]
    hosts = {"h": {"ansible_connection": "local", "app_domains": ["shop.example"], **settings}}
    return evaluate(directory, tasks, {name: f"{{{{ {name} }}}}" for name in names}, hosts)["h"]


def test_the_roles_get_the_detected_values(tmp_path):
    source = write(tmp_path / "My Shop!", LAYOUTS["microblog"])
    assert effective(
        tmp_path, "app_name", "app_module", "app_server", "app_static", "app_release_command", "app_health_path", app_source=str(source)
    ) == {
        "app_name": "my_shop",
        "app_module": "microblog:app",
        "app_server": "gunicorn",
        "app_static": {"/static/": "app/static"},
        "app_release_command": "FLASK_APP=microblog flask db upgrade",
        "app_health_path": "/",
    }


def test_a_set_value_wins_also_if_it_is_empty(tmp_path):
    source = write(tmp_path / "shop", LAYOUTS["microblog"])
    settings = {
        "app_name": "blog",
        "app_module": "app:create_app()",
        "app_server": "waitress",
        "app_static": {},
        "app_release_command": "",
        "app_health_path": "/x",
    }
    assert effective(tmp_path, *settings, app_source=str(source), **settings) == settings
    run = preflight(tmp_path, {"h": {"app_source": str(source), **settings}})
    text = " ".join(run.text.split())
    assert "Found:" not in text and "Not set up: psycopg2-binary" in text


def test_each_app_on_a_machine_gets_its_own_values(tmp_path):
    hosts = {name: {"app_source": str(write(tmp_path / name, LAYOUTS[name]))} for name in ("hello", "quart", "package")}
    found = shown(preflight(tmp_path, hosts, "--limit", "quart,package"))
    assert [line.partition(", dep")[0] for line in (found["quart"][0], found["package"][0])] == [
        "Found: name quart, module app:app (app.py), uvicorn",
        "Found: name package, module shop:create_app() (shop/__init__.py), gunicorn",
    ]
    assert "hello" not in found


@pytest.mark.parametrize("arguments", [("provision",), ("provision", "--tags", "nginx"), ("release",)])
def test_a_playbook_that_needs_the_source_reads_it_when_it_runs_alone(tmp_path, arguments):
    playbook, *options = arguments
    hosts = {
        "good": {"app_source": str(write(tmp_path / "good", LAYOUTS["hello"]))},
        "bad": {"app_source": str(write(tmp_path / "bad", {"shop/x.py": "a = 1\n", "requirements.txt": ""}))},
    }
    failures = preflight(tmp_path, hosts, *options, playbook=playbook).failures
    assert "app_module is not set: no app was found in the source" in failures["bad"] and "UNREACHABLE" not in failures["bad"]
    # the run ends on all hosts before any of them is contacted
    assert "good" not in failures


@pytest.mark.parametrize("playbook", ["status", "rollback", "certificate"])
def test_a_playbook_that_does_not_need_the_source_does_not_read_it(tmp_path, playbook):
    settings = {"app_source": "git@nowhere.invalid:you/mysite.git", "tls_source": "letsencrypt"}
    run = preflight(tmp_path, {"h": settings}, playbook=playbook, succeeds=None)
    assert "app_source" not in run.output and "unreachable" in run.output.lower()


@pytest.mark.parametrize(
    ("path", "manifest", "expected"),
    [("/set", {"health_path": "/healthz"}, "/set"), ("", {"health_path": "/healthz"}, "/healthz"), ("", {}, "/"), ("", None, "/")],
)
def test_a_rollback_checks_the_health_page_that_was_detected_for_the_release(tmp_path, path, manifest, expected):
    """A rollback does not read the source. A setting still takes precedence."""
    settings = {**({"app_health_path": path} if path else {}), "app_source": "/nowhere", "release_id": "a-b"}
    settings["release_host"] = {"releases": {} if manifest is None else {"a-b": {"manifest": manifest, "bad": ""}}}
    defaults = {"ansible.builtin.include_vars": {"file": str(PROJECT / "roles/release/vars/main.yml")}}
    value = {"release_health_path": "{{ app_health_path }}"}
    hosts = {"h": {"ansible_connection": "local", **settings}}
    assert evaluate(tmp_path, [READ_APP, defaults], "{{ __release_health_path }}", hosts, variables=value)["h"] == expected


def test_the_status_checks_the_health_page_of_the_live_release(tmp_path, monkeypatch):
    release_info, asked = plugin("modules/release_info"), []
    directory = write(tmp_path, {"releases/a-b/manifest.json": '{"health_path": "/healthz"}', "releases/a-b/.venv/complete": ""})
    (directory / "live").symlink_to("releases/a-b")
    page = type("Page", (), {"probe": lambda _self: "", "warning": lambda _self: ""})()
    monkeypatch.setattr(release_info, "site_page", lambda params, _layout: asked.append(params["path"]) or page)
    monkeypatch.setattr(release_info.Systemd, "show", lambda _self, _units: [])
    for path in "", "/set":
        module = type("Module", (), {"params": {"root": str(directory), "app": "shop", "path": path}, "run_command": None})()
        release_info.health(module)
    assert asked == ["/healthz", "/set"]


# -- the name ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("git@git.example.com:you/My-Site.git", "my_site"),
        ("git@git.example.com:mysite.git", "mysite"),
        ("https://tok3n@git.example.com/you/mysite.git/", "mysite"),
        ("ssh://git@git.example.com:22/you/mysite", "mysite"),
        ("file:///srv/git/mysite.git", "mysite"),
        ("../mysite/", "mysite"),
        ("~/code/Shop 2.0", "shop_2_0"),
        ("/srv/2048", "app_2048"),
        ("/srv/redis", "redis_app"),
        ("/srv/Übung", "bung"),
        ("/srv/…", "app"),
        ("/srv/" + "long-name-" * 9, "long_name_long_name_long"),
        ("/srv/www.example.com", "www_example_com"),
    ],
)
def test_the_name_of_the_app_is_the_name_of_its_source_made_safe(source, name):
    found = names.source_name(source)
    assert found == name and re.fullmatch("[a-z][a-z0-9_]{0,24}", found)


def test_a_relative_source_is_named_after_its_directory(tmp_path):
    source = write(tmp_path / "Book Shop", {**LAYOUTS["hello"], "deploy/hosts.yml": "", "deploy/x.txt": ""})
    assert names.source_name("..", str(source / "deploy")) == "book_shop"


def test_two_apps_whose_names_collide_are_reported(tmp_path):
    one, two = (write(tmp_path / parent / "shop", LAYOUTS["hello"]) for parent in ("a", "b"))
    hosts = {"one": {"app_source": str(one)}, "two": {"app_source": str(two)}, "again": {"app_source": str(one)}}
    run = preflight(tmp_path, hosts)
    assert "app_name is 'shop': the app of host one has the same name, but another source. Set app_name for one of the two." in run.text
    assert "(host two)" in run.text and "One setting needs your attention" in run.text and "UNREACHABLE" not in run.output
    hosts["two"]["app_name"] = "shop2"
    assert "needs your attention" not in preflight(tmp_path, hosts).output


# -- make detect ---------------------------------------------------------------------------------------------------------


def test_make_detect_prints_yaml_to_paste(tmp_path):
    source = write(tmp_path / "it's a shop", LAYOUTS["procfile"])
    command = ["make", "--assume-old=.venv/ready", "--assume-old=.uv/bin/uv", "detect", f"SOURCE={source}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout.partition("\n")[2].partition("\n\n")[0]
    assert yaml.safe_load(text) == {
        "app_name": "it_s_a_shop",
        "app_module": "backend.main:make()",
        "app_server": "gunicorn",
        "app_release_command": "procfile",
        "app_health_path": "/",
    }
    assert "# redis is among the dependencies" in text


def test_make_detect_without_a_source_or_an_app_fails_with_a_remedy(tmp_path):
    command = ["make", "--assume-old=.venv/ready", "--assume-old=.uv/bin/uv", "detect"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode and "Name the source, a directory or a git URL: make detect SOURCE=../mysite" in done.stderr
    done = subprocess.run([*command, f"SOURCE={tmp_path}/none"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode and "it is neither a git URL nor a directory" in " ".join(done.stdout.split())
    source = write(tmp_path / "empty", {"readme.txt": "x"})
    done = subprocess.run([*command, f"SOURCE={source}"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and "# app_module: no app was found in the source (looked for" in done.stdout


# -- where the app is ----------------------------------------------------------------------------------------------------

SHOP = "from flask import Flask\n\n\ndef create_app():\n    return Flask(__name__)\n"
FINDS = {
    "annotated": ({"app.py": "from flask import Flask\napp: Flask = Flask(__name__)\n"}, "app:app"),
    "application": ({"app.py": "import flask\napplication = flask.Flask(__name__)\n"}, "app:application"),
    "alias": ({"wsgi.py": "from shop import create_app as make\napp = make()\napplication = app\n", "shop.py": SHOP}, "wsgi:app"),
    "re-exported": (
        {"wsgi.py": "from shop import app as application\n", "shop/__init__.py": "from .web import *\n", "shop/web.py": HELLO},
        "wsgi:application",
    ),
    "single instance": ({"main.py": "from flask import Flask\nserver = Flask('x')\ndb = object()\n"}, "main:server"),
    "subclass": ({"main.py": "from flask import Flask\nclass Shop(Flask):\n    pass\nsite = Shop(__name__)\n"}, "main:site"),
    "conditional": (
        {"app.py": "import os\nfrom flask import Flask\nif os.environ.get('X'):\n    app = Flask('a')\nelse:\n    app = None\n"},
        "app:app",
    ),
    "try": ({"app.py": "try:\n    from flask import Flask\n    app = Flask(__name__)\nexcept ImportError:\n    app = None\n"}, "app:app"),
    "factory with defaults": ({"app.py": SHOP.replace("()", "(config=None, *a, debug=False, **k)", 1)}, "app:create_app()"),
    "make_app": ({"app.py": SHOP.replace("create_app", "make_app")}, "app:make_app()"),
    "nested factory": (
        {"shop/__init__.py": "def outer():\n    def create_app():\n        return 1\n", "shop/app.py": SHOP},
        "shop.app:create_app()",
    ),
    "middleware": ({"app.py": HELLO + "from werkzeug.middleware.proxy_fix import ProxyFix\napp = ProxyFix(app)\n"}, "app:app"),
    "main block": (
        {"run.py": "from shop import create_app\nif __name__ == '__main__':\n    app = create_app()\n    app.run()\n", "shop.py": SHOP},
        "run:create_app()",
    ),
    "manage.py": ({"manage.py": "from shop import create_app\napp = create_app()\n", "shop/__init__.py": SHOP}, "shop:create_app()"),
    "worker": ({"celery_worker.py": "from shop import create_app\napp = create_app()\n", "shop/__init__.py": SHOP}, "shop:create_app()"),
    "entry module": ({"shop/__init__.py": HELLO, "run.py": "from shop import app\nimport views\n", "views.py": ""}, "run:app"),
    "scripts": (
        {
            "shop/__init__.py": SHOP,
            "admin/__init__.py": SHOP,
            "pyproject.toml": '[project]\nname = "x"\n[project.scripts]\nshop = "shop.cli:main"\n',
        },
        "shop:create_app()",
    ),
    "project name": (
        {"shop/__init__.py": SHOP, "admin/__init__.py": SHOP, "pyproject.toml": '[project]\nname = "shop"\n'},
        "shop:create_app()",
    ),
    "flaskenv with a path": (
        {".flaskenv": "export FLASK_APP='./shop/web.py:site'\n", "shop/__init__.py": "", "shop/web.py": HELLO.replace("app =", "site =")},
        "shop.web:site",
    ),
    "flaskenv with a factory": ({".flaskenv": "FLASK_APP=shop:make\n", "shop.py": SHOP.replace("create_app", "make")}, "shop:make()"),
    "flaskenv with arguments": (
        {".flaskenv": 'FLASK_APP=shop:make("dev")\n', "shop.py": SHOP.replace("create_app", "make")},
        'shop:make("dev")',
    ),
    "Procfile, gunicorn's default object": (
        {"Procfile": "web: gunicorn shop\n", "shop.py": HELLO.replace("app =", "application =")},
        "shop:application",
    ),
    "Procfile, waitress --call": (
        {"Procfile": "web: waitress-serve --port=$PORT --call shop:make\n", "shop.py": SHOP.replace("create_app", "make")},
        "shop:make()",
    ),
    "Procfile, flask": ({"Procfile": "web: flask --app shop run\n", "shop.py": HELLO, "app.py": HELLO}, "shop:app"),
    "Procfile, python": ({"Procfile": "web: python shop.py\n", "shop.py": HELLO, "other.py": HELLO}, "shop:app"),
    "connexion": ({"app.py": "import connexion\napp = connexion.FlaskApp(__name__)\n"}, "app:app"),
    "Dash": ({"app.py": "from dash import Dash\napp = Dash(__name__)\nserver = app.server\n"}, "app:server"),
    "lock before the app": (
        {"app.py": "import threading\nfrom flask import Flask\nwith threading.Lock():\n    app = Flask('x')\n"},
        "app:app",
    ),
    "latin-1": ({"app.py": "# -*- coding: latin-1 -*-\n# ü\n".encode("latin-1") + HELLO.encode()}, "app:app"),
    "BOM": ({"app.py": "\ufeff".encode() + HELLO.encode()}, "app:app"),
    "Windows line ends": ({"app.py": HELLO.replace("\n", "\r\n")}, "app:app"),
    "type checking": (
        {
            "app.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from x import app\nfrom flask import Flask\nsite = Flask('x')\n"
        },
        "app:site",
    ),
}


@pytest.mark.parametrize("name", FINDS)
def test_the_app_is_found(name):
    files, module = FINDS[name]
    found = detect({**files, "requirements.txt": "flask\n"})
    assert (found.get("module"), found["problem"]) == (module, "")


@pytest.mark.parametrize(
    ("files", "server"),
    [
        ({"asgi.py": "from x import y\napp = y.get()\n"}, "uvicorn"),
        ({"wsgi.py": "from x import y\napp = y.get()\n"}, "gunicorn"),
        ({"main.py": "from fastapi import FastAPI\napp = FastAPI()\n"}, "uvicorn"),
        ({"main.py": "from starlette.applications import Starlette\napp = Starlette()\n"}, "uvicorn"),
        ({"app.py": "from quart import Quart\ndef create_app():\n    app = Quart(__name__)\n    return app\n"}, "uvicorn"),
        (
            {
                "asgi.py": "from a2wsgi import WSGIMiddleware\nfrom shop import app as inner\napp = WSGIMiddleware(inner)\n",
                "shop.py": HELLO,
            },
            "uvicorn",
        ),
        ({"asgi.py": "from asgiref.wsgi import WsgiToAsgi\nfrom shop import app\napp = WsgiToAsgi(app)\n", "shop.py": HELLO}, "uvicorn"),
        ({"app.py": "import connexion\napp = connexion.App(__name__)\n", "requirements.txt": "connexion>=3\n"}, "uvicorn"),
        (
            {"app.py": "import connexion\napp = connexion.App(__name__)\n", "requirements.txt": "connexion[swagger-ui]==2.14.2\n"},
            "gunicorn",
        ),
        ({"app.py": HELLO, "Procfile": "web: gunicorn --worker-class gevent -w 1 app:app\n"}, "procfile"),
        ({"app.py": HELLO, "Procfile": "web: gunicorn -k gthread app:app\n"}, "gunicorn"),
        ({"Procfile": "web: ./serve\n", "serve": "#!/bin/sh\n"}, "procfile"),
    ],
)
def test_the_server_fits_the_app(files, server):
    found = detect(files)
    assert (found["server"], found["problem"]) == (server, "")
    assert ("module" in found) is (server != "procfile")


def test_settings_of_the_operator_help_to_find_the_app(tmp_path):
    """A server that replaces the Procfile's own, and a PYTHONPATH with the directory of the modules."""
    files = {
        "src/app.py": f"import tools\n{HELLO}@app.route('/healthz')\ndef health():\n    return ''\n",
        "src/tools.py": "",
        "src/static/x.css": "",
        "Procfile": "web: gunicorn -k gevent app:app\n",
        "requirements.txt": "flask\n",
    }
    settings = {"app_source": str(write(tmp_path / "shop", files)), "app_server": "gunicorn"}
    found = {"app_module": "app:app", "app_static": {"/static/": "src/static"}, "app_health_path": "/healthz", "app_server": "gunicorn"}
    for name in "src", "lib:./src/":
        assert effective(tmp_path, *found, **settings, app_env={"PYTHONPATH": name}) == found


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.py": HELLO, "b.py": SHOP}, ["the source has several apps: a:app (a.py), b:create_app() (b.py). Choose one."]),
        (
            {"app.py": "from flask import Flask\none, two = Flask('a'), 1\nx = Flask('b')\ny = Flask('c')\n"},
            ["several apps: app:x (app.py), app:y (app.py)"],
        ),
        (
            {"__init__.py": FACTORY, "db.py": ""},
            ["The source is itself a package, because it has an __init__.py: set app_source to the directory that contains the package."],
        ),
        (
            {"shop.py": SHOP.replace("()", "(config, *, debug)", 1)},
            ["create_app in shop.py requires arguments (config, debug): app_module: shop:create_app(…)."],
        ),
        ({"shop.py": SHOP.replace("def", "async def")}, ["create_app in shop.py is async"]),
        (
            {"app.py": HELLO + "app.run()\n"},
            ["app.py starts a server when it is imported (line 9)", 'move app.run(…) below `if __name__ == "__main__":`'],
        ),
        ({"app.py": HELLO + "print 'hello'\n"}, ["app.py cannot be parsed (line 9: Missing parentheses"]),
        ({"app.py": b"\xff\xfe\x00app"}, ["app.py cannot be parsed"]),
        ({"app.py": "# coding: nonsense\n" + HELLO}, ["app.py cannot be parsed"]),
        (
            {
                "run.py": "def main():\n    from flask import Flask\n    app = Flask('x')\n    app.run()\nif __name__ == '__main__':\n    main()\n"
            },
            ["no app was found"],
        ),
        (
            {"src/main.py": "import models\n" + HELLO, "src/models.py": "a = 1\n"},
            ["src.main:app imports models from src/", "set app_env: { PYTHONPATH: src }, or app_directory: src"],
        ),
        ({"tests/app.py": HELLO, "docs/app.py": HELLO, "examples/x/app.py": HELLO}, ["no app was found"]),
        ({}, ["looked for the web line of the Procfile, FLASK_APP in .flaskenv and .env, wsgi.py, app.py"]),
        ({f"app{number}.py": HELLO for number in range(1000)}, ["several apps: app0:app (app0.py)", "and 992 more"]),
    ],
)
def test_a_source_without_exactly_one_app_is_reported_with_the_reason(files, expected):
    found = detect({**files, "requirements.txt": "flask\n"})
    assert "module" not in found and all(text in found["problem"] for text in expected), found["problem"]
    assert len(found["problem"]) < 2100


def test_preflight_asks_for_app_module_if_there_are_several_apps(tmp_path):
    source = write(tmp_path / "two", {"a.py": HELLO, "b.py": SHOP, "requirements.txt": "flask\n"})
    run = preflight(tmp_path, {"h": {"app_source": str(source), "app_processes": {"worker": 1}}})
    assert "app_module is not set: the source has several apps: a:app (a.py), b:create_app() (b.py). Choose one." in run.text
    assert "the source has no Procfile" in run.text and "2 settings need your attention" in run.text and "UNREACHABLE" not in run.output
    assert "Found: name two, gunicorn" in preflight(tmp_path, {"h": {"app_source": str(source), "app_module": "a:app"}}).text


# -- what belongs to the app ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "static"),
    [
        ("Flask(__name__)", {"/static/": "shop/static"}),
        ("Flask('shop')", {"/static/": "shop/static"}),
        ("Flask(__name__.split('.')[0])", {"/static/": "shop/static"}),
        ("Flask(import_name=__name__)", {}),
        ("Flask(__name__, static_url_path='/s')", {"/s/": "shop/static"}),
        ("Flask(__name__, static_folder='../assets/')", {"/assets/": "assets"}),
        ("Flask(__name__, static_folder='../assets', static_url_path='')", {}),
        ("Flask(__name__, static_folder=None)", {}),
        ("Flask(__name__, static_folder='nowhere')", {}),
        ("Flask(__name__, static_folder='../../etc')", {}),
        ("Flask(__name__, static_folder='/etc')", {}),
        ("Flask(__name__, static_folder=DIRECTORY)", {}),
        ("Flask(__name__, static_url_path=URL)", {}),
        ("Flask(__name__, static_host='cdn.example')", {}),
        ("Flask(__name__, **settings)", {}),
        ("Flask(NAME)", {}),
        ("Flask(__name__)\napp.static_folder = x()", {}),
        ("Flask(__name__, static_url_path='/{{ 7 * 7 }}')", {}),
        ("Flask(__name__, static_folder='../a b')", {}),
        ("Quart(__name__)", {"/static/": "shop/static"}),
    ],
)
def test_static_files_are_detected_if_they_are_constant(call, static):
    files = {"shop/__init__.py": f"from flask import Flask\nfrom quart import Quart\napp = {call}\n"}
    files |= dict.fromkeys(("shop/static/a.css", "assets/a.css", "a b/a.css"), "p {}\n")
    assert detect(files).get("static", {}) == static


def test_static_files_that_the_app_writes_to_are_left_to_the_app():
    files = {"shop/__init__.py": HELLO, "shop/static/a.css": "p {}\n"}
    assert detect(files)["static"] == {"/static/": "shop/static"}
    for shared in "shop/static", "shop/static/uploads", "shop":
        assert "static" not in detect(files, app_shared=[shared])


@pytest.mark.parametrize(
    ("app", "path"),
    [
        ('@app.route("/health")\ndef a(): ...\n@app.route("/healthz")\ndef b(): ...\n', "/healthz"),
        ('@app.get("/up/")\ndef a(): ...\n', "/up/"),
        ('app.add_url_rule("/ping", view_func=x)\n', "/ping"),
        ('@app.route("/health", methods=["POST"])\ndef a(): ...\n', "/"),
        ('@app.route("/health/<part>")\ndef a(part): ...\n', "/"),
        ('@app.route("/health")\n@login_required\ndef a(): ...\n', "/"),
        ('@app.route("/health")\n@limiter.exempt\ndef a(): ...\n', "/health"),
        ('@other.route("/health")\ndef a(): ...\n', "/"),
        ("PATH = '/health'\n@app.route(PATH)\ndef a(): ...\n", "/"),
        ('bp = Blueprint("a", "b")\n@bp.route("/health")\ndef a(): ...\napp.register_blueprint(bp)\n', "/health"),
        ('bp = Blueprint("a", "b", url_prefix="/up")\n@bp.get("/")\ndef a(): ...\napp.register_blueprint(bp)\n', "/up/"),
        ('bp = Blueprint("a", "b")\n@bp.route("/health")\ndef a(): ...\napp.register_blueprint(bp, url_prefix="/api")\n', "/"),
        ('bp = Blueprint("a", "b")\n@bp.route("/health")\ndef a(): ...\napp.register_blueprint(bp, url_prefix=PREFIX)\n', "/"),
        ('bp = Blueprint("a", "b")\n@bp.route("/health")\ndef a(): ...\nparent.register_blueprint(bp)\n', "/"),
        ('bp = Blueprint("a", "b")\n@bp.route("/health")\ndef a(): ...\n', "/"),
    ],
)
def test_the_health_page_is_detected_if_it_is_declared(app, path):
    assert detect({"app.py": f"from flask import Flask, Blueprint\napp = Flask(__name__)\n{app}"})["health_path"] == path


MIGRATE = {"migrations/env.py": "", "migrations/alembic.ini": "", "requirements.txt": "Flask_Migrate>=4\n"}


@pytest.mark.parametrize(
    ("files", "settings", "command"),
    [
        ({"app.py": HELLO, **MIGRATE}, {}, "FLASK_APP=app flask db upgrade"),
        ({"main.py": HELLO.replace("app =", "site ="), **MIGRATE}, {}, "FLASK_APP=main:site flask db upgrade"),
        ({"app.py": HELLO, "b.py": HELLO, **MIGRATE}, {"app_module": 'b:make("x y")'}, "FLASK_APP='b:make(\"x y\")' flask db upgrade"),
        ({"app.py": HELLO, **MIGRATE, "requirements.txt": "# Flask-Migrate\nflask\n"}, {}, ""),
        ({"app.py": HELLO, "requirements.txt": "flask-migrate\n"}, {}, ""),
        (
            {"app.py": HELLO + "Migrate(app, db, directory='db/moves')\n", "db/moves/env.py": "", "uv.lock": 'name = "flask-migrate"\n'},
            {},
            "FLASK_APP=app flask db upgrade",
        ),
        (
            {"app.py": HELLO + "Migrate(app, db, directory=HERE)\n", "a/migrations/env.py": "", "uv.lock": 'name = "flask-migrate"\n'},
            {},
            "FLASK_APP=app flask db upgrade",
        ),
        ({"app.py": HELLO, "a/migrations/env.py": "", "uv.lock": 'name = "flask-migrate"\n'}, {}, ""),
        (
            {
                "app.py": HELLO,
                "alembic.ini": "[alembic]\nscript_location = %(here)s/moves\n",
                "moves/env.py": "",
                "requirements.txt": "alembic\n",
            },
            {},
            "python -m alembic upgrade head",
        ),
        ({"app.py": HELLO, "alembic.ini": "[alembic]\nscript_location = moves\n", "requirements.txt": "alembic\n"}, {}, ""),
        ({"app.py": HELLO, **MIGRATE, "Procfile": "web: gunicorn app:app\nrelease: ./migrate\n"}, {}, "procfile"),
        ({"app.py": HELLO, **MIGRATE, "Procfile": "web: gunicorn app:app\nrelease: echo 'a\n"}, {}, "FLASK_APP=app flask db upgrade"),
    ],
)
def test_the_release_command_is_detected(files, settings, command):
    assert detect(files, **settings).get("release_command", "") == command


def test_a_container_needs_no_detection():
    assert detect(LAYOUTS["microblog"], app_runtime="container") == {"found_in": {}, "hints": [], "problem": ""}
    assert detect({}, app_runtime="container")["problem"] == ""


# -- hostile sources -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "(" * 100_000,
        "-" * 400_000 + "1",
        "a" + ".b" * 100_000,
        "a" + "()" * 100_000,
        "x = " + "[" * 90 + "]" * 90 + "\n" + "y = " + "+".join(["1"] * 100_000),
        "if 1: pass\n" + "elif 1: pass\n" * 30_000,
        "".join(" " * depth + "if 1:\n" for depth in range(99)) + " " * 99 + "app = 1\n",
        "f'" + "{f'" * 500,
        "\0" * 1000,
        "app = " + "9" * 10_000 + "\n",
        "x = lambda: " * 50_000 + "1",
    ],
)
def test_a_file_that_exhausts_the_parser_is_skipped(content):
    """The other files are still read, and the run goes on."""
    found = detect({"app.py": content, "other.py": HELLO})
    assert found["problem"] == "" and found["module"] == "other:app"
    assert "no app was found" in detect({"app.py": content})["problem"]


def test_names_that_refer_to_each_other_end_in_not_found():
    chain = "".join(f"a{number} = a{number + 1}\na{number} = a{number + 1}\n" for number in range(5000))
    loop = "from flask import Flask\napp = other\nother = app\ndef create_app():\n    x = y\n    y = x\n    return x\n"
    stars = {f"m{number}.py": "".join(f"from m{other} import *\n" for other in range(30)) for number in range(30)}
    calls = "def create_app():\n" + "".join(f"    a{n} = a{n + 1}\n    a{n} = f(a{n + 1})\n" for n in range(400)) + "    return a0\n"
    for files in ({"app.py": "app = a0\n" + chain}, {"app.py": loop}, {"main.py": "from m0 import app\n", **stars}, {"app.py": calls}):
        assert detect(files)["problem"] or detect(files)["module"]


def test_a_huge_file_is_not_read():
    assert "no app was found" in detect({"app.py": HELLO + "#" * 10**6})["problem"]


def test_links_are_followed_inside_the_source_only():
    def link(name, target):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        return info

    found = detect({"real/site.py": HELLO, "app.py": link("app.py", "real/site.py")})
    assert found["module"] == "app:app"
    for target in "/etc/passwd", "../outside.py", "app.py", "nowhere.py":
        assert "no app was found" in detect({"app.py": link("app.py", target)})["problem"]
    files = {"app.py": HELLO, "assets/a.css": "p {}\n", "static": link("static", "assets")}
    assert detect(files)["static"] == {"/static/": "static"}
    assert "static" not in detect({"app.py": HELLO, "static": link("static", "../x")})


@pytest.mark.parametrize(
    "files",
    [
        {".flaskenv": 'FLASK_APP=app:make(\'{{ lookup("pipe", "id") }}\')\n', "app.py": "make = 1\n"},
        {".flaskenv": "FLASK_APP=$(touch /tmp/x)\n"},
        {"Procfile": "web: gunicorn 'app:make(`id`)'\n", "app.py": "make = 1\n"},
        {"{{ 7 * 7 }}.py": HELLO},
        {"größe.py": HELLO},
        {"a-b.py": HELLO},
        {f"{'x' * 240}.py": HELLO},
    ],
)
def test_a_name_that_is_not_plain_is_not_used(files):
    found = detect(files)
    assert "module" not in found and "release_command" not in found


def test_the_source_is_not_imported(tmp_path):
    trap = f"open('{tmp_path}/imported', 'w')\n"
    names = ("json.py", "ast.py", "sitecustomize.py", "usercustomize.py")
    source = write(tmp_path / "trap", {"app.py": trap + HELLO, "requirements.txt": "", **dict.fromkeys(names, trap)})
    run = preflight(tmp_path, {"h": {"app_source": str(source)}})
    assert "module app:app (app.py)" in run.text and not (tmp_path / "imported").exists()
    # the program that reads Python files has no way to run them
    tree = ast.parse((PROJECT / "plugins/plugin_utils/python_facts.py").read_text())
    assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"exec", "eval", "compile", "__import__", "importlib"}
