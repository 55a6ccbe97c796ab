"""Apps with the usual layouts go live at the first run, with three values: the source, the domain and the host's address.

The lock files are made by the tools themselves, from PyPI.
"""

import os
import subprocess

import pytest
from sites import PROJECT, Site

UV = PROJECT / ".uv/bin/uv"
HELLO = 'from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.get("/")\ndef hello():\n    return "hello from {}"\n'
# the tutorial's application factory and database in the instance directory; a visit is a row
FLASKR = """\
import os
import sqlite3

from flask import Flask


def create_app(test_config=None):
    app = Flask(__name__, instance_relative_config=True)
    app.config.from_mapping(SECRET_KEY="dev", DATABASE=os.path.join(app.instance_path, "flaskr.sqlite"))
    os.makedirs(app.instance_path, exist_ok=True)

    @app.route("/hello")
    def hello():
        return "Hello, World!"

    @app.route("/")
    def visit():
        with sqlite3.connect(app.config["DATABASE"]) as db:
            db.execute("create table if not exists visit (id integer)")
            db.execute("insert into visit values (1)")
            return f"visit {db.execute('select count(*) from visit').fetchone()[0]}"

    return app
"""
MICROBLOG = """\
import os

from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

basedir = os.path.abspath(os.path.dirname(__file__))
db, migrate = SQLAlchemy(), Migrate()


def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("DATABASE_URL") or "sqlite:///" + os.path.join(basedir, "..", "app.db")
    db.init_app(app)
    migrate.init_app(app, db)

    @app.route("/")
    def posts():
        return f"posts: {db.session.execute(db.text('select count(*) from post')).scalar()}"

    return app
"""
ENV = """\
from alembic import context
from flask import current_app

engine = current_app.extensions["migrate"].db.engine
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = """\
from alembic import op
import sqlalchemy as sa

revision, down_revision = "1", None


def upgrade():
    op.create_table("post", sa.Column("id", sa.Integer, primary_key=True))
"""
HATCH = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
# name: (files of the source, command that makes its lock file, page, text on it)
LAYOUTS = {
    "hello": ({"app.py": HELLO.format("a script"), "requirements.txt": "Flask\n"}, [], "/", "hello from a script"),
    "flaskr": (
        {
            "flaskr/__init__.py": FLASKR,
            "flaskr/static/style.css": "p {}\n",
            "pyproject.toml": '[project]\nname = "flaskr"\nversion = "1.0.0"\ndescription = "A blog"\ndependencies = ["flask"]\n'
            '[build-system]\nrequires = ["flit_core<4"]\nbuild-backend = "flit_core.buildapi"\n[tool.flit.module]\nname = "flaskr"\n',
        },
        [],
        "/",
        "visit ",
    ),
    "microblog": (
        {
            ".flaskenv": "FLASK_APP=microblog.py\nFLASK_DEBUG=1\n",
            "microblog.py": "from app import create_app\n\napp = create_app()\n",
            "app/__init__.py": MICROBLOG,
            "migrations/env.py": ENV,
            "migrations/script.py.mako": "",
            "migrations/alembic.ini": "[alembic]\n",
            "migrations/versions/1_posts.py": REVISION,
            "requirements.txt": "flask\nflask-migrate\nflask-sqlalchemy\npython-dotenv\n",
        },
        [],
        "/",
        "posts: 0",
    ),
    "poetry": (
        {
            "wsgi.py": "from shop import create_app\n\napp = create_app('production')\n",
            "shop/__init__.py": "from flask import Flask\n\n\ndef create_app(stage):\n    app = Flask(__name__)\n"
            "    app.add_url_rule('/', view_func=lambda: f'shop in {stage}')\n    return app\n",
            "pyproject.toml": '[tool.poetry]\nname = "shop"\npackage-mode = false\n[tool.poetry.dependencies]\npython = "^3.11"\nflask = "^3"\n'
            # the index that uv uses too; by default, poetry uses another interface of PyPI, which mirrors don't have
            '[[tool.poetry.source]]\nname = "simple"\nurl = "https://pypi.org/simple/"\npriority = "primary"\n',
        },
        ["poetry", "lock"],
        "/",
        "shop in production",
    ),
    # not `src`, which is a group of Debian
    "src_layout": (
        {
            "src/shop/__init__.py": "from shop.web import app\n",
            "src/shop/web.py": HELLO.format("src").replace("__name__", '"shop", static_folder="assets", static_url_path="/files"'),
            "src/shop/assets/site.css": "p { color: teal }\n",
            "pyproject.toml": f'[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["flask"]\n{HATCH}'
            '[tool.hatch.build.targets.wheel]\npackages = ["src/shop"]\n',
        },
        ["uv", "lock"],
        "/files/site.css",
        "teal",
    ),
    "package": (
        {"shop/__init__.py": HELLO.format("a package"), "requirements.txt": "flask\n"},
        [],
        "/",
        "hello from a package",
    ),
    "procfile": (
        {
            "Procfile": "web: gunicorn --bind 0.0.0.0:$PORT 'backend.main:make()' --log-file -\n",
            "backend/main.py": "from flask import Flask\n\n\ndef make():\n    app = Flask(__name__)\n"
            "    app.add_url_rule('/', view_func=lambda: 'made')\n    return app\n",
            "other.py": HELLO.format("another app"),
            "requirements.txt": "flask\ngunicorn\n",
        },
        [],
        "/",
        "made",
    ),
    "quart": (
        {
            "app.py": HELLO.format("quart").replace("flask", "quart").replace("Flask", "Quart").replace("def hello", "async def hello"),
            "requirements.txt": "quart\n",
        },
        [],
        "/",
        "hello from quart",
    ),
    "pipfile": (
        {"main.py": HELLO.format("pipenv"), "Pipfile": '[packages]\nflask = "*"\n'},
        ["pipenv", "lock"],
        "/",
        "hello from pipenv",
    ),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    files, lock, page, text = LAYOUTS[request.param]
    source = tmp_path / request.param
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content)
    if lock:
        command = [UV, *lock[1:]] if lock[0] == "uv" else [UV, "tool", "run", *lock]
        environment = os.environ | {"POETRY_CACHE_DIR": str(tmp_path / "cache"), "PIPENV_IGNORE_VIRTUALENVS": "1"}
        subprocess.run(command, cwd=source, check=True, capture_output=True, text=True, env=environment)
    return request.param, source, page, text


def test_an_app_with_three_values_goes_live_at_the_first_run(layout):
    name, source, page, text = layout
    site = Site("recipes-newer", app=name, domain=f"{name.replace('_', '-')}.test")
    settings = {"app_source": str(source), "app_domains": [site.domain]}
    run = site.play("deploy.yml", **settings)
    assert run.ok and run.reports("Found: name " + name), run.output
    status, body = site.get(page)
    assert status == 200 and text in body, body
    again = site.play("deploy.yml", **settings)
    assert again.ok and again.changed == 0, again.output
    if name == "flaskr":
        check_that_the_database_outlives_a_release(site, source, settings)


def check_that_the_database_outlives_a_release(site, source, settings):
    before, first = site.get()[1], site.live()
    (source / "flaskr/static/style.css").write_text("p { color: teal }\n")
    run = site.play("deploy.yml", **settings)
    assert run.ok and site.live() != first, run.output
    assert int(site.get()[1].split()[1]) == int(before.split()[1]) + 1
