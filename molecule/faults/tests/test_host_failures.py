"""Faults of the host: the run explains them, no data is lost, and once the cause is gone a plain run succeeds."""

import contextlib

import pytest

under_load = pytest.mark.usefixtures("load")


@contextlib.contextmanager
def limited_space(site, path, blocks="", inodes=""):
    """Mount a file system over a directory, with its content and this many free bytes or inodes."""
    host = site.host
    limit = "size=1g" if blocks else f"nr_inodes={inodes + int(host.check_output(f'du --summarize --inodes {path} | cut -f1'))}"
    host.check_output(f"mkdir -p /mnt/small && mount -t tmpfs -o {limit} tmpfs /mnt/small && cp -a {path}/. /mnt/small")
    host.check_output(f"chown --reference={path} /mnt/small && chmod --reference={path} /mnt/small")
    if blocks:
        free = int(host.check_output("df --output=avail --block-size=1 /mnt/small | tail -n 1"))
        host.check_output(f"fallocate --length {free - blocks} /mnt/small/.filler")
    host.check_output(f"mount --bind /mnt/small {path}")
    try:
        yield
    finally:
        host.check_output(f"umount {path} && umount /mnt/small")


DISK_IS_FULL = "The disk is full or has no free inodes"


@under_load
@pytest.mark.parametrize("directory", [pytest.param("venvs", marks=pytest.mark.venv), pytest.param("releases", marks=pytest.mark.sample)])
def test_a_full_disk(fault, directory):
    """The disk fills up during the build: the partial build is removed, so that the live release has space, and the run reports the
    remedy."""
    fault.change("requirements.txt")
    free = {"venvs": 12 * 2**20, "releases": 2**16}[directory]
    with limited_space(fault.site, f"/srv/sample/{directory}", blocks=free):
        fault.is_rejected("No space left on device", DISK_IS_FULL)
        assert int(fault.site.host.check_output(f"df --output=avail --block-size=1 /srv/sample/{directory} | tail -n 1")) > free // 2


@pytest.mark.venv
@under_load
def test_a_disk_without_inodes(fault):
    """The disk has no inodes left: the same happens."""
    fault.change("requirements.txt")
    with limited_space(fault.site, "/srv/sample/venvs", inodes=200):
        fault.is_rejected("No space left on device", DISK_IS_FULL)


@pytest.mark.venv
@under_load
def test_a_full_var(fault):
    """/var, which has the package cache, is full: the release is built without a cache."""
    fault.change("requirements.txt")
    fault.site.host.check_output("rm -rf /var/cache/sample-build/uv")
    with limited_space(fault.site, "/var/cache/sample-build", blocks=2**20):
        run = fault.site.release(fault.source)
    assert run.ok and fault.site.live() != fault.before, run.output


@pytest.mark.sample
@under_load
def test_a_read_only_disk(fault):
    """/srv is read-only, as after a disk failure: the run reports it before it changes anything."""
    fault.site.host.check_output("mount --bind /srv/sample /srv/sample && mount -o remount,bind,ro /srv/sample")
    try:
        fault.change()
        run = fault.site.release(fault.source)
        assert not run.ok and run.changed == 0
        assert run.reports("/srv/sample is not writable: Read-only file system. Nothing was changed"), run.output
        assert fault.site.play("playbooks/doctor.yml").reports("disk /srv/sample", "read-only")
    finally:
        fault.site.host.check_output("umount /srv/sample")
    fault.is_unchanged()


@under_load
def test_too_little_memory(fault):
    """There is too little memory for two releases: the new one is not started, because the kernel might kill the live one."""
    host = fault.site.host
    host.check_output("sed 's/^MemAvailable:.*/MemAvailable: 20480 kB/; s/^SwapFree:.*/SwapFree: 0 kB/' /proc/meminfo >/root/meminfo")
    host.check_output("mount --bind /root/meminfo /proc/meminfo")
    try:
        fault.change()
        fault.is_rejected(
            "not enough memory to start it beside the live release", "only 20 MB are available", "base_swap_mb", app_release_command=""
        )
        assert fault.site.play("playbooks/doctor.yml").reports("20 MB are available")
    finally:
        host.check_output("umount /proc/meminfo")


@pytest.mark.venv
def test_apt_is_busy_and_a_package_is_missing(fault):
    """A package is missing, and another program holds apt's lock for a minute: the run waits for the lock, then installs the package."""
    host = fault.site.host
    host.check_output("apt-get remove --quiet --quiet --assume-yes python3-venv >/dev/null")
    script = "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(60)"
    host.check_output(f'systemd-run --quiet --unit=apt-holder --collect python3 -c "{script}"')
    run = fault.site.play("playbooks/doctor.yml", app_domains=["localhost"])
    assert run.reports("python3", "holds the lock of apt", "A run waits up to"), run.output
    run = fault.site.play("playbooks/provision.yml")
    assert run.ok and host.package("python3-venv").is_installed, run.output
    assert not host.service("apt-holder").is_running


# modules on the host see yesterday's time; systemd-run is exempt because it would wait forever
YESTERDAY = """#!/bin/sh
export FAKETIME_SKIP_CMDS=systemd-run
exec faketime -f -1d /usr/bin/python3 "$@"
"""


def test_a_clock_that_is_a_day_behind(fault):
    """The clock is a day behind: a release still succeeds, and doctor reports the clock."""
    host = fault.site.host
    host.check_output("apt-get install --quiet --quiet --assume-yes faketime >/dev/null")
    host.check_output("printf '%%s' %s >/root/python && chmod +x /root/python", YESTERDAY)
    yesterday = {"ansible_python_interpreter": "/root/python"}
    assert fault.site.play("playbooks/doctor.yml", **yesterday).reports("clock", "seconds behind the controller's clock", "timedatectl")
    run = fault.site.play("deploy.yml", **fault.change(), **yesterday)
    assert run.ok and fault.site.live() != fault.before, run.output
    again = fault.site.play("deploy.yml", app_source=str(fault.source))
    assert again.ok, again.output
    assert fault.site.play("deploy.yml", app_source=str(fault.source)).changed == 0


NGINX_CONFIGURATION = "/etc/nginx/sites-enabled/sample.conf"


def test_changed_owners_and_modes(load, fault):
    """Owners and modes are changed by hand: the next run restores them."""
    load.nginx_is_reloaded = True
    host = fault.site.host
    host.check_output(f"chmod 0777 /srv/sample {NGINX_CONFIGURATION} && chown www-data /srv/sample/releases {NGINX_CONFIGURATION}")
    run = fault.site.play("playbooks/provision.yml")
    assert run.ok and run.changed > 0, run.output
    found = host.check_output(f"stat --format '%a %U %G' /srv/sample {NGINX_CONFIGURATION} /srv/sample/releases").splitlines()
    assert found == ["751 root sample", "640 root root", "751 root sample"]
    assert fault.site.play("playbooks/provision.yml").changed == 0


@pytest.mark.sample
def test_an_edited_configuration_file(load, fault):
    """nginx's configuration is edited by hand: the next run restores it, warns, and keeps a copy of the edited file."""
    load.nginx_is_reloaded = True
    host = fault.site.host
    before = host.check_output(f"sha256sum {NGINX_CONFIGURATION}")
    host.check_output(f"sed -i 's/client_max_body_size .*;/client_max_body_size 1g; # mine/' {NGINX_CONFIGURATION}")
    run = fault.site.play("playbooks/provision.yml")
    assert run.ok and run.reports(f"{NGINX_CONFIGURATION} was edited after Flaskhost wrote it"), run.output
    assert host.check_output(f"sha256sum {NGINX_CONFIGURATION}") == before
    assert "client_max_body_size 1g; # mine" in host.check_output(f"cat /var/backups/flaskhost{NGINX_CONFIGURATION}.*")


def test_edited_files_of_a_release(fault):
    """The live release's code is edited by hand: the next release and doctor report it."""
    fault.site.host.check_output("echo '# by hand' >>/srv/sample/live/app/sample_app/pages.py")
    assert fault.site.play("playbooks/doctor.yml").reports("files of the live release were changed by hand: app/sample_app/pages.py")
    run = fault.release_good()
    assert run.ok and run.reports("were edited since it was built: app/sample_app/pages.py"), run.output


def test_existing_users_directories_and_sites(fault):
    """A user, a group, a directory and a site with the app's name already exist: preflight names each, and changes nothing. Without them,
    the app is deployed. (B4, B18)"""
    host = fault.site.host
    host.check_output("groupadd --gid 4242 other; useradd --gid users --home-dir /home/other --create-home --shell /bin/bash other")
    host.check_output("mkdir -p /srv/other && echo mine >/srv/other/notes.txt && chown -R other /srv/other && chmod 0700 /srv/other")
    host.check_output("printf 'server { listen 443 ssl; server_name other.test; }\\n' >/etc/nginx/sites-enabled/by-hand.conf")
    settings = {"app_name": "other", "app_root": "/srv/other", "app_domains": ["other.test"], "ufw_rules": []}
    state = (
        "stat -c '%U %a %Z' /srv/other /srv/other/notes.txt; getent passwd other; cat /etc/nginx/sites-enabled/*; ls /etc/systemd/system"
    )
    before = host.check_output(state)
    try:
        run = fault.site.play("deploy.yml", **settings)
        assert not run.ok and run.changed == 0 and host.check_output(state) == before, run.output
        assert run.reports(
            "Nothing was changed.",
            "the user 'other' (uid",
            "app_root: /srv/other exists, and Flaskhost did not create it",
            "the site /etc/nginx/sites-enabled/by-hand.conf has the same server_name other.test",
        ), run.output
        host.check_output("userdel --remove other; groupdel other; mv /srv/other /srv/other.old; rm /etc/nginx/sites-enabled/by-hand.conf")
        run = fault.site.play("deploy.yml", **settings)
        assert run.ok, run.output
        assert fault.site.play("deploy.yml", **settings).changed == 0
        assert host.check_output("systemctl is-active 'other@*'") == "active"
        assert host.check_output("readlink /srv/sample/live").endswith(fault.before), "the other app must be unchanged"
    finally:
        host.run("systemctl disable --now $(basename /etc/systemd/system/other@*.service); rm -f /etc/systemd/system/other@*")
        host.run(
            "rm -rf /srv/other /srv/other.old /var/lib/other /etc/nginx/sites-enabled/other.conf /etc/nginx/sites-enabled/by-hand.conf; nginx -s reload; "
            "userdel --remove other; userdel other-build; groupdel other; groupdel other-web"
        )


def test_a_file_in_place_of_a_directory(fault):
    """A file exists where a directory must be: the run names it and changes nothing."""
    fault.site.host.check_output("rm -rf /var/www/sample && echo mine >/var/www/sample")
    try:
        run = fault.site.play("playbooks/provision.yml")
        assert not run.ok and run.reports("/var/www/sample must be a directory, but is something else. Move it away. Nothing was changed")
        assert fault.site.host.file("/var/www/sample").content_string == "mine\n"
    finally:
        fault.site.host.check_output("rm /var/www/sample")
    assert fault.site.play("playbooks/provision.yml").ok


@under_load
@pytest.mark.parametrize("by_hand", ["disable", "reset"])
def test_a_disabled_firewall(fault, by_hand):
    """ufw is disabled or reset: the next run restores its rules and enables it."""
    host = fault.site.host
    before = host.check_output("ufw status")
    host.check_output(f"ufw --force {by_hand}")
    assert fault.site.play("playbooks/doctor.yml").reports("not active: every port is open")
    run = fault.site.play("playbooks/provision.yml")
    assert run.ok and host.check_output("ufw status") == before, run.output


def test_a_stopped_nginx(fault):
    """nginx is stopped: a release fails because no visitor could see it, and the previous release stays live; deploy.yml starts nginx."""
    fault.site.host.check_output("systemctl stop nginx")
    fault.change()
    run = fault.site.release(fault.source)
    assert not run.ok and run.reports("nginx refused the connection", f"Release {fault.before} keeps serving"), run.output
    assert fault.site.live() == fault.before
    run = fault.site.play("deploy.yml", app_source=str(fault.source))
    assert run.ok and fault.site.get("/healthz")[0] == 200, run.output


@under_load
def test_a_stale_socket(fault):
    """A stale socket exists where the release opens its own: it is replaced."""
    assert fault.release_good().ok
    directory = f"/run/flaskhost/sample/{fault.before}"
    script = f"import socket; socket.socket(socket.AF_UNIX).bind('{directory}/wsgi.sock')"
    fault.site.host.check_output(f'mkdir -p {directory} && python3 -c "{script}"')
    run = fault.site.play("playbooks/rollback.yml")
    assert run.ok and fault.site.live() == fault.before, run.output
    fault.before = ""


@under_load
def test_deleted_previous_releases(fault):
    """The previous releases are deleted: the live one keeps serving, and a rollback reports that there is no previous release."""
    host = fault.site.host
    host.check_output(f"cd /srv/sample/releases && ls | grep -v {fault.before} | xargs rm -rf")
    run = fault.site.play("playbooks/rollback.yml")
    assert not run.ok and run.reports(
        "There is no previous release to roll back to. Kept releases:", fault.before, "Nothing was changed"
    ), run.output
    fault.is_unchanged()


@pytest.mark.parametrize("deleted", ["/srv/sample/releases/*", "/srv/sample/live", "/srv/sample/venvs/*"])
def test_a_deleted_live_release(fault, deleted):
    """The live release's directory, its venv, or the link to it is deleted: the next deploy rebuilds what is missing."""
    first = fault.site.play("deploy.yml", **fault.change())
    assert first.ok, first.output
    live = fault.site.live()
    fault.site.host.check_output(f"rm -rf {deleted}")
    run = fault.site.play("deploy.yml", app_source=str(fault.source))
    assert run.ok and fault.site.live() == live, run.output
    assert fault.site.get("/")[0] == 200 and fault.site.get("/static/style.css")[0] == 200
    assert fault.site.play("deploy.yml", app_source=str(fault.source)).changed == 0


def test_a_broken_link_to_the_live_release(fault):
    """The link `live` is broken: doctor reports it, and the next deploy fixes it."""
    first = fault.site.play("deploy.yml", **fault.change())
    assert first.ok, first.output
    live = fault.site.live()
    fault.site.host.check_output("ln -sfn releases/nowhere /srv/sample/live")
    assert fault.site.play("playbooks/doctor.yml").reports("the live release nowhere has no directory")
    run = fault.site.play("deploy.yml", app_source=str(fault.source))
    assert run.ok and fault.site.live() == live and fault.site.get("/")[0] == 200, run.output
