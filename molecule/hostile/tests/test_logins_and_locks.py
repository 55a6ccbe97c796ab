"""The attacker tries to run code outside of the sandbox, or to block the operator."""

import os
import subprocess
import time

import pytest
from conftest import STATE

KEY = os.path.join(os.environ["FLASKHOST_LAB"], "id_ed25519")
USERS = ("hostile", "hostile-build", "hostile-tls")
# A user manager would start it, outside of the sandbox.
UNIT = (
    f"[Service]\nExecStart=/bin/sh -c 'id >{STATE}/outside; cat /proc/self/status >>{STATE}/outside'\n[Install]\nWantedBy=default.target\n"
)
PLANT = f"""
set -e
for home in "$HOME" {STATE} "$(getent passwd hostile | cut -d: -f6)" /nonexistent; do
    mkdir -p "$home/.config/systemd/user/default.target.wants" "$home/.ssh" 2>/dev/null || continue
    echo "$KEY" >"$home/.ssh/authorized_keys"
    chmod 0700 "$home" "$home/.ssh"; chmod 0600 "$home/.ssh/authorized_keys"
    printf '%s' "$UNIT" >"$home/.config/systemd/user/evil.service"
    ln -sf ../evil.service "$home/.config/systemd/user/default.target.wants/evil.service"
done
"""


@pytest.fixture
def planted(attacker):
    """A key to log in with, and a unit for a user manager, in each directory that the app can write to."""
    with open(f"{KEY}.pub") as file:
        key = file.read().strip()
    code = f"import os, subprocess\nos.environ.update(KEY=key, UNIT=unit)\nsubprocess.run(['bash', '-c', {PLANT!r}])"
    attacker.python(code, key=key, unit=UNIT)
    yield attacker
    for user in USERS:
        attacker.host.run(f"loginctl disable-linger {user}; rm -f /var/lib/systemd/linger/{user}; systemctl stop user@$(id -u {user})")


def ssh(attacker, user, *arguments, seconds=6):
    """Whether sshd accepts a login as this user. A session that lasts counts as accepted, and so does a command that ends without an error
    of ssh."""
    port = {"older": "22092", "newer": "22093"}[attacker.age]
    options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"]
    try:
        result = subprocess.run(
            ["ssh", *options, "-i", KEY, "-p", port, *arguments, f"{user}@127.0.0.1"], capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return True
    return "Permission denied" not in result.stderr and "Connection closed" not in result.stderr


@pytest.mark.sample
@pytest.mark.parametrize("user", USERS)
def test_log_in_with_a_key_in_the_data_directory(planted, user):
    """The app writes authorized_keys to each directory that might be its home, then the attacker runs `ssh -N APP@host`, also as the users
    of builds and of certificates: sshd rejects the logins, and no user manager starts."""
    accepted = ssh(planted, user, "-N") and planted.host.run(f"getent passwd {user}").rc == 0
    running = planted.host.run(f"systemctl is-active user@$(id -u {user}).service").stdout.strip()
    assert not accepted and running != "active"
    assert not planted.host.file(f"{STATE}/outside").exists, planted.host.run(f"cat {STATE}/outside").stdout


def test_forward_ports_with_a_key_in_the_data_directory(planted):
    """The attacker tries to use the same key to connect to the host's own ports through sshd (`ssh -N -L`): sshd rejects the login."""
    assert not ssh(planted, "hostile", "-N", "-L", "127.0.0.1:45432:/run/postgresql/.s.PGSQL.5432")


LINGER = """
for way in "loginctl enable-linger" "loginctl enable-linger hostile" \\
  "busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager SetUserLinger ubb $(id -u) true false" \\
  "systemd-run --user true" "systemctl --user start default.target" "systemctl start user@$(id -u).service" "machinectl shell hostile@.host /bin/true" "at now"; do
    $way 2>&1 </dev/null | head -n 2
done
ls /run/user 2>&1
"""


def test_start_a_user_manager_over_dbus(planted):
    """From inside the sandbox, the app asks logind over D-Bus to start a user manager for it at every boot, which would run a unit from its
    data outside of the sandbox: no user manager starts."""
    output = planted.bash(LINGER)
    time.sleep(3)
    running = planted.host.run("systemctl is-active user@$(id -u hostile).service").stdout.strip()
    assert running != "active", output
    assert not planted.host.file(f"{STATE}/outside").exists, planted.host.run(f"cat {STATE}/outside").stdout


def test_control_systemd_over_dbus(attacker):
    """From inside the sandbox, the app asks systemd over D-Bus to start, stop or change units: all of it is denied."""
    output = attacker.bash(
        "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StopUnit ss nginx.service replace 2>&1;"
        f" systemd-run --wait touch {STATE}/outside 2>&1; systemctl set-property hostile-backup.service CPUWeight=1 2>&1; systemctl reload nginx 2>&1;"
        " busctl call org.freedesktop.hostname1 /org/freedesktop/hostname1 org.freedesktop.hostname1 SetHostname sb evil false 2>&1;"
        " busctl call org.freedesktop.timedate1 /org/freedesktop/timedate1 org.freedesktop.timedate1 SetTimezone sb Asia/Tokyo false 2>&1; true"
    )
    assert attacker.host.service("nginx").is_running, output
    assert not attacker.host.file(f"{STATE}/outside").exists, output
    assert attacker.host.check_output("hostname") != "evil" and "Tokyo" not in attacker.host.check_output("readlink -f /etc/localtime")


def test_become_another_user(attacker):
    """The app tries every program that changes users, with and without a password: its user stays the same."""
    output = attacker.bash(
        "for way in 'su -c id' 'sudo -n id' 'runuser -u root id' 'newgrp root' 'pkexec id' 'setpriv --reuid=0 id' 'chsh -s /bin/bash'"
        " 'crontab -' 'passwd'; do $way </dev/null 2>&1 | head -n 2; done; id"
    )
    assert "uid=0" not in output


# -- locks -------------------------------------------------------------------------------------------------------------

HOLD_EVERYTHING = """
import fcntl, os, time
held = []
for top in tops:
    for parent, directories, files in os.walk(top):
        directories[:] = [name for name in directories if name not in ('site-packages', 'proc', 'sys', 'zoneinfo')]
        for name in [''] + files:
            try:
                file = os.open(os.path.join(parent, name), os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.append(file)
            except OSError:
                os.close(file)
            if len(held) > 8000:
                break
print('holds', len(held), flush=True)
time.sleep(seconds)
"""


@pytest.mark.parametrize(
    "tops",
    [
        pytest.param(["/srv/hostile"], marks=pytest.mark.sample),
        ["/srv", "/run", "/var/lib", "/etc/flaskhost", "/etc/nginx", "/etc/systemd", "/var/cache", "/opt", "/tmp"],
    ],
    ids=["app directory", "everything"],
)
def test_hold_every_lock(attacker, source, tops):
    """The app locks its own directory (`flock /srv/APP`), and every file of the host that it can open: a release and a backup succeed."""
    before = attacker.live()
    attacker.python(HOLD_EVERYTHING, background=True, seconds=250, tops=tops)
    time.sleep(2)
    run = attacker.attempt(app_source=source, seconds=90)
    assert run.ok and attacker.live() != before, run.output
    backup = attacker.backup(60)
    assert backup.ok, backup.output


@pytest.mark.parametrize("playbook", ["playbooks/rollback.yml", "playbooks/provision.yml", "playbooks/status.yml", "playbooks/doctor.yml"])
def test_block_the_operator_with_locks(attacker, playbook):
    """The app holds all these locks while an operator rolls back, provisions, or checks the host: the run isn't blocked."""
    tops = ["/srv", "/run", "/var/lib", "/etc/flaskhost", "/etc/nginx", "/etc/systemd", "/var/cache", "/opt", "/tmp"]
    attacker.python(HOLD_EVERYTHING, background=True, seconds=150, tops=tops)
    time.sleep(2)
    run = attacker.attempt(playbook, 90)
    # there may be no release to roll back to, and doctor reports that the lab's names are not in the DNS
    assert not run.hung and (run.ok or playbook in ("playbooks/rollback.yml", "playbooks/doctor.yml")), run.output


def test_block_the_neighbor_with_locks(attacker, victim):
    """The app holds all these locks during a release and a backup of its neighbor: both succeed."""
    attacker.python(HOLD_EVERYTHING, background=True, seconds=150, tops=["/srv", "/run", "/var/lib", "/etc", "/var/cache", "/opt", "/tmp"])
    time.sleep(2)
    for playbook in ("playbooks/release.yml", "playbooks/backup.yml"):
        run = victim.attempt(playbook, 90)
        assert run.ok, run.output


def test_occupy_the_names_of_locks(attacker, source):
    """The app creates links with the names of locks and units, wherever it can: a release succeeds."""
    attacker.bash(
        "for path in /run/flaskhost.lock /run/flaskhost/host.lock /run/flaskhost/hostile.lock /run/lock/flaskhost /srv/hostile/lock /srv/hostile/live.new"
        " /srv/hostile/lock.dead /tmp/flaskhost /var/tmp/flaskhost /dev/shm/flaskhost; do ln -sf /etc/passwd $path 2>/dev/null; done; true"
    )
    run = attacker.attempt(app_source=source, seconds=90)
    assert run.ok, run.output
    assert "root:x:0:0" in attacker.host.check_output("cat /etc/passwd")
