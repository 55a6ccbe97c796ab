"""Settings as people write them: preflight reads real inventories and names the problem, the file and the line."""

import os

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager
from conftest import COLLECTIONS, plugin, run_playbook

APP = """\
app_name: shop
app_domains: [shop.example.com]
app_source: source
app_module: shop:app
app_secrets: { SECRET_KEY: 5f3c9ad }
"""


@pytest.fixture
def site(tmp_path):
    """A directory with an inventory and a source, without a clone's group_vars/."""
    for directory in "inventory/group_vars", "inventory/host_vars", "source/shop/static":
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "source/shop/__init__.py").write_text("app = 1\n")
    (tmp_path / "source/requirements.txt").write_text("Flask\n")
    (tmp_path / "inventory/hosts.yml").write_text("app_servers: { hosts: { h: { ansible_connection: local } } }\n")
    (tmp_path / "inventory/group_vars/app_servers.yml").write_text(APP)
    return tmp_path


def preflight(site, *arguments, settings="", succeeds=False, inventory="inventory"):
    """Run preflight's checks of settings as a playbook of an installed collection. Return the message of the failed task."""
    if settings:
        (site / "inventory/group_vars/app_servers.yml").write_text(APP + settings)
    play = {
        "hosts": "app_servers",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.preflight"}}],
    }
    (site / "preflight.yml").write_text(yaml.safe_dump([play]))
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_CONFIG": str(site / "none.cfg")}
    run = run_playbook(site, site / "preflight.yml", site / inventory, *arguments, cwd=site, environment=environment, succeeds=succeeds)
    assert "Traceback" not in run.output
    return run.output.rpartition("fatal: [")[2].replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")


# -- values that YAML changes ----------------------------------------------------------------------------------------------

CHANGED_BY_YAML = """\
app_version: 3.10
app_env:
  DSN:
  QUOTED: "0755"
app_extra_requirements: [flask, 3.10]
app_build_command: off
app_static: { /static/: 2024-01-01 }
app_schedule: [{ name: tidy, command: "true", at: 12:30 }]
nginx_app_headers: { X-Mode: on }
container_build_args: { PYTHON: 3.10 }
redis_settings: { timeout: 7, appendfsync: no }
ssh_options: { UsePAM: no, MaxAuthTries: 3, Banner: }
ssh_root_login: no
base_reboot_time: 14:30
backup_password: 0755
postgresql_settings:
"""


def test_values_that_yaml_changes_are_rejected_everywhere(site):
    """Text without quotes that YAML reads as something else is rejected wherever text is expected, and secrets are not shown. (B7)"""
    output = preflight(site, settings=CHANGED_BY_YAML)
    assert "14 settings need your attention. No host was touched." in output, output
    for message in (
        (
            "- app_version is 3.1: YAML reads it as a number, and may have changed it, as it changes 3.10, 0755, 12:30 and no. "
            'Put the value in quotes: "…" (in a template, add | string).\n  Set it in inventory/group_vars/app_servers.yml, line 6.'
        ),
        "- app_env is {'DSN': None, 'QUOTED': '0755'}: 'DSN' has no value. Write DSN: \"\" if it is meant to be empty",
        "- app_extra_requirements is ['flask', 3.1]: YAML reads it as a number",
        "- app_build_command is False: YAML reads it as true or false",
        "YAML reads '/static/' as a date",
        "YAML reads 'at' as a number",
        "YAML reads 'X-Mode' as true or false, and may have changed it, as it changes 3.10, 0755, 12:30 and no.",
        "YAML reads 'PYTHON' as a number",
        "YAML reads 'appendfsync' as true or false",
        "YAML reads 'UsePAM' as true or false",
        "- ssh_root_login is False: YAML reads it as true or false",
        "- base_reboot_time is 870: YAML reads it as a number",
        "- backup_password is invalid: YAML reads it as a number",
        "- postgresql_settings is not set: the line has no value. Write one, or remove the line.",
    ):
        assert message in output, (message, output)
    assert "493" not in output


IN_THE_ENVIRONMENT = [
    ("DEBUG: false", "YAML reads 'DEBUG' as true or false"),
    ("AT: 12:30", "YAML reads 'AT' as a number"),
    ("MODE: 0755", "YAML reads 'MODE' as a number"),
    ("SINCE: 2026-11-27", "YAML reads 'SINCE' as a date"),
    ('J: {"a": true}', """Put the value in quotes: J: '{"a": true}'"""),
    ("HOSTS: [a, b]", "YAML reads 'HOSTS' as a list"),
    ("NO: x", "YAML reads it as true or false"),
    ('PORT: "{{ 8000 }}"', "YAML reads 'PORT' as a number"),
    ('PORT: "{{ 8000 | string }}"', ""),
    ('AT: "12:30"', ""),
    ("TIME: 04:30:x", ""),
]


def test_values_of_the_environment_are_text(site):
    """The app would get False, 750 and 493, and a secret is rejected without being shown. (B7)"""
    hosts = {f"{kind}{number}": {"ansible_connection": "local"} for kind in ("env", "secret") for number in range(len(IN_THE_ENVIRONMENT))}
    (site / "inventory/hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": hosts}}))
    for number, (line, _message) in enumerate(IN_THE_ENVIRONMENT):
        (site / f"inventory/host_vars/env{number}.yml").write_text(f"app_env:\n  {line}\n")
        (site / f"inventory/host_vars/secret{number}.yml").write_text(f"app_secrets:\n  {line}\n")
    output = preflight(site)
    for number, (_line, message) in enumerate(IN_THE_ENVIRONMENT):
        for kind, setting in ("env", "app_env is {"), ("secret", "app_secrets is invalid"):
            found = [text for text in output.split("\n- ") if f"(host {kind}{number})" in text]
            assert len(found) == bool(message), (kind, number, output)
            assert all(text.startswith(setting) and message in text for text in found), (setting, message, found)
            assert all(f"inventory/host_vars/{kind}{number}.yml, line 1." in text for text in found), found


# -- several apps ----------------------------------------------------------------------------------------------------------


def another_source(site):
    """A second app with a static directory and a Procfile, which the first one does not have."""
    (site / "blog/blog/assets").mkdir(parents=True)
    (site / "blog/blog/__init__.py").write_text("app = 1\n")
    (site / "blog/blog/assets/style.css").write_text("p {}\n")
    (site / "blog/requirements.txt").write_text("Flask\n")
    (site / "blog/Procfile").write_text("worker: rq worker\n")


BLOG = """\
app_name: blog
app_domains: [blog.example.com]
app_source: blog
app_module: blog:app
app_static: { /static/: blog/assets }
app_processes: { worker: 1 }
"""


def test_each_app_is_checked_against_its_own_source(site):
    """The second app has a static directory and a Procfile. Only a host that uses them with the first app has a problem. (A2)"""
    another_source(site)
    (site / "inventory/hosts.yml").write_text(
        "app_servers: { hosts: { shop: { ansible_host: 192.0.2.1 }, blog: { ansible_host: 192.0.2.1 } } }\n"
    )
    (site / "inventory/host_vars/blog.yml").write_text(BLOG)
    (site / "inventory/host_vars/shop.yml").write_text("app_static: { /static/: blog/assets }\napp_processes: { worker: 1 }\n")
    output = preflight(site)
    assert "2 settings need your attention" in output
    for setting, line, problem in (
        ("app_static is '/static/: blog/assets'", 1, "the source has no directory 'blog/assets'"),
        ("app_processes is {'worker': 1}", 2, "the source has no Procfile at its top, which must define worker"),
    ):
        (found,) = [text for text in output.split("\n- ") if text.startswith(setting)]
        assert problem in found and f"inventory/host_vars/shop.yml, line {line}. (host shop)" in found


INVENTORIES = {
    "host_vars/blog.yml": ("host_vars/blog.yml", "app_name: blog\napp_server: gunicron\n", 2),
    "host_vars/blog/app": ("host_vars/blog/app.yml", "\napp_server: gunicron\n", 2),
    "a group of its own": ("group_vars/blogs.yml", "# the blog\napp_server : gunicron\n", 2),
    "hosts.yml": (
        "hosts.yml",
        "app_servers:\n  hosts:\n    shop:\n      app_server: uwsgi\n    blog: { app_name: blog,\n      app_server: gunicron }\n",
        6,
    ),
    "vars in hosts.yml": (
        "hosts.yml",
        (
            "app_servers:\n  children:\n    shops:\n      hosts: { shop: }\n      vars:\n        app_server: uwsgi\n"
            "    blogs:\n      hosts: { blog: }\n      vars:\n        'app_server': gunicron\n"
        ),
        10,
    ),
    "hosts.ini": ("hosts.ini", "[app_servers]\nshop app_server=uwsgi\nblog app_name=blog app_server=gunicron\n", 3),
    "vars in hosts.ini": (
        "hosts.ini",
        (
            "[shops]\nshop\n[shops:vars]\napp_server=uwsgi\n[blogs]\nblog\n[blogs:vars]\napp_server = gunicron\n"
            "[app_servers:children]\nshops\nblogs\n"
        ),
        8,
    ),
}


def write_inventory(site, form):
    path, text, line = INVENTORIES[form]
    hosts = "app_servers:\n  children:\n    shops: { hosts: { shop: } }\n    blogs: { hosts: { blog: } }\n"
    (site / "inventory/hosts.yml").unlink() if path == "hosts.ini" else (site / "inventory/hosts.yml").write_text(hosts)
    (site / "inventory/group_vars/shops.yml").write_text("app_server: granian\n")
    for name in "another", "shop", "zoo":
        (site / f"inventory/host_vars/{name}.yml").write_text("# not the blog's\napp_server: waitress\n")
    (site / f"inventory/{path}").parent.mkdir(exist_ok=True)
    (site / f"inventory/{path}").write_text(text)
    return path, line


def test_a_wrong_setting_of_the_second_app_names_its_own_file_and_line(site):
    """The first app sets the same setting, in a file that is read before the second app's. (A12)"""
    another_source(site)
    path, line = write_inventory(site, "vars in hosts.yml")
    output = preflight(site)
    assert "- app_server is 'gunicron': it must be the role of a server" in output
    assert f"Set it in inventory/{path}, line {line}. (host blog)" in output, output
    assert output.count("gunicron") == 1


@pytest.mark.parametrize("form", INVENTORIES)
def test_the_file_and_line_of_a_setting_are_found_where_ansible_reads_them(site, form):
    """Ansible's own inventory gives the value, and the message names the place that has this value. (A12)"""
    path, line = write_inventory(site, form)
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=[str(site / "inventory")])
    manager = VariableManager(loader=loader, inventory=inventory)
    settings = manager.get_vars(host=inventory.get_host("blog"))
    assert settings["app_server"] == "gunicron"
    found = plugin("plugin_utils/problems").Sources(settings).of("app_server")
    assert found == f"{os.path.relpath(site)}/inventory/{path}, line {line}"


def test_a_missing_setting_of_the_second_app_is_to_be_set_in_its_own_file(site):
    """app_domains has no value in any file. (A12)"""
    another_source(site)
    (site / "inventory/hosts.yml").write_text("app_servers: { hosts: { blog: , shop: } }\n")
    (site / "inventory/host_vars/blog.yml").write_text(BLOG)
    (site / "inventory/group_vars/app_servers.yml").write_text(APP.replace("app_domains: [shop.example.com]\n", ""))
    (site / "inventory/host_vars/blog.yml").write_text(BLOG.replace("app_name: blog\n", "app_nam: blog\n"))
    output = preflight(site)
    assert (
        "app_nam: no such setting exists. Did you mean app_name?\n  It is set in inventory/host_vars/blog.yml, line 1. (host blog)"
        in output
    )
    assert "app_domains is not set" in output
    assert "Set it in inventory/group_vars/app_servers.yml. (host shop)" in output or "app_servers.yml or group_vars" in output
