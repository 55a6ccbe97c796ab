"""The published collection: the contents of the tarball, and that it works in an empty directory without a clone."""

import importlib
import json
import os
import re
import shutil
import subprocess
import tarfile

import pytest
import yaml
from conftest import COLLECTIONS, PROJECT

SECRET = "planted-secret-7c1d"
# Files that a work tree may contain in addition to the project's own. None of them may be published.
PLANTED = [
    *(".env", ".env.production", "production.env", "inventories/production/.env", "roles/nginx/.env", "playbooks/.envrc"),
    *("vault-password", "vault_password.txt", ".vault-password-production", "roles/release/vault-password-staging", "playbooks/vault.yml"),
    *("inventories/production/group_vars/all/vault.yml", "inventories/staging/group_vars/all/vault.yml"),
    *("inventories/production/group_vars/all/bucket_key.yml", "roles/s3_bucket/vars/bucket_key.yml", "inventories/mine/hosts.yml"),
    *("group_vars/all/mine.yml", "host_vars/shop.yml", "playbooks/host_vars/shop.yml"),
    *(".idea/workspace.xml", ".vscode/settings.json", ".venv/pyvenv.cfg", "venv/pyvenv.cfg", ".uv/bin/uv", ".direnv/state"),
    *(
        "id_ed25519",
        "id_ed25519.pub",
        "playbooks/id_rsa",
        "roles/tls/files/site.pem",
        "plugins/modules/site.key",
        "templates/pages/site.p12",
    ),
    *("roles/tls/files/origin.crt", "docs/backup.sql", "db.sqlite3", "docs/dump.tar", "flaskhost-flaskhost-0.0.1.tar.gz", "release.zip"),
    *("deploy.retry", "playbooks/deploy.retry", "ansible.log", "playbooks/deploy.log", ".ansible/tmp/facts.json"),
    *("roles/nginx/defaults/.main.yml.swp", "roles/nginx/defaults/main.yml~", "roles/nginx/tasks/#main.yml#", "#README.md#"),
    *("README.md.orig", "roles/ufw/tasks/main.yml.rej", "plugins/filter/urls.py.bak", "plugins/filter/__pycache__/urls.cpython-313.pyc"),
    *(".github/secret", ".gitignore", ".DS_Store", "docs/.DS_Store", "node_modules/left/index.js"),
]
# Add a new top-level file either here or to build_ignore in galaxy.yml.
PUBLISHED = {
    *("CHANGELOG.md", "CONTRIBUTING.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "SECURITY.md"),
    *("bindep.txt", "requirements.txt", "requirements.yml"),
    *("changelogs", "docs", "meta", "playbooks", "plugins", "roles"),
}
TOOLS = (".git", ".venv", ".uv", ".cache", ".ansible", ".pytest_cache", ".ruff_cache", "__pycache__")
PLUGINS = PROJECT / "plugins"
KINDS = {"modules": "module", "filter": "filter", "lookup": "lookup"}
INVENTORY = "---\napp_servers: { hosts: { shop: { ansible_host: 192.0.2.1 } } }\n"


def run(*command, cwd, succeeds=True, **environment):
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"} | environment
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True)
    assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
    return done.stdout if "--json" in command else done.stdout + done.stderr


def build(tree, out):
    run("ansible-galaxy", "collection", "build", str(tree), "--output-path", str(out), cwd=out)
    (tarball,) = out.glob("*.tar.gz")
    return tarball


@pytest.fixture(scope="session")
def tarball(tmp_path_factory):
    """The tarball, built from a copy of the work tree that also contains secrets and leftovers."""
    tree = tmp_path_factory.mktemp("tree") / "flaskhost"
    shutil.copytree(PROJECT, tree, symlinks=True, ignore=shutil.ignore_patterns(*TOOLS))
    for name in PLANTED:
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{SECRET}\n")
    return build(tree, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def installed(tarball, tmp_path_factory):
    """A collections directory outside the clone, with Flaskhost installed."""
    directory = tmp_path_factory.mktemp("installed")
    run("ansible-galaxy", "collection", "install", str(tarball), "--no-deps", "--offline", "-p", str(directory), cwd=directory)
    return directory


@pytest.fixture
def empty(installed, tmp_path):
    """Runs a command in an empty directory, with the collection installed and without a clone."""
    (tmp_path / "hosts.yml").write_text(INVENTORY)

    def command(*arguments, **more):
        return run(*arguments, cwd=tmp_path, ANSIBLE_COLLECTIONS_PATH=str(installed), **more)

    return command


def test_no_secret_is_published(tarball):
    with tarfile.open(tarball) as tar:
        names = set(tar.getnames())
        texts = [tar.extractfile(member).read() for member in tar.getmembers() if member.isfile()]
    assert not any(SECRET.encode() in text for text in texts)
    assert not names & set(PLANTED)


def test_only_files_that_users_need_are_published(tarball):
    with tarfile.open(tarball) as tar:
        members = tar.getmembers()
    assert {member.name.split("/")[0] for member in members} <= PUBLISHED
    # no links that point outside, such as collections/
    assert not [member.name for member in members if member.issym()]


def test_all_files_that_roles_and_plugins_need_are_published(tarball):
    with tarfile.open(tarball) as tar:
        published = set(tar.getnames())
    parts = ("plugins", "roles", "meta", "docs")
    needed = {
        str(path.relative_to(PROJECT))
        for part in parts
        for path in (PROJECT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    needed |= {str(path.relative_to(PROJECT)) for path in (PROJECT / "playbooks").rglob("*.yml")}
    only_in_the_clone = {
        "audit.json",
        "benchmarks.json",
        "generate.py",
        "language.py",
        "packages.json",
        "packages.py",
        "site/build.py",
        "site/conf.py",
        "situations.yml",
    }
    assert needed - published == {f"docs/{name}" for name in only_in_the_clone}


def test_galaxy_dependencies_and_requirements_list_the_collections_in_use():
    galaxy = yaml.safe_load((PROJECT / "galaxy.yml").read_text())
    used = set()
    for path in [
        *PROJECT.glob("roles/**/*.y*ml"),
        *PROJECT.glob("roles/**/*.j2"),
        *PROJECT.glob("playbooks/*.yml"),
        *PLUGINS.rglob("*.py"),
    ]:
        used |= set(
            re.findall(
                r"\b((?:ansible\.(?:posix|utils|netcommon)|community\.\w+|containers\.(?!conf\b)\w+|amazon\.aws))\.[a-z]\w+",
                path.read_text(),
            )
        )
    # ansible.utils in a plugin is ansible-core's own Python package
    assert used - {"ansible.utils"} == set(galaxy["dependencies"])
    required = yaml.safe_load((PROJECT / "requirements.yml").read_text())["collections"]
    assert {entry["name"]: entry["version"] for entry in required} == galaxy["dependencies"]


def test_galaxy_and_pyproject_have_the_same_version():
    galaxy = yaml.safe_load((PROJECT / "galaxy.yml").read_text())
    assert f'\nversion = "{galaxy["version"]}"\n' in (PROJECT / "pyproject.toml").read_text()


def playbooks():
    return sorted(path.stem for path in (PROJECT / "playbooks").glob("*.yml"))


def test_every_playbook_can_be_run_by_its_full_name_from_an_empty_directory(empty):
    names = [f"flaskhost.flaskhost.{name}" for name in playbooks()]
    output = empty("ansible-playbook", *names, "-i", "hosts.yml", "--list-tasks", "--list-hosts")
    for name, text in zip(names, output.split("\nplaybook: ")[1:], strict=True):
        assert text.partition("\n")[0].endswith(f"/{name.rpartition(chr(46))[2]}.yml")
        assert "      shop\n" in text or name.endswith((".detect", ".develop", ".new"))


def names_of(kind):
    if kind == "filter":
        modules = (path for path in PLUGINS.glob("filter/*.py") if path.stem != "__init__")
        return sorted(name for path in modules for name in filters_of(path.stem))
    return sorted(path.stem for path in PLUGINS.glob(f"{kind}/*.py") if path.stem != "__init__")


def filters_of(module):
    return importlib.import_module(f"ansible_collections.flaskhost.flaskhost.plugins.filter.{module}").FilterModule().filters()


@pytest.mark.parametrize("kind", KINDS)
def test_ansible_doc_documents_every_plugin(empty, kind):
    names = [f"flaskhost.flaskhost.{name}" for name in names_of(kind)]
    assert names
    shown = json.loads(empty("ansible-doc", "-t", KINDS[kind], "--json", *names))
    for name in names:
        doc = shown[name]
        assert doc["doc"]["short_description"] and doc["doc"]["description"], name
        assert name in doc["examples"], f"{name}: its examples don't use its full name"
        assert doc["return"], name


def test_every_filter_page_belongs_to_a_filter():
    assert {path.stem for path in PLUGINS.glob("filter/*.yml")} <= set(names_of("filter"))


def test_every_action_has_a_module_that_documents_it():
    actions = {path.stem for path in PLUGINS.glob("action/*.py")}
    assert actions - {path.stem for path in PLUGINS.glob("modules/*.py")} <= {"__init__"}


def test_ansible_doc_documents_every_role_and_entry_point(empty):
    roles = sorted(path.name for path in (PROJECT / "roles").iterdir())
    services = [path.parts[-3] for path in PROJECT.glob("roles/*/tasks/spec.yml")]
    used = {
        (role, entry)
        for book in (*PROJECT.glob("playbooks/*.yml"), *PROJECT.glob("roles/*/tasks/*.yml"))
        for name, entry in re.findall(r"name: \"?flaskhost\.flaskhost\.([^\n\"]+)\"?\n\s+tasks_from: (\w+)", book.read_text())
        for role in (services if "{{" in name else [name])
    }
    assert {("ufw", "guard"), ("release", "rollback"), ("postgresql", "spec")} <= used
    shown = json.loads(empty("ansible-doc", "-t", "role", "--json", *(f"flaskhost.flaskhost.{role}" for role in roles)))
    for role in roles:
        entries = shown[f"flaskhost.flaskhost.{role}"]["entry_points"]
        expected = {"main"} | {entry for name, entry in used if name == role}
        assert expected <= {*entries}, (role, expected - {*entries})
        undescribed = [name for name, entry in entries.items() if not (entry["short_description"] and entry.get("description"))]
        assert undescribed == [], role


def test_missing_collections_are_reported_together_before_any_host_is_touched(empty, installed):
    """Only ansible-core is installed."""
    alone = {"ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false"}
    output = empty("ansible-playbook", "flaskhost.flaskhost.deploy", "-i", "hosts.yml", succeeds=False, **alone)
    expected = yaml.safe_load((PROJECT / "galaxy.yml").read_text())["dependencies"]
    assert f"{len(expected)} Ansible collections are missing or too old on this controller. No host was touched." in output
    for name, version in expected.items():
        assert f"- {name} {version}: not installed." in output
    requirements = installed / "ansible_collections/flaskhost/flaskhost/requirements.yml"
    assert f"Run: ansible-galaxy collection install -r {requirements}" in output and requirements.is_file()
    assert "couldn't resolve module/action" not in output and "PLAY RECAP" in output


def test_an_outdated_collection_is_reported_with_its_version():
    check = importlib.import_module("ansible_collections.flaskhost.flaskhost.plugins.action.collections_check")
    assert check.fits("3.10.1", ">=3.9.0,<4.0.0") and not check.fits("3.8.9", ">=3.9.0") and not check.fits("4.0.0", ">=3.9.0, <4.0.0")
    output = check.message([], ["ansible.posix"], {"ansible.posix": ">=2.0.0"}, {"ansible.posix": "1.6.2"})
    assert (
        output.startswith("One Ansible collection is missing or too old")
        and "- ansible.posix >=2.0.0: version 1.6.2 is installed." in output
    )
    assert "ansible-galaxy collection install --upgrade -r " in output


def test_the_clone_is_available_as_a_collection():
    assert (COLLECTIONS / "ansible_collections/flaskhost/flaskhost").resolve() == PROJECT
    assert (PROJECT / "playbooks/collections").resolve() == COLLECTIONS


def test_the_files_named_by_the_execution_environment_exist():
    expected = yaml.safe_load((PROJECT / "meta/execution-environment.yml").read_text())["dependencies"]
    for name in expected.values():
        assert (PROJECT / name).is_file() and name in PUBLISHED
