"""The host protects secrets and the app's files, and recovers from crashes and reboots."""

import os
import subprocess

from sites import Site, wait_until

SECRET = "marker-of-a-secret-5f3c9a"


def test_secrets_are_in_one_file_that_only_root_can_read(site):
    for directory in "/srv", "/etc", "/var/log", "/tmp", "/root", "/home", "/run":
        files = site.host.run(f"grep --recursive --files-with-matches --devices=skip {SECRET} {directory}").stdout.split()
        for path in files:
            assert path.endswith("/env"), path
            found = site.host.file(path)
            assert (found.user, found.group, found.mode) == ("root", "root", 0o600)
    assert SECRET not in site.host.check_output("ps axeww -o args,user | grep -v 'sample ' ; journalctl --namespace='*' --no-pager")


def test_special_characters_reach_the_app_unchanged(site):
    pid = site.host.check_output("systemctl show --value --property=MainPID sample@$(basename $(readlink /srv/sample/live))")
    environment = site.host.check_output(f"cat /proc/{pid}/environ").split("\0")
    assert "ODD_VALUE=a \"quoted\" $HOME `word` \\n 'x' %i # no comment" in environment


def test_the_app_can_not_write_its_own_code(site):
    live = f"/srv/sample/releases/{site.live()}"
    for path in f"{live}/app/x", f"{live}/.venv/x", f"{live}/x", "/srv/sample/x", "/etc/x":
        assert site.host.run(f"runuser -u sample -- touch {path}").rc != 0, path


def test_other_users_can_not_read_the_app(site):
    live = f"/srv/sample/releases/{site.live()}"
    for path in f"{live}/env", f"{live}/gunicorn.conf.py", f"{live}/app/requirements.txt", "/var/lib/sample/sample.db":
        for user in "nobody", "www-data":
            assert site.host.run(f"runuser -u {user} -- cat {path}").rc != 0, f"{user} reads {path}"
    assert site.host.run(f"runuser -u nobody -- curl --unix-socket {site.socket()} http://x/").rc != 0


def test_the_unit_is_hardened(site):
    unit = f"sample@{site.live()}.service"
    report = site.host.check_output(f"systemd-analyze security --no-pager {unit} | tail -n 1")
    assert float(report.split("service: ")[1].split()[0]) <= 1.5, report


def test_killed_workers_are_replaced(site):
    before = site.workers()
    site.host.check_output(f"kill -9 {' '.join(before)}")
    wait_until(lambda: len(site.workers() - before) == len(before) and site.is_healthy())


def test_a_killed_main_process_is_restarted(site):
    before = site.main_process()
    site.host.check_output(f"kill -9 {before}")
    wait_until(lambda: site.main_process() not in (before, "0") and site.is_healthy())


def test_the_site_serves_after_a_reboot(site):
    site.write("before the reboot")
    count, live = site.entries(), site.live()
    site.reboot()
    # unlike a VM, a container has a new MAC address after a restart, so flush the client's neighbor cache
    subprocess.run(["podman", "exec", "flaskhost-client", "ip", "neighbour", "flush", "all"], check=True)
    wait_until(site.is_healthy)
    assert (site.entries(), site.live()) == (count, live)
    assert "Status: active" in site.host.check_output("ufw status")
    assert site.instances() == [f"sample@{live}.service"]
    assert site.host.check_output("systemctl --failed --no-legend") == ""


def test_apport_can_not_change_the_core_dump_settings(site):
    """At boot, Ubuntu's apport would replace the settings after sysctl has applied them; it would do so again when it stops."""
    apport = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=touch /run/apport-started\nExecStop=touch /run/apport-stopped\n"
    site.host.check_output("printf %s >/etc/systemd/system/apport.service && systemctl daemon-reload", apport)
    try:
        site.host.check_output("systemctl restart apport.service")
        assert site.host.run("ls /run/apport-*").stdout == ""
    finally:
        site.host.check_output(
            "systemctl stop apport.service; rm -f /etc/systemd/system/apport.service /run/apport-*; systemctl daemon-reload"
        )


def test_units_are_world_readable_despite_a_restrictive_umask(site):
    """On Ubuntu, pam_umask applies the umask of /etc/login.defs to logins. systemd and other tools read units as unprivileged users too."""
    assert site.host.check_output("grep -w ^UMASK /etc/login.defs").split()[1] == "027"
    assert site.host.check_output("find /etc/systemd/system -name '*sample*' -type f ! -perm -004") == ""


def test_a_run_after_the_reboot_changes_nothing(site):
    run = site.play("deploy.yml")
    assert run.ok, run.output
    assert run.changed == 0, run.output


def test_check_mode_shows_only_pending_changes(site):
    before = site.host.check_output("sha256sum /etc/nginx/sites-enabled/sample.conf; cat /srv/sample/history")
    run = site.play("deploy.yml", "--check", "--diff")
    assert run.ok and run.changed == 0, run.output
    run = site.play("deploy.yml", "--check", "--diff", nginx_max_body_mb=21)
    assert run.ok and run.changed == 1, run.output
    assert run.reports("-    client_max_body_size 16m;", "+    client_max_body_size 21m;")
    run = site.play("deploy.yml", "--check", "--diff", gunicorn_threads=7, app_secrets={"SECRET_KEY": SECRET + "-new"})
    assert run.ok and run.changed > 0 and run.reports("would serve release"), run.output
    assert SECRET not in run.output
    assert site.host.check_output("sha256sum /etc/nginx/sites-enabled/sample.conf; cat /srv/sample/history") == before


def test_the_hosts_run_the_requested_distributions():
    requested = {"older": os.environ.get("FLASKHOST_OLDER", "debian12"), "newer": os.environ.get("FLASKHOST_NEWER", "debian13")}
    found = {name: Site(name).host.check_output(". /etc/os-release && echo $ID$VERSION_ID") for name in requested}
    assert found == requested
