"""Each hardening measure takes effect, is shown in check mode, and can be turned off. A rerun changes nothing."""

from sites import wait_until


def test_a_rerun_changes_nothing(site):
    run = site.play("deploy.yml")
    assert run.ok and run.changed == 0, run.output


def test_check_mode_shows_only_pending_changes(site):
    before = site.host.check_output("cat /etc/sysctl.d/zz-flaskhost.conf; sysctl --values net.ipv4.icmp_ratelimit; ls /etc/sudoers.d")
    run = site.play("playbooks/provision.yml", "--check", "--diff")
    assert run.ok and run.changed == 0, run.output
    run = site.play(
        "playbooks/provision.yml", "--check", "--diff", hardening_sysctl={"net.ipv4.icmp_ratelimit": 50}, hardening_off=["sudo"]
    )
    assert run.ok and run.changed == 2, run.output
    assert run.reports("-net.ipv4.icmp_ratelimit = 100", "+net.ipv4.icmp_ratelimit = 50", "-Defaults use_pty")
    run = site.play("playbooks/provision.yml", "--check", "--diff", ssh_options={"AllowUsers": "root", "AllowTcpForwarding": "no"})
    assert run.ok and run.changed > 0 and run.reports("+AllowTcpForwarding no", "-AllowTcpForwarding local"), run.output
    after = site.host.check_output("cat /etc/sysctl.d/zz-flaskhost.conf; sysctl --values net.ipv4.icmp_ratelimit; ls /etc/sudoers.d")
    assert before == after


def test_manual_changes_are_reverted(site):
    site.host.check_output(
        "sysctl --quiet --write net.ipv4.conf.all.accept_redirects=1; chmod 0755 /etc/cron.d; rm /etc/sudoers.d/flaskhost"
    )
    run = site.play("playbooks/provision.yml")
    assert run.ok and run.changed == 2, run.output
    assert site.host.check_output("sysctl --values net.ipv4.conf.all.accept_redirects") == "0"
    assert site.host.file("/etc/cron.d").mode == 0o700 and site.host.file("/etc/sudoers.d/flaskhost").exists


def test_a_measure_can_be_turned_off_and_on_again(site):
    run = site.play("playbooks/provision.yml", hardening_off=["sudo", "modules"])
    assert run.ok and run.changed == 1, run.output
    assert not site.host.file("/etc/modprobe.d/flaskhost.conf").exists and not site.host.file("/etc/sudoers.d/flaskhost").exists
    run = site.play("playbooks/provision.yml")
    assert run.ok and run.changed == 1 and site.host.file("/etc/modprobe.d/flaskhost.conf").exists, run.output


def test_all_measures_hold_after_a_reboot(site):
    site.reboot()
    wait_until(site.is_healthy)
    assert site.host.check_output("sysctl --values net.ipv4.conf.all.log_martians") == "1", "ufw must not reset it"
    assert "set blocked4" in site.host.check_output("nft list table inet flaskhost")
    run = site.play("deploy.yml")
    assert run.ok and run.changed == 0, run.output


def test_listening_ports_are_reported(site):
    run = site.play("playbooks/doctor.yml")
    assert run.reports("listening", "22/tcp sshd, 80/tcp nginx, 443/tcp nginx"), run.output
    site.host.check_output("systemd-run --unit=stray --collect python3 -m http.server 9000")
    try:
        site.host.check_output("for i in $(seq 50); do ss -Hltn 'sport = :9000' | grep -q . && exit 0; sleep 0.1; done; exit 1")
        assert site.play("playbooks/doctor.yml").reports("on ports that the firewall blocks: 9000/tcp (python3)")
    finally:
        site.host.run("systemctl stop stray")
