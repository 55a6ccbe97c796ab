"""Release, reboot, loss of power and little memory, on a machine with its own kernel."""

from apparmor import denials
from sites import Load, during, vm


def test_the_first_login_found_cloud_init_at_work(site):
    """cloud-init was still running when the deploy began, so the deploy waited for it."""
    assert site.host.check_output("cloud-init status").endswith("done")
    assert site.host.check_output("systemd-detect-virt") in ("kvm", "qemu")
    assert site.host.file("/run/systemd/resolve/stub-resolv.conf").exists


def test_a_release_and_a_rollback_under_load_fail_no_request(site, source):
    before = site.live()
    # an emulated processor answers few requests a second
    load = Load(site, seconds=600, pace=1)
    released = site.release(source)
    now = site.live()
    back = site.play("playbooks/rollback.yml")
    answers, errors = load.stop()
    assert released.ok and back.ok, released.output + back.output
    assert now != before and site.live() == before
    assert not errors and set(answers) == {200, 303} and sum(answers.values()) > 100, (answers, errors)


def test_apparmor_logged_nothing_so_far(site):
    assert site.host.check_output("cat /sys/module/apparmor/parameters/enabled") == "Y"
    main = site.main_process()
    assert site.host.check_output(f"cat /proc/{main}/attr/current") == "flaskhost-sample (complain)"
    assert not denials(site)


def test_everything_is_back_after_a_reboot(site):
    """The firewall starts before the network, the site serves, and the kernel has all settings of the role hardening."""
    site.restart()
    assert site.is_healthy()
    started = {
        unit: int(site.host.check_output(f"systemctl show --value --property=ActiveEnterTimestampMonotonic {unit}"))
        for unit in ("ufw.service", "network.target", "ssh.service")
    }
    assert 0 < started["ufw.service"] < started["network.target"], started
    assert "Status: active" in site.host.check_output("ufw status")
    wrong = site.host.check_output(
        "for file in /etc/sysctl.d/*flaskhost*; do grep -E '^[a-z]' $file; done | tr -d ' ' | while IFS== read -r name value; do"
        ' now=$(sysctl --values "$name" | tr "\\t" " "); [ "$now" = "$value" ] || echo "$name is $now, not $value"; done'
    )
    assert not wrong
    assert site.host.check_output("sysctl --values fs.suid_dumpable") == "0"
    assert "apport" not in site.host.check_output("sysctl --values kernel.core_pattern")
    assert not denials(site)
    run = site.play("deploy.yml")
    assert run.ok and run.changed == 0, run.output


def test_a_crash_leaves_no_core_dump(site):
    site.host.run("systemd-run --wait --property=User=sample --working-directory=/var/lib/sample sh -c 'kill -SEGV $$'")
    assert not site.host.check_output(
        "find /var/lib/sample /var/crash /var/lib/systemd/coredump -name '*core*' -o -name '*.crash' 2>/dev/null || true"
    )


def test_a_power_failure_in_mid_release_is_followed_by_a_release_with_512_mb(site, source):
    """The power fails while the venv is built. Then the machine has half the memory: it serves while it releases, and does not thrash."""
    before = site.live()
    (source / "requirements.txt").write_text((source / "requirements.txt").read_text() + "itsdangerous==2.2.0\n")
    ok, output = during(site, "python_venv/venv/venv", lambda _process: vm("kill", site.machine), app_source=str(source))
    assert not ok, output
    vm("boot", site.machine, "512")
    site.wait_until_healthy()
    assert site.live() == before
    assert site.host.check_output("swapon --noheadings --show=NAME"), "the role base makes swap"
    released, swapped = release_while_measuring(site, source)
    assert released.ok, released.output
    # pages of 4 KB that came back from the disk: as much as half of the memory would be thrashing
    assert swapped < 256 * 256, f"{swapped} pages were read from swap"


def test_512_mb_without_swap_are_enough(site, source):
    site.host.check_output("swapoff --all")
    released, _swapped = release_while_measuring(site, source)
    assert released.ok, released.output
    assert "Out of memory" not in site.host.check_output("journalctl --dmesg --boot --no-pager")


def release_while_measuring(site, source):
    def read():
        return int(site.host.check_output("sed -n 's/^pswpin //p' /proc/vmstat"))

    before, load = read(), Load(site, seconds=600, pace=1)
    released = site.release(source)
    answers, errors = load.stop()
    assert not errors and set(answers) == {200, 303}, (answers, errors)
    print(f"release with {site.host.check_output('free -m | sed -n 2,3p')}: {released.seconds:.0f} s, {read() - before} pages from swap")
    return released, read() - before


def test_the_host_reboots_at_its_reboot_time(site):
    """unattended-upgrades reboots the host at base_reboot_time if an upgrade requires it, and the site is available again."""
    run = site.play("deploy.yml", "--tags", "base", base_reboot_time="04:30")
    assert run.ok, run.output
    boot = site.host.check_output("cat /proc/sys/kernel/random/boot_id")
    site.host.check_output("touch /run/reboot-required && date --set 04:00 && unattended-upgrade")
    assert site.host.file("/run/systemd/shutdown/scheduled").exists
    site.host.check_output("date --set 04:29:55")
    site.wait_until_rebooted(boot)
    site.wait_until_healthy()
