"""The site repository that `make new` or the playbook flaskhost.flaskhost.new creates: it works without a clone."""

import filecmp
import os
import re
import stat
import subprocess

import pytest
import yaml
from conftest import PROJECT
from test_collection import installed, run, tarball  # noqa: F401

PLACEHOLDERS = ["YOUR_DOMAIN", "YOUR_SERVER_ADDRESS", "YOUR_SOURCE"]
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


def make(*arguments, succeeds=True, **environment):
    command = ["make", "--assume-old=.venv/ready", "--assume-old=.uv/bin/uv", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")} | environment
    done = subprocess.run(command, cwd=PROJECT, env=environment, text=True, capture_output=True)
    assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
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
    """A site created by the installed collection without a clone, by a relative path and in an empty git repository."""
    parent = tmp_path_factory.mktemp("elsewhere")
    (parent / "mysite/.git").mkdir(parents=True)
    run("ansible-playbook", "flaskhost.flaskhost.new", "-e", "new_directory=mysite", cwd=parent, ANSIBLE_COLLECTIONS_PATH=str(installed))
    return parent / "mysite"


@pytest.fixture
def deploy(from_tarball, installed, tmp_path):  # noqa: F811
    """Runs deploy in a copy of the repository with some text replaced. It must fail."""

    def deploy(changes, stage="production"):
        subprocess.run(["cp", "-a", f"{from_tarball}/.", str(tmp_path)], check=True)
        for path in [*tmp_path.glob("settings/*.yml"), *tmp_path.glob(f"inventories/{stage}/**/*.yml")]:
            text = path.read_text()
            for before, after in changes.items():
                text = text.replace(before, after)
            path.write_text(text)
        command = ["ansible-playbook", "flaskhost.flaskhost.deploy", "-i", f"inventories/{stage}"]
        return run(*command, cwd=tmp_path, succeeds=False, ANSIBLE_COLLECTIONS_PATH=str(installed), COLUMNS="1000")

    return deploy


def test_the_repository_contains_exactly_the_expected_files(from_clone):
    assert contents(from_clone) == FILES


def test_the_clone_and_the_installed_collection_create_the_same_files(from_clone, from_tarball):
    assert contents(from_tarball) == FILES
    same, different, missing = filecmp.cmpfiles(
        from_clone, from_tarball, FILES - {name for name in FILES if name.endswith("/settings")}, shallow=False
    )
    assert not different and not missing and len(same) == len(FILES) - 2


def test_the_repository_pins_the_version_that_created_it(from_tarball):
    (entry,) = yaml.safe_load((from_tarball / "requirements.yml").read_text())["collections"]
    assert entry == {"name": "flaskhost.flaskhost", "version": GALAXY["version"]}
    runtime = yaml.safe_load((PROJECT / "meta/runtime.yml").read_text())
    assert f"\nansible-core{runtime['requires_ansible']}\n" in (from_tarball / "requirements.txt").read_text()


def test_every_stage_links_to_the_common_settings(from_tarball):
    for stage in ("staging", "production"):
        link = from_tarball / f"inventories/{stage}/group_vars/all/settings"
        assert link.is_symlink() and not link.readlink().is_absolute() and link.resolve() == (from_tarball / "settings").resolve()


def test_the_yaml_files_pass_yamllint(from_tarball):
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


def test_every_named_setting_exists(from_tarball):
    known = set()
    for path in PROJECT.glob("roles/*/meta/argument_specs.yml"):
        known |= set(yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"])
    named = set()
    for path in [*from_tarball.glob("settings/*.yml"), *from_tarball.glob("inventories/*/group_vars/*.yml")]:
        named |= set(re.findall(r"^(?:# )?([a-z]+_[a-z_0-9]+):", path.read_text(), re.MULTILINE))
    assert {"app_name", "app_secrets", "ufw_allowed", "nginx_max_body_mb", "backup_s3_url", "release_previous_stage"} <= named <= known


def test_all_placeholders_are_reported_together_before_any_host_is_touched(deploy):
    phases, _, rest = deploy({}).partition("\nPLAY RECAP")
    # the repository's ansible.cfg selects the output: the message comes last
    assert phases.splitlines()[0].startswith("Check settings and hosts") and "TASK [" not in phases, phases
    output = rest.partition("fatal: ")[2]
    assert output.count("No host was touched.") == 1 and "need your attention" in output
    for name in PLACEHOLDERS:
        assert re.search(rf"\b{name} is a placeholder", output), name
    assert re.search(r"- app_source is [^\n]+\n +Set it in (inventories/production/group_vars/all/)?settings/app.yml, line \d+", output)
    assert "Set it in inventories/production/hosts.yml, line " in output


def test_settings_with_replaced_placeholders_are_valid(deploy):
    """Three values are enough: the run continues to the host, which is unreachable."""
    changes = {"YOUR_SOURCE": str(PROJECT / "sample_app"), "YOUR_DOMAIN": "shop.example.com"}
    changes |= {"YOUR_SERVER_ADDRESS": "127.0.0.1\n      ansible_port: 1"}
    assert sorted(changes) == sorted(PLACEHOLDERS)
    output = deploy(changes)
    assert "UNREACHABLE" in output and "your attention" not in output and "placeholder" not in output


def test_production_suggests_staging_as_its_previous_stage(from_tarball):
    """The setting is commented out: it needs the previous stage's vault password, which the workflow doesn't have."""
    staging, production = (
        (from_tarball / f"inventories/{stage}/group_vars/app_servers.yml").read_text() for stage in ("staging", "production")
    )
    assert "release_previous_stage" not in staging and "\n# release_previous_stage: staging\n" in production


def test_the_workflow_deploys_the_selected_stage(from_tarball):
    workflow = yaml.safe_load((from_tarball / ".github/workflows/deploy.yml").read_text())
    assert workflow["on"]["workflow_dispatch"]["inputs"]["stage"]["options"] == ["staging", "production"]
    (*_others, last) = workflow["jobs"]["deploy"]["steps"]
    assert last["run"].rstrip().endswith('ansible-playbook flaskhost.flaskhost.deploy -i "inventories/$STAGE"')
    assert not re.search(r"\$\{\{\s*(secrets|inputs)", last["run"]), "an expression within a script allows injection"
    subprocess.run(["sh", "-n", "-c", last["run"]], check=True)


def test_existing_files_are_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    output = make("new", f"DIR={tmp_path}", succeeds=False)
    assert (
        f"{tmp_path} is not an empty directory. Nothing was written. Choose another directory in new_directory, or empty this one."
        in " ".join(output.split())
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_place_of_the_directory_is_rejected(tmp_path):
    path = tmp_path / "mysite"
    path.write_text("mine")
    assert "is not an empty directory" in " ".join(make("new", f"DIR={path}", succeeds=False).split())
    assert path.read_text() == "mine"


def test_a_missing_directory_argument_is_explained():
    assert make("new", succeeds=False).startswith("Name the directory to write: make new DIR=../mysite-deploy\n")


def test_the_created_files_are_readable_and_not_executable(from_tarball):
    for name in FILES:
        mode = (from_tarball / name).lstat().st_mode
        assert stat.S_ISLNK(mode) or stat.S_IMODE(mode) == 0o644
