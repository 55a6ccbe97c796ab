"""Wrong settings that only the host can tell, and runs that die midway."""

import time

import pytest
from sites import during, kill


@pytest.fixture(scope="module")
def kept(site):
    """The site as it was; a test that fails must not spoil the next."""
    yield site
    run = site.play("deploy.yml")
    assert run.ok, run.output


# what asks nothing of the distribution happens on one host, so that the two are about equally busy
NEWER = pytest.mark.parametrize("site", ["newer"], indirect=True)


def test_a_wrong_nginx_directive_is_refused_and_the_site_goes_on(kept):
    before = kept.host.check_output("sha256sum /etc/nginx/sites-enabled/* /etc/nginx/nginx.conf")
    run = kept.play("playbooks/provision.yml", nginx_server_lines=["proxy_passs nowhere;"])
    assert not run.ok
    assert run.tells('unknown directive "proxy_passs"')
    assert kept.host.check_output("sha256sum /etc/nginx/sites-enabled/* /etc/nginx/nginx.conf") == before
    assert kept.host.run("nginx -t").rc == 0
    assert kept.get("/healthz")[0] == 200


def test_a_wrong_sshd_option_is_refused_and_logins_go_on(kept):
    before = kept.host.check_output("sha256sum /etc/ssh/sshd_config.d/*")
    run = kept.play("playbooks/provision.yml", ssh_root_login="by-knocking")
    assert not run.ok
    # its own check of types says so before sshd is asked
    assert run.tells("ssh_root_login", "prohibit-password")
    run = kept.play("playbooks/provision.yml", ssh_port=22, __ssh_ports=[22, "no-port"])
    assert not run.ok
    assert run.tells("so nothing was changed.", "Badly formatted port number")
    assert kept.host.check_output("sha256sum /etc/ssh/sshd_config.d/*") == before
    assert kept.host.run("sshd -t").rc == 0
    assert kept.play("playbooks/status.yml").ok


@pytest.mark.parametrize(
    ("site", "point"),
    [
        ("older", "nginx/main/managed_files"),
        ("older", "release/activate/release_activate"),
        ("newer", "nginx/main/service_current"),
    ],
    indirect=["site"],
)
def test_a_run_that_was_killed_is_finished_by_the_next(kept, source, point):
    """Ansible is killed in mid-run, also between a change of nginx's configuration and its reload: the site serves on, and the next
    run finishes what that one began. (`make test-kills` tries every task.)"""
    mark = f"x{time.time_ns()}"
    (source / "requirements.txt").write_text((source / "requirements.txt").read_text() + f"# {mark}\n")
    variables = {"app_source": str(source), "nginx_server_lines": [f"add_header X-Mark {mark};"]}
    kept.write(f"before the run was killed at {point}")
    count = kept.entries()
    assert not during(kept, point, kill, "deploy.yml", **variables)[0]
    assert kept.get("/healthz")[0] == 200, "what was live serves on"
    run = kept.play("deploy.yml", **variables)
    assert run.ok, run.output
    assert f"x-mark: {mark}" in kept.get("/healthz", "--head")[1], "nginx runs what is on the disk"
    assert mark in kept.host.check_output("cat /srv/sample/live/app/requirements.txt")
    assert kept.entries() == count
    assert kept.instances() == [f"sample@{kept.live()}.service"]
    assert kept.host.check_output("systemctl --failed --no-legend") == ""
    run = kept.play("deploy.yml", **variables)
    assert run.ok and run.changed == 0, run.output


@NEWER
@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"ansible_become_password": "wrong"}, "Give the password with --ask-become-pass"),
        ({}, "Give the password with --ask-become-pass"),
        ({"ansible_become_password": "sudoer", "ansible_become_exe": "sudo-rs"}, "set ansible_become_exe: sudo.ws"),
    ],
    ids=["wrong password", "no password", "sudo-rs"],
)
def test_who_can_not_become_root_is_told_why_at_once(kept, settings, answer):
    """sudo-rs, Ubuntu's sudo since 25.10, asks for a password in words that Ansible waits for in vain."""
    if "ansible_become_exe" in settings:
        kept.host.check_output("command -v sudo-rs || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq sudo-rs)")
    run = kept.play("deploy.yml", ansible_user="sudoer", **settings)
    assert not run.ok and run.tells("sudoer can't become root", answer, "Nothing was changed."), run.output


@NEWER
def test_a_user_of_sudo_with_a_password_can_deploy(kept):
    run = kept.play("deploy.yml", ansible_user="sudoer", ansible_become_password="sudoer")
    assert run.ok and run.changed == 0, run.output


def opens(client, site, port):
    return client.run(f"timeout 3 bash -c ': </dev/tcp/{site.address}/{port}'").rc == 0


# of openssh-server 1:9.6p1-3ubuntu13
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
    """Who listens for ssh: the daemon itself, or, as on Ubuntu since 22.10, systemd."""
    units = ["ssh.service", "ssh.socket"]
    if site.name == "newer":
        units.reverse()
        site.host.check_output("printf %s >/etc/systemd/system/ssh.socket && systemctl daemon-reload", UBUNTU_SOCKET)
    switch = "systemctl stop ssh.socket ssh.service; systemctl disable --quiet {1}; systemctl enable --quiet --now {0}"
    site.host.check_output(switch.format(*units))
    yield units[0]
    # also where the test ended midway, with a port that no later test knows
    site.host.check_output("rm -rf /etc/systemd/system/ssh.socket.d; sed -i '/^Port /d' /etc/ssh/sshd_config.d/10-flaskhost.conf")
    site.host.check_output(switch.format("ssh.service", "ssh.socket"))
    site.host.check_output("rm -f /etc/systemd/system/ssh.socket && systemctl daemon-reload")


def test_ssh_moves_to_another_port_and_is_never_out_of_reach(kept, client, ssh_listener):
    def provision(**variables):
        # the firewall would let nobody in more than six times in 30 seconds
        run = kept.play("playbooks/provision.yml", ufw_ssh_ports=[], ufw_rules=[{"port": 22}, {"port": 2200}], **variables)
        assert run.ok, run.output
        return run

    by_new_port = {"ansible_port": {"older": 22112, "newer": 22113}[kept.name]}
    # the old way stays open until a run has come in by the new one
    provision(ssh_port=2200)
    assert (opens(client, kept, 22), opens(client, kept, 2200)) == (True, True)
    provision(ssh_port=2200, **by_new_port)
    assert (opens(client, kept, 22), opens(client, kept, 2200)) == (False, True)
    again = provision(ssh_port=2200, **by_new_port)
    assert again.changed == 0, again.output
    assert kept.host.check_output(f"systemctl is-enabled {ssh_listener}") == "enabled"
    # and back
    provision(ssh_port=22, **by_new_port)
    provision(ssh_port=22)
    assert (opens(client, kept, 22), opens(client, kept, 2200)) == (True, False)
