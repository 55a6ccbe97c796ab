"""Databases and directories for data are found in a source, without running its code."""

import sqlite3
import tarfile
import time

import pytest
from conftest import PROJECT, plugin, run_playbook

app_source, detection = plugin("action/app_source"), plugin("plugin_utils/detection_state")
MAGIC = b"SQLite format 3\0".ljust(4096, b"\0")
FLASK = "from flask import Flask\napp = Flask(__name__)\n"
SQLALCHEMY = "from flask import Flask\nfrom flask_sqlalchemy import SQLAlchemy\napp = Flask(__name__)\n"
BASEDIR = "import os\nbasedir = os.path.abspath(os.path.dirname(__file__))\n"


def shared(files, links=None):
    contents = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
    sizes = {name: len(content) for name, content in contents.items()}
    return detection.shared_paths(sizes, links or {}, lambda name, size: contents[name][:size])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # by their header, with any name
        ({"app.db": MAGIC, "pkg/data.bin": MAGIC, "other.db": b"x" * 4096, "note.db": b"text"}, ["app.db", "pkg/data.bin"]),
        ({"empty.sqlite3": b"", "empty.txt": b""}, ["empty.sqlite3"]),
        ({"a.db": MAGIC, "b/b.sqlite": MAGIC}, ["a.db", "b/b.sqlite"]),
        # those of tests, and those that nginx would serve
        ({"tests/test.db": MAGIC, "pkg/tests/x.db": MAGIC, "static/x.db": MAGIC, "pkg/static/x.db": MAGIC}, []),
        # the whole instance directory, unless it also has settings or code
        ({"instance/site.db": MAGIC, "instance/.gitignore": "", "app.py": FLASK}, ["instance"]),
        ({"instance/site.db": MAGIC, "instance/config.py": "X = 1\n", "app.py": FLASK}, ["instance/site.db"]),
        ({"shop/instance/__init__.py": "", "shop/instance/site.db": MAGIC}, ["shop/instance/site.db"]),
        # a name that app_shared does not accept
        ({"my data.db": MAGIC, ".hidden/x.db": MAGIC}, []),
    ],
)
def test_databases_of_the_source_are_found(files, expected):
    """(A6)"""
    assert shared(files) == expected


CODE = {
    "the tutorial of Flask": (
        {"flaskr/__init__.py": f"import os\n{FLASK}app.config.from_mapping(DATABASE=os.path.join(app.instance_path, 'flaskr.sqlite'))\n"},
        ["instance"],
    ),
    "instance directory": ({"src/shop/__init__.py": f"{FLASK}os.makedirs(app.instance_path)\n"}, ["src/instance"]),
    "Flask-SQLAlchemy": ({"app.py": f'{SQLALCHEMY}app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///site.db"\n'}, ["instance"]),
    "Flask-SQLAlchemy, settings in instance": (
        {"app.py": f'{SQLALCHEMY}URI = "sqlite:///site.db"\n', "instance/config.py": "X = 1\n"},
        ["instance/site.db"],
    ),
    "Flask-SQLAlchemy, no extension": ({"app.py": f"{SQLALCHEMY}URI = 'sqlite:///site'\n"}, ["instance"]),
    "Flask-SQLAlchemy 2": (
        {"shop/__init__.py": f"{SQLALCHEMY}URI = 'sqlite:///site.db'\n", "requirements.txt": "flask\nFlask-SQLAlchemy==2.5.1\n"},
        ["shop/site.db"],
    ),
    "Flask-SQLAlchemy 2, poetry": (
        {
            "app.py": f"{SQLALCHEMY}URI = 'sqlite:///site.db'\n",
            "poetry.lock": '[[package]]\nname = "flask-sqlalchemy"\nversion = "2.5.1"\n',
        },
        ["site.db"],
    ),
    "Flask-SQLAlchemy 3, pinned": (
        {"app.py": f"{SQLALCHEMY}URI = 'sqlite:///site.db'\n", "requirements.txt": "Flask-SQLAlchemy==3.1.1\nFlask==2.3\n"},
        ["instance"],
    ),
    "default of a variable": ({"app.py": f'{SQLALCHEMY}URI = os.environ.get("DATABASE_URL", "sqlite:///site.db")\n'}, ["instance"]),
    "microblog": (
        {
            "config.py": f"{BASEDIR}class Config:\n    URI = os.environ.get('X') or 'sqlite:///' + os.path.join(basedir, 'app.db')\n",
            "app/__init__.py": SQLALCHEMY,
        },
        ["app.db"],
    ),
    "f-string": ({"website/__init__.py": f"{SQLALCHEMY}DB_NAME = 'database.db'\nURI = f'sqlite:///{{DB_NAME}}'\n"}, ["instance"]),
    "pathlib": (
        {
            "shop/settings.py": 'from pathlib import Path\nBASE = Path(__file__).resolve().parent.parent\nURI = f\'sqlite:///{BASE / "data" / "x.db"}\'\n'
        },
        ["data/x.db"],
    ),
    "format": (
        {"app.py": f"{BASEDIR}URI = 'sqlite:///{{}}'.format(os.path.join(basedir, 'a.db'))\nB = 'sqlite:///%s/b.db' % basedir\n"},
        ["a.db", "b.db"],
    ),
    "root path": ({"shop/__init__.py": f"{FLASK}import os, sqlite3\nDB = os.path.join(app.root_path, 'shop.db')\n"}, ["shop/shop.db"]),
    "SQLAlchemy": ({"db.py": "engine = create_engine('sqlite:///shop.db', echo=True)\n"}, ["shop.db"]),
    "SQLAlchemy beside Flask-SQLAlchemy": ({"app.py": f"{SQLALCHEMY}engine = create_engine('sqlite:///shop.db')\n"}, ["shop.db"]),
    "driver": ({"db.py": "engine = create_async_engine('sqlite+aiosqlite:///./shop.db?timeout=5')\n"}, ["shop.db"]),
    "sqlite3": ({"app.py": "import sqlite3\nsqlite3.connect('database.db')\n"}, ["database.db"]),
    "sqlite3, constant": ({"app.py": "import sqlite3\nDATABASE = './data/database.db'\n"}, ["data/database.db"]),
    "peewee": ({"app.py": "from peewee import *\ndb = SqliteDatabase('people.db')\n"}, ["people.db"]),
    "of the environment": ({"app.py": FLASK, ".env": "DATABASE_URL='sqlite:///app.db'\n", "requirements.txt": ""}, ["app.db"]),
    "of flask": ({"app.py": SQLALCHEMY, ".flaskenv": "DATABASE_URL=sqlite:///app.db\n"}, ["instance"]),
    "uploads": ({"app.py": f"{FLASK}app.config['UPLOAD_FOLDER'] = 'uploads'\n"}, ["uploads"]),
    "uploads beside the code": (
        {"pkg/app.py": f"{BASEDIR}UPLOAD_FOLDER = os.path.join(basedir, 'files')\n", "pkg/files/a.png": "x"},
        ["pkg/files"],
    ),
    "uploads and logs with a default, as in CTFd": (
        {
            "pkg/config.py": "path = os.path.join('x', 'y')\nclass Config:\n    LOG_FOLDER: str = cast(ini['LOG_FOLDER']) or os.path.join(os.path.dirname(__file__), 'logs')\n"
            "    UPLOAD_FOLDER: str = os.environ.get('X') or 'uploads'\n    OTHER_FOLDER: str = 'other'\n    LOG_DIR: str\n",
            "pkg/logs/.gitkeep": "",
        },
        ["pkg/logs", "uploads"],
    ),
    "uploads that nginx serves": ({"app.py": f"{FLASK}app.config.update(UPLOAD_FOLDER='static/uploads')\n"}, []),
    "uploads in the code": ({"app.py": f"{FLASK}UPLOAD_FOLDER = 'shop'\n", "shop/__init__.py": ""}, []),
    "in memory": ({"app.py": f"{SQLALCHEMY}A = 'sqlite://'\nB = 'sqlite:///:memory:'\nC = 'sqlite:///'\n"}, []),
    "elsewhere": ({"app.py": f"{BASEDIR}A = 'sqlite:////var/lib/x.db'\nB = 'sqlite:///../x.db'\nUPLOAD_FOLDER = '/srv/uploads'\n"}, []),
    "read only": ({"app.py": "engine = create_engine('sqlite:///file:cities.db?mode=ro&uri=true')\n"}, []),
    "unknown part": (
        {"app.py": "import os, sqlite3\nDB = os.path.join(os.environ['HOME'], 'x.db')\nURI = 'sqlite:///' + name\nC = f'{x}.db'\n"},
        [],
    ),
    "in a comment or a text": ({"app.py": f"{FLASK}'''Set it to sqlite:///x.db, or to 'x.db'.'''\n# sqlite:///y.db\n"}, []),
    "of tests": ({"tests/conftest.py": "URI = 'sqlite:///test.db'\n", "test_app.py": "URI = 'sqlite:///test.db'\n"}, []),
    "not Python": ({"app.py": "sqlite:///x.db is not Python\n"}, []),
}


@pytest.mark.parametrize("name", CODE)
def test_databases_that_the_code_names_are_found(name):
    """Even if they do not exist yet (A6)"""
    files, expected = CODE[name]
    assert shared(files) == expected


def test_links_are_resolved_and_conflicts_are_left_out():
    """Detection never makes preflight fail (A6)"""
    code = "import sqlite3\nA = 'link/x.db'\nB = 'file/y.db'\nC = 'out/z.db'\nD = 'loop'\n"
    files = {"app.py": code, "data/x.db": MAGIC, "file": "x"}
    assert shared(files, {"link": "data", "out": "..", "loop": "loop"}) == ["data/x.db"]
    assert shared({"data/real.db": MAGIC}, {"app.db": "data/real.db"}) == ["data/real.db"]
    assert shared({"uploads/x.db": MAGIC, "app.py": f"{FLASK}UPLOAD_FOLDER = 'uploads'\n"}) == ["uploads"]


HOSTILE = {
    "deep": "x = 'sqlite:///'" + "+a" * 50_000,
    "nested": "x = 'sqlite:///x.db'; " + "(" * 100_000,
    "unary": "x = 'sqlite:///x.db'; y = " + "-" * 100_000 + "1",
    "doubling": "a0 = 'sqlite:///x.db'\n" + "".join(f"a{n + 1} = a{n} + a{n}\n" for n in range(2_000)),
    "itself": "import sqlite3\na = b + 'x.db'\nb = a\n" * 100,
    "wide": "sqlite = [" + "'a.db'+" * 30_000 + "'b.db']",
    "many": "import sqlite3\n" + "".join(f"x{n} = 'a{n}.db'\n" for n in range(10_000)),
    "names": "import sqlite3\na = 'a\\x00b.db'\nb = '\\ud800.db'\nc = '" + "d/" * 20_000 + "x.db'\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_source_is_read_in_little_time(name):
    """Nothing in it makes the controller hang (A6)"""
    started = time.process_time()
    found = shared({"app.py": HOSTILE[name], "other.py": "URI = 'sqlite:///kept.db'\n", "large.py": "#" * 10**6})
    assert time.process_time() - started < 5 and len(found) <= detection.MAX_PATHS
    assert "kept.db" in found or name == "many"


def test_the_archive_of_a_source_is_searched(tmp_path):
    """app_source returns what it finds (A6)"""
    (tmp_path / "shop/pkg").mkdir(parents=True)
    sqlite3.connect(tmp_path / "shop/pkg/shop.db").execute("create table rows (name)")
    (tmp_path / "shop/app.py").write_text(f"{SQLALCHEMY}URI = 'sqlite:///site.db'\n")
    found = app_source.find({"source": str(tmp_path / "shop")}, str(tmp_path))
    assert app_source.read_archive(found, {"detect_for": {}})["detected"]["shared"] == ["instance", "pkg/shop.db"]
    with tarfile.open(found["archive"]) as tar:
        assert tar.getnames() == ["app.py", "pkg/shop.db"]


@pytest.mark.parametrize("environment", [{}, {"PYTHONWARNINGS": "error"}])
def test_warnings_about_the_source_are_not_shown(tmp_path, environment):
    """The operator did not write it. As errors, they would hide what the file names. (A6)"""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/app.py").write_text(f"{FLASK}import sqlite3\nsqlite3.connect('site.db')\nif 1 is '\\_':\n    'a' ()\n")
    (tmp_path / "shop/requirements.txt").write_text("flask\n")
    host = {"ansible_host": "127.0.0.1", "ansible_port": 9, "app_domains": ["shop.example"], "app_source": str(tmp_path / "shop")}
    playbook = PROJECT / "playbooks/preflight.yml"
    run = run_playbook(tmp_path, playbook, {"shop": host}, settings={}, succeeds=False, environment=environment, timeout=300)
    assert "data in site.db" in run.text and "SyntaxWarning" not in run.output and "stderr" not in run.output
