"""The installed collection and its users: root on the newer host, a user with sudo on the older one."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import testinfra
import yaml
from sites import PROJECT

HOSTS = {"older": (22102, 44402, "ubuntu"), "newer": (22103, 44403, "root")}
# without molecule's own settings
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}


class Workspace:
    """A directory without any file of the clone, and a host to deploy to."""

    def __init__(self, age, directory, collections):
        self.age, self.directory = age, directory
        self.port, self.https, self.user = HOSTS[age]
        self.host = testinfra.get_host(f"podman://flaskhost-collection-{age}")
        self.environment = {
            **PLAIN,
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "COLUMNS": "1000",
        }

    def connection(self):
        key = Path(os.environ["FLASKHOST_LAB"]) / "id_ed25519"
        return {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": str(key),
            "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR",
        }

    def play(self, *arguments, succeeds=True):
        """Run ansible-playbook and return its output."""
        result = subprocess.run(
            ["ansible-playbook", *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert (result.returncode == 0) is succeeds, result.stdout
        return result.stdout


@pytest.fixture(scope="session")
def collections(tmp_path_factory):
    directory = tmp_path_factory.mktemp("collections")
    quiet = {"check": True, "capture_output": True, "cwd": directory, "env": PLAIN}
    subprocess.run(["ansible-galaxy", "collection", "build", PROJECT, "--output-path", directory], **quiet)
    (tarball,) = directory.glob("flaskhost-flaskhost-*.tar.gz")
    subprocess.run(["ansible-galaxy", "collection", "install", "--no-deps", tarball, "--collections-path", directory], **quiet)
    return directory


def pytest_collection_modifyitems(items):
    """The sample: everything on the older host as a user with sudo, except that only some roles run alone, without facts."""
    for item in items:
        if re.search(r"\[older(-(ufw|tls|nginx)-no-facts)?\]$", item.nodeid):
            item.add_marker(pytest.mark.sample)


@pytest.fixture(params=["older", "newer"], scope="module")
def workspace(request, collections, tmp_path_factory):
    return Workspace(request.param, tmp_path_factory.mktemp("workspace"), collections)


@pytest.fixture(scope="module")
def repository(workspace):
    """What flaskhost.flaskhost.new writes, with its placeholders replaced."""
    directory = workspace.directory / "mysite"
    workspace.play("flaskhost.flaskhost.new", "-e", "new_directory=mysite")
    shutil.copytree(PROJECT / "sample_app", directory / "app", ignore=shutil.ignore_patterns("__pycache__", "instance"))
    values = {
        "YOUR_SOURCE": "app",
        "YOUR_DOMAIN": "mysite.test",
        "YOUR_SERVER_ADDRESS": "127.0.0.1",
        "vault_app_secrets | default({})": "vault_app_secrets | default({'SECRET_KEY': 'marker-of-a-secret-5f3c9a'})",
    }
    for path in [*directory.glob("settings/*.yml"), *directory.glob("inventories/production/**/*.yml")]:
        text = path.read_text()
        for before, after in values.items():
            text = text.replace(before, after)
        path.write_text(text)
    hosts = directory / "inventories/production/hosts.yml"
    inventory = yaml.safe_load(hosts.read_text())
    inventory["app_servers"]["hosts"]["production"] = workspace.connection()
    hosts.write_text(yaml.safe_dump(inventory))
    # the other settings of the app are detected in its source
    overrides = {"app_name": "mysite", "release_previous_stage": ""}
    (directory / "inventories/production/group_vars/app_servers").mkdir()
    (directory / "inventories/production/group_vars/app_servers.yml").rename(
        directory / "inventories/production/group_vars/app_servers/stage.yml"
    )
    (directory / "inventories/production/group_vars/app_servers/own.yml").write_text(yaml.safe_dump(overrides))
    workspace.directory = directory
    return workspace
