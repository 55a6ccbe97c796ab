"""A person without a clone: the collection is installed from its tarball, and the inventory is the owner's own."""

import re
import subprocess

import pytest
import yaml

# in the order in which a host would get them; with what each needs to know
ROLES = {
    "base": {},
    "hardening": {},
    "ufw": {"ufw_ssh_ports": [22], "ufw_blocked": ["198.51.100.0/24"]},
    "ssh": {},
    "systemd": {"systemd_app": "alone", "systemd_app_root": "/srv/alone"},
    "tls": {"tls_site": "alone", "tls_domains": ["alone.test"], "tls_folder": "/etc/ssl/flaskhost/alone"},
    "nginx": {
        "nginx_site": "alone",
        "nginx_server_names": ["alone.test"],
        "nginx_site_root": "/srv/alone",
        "nginx_certificate_folder": "/etc/ssl/flaskhost/alone",
        "nginx_static_urls": [],
        "nginx_health_path": "/",
    },
    "python_venv": {},
    "postgresql": {"postgresql_app": "alone", "postgresql_url": "postgresql://alone@/alone?host=/run/postgresql"},
    "redis": {"redis_app": "alone"},
    "memcached": {"memcached_app": "alone"},
    "backup": {
        "backup_app": "alone",
        "backup_folder": "/var/backups/alone",
        "backup_state": "/var/lib/alone",
        "backup_database_url": "",
        "backup_of": "alone",
    },
}


def status_of(place, path):
    command = ["curl", "--silent", "--insecure", "--max-time", "15", "--resolve", f"mysite.test:{place.https}:127.0.0.1"]
    url = f"https://mysite.test:{place.https}{path}"
    return subprocess.run([*command, "--output", "/dev/null", "--write-out", "%{http_code}", url], capture_output=True, text=True).stdout


def changed(output):
    return int(re.search(r"changed=(\d+)", output)[1])


@pytest.mark.parametrize("gather_facts", [True, False], ids=["facts", "no-facts"])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_alone(place, role, gather_facts):
    """Twice: by the second time there is nothing to do. Facts that are gathered through sudo lack this ssh session."""
    book = [{"hosts": "all", "become": True, "gather_facts": gather_facts, "roles": [f"flaskhost.flaskhost.{role}"]}]
    (place.directory / "alone.yml").write_text(yaml.safe_dump(book))
    hosts = {"all": {"hosts": {"alone": place.connection()}, "vars": ROLES[role]}}
    (place.directory / "alone-hosts.yml").write_text(yaml.safe_dump(hosts))
    place.play("-i", "alone-hosts.yml", "alone.yml")
    assert changed(place.play("-i", "alone-hosts.yml", "alone.yml")) == 0


def test_a_role_alone_locks_nobody_out(place):
    """Through sudo, from an address that the list has."""
    address = place.host.check_output("ip route show default | cut -d' ' -f3")
    book = [{"hosts": "all", "become": True, "gather_facts": True, "roles": ["flaskhost.flaskhost.ufw"]}]
    (place.directory / "alone.yml").write_text(yaml.safe_dump(book))
    hosts = {"all": {"hosts": {"alone": place.connection()}, "vars": {"ufw_blocked": [f"{address}/24"]}}}
    (place.directory / "alone-hosts.yml").write_text(yaml.safe_dump(hosts))
    output = " ".join(place.play("-i", "alone-hosts.yml", "alone.yml", good=False).split())
    assert f"You come from {address}" in output and "Nothing was changed." in output
    place.play("-i", "alone-hosts.yml", "alone.yml", "-e", '{"ufw_blocked": []}')


def test_deploy_release_roll_back_and_status(repository):
    production = ["-i", "inventories/production"]
    repository.play("flaskhost.flaskhost.deploy", *production)
    assert status_of(repository, "/healthz") == "200"
    first = repository.host.check_output("basename $(readlink /srv/mysite/live)")
    assert changed(repository.play("flaskhost.flaskhost.deploy", *production)) == 0
    with (repository.directory / "app/sample_app/__init__.py").open("a") as source:
        source.write("# changed\n")
    repository.play("flaskhost.flaskhost.release", *production)
    second = repository.host.check_output("basename $(readlink /srv/mysite/live)")
    assert second != first
    assert second in repository.play("flaskhost.flaskhost.status", *production)
    repository.play("flaskhost.flaskhost.rollback", *production)
    assert repository.host.check_output("basename $(readlink /srv/mysite/live)") == first


def test_tags_do_a_part(repository):
    """The site is deployed, and rolled back."""
    production = ["-i", "inventories/production"]
    output = repository.play("flaskhost.flaskhost.deploy", *production, "--tags", "nginx")
    assert changed(output) == 0 and "nginx : Run nginx" in output and "release : " not in output.replace("release : Validating", "")
    before = repository.host.check_output("basename $(readlink /srv/mysite/live)")
    repository.play("flaskhost.flaskhost.deploy", *production, "--tags", "release")
    assert repository.host.check_output("basename $(readlink /srv/mysite/live)") != before
    output = repository.play("flaskhost.flaskhost.deploy", *production, "--skip-tags", "ufw")
    assert changed(output) == 0 and "ufw : Let in ssh" not in output
