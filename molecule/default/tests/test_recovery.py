"""Recovery from settings that only the host can reject, and from runs that are killed."""

import time

import pytest
from sites import during, kill


@pytest.fixture(scope="module")
def restored_site(site):
    """The site. A deploy restores it after these tests."""
    yield site
    run = site.play("deploy.yml")
    assert run.ok, run.output


# tests that don't depend on the distribution run on one host only, which balances the load of the two
NEWER = pytest.mark.parametrize("site", ["newer"], indirect=True)


def test_an_invalid_nginx_directive_is_rejected_and_the_site_keeps_serving(restored_site):
    before = restored_site.host.check_output("sha256sum /etc/nginx/sites-enabled/* /etc/nginx/nginx.conf")
    run = restored_site.play("playbooks/provision.yml", nginx_server_lines=["proxy_passs nowhere;"])
    assert not run.ok
    assert run.reports('unknown directive "proxy_passs"')
    assert restored_site.host.check_output("sha256sum /etc/nginx/sites-enabled/* /etc/nginx/nginx.conf") == before
    assert restored_site.host.run("nginx -t").rc == 0
    assert restored_site.get("/healthz")[0] == 200


def test_an_invalid_sshd_option_is_rejected_and_logins_still_work(restored_site):
    before = restored_site.host.check_output("sha256sum /etc/ssh/sshd_config.d/*")
    run = restored_site.play("playbooks/provision.yml", ssh_root_login="by-knocking")
    assert not run.ok
    # the role's argument spec rejects the value before sshd checks it
    assert run.reports("ssh_root_login", "prohibit-password")
    run = restored_site.play("playbooks/provision.yml", ssh_port=22, __ssh_ports=[22, "no-port"])
    assert not run.ok
    assert run.reports("so nothing was changed.", "Badly formatted port number")
    assert restored_site.host.check_output("sha256sum /etc/ssh/sshd_config.d/*") == before
    assert restored_site.host.run("sshd -t").rc == 0
    assert restored_site.play("playbooks/status.yml").ok


@pytest.mark.parametrize(
    ("site", "point"),
    [
        ("older", "nginx/main/managed_files"),
        ("older", "release/activate/release_activate"),
        ("newer", "nginx/main/service_current"),
    ],
    indirect=["site"],
)
def test_the_next_run_finishes_a_run_that_was_killed(restored_site, source, point):
    """Ansible is killed during a run, for example between a change of nginx's configuration and the reload: the site keeps serving, and the
    next run finishes the work. (`make test-kills` tries every task.)"""
    mark = f"x{time.time_ns()}"
    (source / "requirements.txt").write_text((source / "requirements.txt").read_text() + f"# {mark}\n")
    # the release is watched for so long that a run on a busy machine does not end before it is killed
    variables = {"app_source": str(source), "nginx_server_lines": [f"add_header X-Mark {mark};"], "release_watch_seconds": 10}
    restored_site.write(f"before the run was killed at {point}")
    count = restored_site.entries()
    assert not during(restored_site, point, kill, "deploy.yml", **variables)[0]
    assert restored_site.get("/healthz")[0] == 200, "the live release must keep serving"
    run = restored_site.play("deploy.yml", **variables)
    assert run.ok, run.output
    assert f"x-mark: {mark}" in restored_site.get("/healthz", "--head")[1], "nginx must run the configuration that is on the disk"
    assert mark in restored_site.host.check_output("cat /srv/sample/live/app/requirements.txt")
    assert restored_site.entries() == count
    assert restored_site.instances() == [f"sample@{restored_site.live()}.service"]
    assert restored_site.host.check_output("systemctl --failed --no-legend") == ""
    run = restored_site.play("deploy.yml", **variables)
    assert run.ok and run.changed == 0, run.output


@NEWER
@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"ansible_become_password": "wrong"}, "Pass the password with --ask-become-pass"),
        ({}, "Pass the password with --ask-become-pass"),
        ({"ansible_become_password": "sudoer", "ansible_become_exe": "sudo-rs"}, "Set ansible_become_exe: sudo.ws"),
    ],
    ids=["wrong password", "no password", "sudo-rs"],
)
def test_a_failure_to_become_root_is_explained_at_once(restored_site, settings, fix):
    """sudo-rs, Ubuntu's sudo since 25.10, prompts for a password with a text that Ansible doesn't recognize."""
    if "ansible_become_exe" in settings:
        install_sudo_rs(restored_site.host)
    run = restored_site.play("deploy.yml", ansible_user="sudoer", **settings)
    assert not run.ok and run.reports("sudoer can't become root", fix, "Nothing was changed."), run.output


def install_sudo_rs(host):
    host.check_output("command -v sudo-rs || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq sudo-rs)")


@NEWER
def test_visudo_rs_checks_only_the_file_of_the_role_hardening(restored_site):
    """Ubuntu's visudo since 25.10 rejects all of /etc/sudoers for one setting that it doesn't know."""
    host = restored_site.host
    install_sudo_rs(host)
    host.check_output("ln -s $(command -v visudo-rs) /usr/local/sbin/visudo && echo 'Defaults insults' >/etc/sudoers.d/operator")
    try:
        assert host.run("visudo --check").rc != 0
        host.check_output("rm /etc/sudoers.d/flaskhost")
        run = restored_site.play("deploy.yml", "--tags", "hardening")
        assert run.ok and run.changed > 0 and host.file("/etc/sudoers.d/flaskhost").exists, run.output
    finally:
        host.check_output("rm -f /usr/local/sbin/visudo /etc/sudoers.d/operator")


@NEWER
def test_a_sudo_user_with_a_password_can_deploy(restored_site):
    run = restored_site.play("deploy.yml", ansible_user="sudoer", ansible_become_password="sudoer")
    assert run.ok and run.changed == 0, run.output


def can_connect(client, site, port):
    return client.run(f"timeout 3 bash -c ': </dev/tcp/{site.address}/{port}'").rc == 0


# from openssh-server 1:9.6p1-3ubuntu13
UBUNTU_SOCKET = """\
[Unit]
Description=OpenBSD Secure Shell server socket
Before=sockets.target ssh.service
ConditionPathExists=!/etc/ssh/sshd_not_to_be_run
[Socket]
ListenStream=0.0.0.0:22
ListenStream=[::]:22
BindIPv6Only=ipv6-only
Accept=no
FreeBind=yes
[Install]
WantedBy=sockets.target
RequiredBy=ssh.service
"""


@pytest.fixture
def ssh_listener(site):
    """The unit that listens for ssh: the daemon itself or, as on Ubuntu since 22.10, a systemd socket."""
    units = ["ssh.service", "ssh.socket"]
    if site.name == "newer":
        units.reverse()
        site.host.check_output("printf %s >/etc/systemd/system/ssh.socket && systemctl daemon-reload", UBUNTU_SOCKET)
    switch = "systemctl stop ssh.socket ssh.service; systemctl disable --quiet {1}; systemctl enable --quiet --now {0}"
    site.host.check_output(switch.format(*units))
    yield units[0]
    # if the test failed, sshd may listen on a port that later tests don't use
    site.host.check_output("rm -rf /etc/systemd/system/ssh.socket.d; sed -i '/^Port /d' /etc/ssh/sshd_config.d/10-flaskhost.conf")
    site.host.check_output(switch.format("ssh.service", "ssh.socket"))
    site.host.check_output("rm -f /etc/systemd/system/ssh.socket && systemctl daemon-reload")


def test_a_change_of_the_ssh_port_never_locks_the_operator_out(restored_site, client, ssh_listener):
    def provision(**variables):
        # ufw's rate limit would reject more than six connections in 30 seconds
        run = restored_site.play("playbooks/provision.yml", ufw_ssh_ports=[], ufw_rules=[{"port": 22}, {"port": 2200}], **variables)
        assert run.ok, run.output
        return run

    by_new_port = {"ansible_port": {"older": 22112, "newer": 22113}[restored_site.name]}
    # the old port stays open until a run has connected to the new one
    provision(ssh_port=2200)
    assert (can_connect(client, restored_site, 22), can_connect(client, restored_site, 2200)) == (True, True)
    provision(ssh_port=2200, **by_new_port)
    assert (can_connect(client, restored_site, 22), can_connect(client, restored_site, 2200)) == (False, True)
    again = provision(ssh_port=2200, **by_new_port)
    assert again.changed == 0, again.output
    assert restored_site.host.check_output(f"systemctl is-enabled {ssh_listener}") == "enabled"
    # and back
    provision(ssh_port=22, **by_new_port)
    provision(ssh_port=22)
    assert (can_connect(client, restored_site, 22), can_connect(client, restored_site, 2200)) == (True, False)
