"""A repository of the owner's own, which needs nothing of the clone: `make new`, or the playbook flaskhost.flaskhost.new."""

import filecmp
import os
import re
import stat
import subprocess

import pytest
import yaml
from conftest import PROJECT
from test_collection import installed, run, tarball  # noqa: F401

PLACEHOLDERS = ["YOUR_APP_NAME", "YOUR_DOMAIN", "YOUR_MODULE", "YOUR_SECRET_KEY", "YOUR_SERVER_ADDRESS", "YOUR_SOURCE"]
FILES = {
    *("README.md", "ansible.cfg", "requirements.txt", "requirements.yml", ".gitignore", ".github/workflows/deploy.yml"),
    *("settings/app.yml", "settings/firewall.yml", "settings/server.yml"),
    *(
        f"inventories/{stage}/{name}"
        for stage in ("staging", "production")
        for name in ("hosts.yml", "group_vars/app_servers.yml", "group_vars/all/vault.yml.example", "group_vars/all/settings")
    ),
}
GALAXY = yaml.safe_load((PROJECT / "galaxy.yml").read_text())


def make(*words, good=True, **environment):
    command = ["make", "--assume-old=.venv/ready", "--assume-old=.uv/bin/uv", *words]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")} | environment
    done = subprocess.run(command, cwd=PROJECT, env=environment, text=True, capture_output=True)
    assert (done.returncode == 0) is good, done.stdout + done.stderr
    return done.stdout + done.stderr


def contents(directory):
    links = {path for path in directory.rglob("*") if path.is_symlink()}
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file() and not links & {*path.parents}} | {
        str(path.relative_to(directory)) for path in links
    }


@pytest.fixture(scope="module")
def from_clone(tmp_path_factory):
    directory = tmp_path_factory.mktemp("clone") / "mysite deploy"
    assert f"{directory} is ready." in " ".join(make("new", f"DIR={directory}").split())
    return directory


@pytest.fixture(scope="module")
def from_tarball(installed, tmp_path_factory):  # noqa: F811
    """By a relative path, into an empty repository, by a person who has no clone."""
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "mysite/.git").mkdir(parents=True)
    run("ansible-playbook", "flaskhost.flaskhost.new", "-e", "new_directory=mysite", cwd=place, ANSIBLE_COLLECTIONS_PATH=str(installed))
    return place / "mysite"


@pytest.fixture
def deploy(from_tarball, installed, tmp_path):  # noqa: F811
    """A run in a copy of the repository, with some of its text replaced."""

    def deploy(changes, stage="production"):
        subprocess.run(["cp", "-a", f"{from_tarball}/.", str(tmp_path)], check=True)
        for path in [*tmp_path.glob("settings/*.yml"), *tmp_path.glob(f"inventories/{stage}/**/*.yml")]:
            text = path.read_text()
            for before, after in changes.items():
                text = text.replace(before, after)
            path.write_text(text)
        words = ["ansible-playbook", "flaskhost.flaskhost.deploy", "-i", f"inventories/{stage}"]
        return run(*words, cwd=tmp_path, good=False, ANSIBLE_COLLECTIONS_PATH=str(installed), COLUMNS="1000")

    return deploy


def test_it_holds_all_that_a_site_needs(from_clone):
    assert contents(from_clone) == FILES


def test_the_clone_and_the_installed_collection_write_the_same(from_clone, from_tarball):
    assert contents(from_tarball) == FILES
    same, different, missing = filecmp.cmpfiles(
        from_clone, from_tarball, FILES - {name for name in FILES if name.endswith("/settings")}, shallow=False
    )
    assert not different and not missing and len(same) == len(FILES) - 2


def test_the_version_that_wrote_it_is_the_one_that_it_installs(from_tarball):
    (entry,) = yaml.safe_load((from_tarball / "requirements.yml").read_text())["collections"]
    assert entry == {"name": "flaskhost.flaskhost", "version": GALAXY["version"]}
    runtime = yaml.safe_load((PROJECT / "meta/runtime.yml").read_text())
    assert f"\nansible-core{runtime['requires_ansible']}\n" in (from_tarball / "requirements.txt").read_text()


def test_every_stage_has_the_common_settings(from_tarball):
    for stage in ("staging", "production"):
        link = from_tarball / f"inventories/{stage}/group_vars/all/settings"
        assert link.is_symlink() and not link.readlink().is_absolute() and link.resolve() == (from_tarball / "settings").resolve()


def test_its_yaml_is_valid(from_tarball):
    run("yamllint", "--strict", "-c", str(PROJECT / ".yamllint"), ".", *from_tarball.rglob("*.example"), cwd=from_tarball)


def test_secrets_are_ignored_by_git(from_tarball, tmp_path):
    subprocess.run(["cp", "-a", f"{from_tarball}/.gitignore", str(tmp_path)], check=True)
    run("git", "init", "--quiet", cwd=tmp_path)
    secrets = [
        ".env",
        "inventories/production/.env",
        "vault-password",
        ".vault-password-staging",
        "id_ed25519",
        "site.key",
        ".venv/bin/python",
    ]
    kept = ["inventories/production/group_vars/all/vault.yml", "inventories/production/group_vars/all/bucket_key.yml", "settings/app.yml"]
    ignored = run("git", "check-ignore", *secrets, *kept, cwd=tmp_path).split()
    assert ignored == secrets


def test_every_setting_that_it_names_exists(from_tarball):
    known = set()
    for path in PROJECT.glob("roles/*/meta/argument_specs.yml"):
        known |= set(yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"])
    named = set()
    for path in [*from_tarball.glob("settings/*.yml"), *from_tarball.glob("inventories/*/group_vars/*.yml")]:
        named |= set(re.findall(r"^(?:# )?([a-z]+_[a-z_0-9]+):", path.read_text(), re.MULTILINE))
    assert {"app_name", "app_secrets", "ufw_allowed", "nginx_max_body_mb", "backup_s3_url", "release_after_stage"} <= named <= known


def test_every_placeholder_is_rejected_in_one_message_before_any_host_is_touched(deploy):
    said = deploy({}).partition("fatal: ")[2]
    assert said.count("No host was touched.") == 1 and "need your attention" in said and "PLAY RECAP" in said
    for name in PLACEHOLDERS:
        assert re.search(rf"\b{name} is a placeholder", said), name
    for name in ("app_name", "app_source", "app_module"):
        assert re.search(rf"- {name} is [^\n]+\n +Set it in (inventories/production/group_vars/all/)?settings/app.yml, line \d+", said), (
            name
        )
    assert "Set it in inventories/production/hosts.yml, line " in said


def test_with_them_replaced_the_settings_are_good(deploy):
    """The run goes on to the host, which is not there."""
    changes = {"YOUR_APP_NAME": "shop", "YOUR_SOURCE": str(PROJECT / "sample_app"), "YOUR_MODULE": "sample_app:create_app()"}
    changes |= {
        "YOUR_DOMAIN": "shop.example.com",
        "'YOUR_SECRET_KEY'": "'5f3c9a'",
        "YOUR_SERVER_ADDRESS": "127.0.0.1\n      ansible_port: 1",
    }
    said = deploy(changes)
    assert "UNREACHABLE" in said and "your attention" not in said and "placeholder" not in said


def test_staging_comes_first(from_tarball):
    """Each stage after the first may ask the one before; that takes a password which its workflow has not."""
    first, then = ((from_tarball / f"inventories/{stage}/group_vars/app_servers.yml").read_text() for stage in ("staging", "production"))
    assert "release_after_stage" not in first and "\n# release_after_stage: staging\n" in then


def test_its_workflow_deploys_the_stage_that_was_asked_for(from_tarball):
    workflow = yaml.safe_load((from_tarball / ".github/workflows/deploy.yml").read_text())
    assert workflow["on"]["workflow_dispatch"]["inputs"]["stage"]["options"] == ["staging", "production"]
    (*_others, last) = workflow["jobs"]["deploy"]["steps"]
    assert last["run"].rstrip().endswith('ansible-playbook flaskhost.flaskhost.deploy -i "inventories/$STAGE"')
    assert not re.search(r"\$\{\{\s*(secrets|inputs)", last["run"]), "an expression in a script is an injection"
    subprocess.run(["sh", "-n", "-c", last["run"]], check=True)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    said = make("new", f"DIR={tmp_path}", good=False)
    assert (
        f"{tmp_path} is not an empty directory. Nothing was written. Choose another directory in new_directory, or empty this one."
        in " ".join(said.split())
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_is_not_taken_for_a_directory(tmp_path):
    path = tmp_path / "mysite"
    path.write_text("mine")
    assert "is not an empty directory" in " ".join(make("new", f"DIR={path}", good=False).split())
    assert path.read_text() == "mine"


def test_without_a_directory_it_says_how_to_name_one():
    assert make("new", good=False).startswith("Name the directory to write: make new DIR=../mysite-deploy\n")


def test_what_it_writes_is_readable_and_no_program(from_tarball):
    for name in FILES:
        mode = (from_tarball / name).lstat().st_mode
        assert stat.S_ISLNK(mode) or stat.S_IMODE(mode) == 0o644
