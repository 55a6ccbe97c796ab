"""If nothing needs to be built, no package's code gets a credential of the package index, and no error shows one."""

import json
import os
import pwd
import re
import shlex
import subprocess
import sys

import jinja2
import pytest
from conftest import PROJECT, plugin, with_modules
from test_app_source import find
from test_credentials import assert_no_credential, controller, play  # noqa: F401

module = plugin("modules/venv")
LISTS = ("requirements", "constraints", "local", "overrides", "extras", "groups")
INDEX = "https://ann:tok3n@index.example/simple"
WANTED = {
    "requirement": "gunicorn",
    "extra": ["six @ https://tok3n@index.example/six.whl"],
    "source": "/srv/games/releases/r1/app",
    "python": "",
    "secrets": {},
}


def script(name, dependencies, source, tmp):
    """Render the role's script, with another directory in place of /tmp."""
    environment = jinja2.Environment(trim_blocks=True, loader=jinja2.FileSystemLoader(PROJECT / "roles/python_venv/templates"))
    environment.filters["quote"] = shlex.quote
    wanted = {**WANTED, "source": str(source), "dependencies": dependencies}
    return with_tmp(environment.get_template(f"{name}.sh.j2").render(python_venv_wanted=wanted), tmp)


def with_tmp(text, tmp):
    """Replace the private /tmp of a script's unit by another directory."""
    return re.sub(r"(?<![\w-])/tmp(?=/(?:source|uv|rest|[a-z]+\.txt|\.netrc|\.gitconfig)\b)", str(tmp), text)


@pytest.mark.skipif(os.geteuid() != 0, reason="changes owners, as on a host")
@pytest.mark.parametrize(
    ("name", "content", "needs_build"),
    [
        ("requirements.txt", "Flask\n-r more.txt\n", False),
        ("requirements.txt", "Flask\n-e .\n", True),
        ("uv.lock", '[[package]]\nname = "shop"\nsource = { virtual = "." }\n', False),
        ("uv.lock", '[[package]]\nname = "shop"\nsource = { editable = "." }\n', True),
        ("pyproject.toml", "[project]\n[build-system]\n", True),
        ("pyproject.toml", "[project]\n", False),
    ],
)
@pytest.mark.parametrize("wheels", [True, False])
def test_only_a_build_step_gets_the_index_s_credentials(tmp_path, monkeypatch, name, content, needs_build, wheels):
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(module.pwd, "getpwnam", lambda _name: nobody)
    source, uv = tmp_path / "source", tmp_path / "bin/uv"
    for directory in source, uv.parent, tmp_path / "venvs", tmp_path / "tmp", tmp_path / "cache":
        directory.mkdir()
    (source / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    (source / name).write_text(content)
    # packages without a wheel can't be fetched without running their code
    uv.write_text(f'#!/bin/sh\ncase "$1 $2" in "pip install") exit {0 if wheels else 1} ;; esac\n')
    uv.chmod(0o755)
    steps = []

    def run(unit, lines, argv, _seconds):
        """Stands in for systemd-run: records the script's environment, and runs the fetch script."""
        text = (tmp_path / "venvs/.building/key.env").read_text()
        found = re.search(r'^SCRIPT="(.*)"$', text, re.DOTALL | re.MULTILINE)[1]
        steps.append((unit, text, lines))
        if "fetch" not in unit:
            return 0, "", ""
        environment = {"PATH": f"{uv.parent}:{os.environ['PATH']}", "VIRTUAL_ENV": "x", "SCRIPT": re.sub(r"\\(.)", r"\1", found)}
        return subprocess.run(argv, env=environment).returncode, "", ""

    monkeypatch.setattr(module, "run", run)
    params = {"app": "games", "root": str(tmp_path), "key": "key", "release": "r1", "sandbox": [], "seconds": 9}
    found = find(source, str(tmp_path / "cache"))["dependencies"]
    scripts = {verb: script(verb, found, source, tmp_path / "tmp") for verb in ("fetch", "build")}
    venv = module.Venv({**params, "environment": {"LANG": "C"}, "index": {"UV_DEFAULT_INDEX": INDEX}, **scripts, "finish": "compile it"})
    venv.make()
    (_fetch, fetched, _), (_build, built, lines) = steps
    assert "tok3n" in fetched and "compile it" in built and 'LANG="C"' in built and venv.is_complete()
    assert ("tok3n" in built) is (needs_build or not wheels)
    assert any("InaccessiblePaths=-/var/cache/games-build" in line for line in lines) is not (needs_build or not wheels)
    assert os.readlink(tmp_path / "venvs/key/var") == "/var/lib/games"
    if needs_build or not wheels:
        assert any(f"FETCHED={'yes' if wheels else ''} SHARED" in line for line in lines)


@pytest.mark.parametrize(
    ("index", "extra", "hidden"),
    [
        ("https://pypi.org/simple", ["six"], False),
        ("http://127.0.0.1:9/simple/", [], False),
        ("https://index.example/tok3n/simple", [], True),
        ("https://index.example/simple?token=tok3n", [], True),
        ("https://tok3n@index.example/simple", [], True),
        ("https://pypi.org/simple", ["six @ https://index.example/tok3n/six.whl"], True),
    ],
)
def test_a_possible_credential_is_not_shown(controller, monkeypatch, index, extra, hidden):  # noqa: F811
    stub = '#!/bin/sh\necho "{\\"failed\\": true, \\"msg\\": \\"it failed\\", \\"stdout\\": \\"can not reach $(grep -oE "https?://[^ \\"\\\\]*" $1 | tr "\\n" " ")\\"}"\n'
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", str(with_modules(controller, venv=stub)))
    wanted = {
        **WANTED,
        "extra": extra,
        "app": "shop",
        "root": "/srv/shop",
        "key": "k",
        "release": "r",
        "sandbox": [],
        "dependencies": {"kind": "", "directory": ".", "package": "", "install": "", "build": False, **{name: [] for name in LISTS}},
    }
    role = {"ansible.builtin.include_role": {"name": str(PROJECT / "roles/python_venv"), "tasks_from": "venv"}}
    book = {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [role],
        "vars": {"python_venv_index_url": index, "python_venv_wanted": wanted},
    }
    (controller / "book.yml").write_text(json.dumps([book]))
    run = play(controller, controller / "book.yml", {"h": {"ansible_connection": "local"}}, succeeds=False)
    code, output = run.returncode, run.output
    assert code != 0 and ("can not reach" in output) is not hidden, output
    (controller / "book.yml").unlink()
    assert_no_credential(controller, output)


def test_flask_finds_the_instance_folder_of_an_installed_package_in_the_app_s_data(tmp_path):
    """Flask itself, with its package in a venv whose link `var` points to the app's data. (B10)"""
    packages = tmp_path / f"venvs/key/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (packages / "shop").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "venvs/key/var").symlink_to(tmp_path / "data")
    (packages / "shop/__init__.py").write_text(
        "import os, flask\napp = flask.Flask(__name__, instance_relative_config=True)\n"
        "os.makedirs(app.instance_path, exist_ok=True)\nopen(os.path.join(app.instance_path, 'site.db'), 'w').close()\n"
    )
    script = f"import sys; sys.path.insert(0, {str(packages)!r}); sys.prefix = {str(tmp_path / 'venvs/key')!r}; import shop"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert (tmp_path / "data/shop-instance/site.db").exists()
