"""Settings in the inventory, in any form, take precedence over group_vars/all/ of a clone and over the roles' defaults."""

import json

import pytest
import yaml
from conftest import COLLECTIONS, LOCAL, PROJECT, READ_APP, evaluate

SETTINGS = {"app_name": "shop", "ufw_blocked": ["198.51.100.0/24"]}


def hosts_yml(directory):
    """vars: of the group"""
    (directory / "hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": {"h": LOCAL}, "vars": SETTINGS}}))


def all_vars(directory):
    """vars: of all"""
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": SETTINGS}, "app_servers": {"hosts": {"h": LOCAL}}}))


def ini(directory):
    lines = [f"{name}={json.dumps(value) if isinstance(value, list) else value}" for name, value in SETTINGS.items()]
    (directory / "hosts.ini").write_text("[app_servers]\nh ansible_connection=local\n[app_servers:vars]\n" + "\n".join(lines) + "\n")


def group_vars_all(directory):
    (directory / "hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": {"h": LOCAL}}}))
    (directory / "group_vars").mkdir()
    (directory / "group_vars/all.yml").write_text(yaml.safe_dump(SETTINGS))


def host_vars(directory):
    (directory / "hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": {"h": LOCAL}}}))
    (directory / "host_vars").mkdir()
    (directory / "host_vars/h.yml").write_text(yaml.safe_dump(SETTINGS))


def script(directory):
    """A program that prints JSON, like the inventories of AWX and clouds."""
    inventory = {"app_servers": {"hosts": ["h"], "vars": SETTINGS}, "_meta": {"hostvars": {"h": LOCAL}}}
    (directory / "hosts.sh").write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(inventory)}\nEND\n")
    (directory / "hosts.sh").chmod(0o755)


@pytest.fixture
def clone(tmp_path):
    """A clone that sets the same variables in group_vars/all/."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for path in PROJECT.iterdir():
        if path.name not in ("group_vars", "inventories") and not path.name.startswith("."):
            (clone / path.name).symlink_to(path)
    (clone / "group_vars/all").mkdir(parents=True)
    (clone / "group_vars/all/app.yml").write_text(yaml.safe_dump({"app_name": "elsewhere", "ufw_blocked": [], "app_server": "uwsgi"}))
    return clone


def seen(directory, inventory, *options, **environment):
    shown = {name: f"{{{{ {name} }}}}" for name in (*SETTINGS, "app_server")}
    return evaluate(directory, [READ_APP], shown, inventory, *options, cwd=directory, environment=environment)["h"]


@pytest.mark.parametrize("form", [hosts_yml, all_vars, ini, group_vars_all, host_vars, script])
def test_the_inventory_overrides_the_clone(tmp_path, clone, form):
    """The clone's group_vars/ are beside the playbooks, which Ansible prefers by default. (C4)"""
    (tmp_path / "inventory").mkdir()
    form(tmp_path / "inventory")
    assert seen(clone, tmp_path / "inventory") == {**SETTINGS, "app_server": "uwsgi"}


def test_the_command_line_overrides_the_inventory(tmp_path, clone):
    (tmp_path / "inventory").mkdir()
    group_vars_all(tmp_path / "inventory")
    assert seen(clone, tmp_path / "inventory", "--extra-vars", "app_name=blog")["app_name"] == "blog"


@pytest.mark.parametrize("form", [hosts_yml, all_vars, ini, group_vars_all, host_vars, script])
def test_the_inventory_overrides_the_defaults_of_an_installed_collection(tmp_path, form):
    """Also where the inventory is that of AWX or of a cloud. (C4)"""
    (tmp_path / "inventory").mkdir()
    form(tmp_path / "inventory")
    found = seen(tmp_path, tmp_path / "inventory", ANSIBLE_COLLECTIONS_PATH=str(COLLECTIONS), ANSIBLE_CONFIG=str(tmp_path / "none.cfg"))
    assert found == {**SETTINGS, "app_server": "gunicorn"}
