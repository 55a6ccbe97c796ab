"""The venv's name follows from everything that goes into it, for each kind of file that lists an app's dependencies."""

import json
import time

import pytest
from conftest import LOCAL, READ_APP, evaluate, plugin, run_playbook

PACKAGE = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
PROJECT_FILE = '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["six"]\n'
POETRY = '[tool.poetry]\nname = "shop"\npackage-mode = false\n[tool.poetry.dependencies]\npython = "^3.11"\nsix = "^1.16"\n'
POETRY_LOCK = '[[package]]\nname = "six"\nversion = "1.17.0"\nfiles = [{file = "six.whl", hash = "sha256:aa"}]\n'
UV_LOCK = 'version = 1\nrequires-python = ">=3.11"\n[[package]]\nname = "six"\nversion = "1.17.0"\n'
PYLOCK = 'lock-version = "1.0"\n[[packages]]\nname = "six"\nversion = "1.17.0"\n'
PIPFILE_LOCK = {"_meta": {"sources": []}, "default": {"six": {"version": "==1.17.0", "hashes": ["sha256:aa"]}}}


def pipfile_lock(**entries):
    return json.dumps({**PIPFILE_LOCK, "default": {**PIPFILE_LOCK["default"], **entries}})


def local(kind, path):
    return f'{UV_LOCK}[[package]]\nname = "mylib"\nversion = "1"\nsource = {{ {kind} = "{path}" }}\n'


# For each kind: the files of the source, and changes that must give another venv. A change of another file must not, except where the
# source itself is installed, for which the text is None.
NAMES = {
    "requirements": ({"requirements.txt": "six\n"}, [{"requirements.txt": "six==1.16\n"}]),
    "nested": (
        {"requirements.txt": "-r deps/base.txt\n", "deps/base.txt": "--constraint=../pins.txt\n", "pins.txt": "six<2\n"},
        [{"deps/base.txt": "six\n"}, {"pins.txt": "six<1.17\n"}],
    ),
    "wheel": (
        {"requirements.txt": "./libs/x-1-py3-none-any.whl\n", "libs/x-1-py3-none-any.whl": "1"},
        [{"libs/x-1-py3-none-any.whl": "2"}],
    ),
    "wheels": ({"requirements.txt": "--find-links=wheels\nx\n", "wheels/x-1.whl": "1"}, [{"wheels/x-1.whl": "2"}]),
    "production": ({"requirements/prod.txt": "six\n"}, [{"requirements/prod.txt": "six<2\n"}]),
    "tool settings": (
        {"requirements.txt": "six\n", "pyproject.toml": "[tool.uv]\nno-binary = true\n"},
        [{"pyproject.toml": "[tool.uv]\nno-binary = false\n"}],
    ),
    "uv": (
        {"uv.lock": UV_LOCK, "pyproject.toml": PROJECT_FILE},
        [{"uv.lock": UV_LOCK.replace("1.17", "1.16")}, {"pyproject.toml": PROJECT_FILE + "[tool.uv]\n"}, {"uv.toml": "no-binary = true\n"}],
    ),
    "uv wheel": (
        {"uv.lock": local("path", "libs/x.whl"), "pyproject.toml": PROJECT_FILE, "libs/x.whl": "1"},
        [{"libs/x.whl": "2"}],
    ),
    "uv virtual member": (
        {"uv.lock": local("virtual", "packages/web"), "pyproject.toml": PROJECT_FILE, "packages/web/pyproject.toml": PROJECT_FILE},
        [{"packages/web/pyproject.toml": PROJECT_FILE.replace("six", "six<2")}],
    ),
    "poetry": (
        {"poetry.lock": POETRY_LOCK, "pyproject.toml": POETRY},
        [{"poetry.lock": POETRY_LOCK.replace("sha256:aa", "sha256:bb")}, {"pyproject.toml": POETRY + "iniconfig = {optional = true}\n"}],
    ),
    "pipenv": ({"Pipfile.lock": pipfile_lock()}, [{"Pipfile.lock": pipfile_lock(iniconfig={"version": "==2"})}]),
    "Pipfile": ({"Pipfile": '[packages]\nsix = "*"\n'}, [{"Pipfile": '[packages]\nsix = "<2"\n'}]),
    "pylock": ({"pylock.toml": PYLOCK}, [{"pylock.toml": PYLOCK.replace("1.17", "1.16")}]),
    "project": ({"pyproject.toml": PROJECT_FILE}, [{"pyproject.toml": PROJECT_FILE.replace("six", "six<2")}]),
    "wheel in pyproject.toml": (
        {"pyproject.toml": PROJECT_FILE + '[tool.uv.sources]\nx = {path = "libs/x.whl"}\n', "libs/x.whl": "1"},
        [{"libs/x.whl": "2"}],
    ),
    "find-links in pyproject.toml": (
        {"requirements.txt": "x\n", "pyproject.toml": '[tool.uv]\nfind-links = ["libs"]\n', "libs/x.whl": "1"},
        [{"libs/x.whl": "2"}],
    ),
    "override in pyproject.toml": (
        {"pyproject.toml": PROJECT_FILE + '[tool.uv]\noverride-dependencies = ["x @ file:libs/x.whl"]\n', "libs/x.whl": "1"},
        [{"libs/x.whl": "2"}],
    ),
    "flat index in uv.toml": (
        {"pyproject.toml": PROJECT_FILE, "uv.toml": '[[index]]\nurl = "./libs"\nformat = "flat"\n', "libs/x.whl": "1"},
        [{"libs/x.whl": "2"}],
    ),
    "no dependencies": ({}, []),
    # the source itself is installed
    "path in uv.lock": ({"uv.lock": local("directory", "libs/mylib"), "pyproject.toml": PROJECT_FILE}, None),
    "package in uv.lock": ({"uv.lock": local("editable", "."), "pyproject.toml": PROJECT_FILE + PACKAGE}, None),
    "editable": ({"requirements.txt": "six\n-e .\n"}, None),
    "nested editable": ({"requirements.txt": "-r base.txt\n", "base.txt": "--editable=.[x]  # all of it\n"}, None),
    "path without a dot": ({"requirements.txt": "libs/mylib\n"}, None),
    "path by name": ({"requirements.txt": "mylib @ file:./libs/mylib\n"}, None),
    "path in poetry.lock": (
        {
            "poetry.lock": POETRY_LOCK
            + '[[package]]\nname = "mylib"\nversion = "1"\n[package.source]\ntype = "directory"\nurl = "libs/mylib"\n',
            "pyproject.toml": POETRY + 'mylib = {path = "libs/mylib", develop = true}\n',
        },
        None,
    ),
    "package in poetry.lock": ({"poetry.lock": POETRY_LOCK, "pyproject.toml": POETRY.replace("package-mode = false\n", "")}, None),
    "path in Pipfile.lock": ({"Pipfile.lock": pipfile_lock(mylib={"path": "./libs/mylib", "editable": True})}, None),
    "path in pylock.toml": ({"pylock.toml": PYLOCK + '[[packages]]\nname = "mylib"\n[packages.directory]\npath = "libs/mylib"\n'}, None),
    "path in pyproject.toml": (
        {"pyproject.toml": PROJECT_FILE + '[tool.uv.sources]\nmylib = [{path = "libs/mylib", editable = true}]\n'},
        None,
    ),
    "URL of a path in pyproject.toml": (
        {"pyproject.toml": PROJECT_FILE + '[project.optional-dependencies]\nx = ["mylib @ file:libs/mylib"]\n'},
        None,
    ),
    "workspace without a lock": (
        {"pyproject.toml": PROJECT_FILE + '[tool.uv.sources]\nmylib = {workspace = true}\n[tool.uv.workspace]\nmembers = ["libs/*"]\n'},
        None,
    ),
    "package": ({"pyproject.toml": PROJECT_FILE + PACKAGE}, None),
    "src layout": ({"pyproject.toml": PROJECT_FILE, "src/shop/__init__.py": ""}, None),
    "setup.py": ({"setup.py": "from setuptools import setup\nsetup()\n"}, None),
    "setup.cfg": ({"setup.cfg": "[metadata]\nname = shop\n"}, None),
}
CODE = "shop/__init__.py"
SETTINGS = {
    "overrides": {"app_overrides": ["six<2"]},
    "extra": {"app_extra_requirements": ["iniconfig"]},
    "index": {"python_venv_index_url": "https://index.example/simple"},
    "packages": {"python_venv_extra_packages": ["libjpeg-dev"]},
    "another Python": {"app_python": "3.14"},
    "newer uv and another Python": {"app_python": "3.14", "python_venv_uv_version": "0.99.0"},
    "groups": {"app_dependency_groups": ["dev"]},
}
SAME = {
    "secrets": {"app_build_secrets": {"index.example": "ann:tok3n"}},
    "Python of the host": {"app_python": "3.13"},
    "newer uv": {"python_venv_uv_version": "0.99.0"},
    "environment": {"app_env": {"DEBUG": "1"}},
}


def write(directory, files):
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return str(directory)


def identified(directory, sources, expression, **options):
    """Identify a release of each source, as the role release does it, and return a value for each."""
    hosts = {}
    for name, (files, settings) in sources.items():
        hosts[name.replace(" ", "-")] = {"app_source": write(directory / name.replace(" ", "-"), files), **settings}
    settings = {
        "ansible_connection": "local",
        "app_name": "shop",
        "app_module": "shop:app",
        "app_domains": ["shop.example"],
        "release_app": "shop",
    }
    facts = {"processor_vcpus": 2, "memtotal_mb": 2000, "python": {"version": {"major": 3, "minor": 13, "micro": 5}}}
    nothing = {"built": [], "releases": {}, "running": [], "enabled": [], "live": ""}
    tasks = [
        READ_APP,
        {"ansible.builtin.set_fact": {"release_host": nothing, "ansible_facts": facts}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.release", "tasks_from": "identify"}},
    ]
    found = evaluate(directory, tasks, expression, hosts, settings=settings, **options)
    return {name: found[name.replace(" ", "-")] for name in sources}


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """The digest of each source and of each changed source, as the module app_source returns it."""
    directory, sources = tmp_path_factory.mktemp("sources"), {}
    for kind, (files, changes) in NAMES.items():
        source = {CODE: "app = 1\n", "libs/mylib/mylib.py": "X = 1\n", **files}
        sources[kind] = source
        sources[f"{kind} code"] = {**source, "libs/mylib/mylib.py": "X = 2\n"}
        sources |= {f"{kind} {number}": {**source, **change} for number, change in enumerate(changes or [])}
    packed = read_sources(directory, sources, dependencies={"extra": ["pgadmin4"]})
    return {name: found["dependencies"]["digest"] for name, found in packed.items() if not found["dependencies"]["problems"]}


def read_sources(directory, sources, **arguments):
    """Run the module app_source on each source, and return its results."""
    arguments |= {"source": "{{ item }}", "cache": str(directory / "cache")}
    paths = [write(directory / name.replace(" ", "-"), files) for name, files in sources.items()]
    task = {"flaskhost.flaskhost.app_source": arguments, "loop": paths, "register": "found"}
    return dict(zip(sources, evaluate(directory, [task], "{{ found.results }}", {"h": {}})["h"], strict=True))


@pytest.mark.parametrize("kind", NAMES)
def test_a_changed_input_gives_another_venv_and_an_unrelated_change_does_not(digests, kind):
    """One case for each kind of dependency file, with wheels, paths, workspaces and editable installs in the source. (A1)"""
    changes = NAMES[kind][1]
    assert (digests[f"{kind} code"] != digests[kind]) is (changes is None)
    for number in range(len(changes or [])):
        assert digests[f"{kind} {number}"] != digests[kind], changes[number]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The venv's name with each setting."""
    files = {CODE: "", "uv.lock": UV_LOCK, "pyproject.toml": PROJECT_FILE + '[dependency-groups]\ndev = ["six"]\n'}
    sources = {name: (files, settings) for name, settings in {"no setting": {}, **SETTINGS, **SAME}.items()}
    return identified(tmp_path_factory.mktemp("settings"), sources, "{{ release_venv }}")


@pytest.mark.parametrize("name", [*SETTINGS, *SAME])
def test_a_setting_gives_another_venv_only_if_it_changes_what_is_installed(names, name):
    """A credential, or the version of uv for the distribution's Python, changes nothing. (A1)"""
    assert (names[name] != names["no setting"]) is (name in SETTINGS)
    assert names["newer uv and another Python"] != names["another Python"], "a newer uv brings the security fixes of Python"


# sources that cannot be deployed: their files, the settings, and what preflight says
PROBLEMS = {
    "nothing": ({"README": ""}, {}, "the source does not list its dependencies. Add a requirements.txt"),
    "several": (
        {"requirements/prod.txt": "six\n", "requirements/production.txt": "six\n"},
        {},
        "the source has requirements in requirements/production.txt, requirements/prod.txt. Set app_requirements",
    ),
    "lock alone": ({"poetry.lock": POETRY_LOCK}, {}, "poetry.lock needs the pyproject.toml that it was made from"),
    "only tools": ({"pyproject.toml": "[tool.black]\n"}, {}, "the source does not list its dependencies"),
    "no such file": (
        {"requirements.txt": ""},
        {"app_requirements": "deps/x.txt"},
        "app_requirements is 'deps/x.txt': the source has no file",
    ),
    "poetry without lock": ({"pyproject.toml": POETRY}, {}, "in Poetry's own format. Run `poetry lock`, and add poetry.lock"),
    "old poetry lock": (
        {"poetry.lock": POETRY_LOCK.replace("six", "one"), "pyproject.toml": POETRY},
        {},
        "it does not contain six, which pyproject.toml requires. Run `poetry lock`",
    ),
    "two versions": (
        {"poetry.lock": POETRY_LOCK + POETRY_LOCK.replace("1.17", "1.16"), "pyproject.toml": POETRY},
        {},
        "it has two versions of six, and no markers to choose between them. Run `poetry lock` with Poetry 2",
    ),
    "broken": ({"uv.lock": "[[", "pyproject.toml": PROJECT_FILE}, {}, "uv.lock of the source cannot be read (TOMLDecodeError"),
    "wrong structure": (
        {"Pipfile.lock": '{"_meta": {"sources": [{"url": 1}]}}'},
        {},
        "Pipfile.lock of the source cannot be read (TypeError",
    ),
    "an option in a lock": (
        {"Pipfile.lock": pipfile_lock(x={"version": " ;\n--index-url https://evil.example"})},
        {},
        "is not a requirement. Create the lock file again",
    ),
    "outside": (
        {"requirements.txt": "-e ../libs/mylib\n"},
        {},
        "'../libs/mylib', which is outside of the app's source. Leave app_directory empty",
    ),
    "member of a workspace": (
        {"pyproject.toml": PROJECT_FILE + "[tool.uv.sources]\ncore = {workspace = true}\n"},
        {},
        "pyproject.toml is a member of a uv workspace whose pyproject.toml and uv.lock are outside of the app's source. Leave app_directory empty",
    ),
    "path outside in pyproject.toml": (
        {"pyproject.toml": PROJECT_FILE + '[tool.uv.sources]\ncore = {path = "../../libs/core"}\n'},
        {},
        "pyproject.toml of the source refers to '../../libs/core', which is outside of the app's source. Leave app_directory empty",
    ),
    "path outside in a setting": (
        {"requirements.txt": ""},
        {"app_extra_requirements": ["core @ file:../core"]},
        "'../core', which is outside of the app's source",
    ),
    "unknown extra": (
        {"pyproject.toml": PROJECT_FILE},
        {"app_extras": ["redis"]},
        "app_extras is ['redis']: pyproject.toml has no extra 'redis'",
    ),
    "unknown group": (
        {"pyproject.toml": PROJECT_FILE + "[dependency-groups]\nweb = []\n"},
        {"app_dependency_groups": ["wbe"]},
        "pyproject.toml has no dependency group 'wbe'. It has web",
    ),
    "extras of requirements": ({"requirements.txt": ""}, {"app_extras": ["x"]}, "requirements.txt has no extra 'x'. It has none"),
    "python 2": ({"requirements.txt": ""}, {"app_python": "2.7"}, "app_python is '2.7': it must be a version of Python, such as '3.14'"),
    "yaml's 3.1": ({"requirements.txt": ""}, {"app_python": 3.1}, "app_python"),
    "python that the app rejects": (
        {"pyproject.toml": PROJECT_FILE},
        {"app_python": "3.10"},
        "pyproject.toml of the source requires Python >=3.11",
    ),
    "python that nobody has": (
        {"pyproject.toml": PROJECT_FILE.replace("3.11", "3.99")},
        {},
        "requires Python >=3.99, which is not available",
    ),
    "version file": (
        {"pyproject.toml": PROJECT_FILE, ".python-version": "3.10\n"},
        {},
        ".python-version of the source names Python 3.10. pyproject.toml of the source requires Python >=3.11",
    ),
    "override": ({"requirements.txt": ""}, {"app_overrides": ["-r /etc/passwd"]}, "'-r /etc/passwd' is not a requirement"),
    "secret": ({"requirements.txt": ""}, {"app_build_secrets": {"github.com": "tok3n"}}, "the value for github.com must be USER:PASSWORD"),
    "secret name": ({"requirements.txt": ""}, {"app_build_secrets": {"https://x": "tok3n"}}, "'https://x' is neither a host name"),
    "outside path": ({"requirements.txt": ""}, {"app_requirements": "../x.txt"}, "it must be the path of a file in the source"),
}
ACCEPTED = {
    "package of an index": ({"README": ""}, {"app_extra_requirements": ["pgadmin4"]}),
    "two lock files": ({"uv.lock": UV_LOCK, "pyproject.toml": PROJECT_FILE, "requirements.txt": "six\n"}, {}),
    "procfile": ({"Procfile": "web: python -m x\n", "requirements.txt": ""}, {"app_module": "", "app_server": "procfile"}),
    "container": ({"Dockerfile": "FROM x\n"}, {"app_runtime": "container", "app_image": "ghcr.io/you/shop:1"}),
}


@pytest.fixture(scope="module")
def preflight(tmp_path_factory):
    """The output of preflight for all of these sources, each of a host."""
    directory, hosts = tmp_path_factory.mktemp("preflight"), {}
    for number, (files, settings, *_message) in enumerate([*PROBLEMS.values(), *ACCEPTED.values()]):
        source = {"app_source": write(directory / str(number), {CODE: "", **files}), "app_name": f"app{number}"}
        hosts[f"host{number}"] = {"app_module": "shop:app", **source, **settings}
    settings = {**LOCAL, "app_domains": ["shop.example"]}
    role = {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.preflight", "rolespec_validate": False}}
    run = run_playbook(directory, [READ_APP, role], hosts, settings=settings, succeeds=False)
    message = run.text.rpartition("need your attention.")[2].partition("PLAY RECAP")[0]
    return message.replace("\\n", " ").replace("\\'", "'").replace("''", "'")


@pytest.mark.parametrize("name", PROBLEMS)
def test_preflight_says_what_is_wrong_with_the_dependencies(preflight, name):
    """All sources in one message, before any host is touched. (A5)"""
    host = f"host{list(PROBLEMS).index(name)}"
    assert [part for part in preflight.split(" - ") if PROBLEMS[name][2] in part and f"(host {host})" in part], preflight
    assert "No host was touched" in preflight and "tok3n" not in preflight


@pytest.mark.parametrize("name", ACCEPTED)
def test_preflight_accepts_an_app_without_its_own_dependency_file(preflight, name):
    """Also app_module: "" with procfile. (A16)"""
    host = f"host{len(PROBLEMS) + list(ACCEPTED).index(name)}"
    assert f"{host})" not in preflight and f"{host}," not in preflight, preflight


PYTHONS = {
    "no wish": ({"requirements.txt": ""}, "3.13.5", ""),
    "version file": ({"requirements.txt": "", ".python-version": "3.12.4\n"}, "3.13.5", "3.12"),
    "version file of the host's": ({"requirements.txt": "", ".python-version": "3.13\n"}, "3.13.5", ""),
    "environment of pyenv": ({"requirements.txt": "", ".python-version": "mysite-env\n"}, "3.13.5", ""),
    "runtime.txt": ({"requirements.txt": "", "runtime.txt": "python-3.11.9\n"}, "3.13.5", "3.11"),
    "requires-python": ({"pyproject.toml": PROJECT_FILE.replace("3.11", "3.14")}, "3.13.5", "3.14"),
    "requires a newer patch": ({"pyproject.toml": PROJECT_FILE.replace("3.11", "3.11.4")}, "3.11.2", "3.11"),
    "upper limit": ({"pyproject.toml": PROJECT_FILE.replace(">=3.11", ">=3.9,<3.12")}, "3.13.5", "3.11"),
    "poetry": ({"poetry.lock": POETRY_LOCK, "pyproject.toml": POETRY.replace("^3.11", "~3.12")}, "3.13.5", "3.12"),
    "Pipfile": ({"Pipfile": '[packages]\n[requires]\npython_version = "3.10"\n'}, "3.13.5", "3.10"),
    "Pipfile.lock": ({"Pipfile.lock": '{"_meta": {"requires": {"python_version": "3.10"}}}'}, "3.13.5", "3.10"),
    "pylock": ({"pylock.toml": 'requires-python = ">=3.14"\n' + PYLOCK}, "3.13.5", "3.14"),
    "setup.cfg": ({"setup.cfg": "[options]\npython_requires = <3.13\n"}, "3.13.5", "3.12"),
    "setup.py": ({"setup.py": "setup(python_requires='>=3.14')\n"}, "3.13.5", "3.14"),
}


@pytest.fixture(scope="module")
def pythons(tmp_path_factory):
    sources = {name: files for name, (files, _host, _wanted) in PYTHONS.items()}
    return read_sources(tmp_path_factory.mktemp("pythons"), sources)


@pytest.mark.parametrize("name", PYTHONS)
def test_the_python_version_is_the_one_that_the_source_accepts(pythons, name):
    """The distribution's if possible, because it gets security fixes without a deploy. (A17)"""
    _files, host, wanted = PYTHONS[name]
    assert plugin("plugin_utils/python_versions").choose("", pythons[name]["dependencies"]["python"], host) == wanted


@pytest.mark.parametrize(
    "text", ["\\\n" * 1_000_000, "a" + " " * 1_000_000 + "b", "./x" + "[" * 1_000_000, "a --x" * 200_000, "a @ " * 200_000]
)
def test_a_hostile_requirements_file_is_read_quickly(text):
    """The controller parses it, so its run time must be proportional to its length. (A5)"""
    requirements, started = plugin("plugin_utils/requirements"), time.process_time()
    for _first, line in requirements.lines(text):
        requirements.included(line)
        requirements.linked_directory(line)
        requirements.local_path(line)
    assert time.process_time() - started < 3


def test_a_dependency_from_a_git_server_is_recognized(tmp_path):
    """provision.yml then installs git. (B19)"""
    git = '[[package]]\nname = "six"\nversion = "1"\nsource = { git = "https://git.example/six?rev=1#1" }\n'
    sources = {
        "requirements": {"requirements.txt": "-r base.txt\n", "base.txt": "-e git+https://git.example/six.git#egg=six\n"},
        "uv": {"uv.lock": UV_LOCK + git, "pyproject.toml": PROJECT_FILE},
        "Pipfile": {"Pipfile": '[packages]\nsix = {git = "git@git.example:you/six.git", ref = "v1"}\n'},
        "none": {"requirements.txt": "six\n"},
    }
    found = {name: found["dependencies"] for name, found in read_sources(tmp_path, sources).items()}
    assert {name: one["git"] for name, one in found.items()} == {"requirements": True, "uv": True, "Pipfile": True, "none": False}
    assert found["Pipfile"]["requirements"] == ["six @ git+ssh://git@git.example/you/six.git@v1"]
    assert not any(one["build"] for one in found.values()), "no part of the source is installed"
