"""A service is behind if what it took up may be older than what is on disk; whatever the clock was."""

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


def test_a_change_below_a_folder_counts(config):
    since = now()
    time.sleep(0.01)
    (config / "conf.d/site.conf").chmod(0o600)
    assert service_current.is_behind(since, [config])


def test_a_file_that_went_counts(config):
    since = now()
    time.sleep(0.01)
    (config / "conf.d/site.conf").unlink()
    assert service_current.is_behind(since, [config])


def test_a_change_of_what_a_link_points_to_counts(config, tmp_path_factory):
    target = tmp_path_factory.mktemp("elsewhere") / "snippet"
    target.write_text("")
    (config / "conf.d/snippet").symlink_to(target)
    since = now()
    time.sleep(0.01)
    target.write_text("gzip on;\n")
    assert service_current.is_behind(since, [config])


def test_a_path_that_is_not_there_tells_nothing(config):
    assert not service_current.is_behind(now(), [config / "nowhere"])
    assert not service_current.is_behind(now() + DAY, [config / "nowhere"])


def test_a_start_that_is_still_to_come_tells_nothing(config):
    assert service_current.is_behind(now() + DAY, [config])


def test_a_change_can_be_dated_anew_and_content_and_mtime_stay(config):
    file = config / "conf.d/site.conf"
    before, since = file.stat(), now()
    time.sleep(0.01)
    service_current.note_change(service_current.entries([config]))
    assert service_current.is_behind(since, [file])
    assert (file.stat().st_mtime_ns, file.read_text()) == (before.st_mtime_ns, "listen 80;\n")


class FailingModule:
    """systemd says no."""

    def __init__(self, config):
        self.params = {"config": [str(config)], "socket_config": [], "check": []}

    def run_command(self, command):
        if command[0] != "systemctl":
            return 0, "the last words", ""
        self.failed_at = now()
        time.sleep(0.01)
        return 1, "", "Job failed"

    def fail_json(self, msg):
        raise SystemExit(msg)


def test_a_reload_that_failed_is_tried_again_by_the_next_run(config):
    module = FailingModule(config)
    time.sleep(0.01)
    with pytest.raises(SystemExit, match="Job failed\nthe last words"):
        service_current.carry_out(module, "nginx", ["reload"])
    # to systemd, what failed was a change of state like any other
    assert service_current.is_behind(module.failed_at, [config])


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the host's lock, as root does")
@pytest.mark.parametrize(("settings", "did"), [([], "restart"), (["/nowhere"], "restart"), (["/etc/passwd"], "listen")])
def test_where_the_clock_was_wrong_only_a_socket_with_settings_is_opened_anew(config, tmp_path, settings, did):
    """Service and socket are up since tomorrow. To stop the socket of a journal fails, since what is logged starts it again."""
    tomorrow = time.strftime("%a %Y-%m-%d %H:%M:%S.000000 UTC", time.gmtime(time.time() + 86_400))
    shown = f"ActiveState=active\nActiveEnterTimestamp={tomorrow}\nStateChangeTimestamp={tomorrow}\nUnitsLoadTimestamp=\n"
    result = run_with(tmp_path, shown, name="journal", config=[str(config)], socket_config=settings, by="restart")
    assert result["did"] == [did], result


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the host's lock, as root does")
@pytest.mark.parametrize(("start", "did"), [(True, ["start"]), (False, [])])
def test_a_service_that_others_start_when_they_need_it_is_left_to_them(config, tmp_path, start, did):
    shown = "ActiveState=inactive\nActiveEnterTimestamp=\nStateChangeTimestamp=\nUnitsLoadTimestamp=\n"
    assert run_with(tmp_path, shown, name="journal", config=[str(config)], by="restart", start=start)["did"] == did


def run_with(directory, shown, **arguments):
    """The module, with a systemctl that says this of every unit."""
    (directory / "bin").mkdir()
    program = f"#!/bin/sh\n[ $1 != show ] || printf '%s' 'LoadState=loaded\nUnitFileState=static\n{shown}'\n"
    (directory / "bin/systemctl").write_text(program)
    (directory / "bin/systemctl").chmod(0o755)
    environment = {**os.environ, "PATH": f"{directory}/bin:{os.environ['PATH']}"}
    return run_module("service_current", environment=environment, **arguments)


@pytest.mark.parametrize(
    ("dropped_in", "says", "did"), [(True, "no", []), (True, "yes", ["daemon-reload"]), (False, "no", ["daemon-reload"])]
)
def test_a_systemd_that_does_not_say_when_it_read_its_units_is_asked_for_the_unit(monkeypatch, tmp_path, dropped_in, says, did):
    """As Ubuntu 22.04's. A drop-in that it has read is no reason to read it in each run, though it is newer than the boot."""
    drop_in = tmp_path / "nginx.service.d/flaskhost.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\n")
    monkeypatch.setattr(service_current, "UNITS", str(tmp_path))
    known = {
        "UnitsLoadStartTimestamp": "Thu 2026-01-01 00:00:00.000000 UTC",
        "NeedDaemonReload": says,
        "FragmentPath": "/lib/systemd/system/nginx.service",
        "DropInPaths": f"/lib/systemd/system/nginx.service.d/own.conf {drop_in}" if dropped_in else "",
    }
    monkeypatch.setattr(service_current, "show", lambda module, wanted, *unit: {key: known[key] for key in wanted if key in known})
    assert (["daemon-reload"] if service_current.is_stale(None, "nginx.service") else []) == did
