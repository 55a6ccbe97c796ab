"""Each measure holds, is shown before it is taken, can be taken back, and a rerun has nothing to do."""

from sites import wait_until


def test_a_rerun_changes_nothing(site):
    run = site.play("deploy.yml")
    assert run.ok and run.changed == 0, run.output


def test_check_mode_shows_only_what_would_change(site):
    before = site.host.check_output("cat /etc/sysctl.d/zz-flaskhost.conf; sysctl --values net.ipv4.icmp_ratelimit; ls /etc/sudoers.d")
    run = site.play("playbooks/provision.yml", "--check", "--diff")
    assert run.ok and run.changed == 0, run.output
    run = site.play(
        "playbooks/provision.yml", "--check", "--diff", hardening_sysctl={"net.ipv4.icmp_ratelimit": 50}, hardening_off=["sudo"]
    )
    assert run.ok and run.changed == 2, run.output
    assert run.tells("-net.ipv4.icmp_ratelimit = 100", "+net.ipv4.icmp_ratelimit = 50", "-Defaults use_pty")
    run = site.play("playbooks/provision.yml", "--check", "--diff", ssh_options={"AllowUsers": "root", "AllowTcpForwarding": "no"})
    assert run.ok and run.changed > 0 and run.tells("+AllowTcpForwarding no", "-AllowTcpForwarding local"), run.output
    after = site.host.check_output("cat /etc/sysctl.d/zz-flaskhost.conf; sysctl --values net.ipv4.icmp_ratelimit; ls /etc/sudoers.d")
    assert before == after


def test_what_was_changed_by_hand_is_put_right(site):
    site.host.check_output(
        "sysctl --quiet --write net.ipv4.conf.all.accept_redirects=1; chmod 0755 /etc/cron.d; rm /etc/sudoers.d/flaskhost"
    )
    run = site.play("playbooks/provision.yml")
    assert run.ok and run.changed == 2, run.output
    assert site.host.check_output("sysctl --values net.ipv4.conf.all.accept_redirects") == "0"
    assert site.host.file("/etc/cron.d").mode == 0o700 and site.host.file("/etc/sudoers.d/flaskhost").exists


def test_a_measure_can_be_left_out_and_comes_back(site):
    run = site.play("playbooks/provision.yml", hardening_off=["sudo", "modules"])
    assert run.ok and run.changed == 1, run.output
    assert not site.host.file("/etc/modprobe.d/flaskhost.conf").exists and not site.host.file("/etc/sudoers.d/flaskhost").exists
    run = site.play("playbooks/provision.yml")
    assert run.ok and run.changed == 1 and site.host.file("/etc/modprobe.d/flaskhost.conf").exists, run.output


def test_all_holds_after_a_reboot(site):
    site.reboot()
    wait_until(site.is_well)
    assert site.host.check_output("sysctl --values net.ipv4.conf.all.log_martians") == "1", "ufw has not set it back"
    assert "set blocked4" in site.host.check_output("nft list table inet flaskhost")
    run = site.play("deploy.yml")
    assert run.ok and run.changed == 0, run.output


def test_what_listens_is_told(site):
    run = site.play("playbooks/doctor.yml")
    assert run.tells("listening", "22/tcp sshd, 80/tcp nginx, 443/tcp nginx"), run.output
    site.host.check_output("systemd-run --unit=stray --collect python3 -m http.server 9000")
    try:
        site.host.check_output("for i in $(seq 50); do ss -Hltn 'sport = :9000' | grep -q . && exit 0; sleep 0.1; done; exit 1")
        assert site.play("playbooks/doctor.yml").tells("not let in: 9000/tcp (python3)")
    finally:
        site.host.run("systemctl stop stray")
