"""A user without a clone installs the collection from its tarball and writes an inventory."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from sites import task_name

PROJECT = Path(__file__).resolve().parents[3]
# in the order in which a deploy applies them
ROLES = [
    "base",
    "hardening",
    "ufw",
    "ssh",
    "systemd",
    "tls",
    "nginx",
    "python_venv",
    "postgresql",
    "mariadb",
    "redis",
    "memcached",
    "backup",
]
ROLE_VARIABLES = {"ufw": {"ufw_ssh_ports": [22], "ufw_blocked": ["198.51.100.0/24"]}}


def playbook_for(role, gather_facts):
    """The playbook for a role alone: the one that the role's README shows, or a minimal one."""
    example = re.search(
        r"^## Use without the role `app`\n.*?^```yaml\n(.*?)^```",
        (PROJECT / f"roles/{role}/README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    plays = yaml.safe_load(example[1]) if example else [{"hosts": "all", "become": True, "roles": [f"flaskhost.flaskhost.{role}"]}]
    return [{**plays[0], "gather_facts": gather_facts}]


def apply_alone(workspace, role, gather_facts):
    """Run the role alone on the host, and return the output."""
    (workspace.directory / "alone.yml").write_text(yaml.safe_dump(playbook_for(role, gather_facts)))
    hosts = {"all": {"hosts": {"alone": workspace.connection()}, "vars": ROLE_VARIABLES.get(role, {})}}
    (workspace.directory / "alone-hosts.yml").write_text(yaml.safe_dump(hosts))
    return workspace.play("-i", "alone-hosts.yml", "alone.yml")


def http_status(workspace, path):
    command = ["curl", "--silent", "--insecure", "--max-time", "15", "--resolve", f"mysite.test:{workspace.https}:127.0.0.1"]
    url = f"https://mysite.test:{workspace.https}{path}"
    return subprocess.run([*command, "--output", "/dev/null", "--write-out", "%{http_code}", url], capture_output=True, text=True).stdout


def changed(output):
    return int(re.search(r"changed=(\d+)", output)[1])


@pytest.mark.parametrize("gather_facts", [True, False], ids=["facts", "no-facts"])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_alone(workspace, role, gather_facts):
    """The second run changes nothing. Facts gathered through sudo don't include the environment of the ssh session."""
    apply_alone(workspace, role, gather_facts)
    assert changed(apply_alone(workspace, role, gather_facts)) == 0


def test_mariadb_authenticates_the_user_of_the_operating_system(workspace):
    """There is no password and no port. (A14)"""
    # the example in the role's README is for the app shop
    apply_alone(workspace, "mariadb", gather_facts=False)
    workspace.host.check_output("id shop >/dev/null 2>&1 || useradd --system shop")
    query = "mariadb --no-defaults --socket=/run/mysqld/mysqld.sock --batch --skip-column-names --execute='SELECT CURRENT_USER()'"
    assert workspace.host.check_output(f"runuser -u shop -- {query} shop") == "shop@localhost"
    for user, arguments in ("nobody", ""), ("nobody", "--user=shop"), ("shop", "--user=root"), ("shop", "mysql"):
        assert workspace.host.run(f"runuser -u {user} -- {query} {arguments}").rc != 0, (user, arguments)
    assert ":3306" not in workspace.host.check_output("ss -Hltn")


def test_ufw_alone_does_not_lock_the_operator_out(workspace):
    """The operator connects from a blocked address and uses sudo."""
    address = workspace.host.check_output("ip route show default | cut -d' ' -f3")
    plays = [{"hosts": "all", "become": True, "gather_facts": True, "roles": ["flaskhost.flaskhost.ufw"]}]
    (workspace.directory / "alone.yml").write_text(yaml.safe_dump(plays))
    hosts = {"all": {"hosts": {"alone": workspace.connection()}, "vars": {"ufw_blocked": [f"{address}/24"]}}}
    (workspace.directory / "alone-hosts.yml").write_text(yaml.safe_dump(hosts))
    output = " ".join(workspace.play("-i", "alone-hosts.yml", "alone.yml", succeeds=False).split())
    assert f"You connect from {address}" in output and "Nothing was changed." in output
    workspace.play("-i", "alone-hosts.yml", "alone.yml", "-e", '{"ufw_blocked": []}')


def test_deploy_release_roll_back_and_status(repository):
    production = ["-i", "inventories/production"]
    repository.play("flaskhost.flaskhost.deploy", *production)
    assert http_status(repository, "/healthz") == "200"
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


def test_tags_limit_a_run(repository):
    """The site was deployed and rolled back by the previous test."""
    production = ["-i", "inventories/production"]
    output = repository.play("flaskhost.flaskhost.deploy", *production, "--tags", "nginx", "-v")
    assert (
        changed(output) == 0
        and task_name("nginx/main/service_current") in output
        and "release : " not in output.replace("release : Validating", "")
    )
    before = repository.host.check_output("basename $(readlink /srv/mysite/live)")
    repository.play("flaskhost.flaskhost.deploy", *production, "--tags", "release")
    assert repository.host.check_output("basename $(readlink /srv/mysite/live)") != before
    output = repository.play("flaskhost.flaskhost.deploy", *production, "--skip-tags", "ufw", "-v")
    assert changed(output) == 0 and task_name("ufw/main/ufw_rules") not in output
