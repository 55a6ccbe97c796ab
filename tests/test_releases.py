"""The life cycle of a release with workers and scheduled jobs: the modules, run with a simulated systemd."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from conftest import plugin

modules = {verb: plugin(f"modules/release_{verb}") for verb in ("info", "lock", "start", "activate", "revert", "stop", "prune")}
activation = plugin("module_utils/activation")
layout, release, files = plugin("module_utils/layout"), plugin("module_utils/release"), plugin("module_utils/files")
command, journal, memory, sockets = (plugin(f"module_utils/{name}") for name in ("command", "journal", "memory", "sockets"))
deploy_lock, findings = plugin("plugin_utils/deploy_lock"), plugin("filter/host")
# keys that Ansible uses itself in a task's result
RESERVED = {
    "async_result",
    "attempts",
    "diff",
    "exception",
    "finished",
    "no_log",
    "notify",
    "rc",
    "retries",
    "skipped",
    "stats",
    "unreachable",
}
HEALTH = {"successes": 1, "timeout_seconds": 0.3, "answer_seconds": 1}
SHORT = {
    "lock": {"holder": {"token": "t"}},
    "start": {**HEALTH, "settle_seconds": 0.05},
    "activate": {**HEALTH, "watch_seconds": 0.05, "by": "ann@laptop"},
    "prune": {"drain_seconds": 0.1, "holder": {"token": "t"}},
}


class Failed(Exception):
    """A module failed with this result."""

    def __init__(self, result):
        super().__init__(result["msg"])
        self.result = result


class Ended(Exception):
    pass


def run_module(verb, parameters, run_command, check_mode=False):
    """Run a release module in this process, so that it uses the simulated systemd, and return its result."""

    warnings = []

    class Module:
        def __init__(self, argument_spec, required_if=(), supports_check_mode=False):
            assert supports_check_mode
            checked = ArgumentSpecValidator(argument_spec, required_if=required_if).validate(parameters)
            assert not checked.error_messages, checked.error_messages
            self.params, self.check_mode, self.run_command = checked.validated_parameters, check_mode, run_command

        def warn(self, text):
            warnings.append(text)

        def exit_json(self, **result):
            assert not RESERVED & {*result}, "Ansible uses this key itself, and may change its type"
            raise Ended({**result, "warned": warnings} if warnings else result)

        def fail_json(self, **result):
            raise Failed(result)

    with pytest.MonkeyPatch.context() as patch, pytest.raises((Ended, Failed)) as ended:
        patch.setattr(modules[verb], "AnsibleModule", Module)
        modules[verb].main()
    if ended.type is Failed:
        raise ended.value
    return ended.value.args[0]


class Systemd:
    """A simulated systemd. A worker that is stopped stays in its last job until `finish` is called."""

    def __init__(self, units):
        self.units, self.state, self.calls, self.dying = units, {}, [], set()

    def run_command(self, command):
        program, *arguments = command
        if program != "systemctl":
            return 0, "", ""
        if arguments == ["--version"]:
            return 0, "systemd 252 (252.39)\n", ""
        options = [word for word in arguments if word.startswith("--")]
        verb, *names = [word for word in arguments if not word.startswith("--")]
        if verb == "list-units":
            states = next(option for option in options if option.startswith("--state="))[8:].split(",")
            found = [name for name, state in self.state.items() if state in states and any(fnmatch(name, pattern) for pattern in names)]
            return 0, "".join(f"{name} loaded\n" for name in found), ""
        if verb == "show":
            return 0, "\n\n".join(self.show(name) for name in names) + "\n", ""
        self.calls.append(" ".join([verb, *names]))
        for name in names:
            getattr(self, verb.replace("-", "_"))(name, options)
        return 0, "", ""

    def show(self, name):
        restarts = 1 if name in self.dying and self.state.get(name) == "active" else 0
        return f"ActiveState={self.state.get(name, 'inactive')}\nSubState=\nNRestarts={restarts}\nResult=success\nNeedDaemonReload=no"

    def wants(self, name):
        return self.units / ("timers.target.wants" if name.endswith(".timer") else "multi-user.target.wants") / name

    def enable(self, name, options):
        self.wants(name).parent.mkdir(exist_ok=True)
        if not self.wants(name).is_symlink():
            self.wants(name).symlink_to(self.units / name)

    def disable(self, name, options):
        self.wants(name).unlink(missing_ok=True)
        if "--now" in options:
            self.stop(name, options)

    def start(self, name, options):
        assert (self.units / name).exists(), name
        self.state[name] = "active"

    restart = start

    def stop(self, name, options):
        if self.state.get(name) == "active":
            self.state[name] = "deactivating" if "worker" in name else "inactive"

    def kill(self, name, options):
        assert "worker" not in name, "the worker may be processing a job"

    def reset_failed(self, name, options):
        pass

    def active(self):
        return sorted(name for name, state in self.state.items() if state == "active")

    def finish(self):
        self.state.update({name: "inactive" for name, state in self.state.items() if state == "deactivating"})


@pytest.fixture
def host(tmp_path, monkeypatch):
    units = tmp_path / "units"
    units.mkdir()
    root = tmp_path / "srv"
    (root / "releases").mkdir(parents=True)
    systemd = Systemd(units)
    monkeypatch.setattr(layout, "SYSTEM_UNITS", str(units))
    monkeypatch.setattr(memory, "available_mb", lambda: 1000)
    monkeypatch.setattr(journal, "run", lambda _argv, **_options: (0, "", ""))
    # the real lock is in /run/flaskhost
    monkeypatch.setattr(release, "acquire", lambda _app, _purpose: None)
    # the site is unhealthy while this release is live
    host = SimpleNamespace(root=root, units=units, systemd=systemd, bad="")

    def probe(page):
        return "/ returned 500" if not page.path and files.read_link(f"{root}/live") == host.bad else ""

    monkeypatch.setattr(release.Page, "probe", probe)

    def do(verb, name=None, check_mode=False, **parameters):
        parameters = {"app": "shop", "root": str(root), **SHORT.get(verb, {}), **parameters, **({"id": name} if name else {})}
        systemd.calls.clear()
        return run_module(verb, parameters, systemd.run_command, check_mode)

    def build(name, workers=2, **timers):
        directory = root / "releases" / name
        (directory / ".venv").mkdir(parents=True)
        (directory / ".venv/complete").touch()
        (directory / "unit").write_text("the server")
        (directory / "wsgi.sock").symlink_to(f"/run/flaskhost/shop/{name}/wsgi.sock")
        for number in range(1, workers + 1):
            (directory / f"worker.{number}.service").write_text("a worker")
        for timer, when in timers.items():
            (directory / f"schedule-{timer}.timer").write_text(when)
            (directory / f"schedule-{timer}.service").write_text("a command")
        (directory / "manifest.json").write_text(f'{{"built": "{time.time()}"}}')

    def ship(name, **options):
        build(name, **options)
        for verb in "start", "activate", "prune":
            do(verb, name)

    host.do, host.build, host.ship = do, build, ship
    return host


def units_of(name, workers=2):
    return sorted([f"shop@{name}.service", *(f"shop-worker.{number}@{name}.service" for number in range(1, workers + 1))])


@pytest.mark.parametrize(
    "content",
    [
        b'{"id": 1}',
        b'{"id": {"id": 1}}',
        b'{"id": "r1", "at": [], "by": 7}',
        b'{"built": 1}',
        b"[1]",
        b"null",
        b"7",
        b'"text"',
        b"",
        b"\x00\xff{",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"token": 5, "since": "now", "who": null, "pid": "../../etc"}',
        b'{"token": "a", "since": Infinity}',
        b'{"token": "a:b", "since": -1, "pid": 1e999, "controller": []}',
        b'{"token": "a", "since": 1' + b"0" * 400 + b"}",
    ],
)
def test_invalid_files_on_a_host_do_not_break_the_modules(host, content):
    """A file may be damaged by an edit, an older version or a failing disk. Status, rollback and the next run must still work."""
    host.ship("r1")
    host.build("r2")
    for name in "history", "lock", "releases/r1/manifest.json":
        (host.root / name).write_bytes(content)
    found = host.do("info")
    assert found["live"] == "r1" and all(isinstance(line["id"], str) for line in found["history"])
    for name in found["built"]:
        findings.release_row(name, "r1", **found["releases"][name])
    if found["lock_holder"]:
        found["lock_holder"]["dead"] = deploy_lock.is_dead(found["lock_holder"])
    assert list(findings.leftovers(found, []))
    taken = host.do("lock", lock_purpose="releasing")
    assert taken["lock_holder"]["token"] == "t" and taken["lock_holder"]["what"] == "releasing"


def test_a_release_with_an_unreadable_socket_is_handled(host, tmp_path):
    """The mount of the sockets does not follow links: if the app replaces its socket with a link, access fails with ELOOP."""
    host.ship("r1")
    os.symlink("loop", tmp_path / "loop")
    link = host.root / "releases/r1/wsgi.sock"
    link.unlink()
    link.symlink_to(tmp_path / "loop")
    found = host.do("info")
    assert found["live"] == "r1" and "worker.1" in found["processes"]
    host.ship("r2")
    assert host.do("info")["live"] == "r2"


def test_workers_start_and_stop_with_their_release(host):
    host.ship("r1")
    assert host.systemd.active() == units_of("r1")
    host.ship("r2", workers=3)
    assert host.systemd.active() == units_of("r2", 3)
    found = host.do("info")
    assert (found["live"], found["running"], found["enabled"]) == ("r2", ["r2"], ["r2"])
    assert found["missing"]["r2"] == [] and found["processes"] == ["worker.1", "worker.2", "worker.3"]


def test_workers_of_the_previous_release_are_stopped_before_the_activation(host):
    """They take no jobs from the new release. The activation does not wait until they have exited."""
    host.ship("r1")
    host.build("r2")
    host.do("start", "r2")
    assert host.systemd.active() == sorted(units_of("r1") + units_of("r2")), "both releases' workers run until the activation"
    host.do("activate", "r2")
    assert host.systemd.state["shop-worker.1@r1.service"] == "deactivating"
    assert "shop@r1.service" in host.systemd.active(), "its server finishes the requests that it has accepted"


def test_workers_start_after_the_server_is_healthy_and_before_the_activation(host):
    host.build("r1")
    host.do("start", "r1")
    started = [call for call in host.systemd.calls if call.startswith("start")]
    assert started == ["start shop@r1.service", "start shop-worker.1@r1.service shop-worker.2@r1.service"]
    assert not (host.root / "live").is_symlink()


def test_a_release_whose_worker_exits_is_not_activated(host):
    host.ship("r1")
    host.build("r2")
    host.systemd.dying = {"shop-worker.2@r2.service"}
    host.systemd.show = exiting_later(host.systemd)
    with pytest.raises(Failed, match=r"worker\.2 exited"):
        host.do("start", "r2", settle_seconds=1)
    host.do("stop", "r2", mark_bad="its worker died")
    assert host.systemd.active() == units_of("r1")
    assert "worker died" in (host.root / "bad/r2").read_text()
    assert files.read_link(f"{host.root}/live") == "r1"


def exiting_later(systemd):
    """A worker that runs at the first check, and has been restarted at the next."""
    plain, seen = systemd.show, []

    def show(name):
        seen.append(name)
        return plain(name).replace("NRestarts=1", f"NRestarts={int(seen.count(name) > 1)}")

    return show


def test_the_previous_workers_start_again_if_the_site_is_reverted(host):
    host.ship("r1")
    host.build("r2")
    host.do("start", "r2")
    host.bad = "r2"
    with pytest.raises(Failed) as error:
        host.do("activate", "r2")
    assert error.value.result["reverted"]
    assert host.systemd.active() == units_of("r1")
    assert host.systemd.state["shop-worker.1@r2.service"] == "deactivating", "it may have started a job"
    assert host.do("info")["missing"]["r1"] == []


def test_a_rollback_restores_the_number_of_workers(host):
    host.ship("r1", workers=1)
    host.ship("r2", workers=3)
    # r1's workers have not finished their last job yet
    for verb in "start", "activate", "prune":
        host.do(verb, "r1")
    assert host.systemd.active() == units_of("r1", 1)


def test_a_release_is_kept_until_its_workers_have_finished(host):
    for name in "r1", "r2", "r3":
        host.build(name)
        host.do("start", name)
        host.do("activate", name)
        host.do("prune", name, keep=1)
    assert (host.root / "releases/r1").is_dir()
    host.systemd.finish()
    host.do("prune", "r3", keep=1)
    assert not (host.root / "releases/r1").exists()
    assert not [name for name in os.listdir(host.units) if "@r1." in name]


@pytest.mark.parametrize("by_hand", ["stop", "disable"])
def test_a_manually_stopped_worker_is_started_by_the_next_run(host, by_hand):
    host.ship("r1")
    host.systemd.run_command(["systemctl", by_hand, "shop-worker.2@r1.service"])
    assert host.do("info")["missing"]["r1"] == ["worker.2"]
    host.do("start", "r1")
    assert host.do("info")["missing"]["r1"] == []


def test_units_of_other_apps_are_not_changed(host):
    for name in "shopping@1.service", "shop-worker@1.service", "shop-1.2x@1.service":
        (host.units / name).touch()
        host.systemd.state[name] = "active"
    host.ship("r1")
    host.ship("r2")
    assert {"shopping@1.service", "shop-worker@1.service", "shop-1.2x@1.service"} < {*host.systemd.active()}


# -- the file names that nginx and earlier versions rely on -----------------------------------------------------------------


def test_the_files_on_a_host_keep_their_names(host):
    for name in "r1", "r2":
        host.ship(name)
    assert os.readlink(host.root / "live") == "releases/r2" and os.readlink(host.root / "previous") == "releases/r1"
    first, second = map(json.loads, (host.root / "history").read_text().splitlines())
    assert (first["before"], second["id"], second["before"], second["by"]) == ("", "r2", "r1", "ann@laptop")
    host.do("start", "r1")
    host.do("activate", "r1", mark_previous_bad="rolled back by ann@laptop")
    assert (host.root / "bad/r2").read_text().endswith("Z rolled back by ann@laptop\n")
    found = host.do("info")
    assert found["previous"] == "" and found["releases"]["r2"]["bad"] and found["activation"]["before"] == "r2"


def test_a_directory_in_place_of_the_live_link_is_not_replaced(host):
    host.build("r1")
    host.do("start", "r1")
    (host.root / "live").mkdir()
    with pytest.raises(Failed, match="live must be a link to a release, but is a directory"):
        host.do("activate", "r1")


@pytest.mark.parametrize("verb", ["lock", "start", "activate", "stop", "prune"])
def test_check_mode_changes_nothing(host, verb):
    host.ship("r1")
    host.build("r2")
    before = sorted(host.root.rglob("*"))
    name, options = (None, {"lock_purpose": "releasing"}) if verb == "lock" else ("r2", {})
    assert host.do(verb, name, check_mode=True, **options)["changed"] == (verb != "lock")
    assert sorted(host.root.rglob("*")) == before and not host.systemd.calls
    assert host.do("lock", check_mode=True, lock_purpose="releasing")["lock_holder"] == {}


# -- the deploy lock -------------------------------------------------------------------------------------------------------

OTHER = {"who": "bob@ci", "controller": "c", "pid": 7, "token": "c:7:1"}


def test_the_deploy_lock_is_acquired_once_and_released_by_its_holder_only(host):
    for _again in range(2):
        assert host.do("lock", lock_purpose="releasing v2")["lock_taken_over"] == {}, "a run acquires its own lock again"
        with pytest.raises(Failed) as error:
            host.do("lock", lock_purpose="releasing v3", holder=OTHER)
        assert error.value.result["lock_holder"]["what"] == "releasing v2"
    host.do("lock", state="absent", holder=OTHER)
    assert host.do("info")["lock_holder"]["token"] == "t"
    host.do("lock", state="absent")
    assert host.do("info")["lock_holder"] == {} and not list(host.root.glob("lock*"))


def test_pruning_releases_the_deploy_lock_if_unlock_is_set(host):
    host.ship("r1")
    host.do("lock", lock_purpose="releasing")
    assert not host.do("prune", "r1")["unlocked"]
    assert host.do("info")["lock_holder"]
    assert host.do("prune", "r1", unlock=True)["unlocked"]
    assert host.do("info")["lock_holder"] == {}


@pytest.mark.parametrize("options", [{"dead_holder": "c:7:1"}, {"lock_expires_seconds": 0}])
def test_the_lock_of_a_run_that_died_is_taken_over(host, options):
    host.do("lock", lock_purpose="releasing v1", holder=OTHER)
    taken = host.do("lock", lock_purpose="releasing v2", **options)
    assert taken["lock_taken_over"]["who"] == "bob@ci" and taken["lock_taken_over"]["what"] == "releasing v1"
    assert taken["lock_holder"]["what"] == "releasing v2" and not list(host.root.glob("lock?*"))


def test_the_lock_requires_the_app_s_root_directory(host):
    with pytest.raises(Failed, match="none is missing"):
        host.do("lock", lock_purpose="releasing", root=str(host.root / "none"))


def test_the_controller_knows_which_holder_has_died():
    holder = deploy_lock.holder()
    assert not deploy_lock.is_dead(holder)
    assert deploy_lock.is_dead({**holder, "token": f"{holder['controller']}:{holder['pid']}:1"}), (
        "its process ID belongs to another process"
    )
    assert not deploy_lock.is_dead({**holder, "controller": "another", "token": "another:1:1"}), "only that controller knows its processes"
    other = {**OTHER, "since": 1_000_000_000, "what": "releasing v2"}
    assert "bob@ci has held the deploy lock since 01:46:40 UTC: releasing v2. Nothing was changed" in deploy_lock.held_message(
        other, {"root": "/srv/shop"}
    )


def test_the_activation_warns_about_a_redirect_to_a_login_page(host, monkeypatch):
    """It counts as healthy, and the operator sees the warning in the run. (A15)"""
    host.build("r1")
    host.do("start", "r1")

    def probe(page):
        page.status, page.location = 302, "/login"
        return ""

    monkeypatch.setattr(release.Page, "probe", probe)
    result = host.do("activate", "r1")
    assert "warnings" not in result and "a redirect to a login or setup page (/login)" in result["warned"][0]


# -- the schedule ----------------------------------------------------------------------------------------------------------

TIDY = "shop-schedule-tidy.timer"


def test_timers_are_those_of_the_live_release(host):
    host.build("r1", tidy="04:00")
    host.do("start", "r1")
    assert TIDY not in host.systemd.active()
    host.do("activate", "r1")
    assert TIDY in host.systemd.active() and (host.units / TIDY).read_text() == "04:00"
    assert host.do("info")["schedule"] == ["tidy"]
    host.ship("r2", report="05:00")
    assert TIDY not in host.systemd.active() and not (host.units / TIDY).exists()
    assert "shop-schedule-report.timer" in host.systemd.active()
    host.do("start", "r1")
    host.do("activate", "r1")
    assert [name for name in host.systemd.active() if "schedule" in name] == [TIDY]


def test_an_unchanged_timer_is_not_touched(host):
    host.ship("r1", tidy="04:00")
    host.build("r2", tidy="04:00")
    host.do("start", "r2")
    host.do("activate", "r2")
    assert not [call for call in host.systemd.calls if "schedule" in call or "daemon-reload" in call]


def test_an_incomplete_schedule_of_a_killed_run_is_completed(host):
    """The run was killed after it had moved the live link."""
    host.ship("r1", tidy="04:00")
    host.build("r2", tidy="05:00")
    host.do("start", "r2")
    activation.move_live_link(layout.Layout(str(host.root), "shop"), "r2", "ann@laptop")
    assert host.do("info")["missing"]["r2"] == ["schedule-tidy"]
    assert host.do("activate", "r2")["changed"]
    assert (host.units / TIDY).read_text() == "05:00" and host.do("info")["missing"]["r2"] == []


def test_a_reverted_site_keeps_its_schedule(host):
    host.ship("r1", tidy="04:00")
    host.build("r2", tidy="05:00")
    host.do("start", "r2")
    host.bad = "r2"
    with pytest.raises(Failed):
        host.do("activate", "r2")
    assert (host.units / TIDY).read_text() == "04:00"


def test_a_release_that_another_host_could_not_activate_is_left_again(host):
    """Its host is healthy, so the module release_activate had no reason to revert. Its workers and scheduled jobs leave with it."""
    host.ship("r1", tidy="04:00")
    host.build("r2", tidy="05:00")
    host.do("start", "r2")
    host.do("activate", "r2", mark_previous_bad="rolled back by ann@laptop")
    assert os.readlink(host.root / "live") == "releases/r2" and (host.root / "bad/r1").exists()
    assert host.do("revert", "r2", to="r1")["changed"]
    assert os.readlink(host.root / "live") == "releases/r1" and not (host.root / "bad/r1").exists()
    assert sorted(unit for unit in host.systemd.active() if "@" in unit) == units_of("r1")
    assert TIDY in host.systemd.active() and (host.units / TIDY).read_text() == "04:00"
    assert not host.do("revert", "r2", to="r1")["changed"]


def test_a_release_that_was_live_before_is_not_stopped_by_a_revert(host):
    host.ship("r1")
    assert not host.do("revert", "r1", to="r1")["changed"]
    assert sorted(host.systemd.active()) == units_of("r1")


def test_only_the_scheduled_jobs_of_this_host_are_reported(host):
    host.ship("r1", tidy="04:00", report="05:00")
    unit = host.root / "releases/r1/schedule-tidy.service"
    unit.write_text(f"ConditionPathExists=!{host.root}/schedule-elsewhere\n")
    assert host.do("info")["schedule"] == ["report", "tidy"]
    (host.root / "schedule-elsewhere").touch()
    assert host.do("info")["schedule"] == ["report"]


def test_the_static_files_of_a_release_can_be_loaded_before_its_activation(host):
    """Another host of the app may activate it a moment earlier. A release that is stopped or live is not the next one."""
    host.ship("r1")
    host.build("r2")
    host.do("start", "r2")
    assert os.readlink(host.root / "next") == "releases/r2"
    host.do("stop", "r2")
    assert not (host.root / "next").is_symlink()
    host.do("start", "r2")
    host.do("stop", "r1")
    host.do("activate", "r2")
    assert not (host.root / "next").is_symlink()
    host.do("start", "r2")
    assert not (host.root / "next").is_symlink()


def test_an_app_without_workers_and_jobs_needs_only_these_systemctl_calls(host):
    host.ship("r1", workers=0)
    host.build("r2", workers=0)
    calls = []
    for verb in "start", "activate", "prune":
        host.do(verb, "r2")
        calls += host.systemd.calls
    verbs = [re.sub(r" .*", "", call) for call in calls]
    assert verbs == ["reset-failed", "enable", "start", "disable", "stop"]


# -- releases that run from an image ---------------------------------------------------------------------------------------


@pytest.fixture
def images(host, tmp_path, monkeypatch):
    """A simulated podman with images by tag. An image in use can't be removed."""
    storage, tags, in_use = tmp_path / "storage", {}, set()
    (storage / "overlay-images").mkdir(parents=True)
    monkeypatch.setattr(layout, "IMAGES", str(storage))
    monkeypatch.setattr(modules["prune"].shutil, "which", lambda name: f"/usr/bin/{name}")  # this machine may not have podman

    def podman(command):
        arguments = command[1:]
        if arguments[:2] == ["image", "ls"]:
            assert "--filter=reference=localhost/flaskhost/shop" in arguments
            return 0, "".join(f"{tag}\n" for tag in tags), ""
        assert arguments[:2] == ["image", "rm"]
        tag = arguments[2].removeprefix("localhost/flaskhost/shop:")
        if tag in in_use:
            return 2, "", "image is in use by a container"
        (storage / "overlay-images" / tags.pop(tag)).rmdir()
        return 0, "", ""

    systemd = host.systemd.run_command
    host.systemd.run_command = lambda command: podman(command) if command[0] == "podman" else systemd(command)

    def ship(name, key):
        host.build(name, workers=0)
        venv = host.root / "venvs" / key
        venv.mkdir(parents=True, exist_ok=True)
        (venv / "complete").touch()
        (venv / "image").write_text(f"id-{key}\n")
        (storage / "overlay-images" / f"id-{key}").mkdir(exist_ok=True)
        tags[key] = f"id-{key}"
        link = host.root / "releases" / name / ".venv"
        (link / "complete").unlink()
        link.rmdir()
        link.symlink_to(venv)
        for verb in "start", "activate":
            host.do(verb, name)
        host.do("prune", name, keep=2)

    return SimpleNamespace(ship=ship, tags=tags, in_use=in_use, storage=storage / "overlay-images")


def test_an_image_is_removed_with_the_last_release_that_uses_it(images):
    for name, key in ("r1", "one"), ("r2", "one"), ("r3", "two"), ("r4", "three"):
        images.ship(name, key)
    assert set(images.tags) == {"two", "three"}


def test_an_image_in_use_is_removed_by_a_later_run(images):
    images.ship("r1", "one")
    images.in_use.add("one")
    for name, key in ("r2", "two"), ("r3", "three"):
        images.ship(name, key)
    assert "one" in images.tags
    images.in_use.clear()
    images.ship("r4", "four")
    assert set(images.tags) == {"three", "four"}


def test_the_pulled_image_is_kept_while_the_app_runs_from_images(images, host):
    images.tags["pulled"] = "id-pulled"
    (images.storage / "id-pulled").mkdir()
    images.ship("r1", "one")
    assert "pulled" in images.tags
    for name in "r2", "r3", "r4":
        host.ship(name)
        host.do("prune", name, keep=2)
    assert not images.tags, "the app runs from a venv again"


def test_a_release_without_its_image_counts_as_unfinished(images, host):
    images.ship("r1", "one")
    images.ship("r2", "two")
    assert host.do("info")["previous"] == "r1"
    (images.storage / "id-one").rmdir()
    found = host.do("info")
    assert found["previous"] == "" and found["built"] == ["r2"] and found["unfinished"] == ["r1"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [("137", "the app was killed by signal 9"), ("1", "the app exited"), ("255", "the app exited")],
)
def test_a_killed_container_is_recognized_by_its_exit_status(host, monkeypatch, status, reason):
    host.ship("r1", workers=0)
    host.build("r2", workers=0)
    plain = host.systemd.show

    def show(name):
        dead = f"ActiveState=failed\nSubState=failed\nNRestarts=0\nResult=exit-code\nExecMainStatus={status}"
        return dead if "r2" in name else plain(name)

    host.systemd.show = show
    monkeypatch.setattr(release.Page, "probe", lambda page: "no answer")
    with pytest.raises(Failed, match=reason):
        host.do("start", "r2")


# -- data that the app controls -----------------------------------------------------------------------------------------


@pytest.fixture
def listener(tmp_path):
    path = str(tmp_path / "wsgi.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        yield path


@pytest.mark.parametrize("count", [sockets.connections, sockets.count_by_name])
def test_connections_are_counted_despite_sockets_with_hostile_names(listener, count):
    names = [b"\0\xff\xfe", b"\0 with  blanks ", f"\0 {listener}".encode(), b"\0\n", b"\0" + listener.encode()]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        for name in names:
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(name)
        assert count(listener) == 0
        for client in clients:
            client.connect(listener)
        assert count(listener) == 3 and count(f"{listener}.none") == 0


def test_another_app_cannot_fake_a_connection(host, monkeypatch, tmp_path):
    """A socket's name can contain a line in the format of /proc/net/unix. If that line counted, draining would wait for it."""
    path = tmp_path / "s"
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as victim, socket.socket(socket.AF_UNIX) as hostile:
        victim.bind("s")
        victim.listen()
        hostile.bind(b"\0\n0000000000000000: 00000003 00000000 00000000 0001 03 1 s")
        assert sockets.count_by_name("s") == 1
        assert sockets.connections("s") == sockets.connections(str(path)) == 0


def test_without_netlink_connections_are_read_from_proc(listener, monkeypatch):
    def absent(_file):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(sockets, "count_by_inode", absent)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(listener)
        assert sockets.connections(listener) == 1


def test_invalid_history_and_notes_do_not_break_the_report(host):
    host.ship("r1")
    with open(host.root / "history", "ab") as history:
        history.write(b'{"id": 1}\n{"id": ["r1"]}\n1\nnull\n[]\n{"at": "x"}\n\xff\xfe\n{"id": "r1", "by": "\\u001b[2J"}\n')
    (host.root / "bad").mkdir(exist_ok=True)
    (host.root / "bad/r1").write_bytes(b"\xff\x1b]0;title\x07 it failed")
    for name, content in {"r8": b"[1]", "r9": b"\xff"}.items():
        (host.root / "releases" / name).mkdir()
        (host.root / "releases" / name / "manifest.json").write_bytes(content)
    found = host.do("info")
    assert found["live"] == "r1" and found["releases"]["r1"]["bad"] == "\ufffd it failed"
    assert found["unfinished"] == ["r8", "r9"] and found["activation"]["by"] == ""
    json.dumps(found).encode()


def test_an_app_that_logs_endlessly_does_not_block_the_report_of_a_failed_release(host, monkeypatch, tmp_path):
    """`journalctl --sync` would wait until the queue is empty, which it never is."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/journalctl").write_text('#!/bin/sh\ncase "$*" in *--sync) exec sleep 60 ;; esac\necho the last line\n')
    (tmp_path / "bin/journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(journal, "run", command.run)
    monkeypatch.setattr(journal, "SYNC_SECONDS", 0.5)
    systemd = host.systemd.run_command
    host.systemd.run_command = lambda argv: systemd(argv) if argv[0] == "systemctl" else (subprocess.run(argv).returncode, "", "")
    host.build("r1")
    started = time.monotonic()
    assert host.do("stop", "r1", mark_bad="it is ill")["log"] == "the last line"
    assert time.monotonic() - started < 10
