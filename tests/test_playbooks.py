"""Whichever playbook is run, the owner's settings are the same; and the files that it would write fit the host."""

import json
import os
import subprocess

import pytest
import yaml
from conftest import PROJECT

PLAYBOOKS = sorted(path.name for path in (PROJECT / "playbooks").glob("*.yml"))
DISTRIBUTIONS = [("Ubuntu", "22.04"), ("Ubuntu", "24.04"), ("Ubuntu", "26.04"), ("Debian", "12"), ("Debian", "13")]


def play(path, *options):
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
    command = ["ansible-playbook", "-i", "inventories/staging", str(path), *options]
    return subprocess.run(command, cwd=PROJECT, env=environment, text=True, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """What a play sees that stands where each playbook stands: at the top, and in playbooks/."""
    folder = tmp_path_factory.mktemp("settings")
    seen = {}
    for place in (PROJECT, PROJECT / "playbooks"):
        out = folder / f"{place.name}.json"
        show = "{{ vars | dict2items | selectattr('key', 'match', '(app|ufw|nginx|base|tls)_') | items2dict }}"
        task = {
            "ansible.builtin.copy": {"content": show.replace("vars |", "hostvars[inventory_hostname] |"), "dest": str(out), "mode": "0600"}
        }
        book = place / ".test-of-settings.yml"
        book.write_text(
            yaml.safe_dump(
                [{"hosts": "all", "connection": "local", "gather_facts": False, "tasks": [dict(task, name="Write the settings down")]}]
            )
        )
        try:
            play(book)
        finally:
            book.unlink()
        seen[place.name] = json.loads(out.read_text())
    return seen


def test_every_playbook_sees_the_same_settings(settings):
    at_the_top, below = settings.values()
    assert at_the_top == below
    assert at_the_top["app_name"] and at_the_top["ufw_blocked"] == []


def test_a_stage_outranks_what_holds_everywhere(settings):
    for seen in settings.values():
        assert seen["app_env"] == {"APP_STAGE": "staging"}


@pytest.mark.parametrize("playbook", ["../deploy.yml", *PLAYBOOKS])
def test_every_playbook_is_one_that_ansible_can_read(playbook):
    play(f"playbooks/{playbook}", "--syntax-check")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """nginx's configuration for every distribution."""
    folder = tmp_path_factory.mktemp("rendered")
    hosts = {
        f"{name}{version}": {
            "ansible_connection": "local",
            "out": str(folder / f"{name}{version}"),
            "facts": {"distribution": name, "distribution_version": version, "distribution_major_version": version.split(".")[0]},
        }
        for name, version in DISTRIBUTIONS
    }
    settings = {
        "app_name": "shop",
        "app_domains": ["shop.example", "www.shop.example"],
        "app_root": "/srv/shop",
        "app_health_path": "/healthz",
        "app_static": {"/assets/": "shop/assets"},
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": settings}}))
    roles = PROJECT / "roles"
    tasks = [
        {"ansible.builtin.set_fact": {"ansible_facts": "{{ facts }}"}},
        {"ansible.builtin.include_vars": str(roles / "nginx/defaults/main.yml")},
        {"ansible.builtin.include_vars": str(roles / "nginx/vars/main.yml")},
        {
            "ansible.builtin.copy": {
                "dest": "{{ out }}-{{ item }}",
                "mode": "0600",
                "content": "{{ lookup('ansible.builtin.template', path) }}",
            },
            "vars": {"path": str(roles / "nginx/templates") + "/{{ item }}.j2"},
            "loop": ["nginx.conf", "site.conf"],
        },
    ]
    book = folder / "book.yml"
    book.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    (folder / "templates").symlink_to(PROJECT / "templates")
    play(book, "-i", str(folder / "hosts.yml"), "--limit", ",".join(hosts))
    return lambda host, name: (folder / f"{host}-{name}").read_text()


@pytest.mark.parametrize("host", [f"{name}{version}" for name, version in DISTRIBUTIONS])
def test_nginx_gets_only_directives_that_its_version_knows(rendered, host):
    old = host == "Ubuntu22.04"  # nginx 1.18
    general, site = rendered(host, "nginx.conf"), rendered(host, "site.conf")
    assert ("ssl_reject_handshake" in general) is not old
    assert ("ssl-cert-snakeoil" in general) is old
    # the upstream's keepalive_time came with 1.19.10, `http2 on` with 1.25.1
    assert ("keepalive_time " in site) is not old
    assert ("http2 on;" in site) is (host in ("Ubuntu26.04", "Debian13"))
    assert ("listen 443 ssl http2;" in site) is (host not in ("Ubuntu26.04", "Debian13"))
    for text in general, site:
        assert text.count("{") == text.count("}")


def test_the_site_answers_to_its_names_and_serves_its_static_files(rendered):
    site = rendered("Debian13", "site.conf")
    assert site.count("server_name shop.example www.shop.example;") == 2
    assert "location ^~ /assets/ {" in site
    assert "server unix:/srv/shop/live/wsgi.sock max_fails=0;" in site
