"""A person without a clone: the collection is installed from its tarball, and the inventory is the owner's own."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[3]
# in the order in which a host would get them
ROLES = ["base", "hardening", "ufw", "ssh", "systemd", "tls", "nginx", "python_venv", "postgresql", "redis", "memcached", "backup"]
OF_THE_TEST = {"ufw": {"ufw_ssh_ports": [22], "ufw_blocked": ["198.51.100.0/24"]}}


def play_of(role, gather_facts):
    """The playbook that the role's README shows for a role alone, or the shortest one."""
    example = re.search(r"^## Alone\n.*?^```yaml\n(.*?)^```", (PROJECT / f"roles/{role}/README.md").read_text(), re.MULTILINE | re.DOTALL)
    book = yaml.safe_load(example[1]) if example else [{"hosts": "all", "become": True, "roles": [f"flaskhost.flaskhost.{role}"]}]
    return [{**book[0], "gather_facts": gather_facts}]


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
    (place.directory / "alone.yml").write_text(yaml.safe_dump(play_of(role, gather_facts)))
    hosts = {"all": {"hosts": {"alone": place.connection()}, "vars": OF_THE_TEST.get(role, {})}}
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
