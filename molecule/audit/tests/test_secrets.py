"""A secret exists only in its own file, which only root can read, and in the app's environment. It is nowhere else on the host, and no run
prints it, even at -vvv."""

import os
import re
from pathlib import Path

import pytest
from sites import copy_sample_app, wait_until

MARKER = "planted-secret-7d41f0b2"
KEY = "planted-key-93ce55a1"
# matches the marker, but not the logged command line of a search for it
PATTERN = MARKER.replace("-", "[-]", 1)


@pytest.fixture(scope="module")
def run(site, tmp_path_factory):
    """A deploy at the highest verbosity, with the markers as secrets, a build and a migration."""
    source = copy_sample_app(tmp_path_factory.mktemp("planted") / "source")
    run = site.play(
        "deploy.yml",
        "-vvv",
        "--diff",
        app_source=str(source),
        app_secrets={"SECRET_KEY": MARKER, "API_TOKEN": f'"{MARKER}" $HOME'},
        app_release_command="env >/dev/null; flask --app sample_app db upgrade",
    )
    assert run.ok, run.output
    return run


def test_the_app_gets_the_secret(run, site):
    pid = site.host.check_output(f"systemctl show --value --property=MainPID sample@{site.live()}")
    assert f"SECRET_KEY={MARKER}" in site.host.check_output(f"cat /proc/{pid}/environ").split("\0")


def test_no_run_prints_the_secret(run, site):
    assert MARKER not in run.output
    again = site.play("deploy.yml", "-vvv", "--diff", "--check", app_secrets={"SECRET_KEY": f"{MARKER}-new"})
    assert again.ok and MARKER not in again.output, again.output
    failed = site.play("playbooks/release.yml", "-vvv", "--diff", app_secrets={"SECRET_KEY": MARKER}, app_health_path="/nowhere")
    assert not failed.ok and MARKER not in failed.output, failed.output


def test_only_one_file_per_release_has_the_secret(run, site):
    search = "grep --recursive --binary-files=text --files-with-matches --devices=skip --exclude-dir=proc --exclude-dir=sys"
    files = site.host.run(f"{search} '{PATTERN}' / 2>/dev/null").stdout.split()
    assert files and all(re.fullmatch(r"/srv/sample/releases/[\w-]+/env", path) for path in files), files
    for path in files:
        found = site.host.file(path)
        assert (found.user, found.group, found.mode) == ("root", "root", 0o600), path


def test_only_the_app_and_root_can_read_it_from_a_process(run, site):
    assert MARKER not in site.host.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ps axww -o args")
    command = f"grep --binary-files=text --files-with-matches '{PATTERN}' /proc/[0-9]*/environ 2>/dev/null"
    owners = site.host.check_output(f"for path in $({command}); do stat --format=%U $path; done").split()
    assert set(owners) == {"sample"}
    assert site.host.run(f"runuser -u www-data -- {command}").stdout == ""


def test_the_journal_and_systemd_do_not_have_it(run, site):
    for command in (
        "journalctl --namespace='*' --no-pager --output=export",
        "systemctl show 'sample@*'",
        "systemctl cat 'sample@*'",
        "coredumpctl --no-pager",
    ):
        # an app may log bytes that are not text
        assert MARKER.encode() not in site.host.run(command).stdout_bytes, command


def test_a_crash_leaves_no_core_dump(run, site):
    pid = site.main_process()
    limits = site.host.check_output(f"cat /proc/{pid}/limits")
    assert re.search(r"Max core file size\s+0\s+0\s", limits)
    site.host.check_output(f"kill -SEGV {pid}")
    wait_until(site.is_healthy)
    search = "find / -xdev -newermt '-1 minute' -type f -size +100k -not -path '/var/log/journal/*' -not -path '/run/log/*'"
    assert site.host.run(f"{search} -exec grep --binary-files=text --files-with-matches '{PATTERN}' {{}} +").stdout == ""


def test_the_controller_does_not_store_it(run):
    for directory in "~/.ansible", "~/.cache/flaskhost":
        path = Path(os.path.expanduser(directory))
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
        assert [file for file in files if MARKER.encode() in file.read_bytes()] == []


def test_no_run_prints_the_certificates_key(site, tmp_path):
    """The key comes from the controller. Like the app's secrets, it must not appear in any output."""
    variables = {"tls_key_file": str(tmp_path / "site.key"), "tls_certificate_file": str(tmp_path / "site.pem")}
    lab = Path(os.environ["FLASKHOST_LAB"]) / "audit"
    key = (lab / "site.key").read_text()
    # a key file may have other lines around the key
    (tmp_path / "site.key").write_text(f"{KEY}\n{key}")
    (tmp_path / "site.pem").write_text((lab / "site.pem").read_text())
    run = site.play("playbooks/provision.yml", "-vvv", "--diff", **variables)
    assert run.ok and KEY not in run.output, run.output
    assert key.splitlines()[1] not in run.output
    assert KEY not in site.host.check_output("journalctl --namespace='*' --no-pager")
    back = site.play("playbooks/provision.yml")
    assert back.ok, back.output
