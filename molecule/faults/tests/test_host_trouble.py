"""The host's own trouble: it is told of in words, nothing is lost, and once it is over a plain run is all that is needed."""

import contextlib

import pytest

under_load = pytest.mark.usefixtures("load")


@contextlib.contextmanager
def small(site, path, blocks="", inodes=""):
    """A folder gets a file system of its own, with its content and room for so many more bytes or inodes."""
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


FULL = "The disk is full, or has no inodes left"


@pytest.mark.sample
@under_load
@pytest.mark.parametrize("folder", [pytest.param("venvs", marks=pytest.mark.venv), "releases"])
def test_a_disk_that_is_full(fault, folder):
    """The disk is full during the build: the half that was built is removed, so that what serves has room; the run says what to do."""
    fault.change("requirements.txt")
    room = {"venvs": 12 * 2**20, "releases": 2**16}[folder]
    with small(fault.site, f"/srv/sample/{folder}", blocks=room):
        fault.is_refused("No space left on device", FULL)
        assert int(fault.site.host.check_output(f"df --output=avail --block-size=1 /srv/sample/{folder} | tail -n 1")) > room // 2


@pytest.mark.venv
@under_load
def test_a_disk_without_inodes(fault):
    """The disk has no inodes left: the same."""
    fault.change("requirements.txt")
    with small(fault.site, "/srv/sample/venvs", inodes=200):
        fault.is_refused("No space left on device", FULL)


@pytest.mark.venv
@under_load
def test_no_room_on_var(fault):
    """/var is full, where packages are cached: the release is built without a cache."""
    fault.change("requirements.txt")
    fault.site.host.check_output("rm -rf /var/cache/sample-build/uv")
    with small(fault.site, "/var/cache/sample-build", blocks=2**20):
        run = fault.site.release(fault.source)
    assert run.ok and fault.site.live() != fault.before, run.output


@pytest.mark.sample
@under_load
def test_a_disk_that_is_read_only(fault):
    """/srv is read-only, as Linux makes it when a disk fails: the run says so before it touches anything."""
    fault.site.host.check_output("mount --bind /srv/sample /srv/sample && mount -o remount,bind,ro /srv/sample")
    try:
        fault.change()
        run = fault.site.release(fault.source)
        assert not run.ok and run.changed == 0
        assert run.tells("/srv/sample can't be written to: Read-only file system. Nothing was touched"), run.output
        assert fault.site.play("playbooks/doctor.yml").tells("disk /srv/sample", "read-only")
    finally:
        fault.site.host.check_output("umount /srv/sample")
    fault.is_as_before()


@under_load
def test_memory_that_is_exhausted(fault):
    """There is no memory for two releases at once: the new one is not started, for the kernel might kill the one that serves."""
    host = fault.site.host
    host.check_output("sed 's/^MemAvailable:.*/MemAvailable: 20480 kB/; s/^SwapFree:.*/SwapFree: 0 kB/' /proc/meminfo >/root/meminfo")
    host.check_output("mount --bind /root/meminfo /proc/meminfo")
    try:
        fault.change()
        fault.is_refused("there is no memory for it beside the live release", "20 MB are left", "base_swap_mb", app_release_command="")
        assert fault.site.play("playbooks/doctor.yml").tells("20 MB can be had")
    finally:
        host.check_output("umount /proc/meminfo")


@pytest.mark.venv
def test_apt_is_busy_and_a_package_is_missing(fault):
    """A package has been removed, and another program holds apt's lock for a minute: the run waits for it, and installs the package."""
    host = fault.site.host
    host.check_output("apt-get remove --quiet --quiet --assume-yes python3-venv >/dev/null")
    script = "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(60)"
    host.check_output(f'systemd-run --quiet --unit=apt-holder --collect python3 -c "{script}"')
    run = fault.site.play("playbooks/doctor.yml", app_domains=["localhost"])
    assert run.tells("python3", "is at work", "A run waits for it"), run.output
    run = fault.site.play("playbooks/provision.yml")
    assert run.ok and host.package("python3-venv").is_installed, run.output
    assert not host.service("apt-holder").is_running


# what Ansible runs on the host sees another time; systemd-run alone would wait for ever under it
YESTERDAY = """#!/bin/sh
export FAKETIME_SKIP_CMDS=systemd-run
exec faketime -f -1d /usr/bin/python3 "$@"
"""


def test_a_clock_that_is_a_day_behind(fault):
    """The clock is wrong by a day: a release goes live all the same, and doctor says what is wrong."""
    host = fault.site.host
    host.check_output("apt-get install --quiet --quiet --assume-yes faketime >/dev/null")
    host.check_output("printf '%%s' %s >/root/python && chmod +x /root/python", YESTERDAY)
    yesterday = {"ansible_python_interpreter": "/root/python"}
    assert fault.site.play("playbooks/doctor.yml", **yesterday).tells("clock", "seconds behind this machine's", "timedatectl")
    run = fault.site.play("deploy.yml", **fault.change(), **yesterday)
    assert run.ok and fault.site.live() != fault.before, run.output
    again = fault.site.play("deploy.yml", app_source=str(fault.source))
    assert again.ok, again.output
    assert fault.site.play("deploy.yml", app_source=str(fault.source)).changed == 0


MINE = "/etc/nginx/sites-enabled/sample.conf"


def test_owners_and_modes_that_were_changed(load, fault):
    """Somebody changed owners and modes: they are put right."""
    load.nginx_is_reloaded = True
    host = fault.site.host
    host.check_output(f"chmod 0777 /srv/sample {MINE} && chown www-data /srv/sample/releases {MINE}")
    run = fault.site.play("playbooks/provision.yml")
    assert run.ok and run.changed > 0, run.output
    found = host.check_output(f"stat --format '%a %U %G' /srv/sample {MINE} /srv/sample/releases").splitlines()
    assert found == ["751 root sample", "640 root root", "751 root sample"]
    assert fault.site.play("playbooks/provision.yml").changed == 0


@pytest.mark.sample
def test_a_managed_file_that_was_edited(load, fault):
    """Somebody edited nginx's configuration by hand: it is put right, with a word about it, and the edited file is kept."""
    load.nginx_is_reloaded = True
    host = fault.site.host
    before = host.check_output(f"sha256sum {MINE}")
    host.check_output(f"sed -i 's/client_max_body_size .*;/client_max_body_size 1g; # mine/' {MINE}")
    run = fault.site.play("playbooks/provision.yml")
    assert run.ok and run.tells(f"{MINE} was edited since Flaskhost wrote it"), run.output
    assert host.check_output(f"sha256sum {MINE}") == before
    assert "client_max_body_size 1g; # mine" in host.check_output(f"cat /var/backups/flaskhost{MINE}.*")


def test_files_of_a_release_that_were_edited(fault):
    """Somebody edited the live release's code by hand: the next release says so, and doctor too."""
    fault.site.host.check_output("echo '# by hand' >>/srv/sample/live/app/sample_app/pages.py")
    assert fault.site.play("playbooks/doctor.yml").tells("files of the live release, by hand: app/sample_app/pages.py")
    run = fault.release_good()
    assert run.ok and run.tells("were edited since it was built: app/sample_app/pages.py"), run.output


def test_what_is_there_already(fault):
    """A host has a user, a group, a folder and a site of the app's name already, with other content: they are taken over; what another
    wrote is kept."""
    host = fault.site.host
    host.check_output("groupadd --gid 4242 other; useradd --gid users --home-dir /home/other --create-home --shell /bin/bash other")
    host.check_output("mkdir -p /srv/other && echo mine >/srv/other/notes.txt && chown -R other /srv/other && chmod 0700 /srv/other")
    host.check_output("printf 'server { listen 8081; }\\n' >/etc/nginx/sites-enabled/other.conf")
    settings = {"app_name": "other", "app_root": "/srv/other", "app_domains": ["other.test"], "ufw_rules": []}
    try:
        run = fault.site.play("deploy.yml", **settings)
        assert run.ok, run.output
        assert fault.site.play("deploy.yml", **settings).changed == 0
        assert host.check_output("systemctl is-active 'other@*'") == "active"
        assert host.file("/srv/other/notes.txt").content_string == "mine\n"
        assert "listen 8081" in host.check_output("cat /var/backups/flaskhost/etc/nginx/sites-enabled/other.conf.*")
        assert host.check_output("readlink /srv/sample/live").endswith(fault.before), "the other app is as it was"
    finally:
        host.run("systemctl disable --now $(basename /etc/systemd/system/other@*.service); rm -f /etc/systemd/system/other@*")
        host.run(
            "rm -rf /srv/other /etc/nginx/sites-enabled/other.conf; nginx -s reload; userdel other; groupdel other; groupdel other-web"
        )


def test_a_file_where_a_folder_has_to_be(fault):
    """A file stands where a folder has to be: the run says which, and touches nothing."""
    fault.site.host.check_output("rm -rf /var/www/sample && echo mine >/var/www/sample")
    try:
        run = fault.site.play("playbooks/provision.yml")
        assert not run.ok and run.tells("/var/www/sample has to be a directory, and is none: move it out of the way. Nothing was changed")
        assert fault.site.host.file("/var/www/sample").content_string == "mine\n"
    finally:
        fault.site.host.check_output("rm /var/www/sample")
    assert fault.site.play("playbooks/provision.yml").ok


@under_load
@pytest.mark.parametrize("by_hand", ["disable", "reset"])
def test_a_firewall_that_was_switched_off(fault, by_hand):
    """Somebody disabled or reset ufw: its rules are as before, and it is on again."""
    host = fault.site.host
    before = host.check_output("ufw status")
    host.check_output(f"ufw --force {by_hand}")
    assert fault.site.play("playbooks/doctor.yml").tells("not active: every port is open")
    run = fault.site.play("playbooks/provision.yml")
    assert run.ok and host.check_output("ufw status") == before, run.output


def test_an_nginx_that_was_stopped(fault):
    """nginx was stopped: a release says that nobody would see it, and the previous release stays live; deploy.yml starts nginx."""
    fault.site.host.check_output("systemctl stop nginx")
    fault.change()
    run = fault.site.release(fault.source)
    assert not run.ok and run.tells("nginx accepts no connection", f"Release {fault.before} goes on serving"), run.output
    assert fault.site.live() == fault.before
    run = fault.site.play("deploy.yml", app_source=str(fault.source))
    assert run.ok and fault.site.get("/healthz")[0] == 200, run.output


@under_load
def test_a_stale_socket(fault):
    """A socket stands where the release has to open its own: it is replaced."""
    assert fault.release_good().ok
    folder = f"/run/flaskhost/sample/{fault.before}"
    script = f"import socket; socket.socket(socket.AF_UNIX).bind('{folder}/wsgi.sock')"
    fault.site.host.check_output(f'mkdir -p {folder} && python3 -c "{script}"')
    run = fault.site.play("playbooks/rollback.yml")
    assert run.ok and fault.site.live() == fault.before, run.output
    fault.before = ""


@under_load
def test_old_releases_that_were_deleted(fault):
    """Somebody deleted the releases that are kept: the live one serves on, and going back says that there is nothing to go back to."""
    host = fault.site.host
    host.check_output(f"cd /srv/sample/releases && ls | grep -v {fault.before} | xargs rm -rf")
    run = fault.site.play("playbooks/rollback.yml")
    assert not run.ok and run.tells("There is no previous release to roll back to. Kept are:", fault.before, "Nothing was changed"), (
        run.output
    )
    fault.is_as_before()


@pytest.mark.parametrize(
    "gone", [pytest.param("/srv/sample/releases/*", marks=pytest.mark.sample), "/srv/sample/live", "/srv/sample/venvs/*"]
)
def test_the_live_release_that_was_deleted(fault, gone):
    """Somebody deleted the live release's folder, its venv, or the link to it: the next deploy builds anew what is missing."""
    first = fault.site.play("deploy.yml", **fault.change())
    assert first.ok, first.output
    live = fault.site.live()
    fault.site.host.check_output(f"rm -rf {gone}")
    run = fault.site.play("deploy.yml", app_source=str(fault.source))
    assert run.ok and fault.site.live() == live, run.output
    assert fault.site.get("/")[0] == 200 and fault.site.get("/static/style.css")[0] == 200
    assert fault.site.play("deploy.yml", app_source=str(fault.source)).changed == 0


def test_a_link_that_points_nowhere(fault):
    """The link `live` points nowhere: doctor says so, and the next deploy mends it."""
    first = fault.site.play("deploy.yml", **fault.change())
    assert first.ok, first.output
    live = fault.site.live()
    fault.site.host.check_output("ln -sfn releases/nowhere /srv/sample/live")
    assert fault.site.play("playbooks/doctor.yml").tells("the live release nowhere has no folder")
    run = fault.site.play("deploy.yml", app_source=str(fault.source))
    assert run.ok and fault.site.live() == live and fault.site.get("/")[0] == 200, run.output
