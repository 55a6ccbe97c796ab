"""A service is outdated if its configuration on disk may be newer than its start, even if the clock was wrong."""

import os
import time

import pytest
from conftest import plugin, run_module

service_current = plugin("modules/service_current")
DAY = 86_400_000_000


@pytest.fixture
def config(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/site.conf").write_text("listen 80;\n")
    return tmp_path


def now():
    return time.time_ns() // 1000


def test_a_service_that_started_later_is_current(config):
    time.sleep(0.01)
    assert not service_current.is_behind(now(), [config])


def test_a_change_below_a_directory_is_detected(config):
    since = now()
    time.sleep(0.01)
    (config / "conf.d/site.conf").chmod(0o600)
    assert service_current.is_behind(since, [config])


def test_a_removed_file_is_detected(config):
    since = now()
    time.sleep(0.01)
    (config / "conf.d/site.conf").unlink()
    assert service_current.is_behind(since, [config])


def test_a_change_of_a_link_s_target_is_detected(config, tmp_path_factory):
    target = tmp_path_factory.mktemp("elsewhere") / "snippet"
    target.write_text("")
    (config / "conf.d/snippet").symlink_to(target)
    since = now()
    time.sleep(0.01)
    target.write_text("gzip on;\n")
    assert service_current.is_behind(since, [config])


def test_a_missing_path_is_ignored(config):
    assert not service_current.is_behind(now(), [config / "nowhere"])
    assert not service_current.is_behind(now() + DAY, [config / "nowhere"])


def test_a_start_time_in_the_future_counts_as_outdated(config):
    assert service_current.is_behind(now() + DAY, [config])


def test_touching_a_file_keeps_content_and_mtime(config):
    file = config / "conf.d/site.conf"
    before, since = file.stat(), now()
    time.sleep(0.01)
    service_current.touch(service_current.entries([config]))
    assert service_current.is_behind(since, [file])
    assert (file.stat().st_mtime_ns, file.read_text()) == (before.st_mtime_ns, "listen 80;\n")


class FailingModule:
    """A module whose systemctl fails."""

    def __init__(self, config):
        self.params = {"config": [str(config)], "socket_config": [], "check": []}

    def run_command(self, command):
        if command[0] != "systemctl":
            return 0, "the final log lines", ""
        self.failed_at = now()
        time.sleep(0.01)
        return 1, "", "Job failed"

    def fail_json(self, msg):
        raise SystemExit(msg)


def test_a_failed_reload_is_retried_by_the_next_run(config):
    module = FailingModule(config)
    time.sleep(0.01)
    with pytest.raises(SystemExit, match="Job failed\nthe final log lines"):
        service_current.run_steps(module, "nginx", ["reload"])
    # systemd also records a failed reload as a change of state
    assert service_current.is_behind(module.failed_at, [config])


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the host's lock, as root does")
@pytest.mark.parametrize(("settings", "did"), [([], "restart"), (["/nowhere"], "restart"), (["/etc/passwd"], "listen")])
def test_after_a_wrong_clock_only_a_socket_with_settings_is_restarted(config, tmp_path, settings, did):
    """Service and socket have a start time of tomorrow. Stopping a journal's socket fails, since any log message starts it again."""
    tomorrow = time.strftime("%a %Y-%m-%d %H:%M:%S.000000 UTC", time.gmtime(time.time() + 86_400))
    shown = f"ActiveState=active\nActiveEnterTimestamp={tomorrow}\nStateChangeTimestamp={tomorrow}\nUnitsLoadTimestamp=\n"
    result = run_with(tmp_path, shown, name="journal", config=[str(config)], socket_config=settings, by="restart")
    assert result["did"] == [did], result


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the host's lock, as root does")
@pytest.mark.parametrize(("start", "did"), [(True, ["start"]), (False, [])])
def test_an_inactive_service_is_started_only_if_start_is_set(config, tmp_path, start, did):
    shown = "ActiveState=inactive\nActiveEnterTimestamp=\nStateChangeTimestamp=\nUnitsLoadTimestamp=\n"
    assert run_with(tmp_path, shown, name="journal", config=[str(config)], by="restart", start=start)["did"] == did


def run_with(directory, shown, **arguments):
    """Run the module with a systemctl that prints these properties for every unit."""
    (directory / "bin").mkdir()
    program = f"#!/bin/sh\n[ $1 != show ] || printf '%s' 'LoadState=loaded\nUnitFileState=static\n{shown}'\n"
    (directory / "bin/systemctl").write_text(program)
    (directory / "bin/systemctl").chmod(0o755)
    environment = {**os.environ, "PATH": f"{directory}/bin:{os.environ['PATH']}"}
    return run_module("service_current", environment=environment, **arguments)


@pytest.mark.parametrize(
    ("loaded", "needs_reload", "did"), [(True, "no", []), (True, "yes", ["daemon-reload"]), (False, "no", ["daemon-reload"])]
)
def test_without_the_time_of_the_last_reload_systemd_is_queried_for_the_unit(monkeypatch, tmp_path, loaded, needs_reload, did):
    """Ubuntu 22.04's systemd has no such time. A loaded drop-in must not cause a reload in each run, though it is newer than the boot."""
    drop_in = tmp_path / "nginx.service.d/flaskhost.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\n")
    monkeypatch.setattr(service_current, "UNITS", str(tmp_path))
    known = {
        "UnitsLoadStartTimestamp": "Thu 2026-01-01 00:00:00.000000 UTC",
        "NeedDaemonReload": needs_reload,
        "FragmentPath": "/lib/systemd/system/nginx.service",
        "DropInPaths": f"/lib/systemd/system/nginx.service.d/own.conf {drop_in}" if loaded else "",
    }
    monkeypatch.setattr(service_current, "show", lambda module, names, *unit: {key: known[key] for key in names if key in known})
    assert (["daemon-reload"] if service_current.is_stale(None, "nginx.service") else []) == did
