"""The life of a release with further processes and a schedule, told by a systemd that only remembers."""

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
from conftest import plugin

releases, holders, findings = plugin("modules/releases"), plugin("action/releases"), plugin("filter/host")
command, sockets = plugin("module_utils/command"), plugin("module_utils/sockets")
DEFAULTS = {
    "app": "shop",
    "ask": False,
    "restart": False,
    "host": "localhost",
    "port": 443,
    "path": "/",
    "successes": 1,
    "timeout_seconds": 0.3,
    "answer_seconds": 1,
    "settle_seconds": 0.05,
    "watch_seconds": 0.05,
    "reason": "",
    "drain_seconds": 0.1,
    "keep": 5,
    "by": "ann@laptop",
    "lock": "",
    "holder": {"token": "t"},
    "dead": "",
}


class Systemd:
    """Units are up or not; a worker that is told to stop is busy until `finish`."""

    def __init__(self, units):
        self.units, self.state, self.said, self.dying = units, {}, [], set()

    def run_command(self, command):
        program, *words = command
        if program != "systemctl":
            return 0, "", ""
        if words == ["--version"]:
            return 0, "systemd 252 (252.39)\n", ""
        options = [word for word in words if word.startswith("--")]
        verb, *names = [word for word in words if not word.startswith("--")]
        if verb == "list-units":
            states = next(option for option in options if option.startswith("--state="))[8:].split(",")
            found = [name for name, state in self.state.items() if state in states and any(fnmatch(name, pattern) for pattern in names)]
            return 0, "".join(f"{name} loaded\n" for name in found), ""
        if verb == "show":
            return 0, "\n\n".join(self.show(name) for name in names) + "\n", ""
        self.said.append(" ".join([verb, *names]))
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
        assert "worker" not in name, "it may be at a job"

    def reset_failed(self, name, options):
        pass

    def up(self):
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
    monkeypatch.setattr(releases, "SYSTEM_UNITS", str(units))
    monkeypatch.setattr(releases, "available_mb", lambda: 1000)
    # the journal
    monkeypatch.setattr(releases, "run", lambda _argv, **_options: (0, "", ""))
    # the site does badly while this release is live
    host = SimpleNamespace(root=root, units=units, systemd=systemd, bad="")

    def ask(page):
        return "/ answered 500" if not page.path and releases.read_link(f"{root}/live") == host.bad else ""

    monkeypatch.setattr(releases.Page, "ask", ask)

    def do(state, name=None, **parameters):
        parameters = {**DEFAULTS, "root": str(root), "state": state, "id": name, **parameters}
        module = SimpleNamespace(params=parameters, check_mode=False, run_command=systemd.run_command)
        systemd.said.clear()
        return getattr(releases.Instance(module), state)()

    def build(name, workers=2, **timers):
        folder = root / "releases" / name
        (folder / ".venv").mkdir(parents=True)
        (folder / ".venv/complete").touch()
        (folder / "unit").write_text("the server")
        (folder / "wsgi.sock").symlink_to(f"/run/flaskhost/shop/{name}/wsgi.sock")
        for number in range(1, workers + 1):
            (folder / f"worker.{number}.service").write_text("a worker")
        for timer, when in timers.items():
            (folder / f"schedule-{timer}.timer").write_text(when)
            (folder / f"schedule-{timer}.service").write_text("a command")
        (folder / "manifest.json").write_text(f'{{"built": "{time.time()}"}}')

    def ship(name, **options):
        build(name, **options)
        for state in "up", "live", "only":
            do(state, name)

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
def test_files_of_a_host_may_hold_anything(host, content):
    """By hand, by an older version, by a disk that fails: status, rollback and the next run still do their work."""
    host.ship("r1")
    host.build("r2")
    for name in "history", "lock", "releases/r1/manifest.json":
        (host.root / name).write_bytes(content)
    found = host.do("read")
    assert found["live"] == "r1" and all(isinstance(line["id"], str) for line in found["history"])
    for name in found["complete"]:
        findings.kept(name, "r1", **found["releases"][name])
    if found["held_by"]:
        found["held_by"]["dead"] = holders.is_dead(found["held_by"])
    assert list(findings.leftovers(found, []))
    taken = host.do("read", lock="releasing", holder={"token": "t"}, lock_expires_seconds=1800)
    assert taken["held_by"]["token"] == "t" and taken["held_by"]["what"] == "releasing"


def test_a_release_whose_socket_leads_nowhere_is_read_like_any_other(host, tmp_path):
    """On the mount of its sockets no link is followed: what the app has made a link fails with ELOOP."""
    host.ship("r1")
    os.symlink("loop", tmp_path / "loop")
    link = host.root / "releases/r1/wsgi.sock"
    link.unlink()
    link.symlink_to(tmp_path / "loop")
    found = host.do("read")
    assert found["live"] == "r1" and "worker.1" in found["processes"]
    host.ship("r2")
    assert host.do("read")["live"] == "r2"


def test_workers_come_and_go_with_their_release(host):
    host.ship("r1")
    assert host.systemd.up() == units_of("r1")
    host.ship("r2", workers=3)
    assert host.systemd.up() == units_of("r2", 3)
    found = host.do("read")
    assert (found["live"], found["running"], found["enabled"]) == ("r2", ["r2"], ["r2"])
    assert found["lacking"]["r2"] == [] and found["processes"] == ["worker.1", "worker.2", "worker.3"]


def test_a_worker_of_the_former_release_takes_no_job_of_the_new_one(host):
    """It is told to stop before the link moves, and nobody waits until it has ended."""
    host.ship("r1")
    host.build("r2")
    host.do("up", "r2")
    assert host.systemd.up() == sorted(units_of("r1") + units_of("r2")), "until then both work"
    host.do("live", "r2")
    assert host.systemd.state["shop-worker.1@r1.service"] == "deactivating"
    assert "shop@r1.service" in host.systemd.up(), "its server goes on with what it accepted"


def test_workers_start_after_the_server_has_answered_and_before_the_cut_over(host):
    host.build("r1")
    host.do("up", "r1")
    started = [words for words in host.systemd.said if words.startswith("start")]
    assert started == ["start shop@r1.service", "start shop-worker.1@r1.service shop-worker.2@r1.service"]
    assert not (host.root / "live").is_symlink()


def test_a_release_whose_worker_dies_is_never_live(host):
    host.ship("r1")
    host.build("r2")
    host.systemd.dying = {"shop-worker.2@r2.service"}
    host.systemd.show = dying_later(host.systemd)
    with pytest.raises(releases.Unfit, match=r"worker\.2 exited"):
        host.do("up", "r2", settle_seconds=1)
    host.do("down", "r2", reason="its worker died")
    assert host.systemd.up() == units_of("r1")
    assert "worker died" in (host.root / "bad/r2").read_text()
    assert releases.read_link(f"{host.root}/live") == "r1"


def dying_later(systemd):
    """Well at the first look, started again at the next."""
    plain, seen = systemd.show, []

    def show(name):
        seen.append(name)
        return plain(name).replace("NRestarts=1", f"NRestarts={int(seen.count(name) > 1)}")

    return show


def test_the_former_workers_are_back_if_the_site_goes_back(host):
    host.ship("r1")
    host.build("r2")
    host.do("up", "r2")
    host.bad = "r2"
    with pytest.raises(releases.Unfit) as error:
        host.do("live", "r2")
    assert error.value.went_back
    assert host.systemd.up() == units_of("r1")
    assert host.systemd.state["shop-worker.1@r2.service"] == "deactivating", "it may have begun a job"
    assert host.do("read")["lacking"]["r1"] == []


def test_going_back_brings_the_former_workers_and_their_number_back(host):
    host.ship("r1", workers=1)
    host.ship("r2", workers=3)
    # before their last job has ended
    for state in "up", "live", "only":
        host.do(state, "r1")
    assert host.systemd.up() == units_of("r1", 1)


def test_a_release_is_kept_while_a_worker_of_it_is_at_its_last_job(host):
    for name in "r1", "r2", "r3":
        host.build(name)
        host.do("up", name)
        host.do("live", name)
        host.do("only", name, keep=1)
    assert (host.root / "releases/r1").is_dir()
    host.systemd.finish()
    host.do("only", "r3", keep=1)
    assert not (host.root / "releases/r1").exists()
    assert not [name for name in os.listdir(host.units) if "@r1." in name]


@pytest.mark.parametrize("by_hand", ["stop", "disable"])
def test_a_worker_that_somebody_stopped_is_started_by_the_next_run(host, by_hand):
    host.ship("r1")
    host.systemd.run_command(["systemctl", by_hand, "shop-worker.2@r1.service"])
    assert host.do("read")["lacking"]["r1"] == ["worker.2"]
    host.do("up", "r1")
    assert host.do("read")["lacking"]["r1"] == []


def test_units_of_others_are_left_alone(host):
    for name in "shopping@1.service", "shop-worker@1.service", "shop-1.2x@1.service":
        (host.units / name).touch()
        host.systemd.state[name] = "active"
    host.ship("r1")
    host.ship("r2")
    assert {"shopping@1.service", "shop-worker@1.service", "shop-1.2x@1.service"} < {*host.systemd.up()}


# -- the schedule ----------------------------------------------------------------------------------------------------------

TIDY = "shop-schedule-tidy.timer"


def test_the_schedule_is_the_live_release_s(host):
    host.build("r1", tidy="04:00")
    host.do("up", "r1")
    assert TIDY not in host.systemd.up()
    host.do("live", "r1")
    assert TIDY in host.systemd.up() and (host.units / TIDY).read_text() == "04:00"
    assert host.do("read")["schedule"] == ["tidy"]
    host.ship("r2", report="05:00")
    assert TIDY not in host.systemd.up() and not (host.units / TIDY).exists()
    assert "shop-schedule-report.timer" in host.systemd.up()
    host.do("up", "r1")
    host.do("live", "r1")
    assert [name for name in host.systemd.up() if "schedule" in name] == [TIDY]


def test_a_timer_that_stays_as_it_is_is_not_touched(host):
    host.ship("r1", tidy="04:00")
    host.build("r2", tidy="04:00")
    host.do("up", "r2")
    host.do("live", "r2")
    assert not [words for words in host.systemd.said if "schedule" in words or "daemon-reload" in words]


def test_a_schedule_that_a_dead_run_left_undone_is_noticed(host):
    """It died after the link had moved."""
    host.ship("r1", tidy="04:00")
    host.build("r2", tidy="05:00")
    host.do("up", "r2")
    releases.Releases(str(host.root), "shop", host.systemd.run_command).make_live("r2", "ann@laptop")
    assert host.do("read")["lacking"]["r2"] == ["schedule-tidy"]
    assert host.do("live", "r2")["changed"]
    assert (host.units / TIDY).read_text() == "05:00" and host.do("read")["lacking"]["r2"] == []


def test_a_site_that_goes_back_keeps_its_schedule(host):
    host.ship("r1", tidy="04:00")
    host.build("r2", tidy="05:00")
    host.do("up", "r2")
    host.bad = "r2"
    with pytest.raises(releases.Unfit):
        host.do("live", "r2")
    assert (host.units / TIDY).read_text() == "04:00"


def test_a_web_process_only_asks_systemd_no_more_than_before(host):
    host.ship("r1", workers=0)
    host.build("r2", workers=0)
    said = []
    for state in "up", "live", "only":
        host.do(state, "r2")
        said += host.systemd.said
    verbs = [re.sub(r" .*", "", words) for words in said]
    assert verbs == ["reset-failed", "enable", "start", "disable", "stop"]


# -- releases that run from an image ---------------------------------------------------------------------------------------


@pytest.fixture
def images(host, tmp_path, monkeypatch):
    """podman, as far as images go: those that it has, by tag; one that is in use stays."""
    storage, tags, in_use = tmp_path / "storage", {}, set()
    (storage / "overlay-images").mkdir(parents=True)
    monkeypatch.setattr(releases, "IMAGES", str(storage))
    monkeypatch.setattr(releases.shutil, "which", lambda name: f"/usr/bin/{name}")  # this machine may have none

    def podman(command):
        words = command[1:]
        if words[:2] == ["image", "ls"]:
            assert "--filter=reference=localhost/flaskhost/shop" in words
            return 0, "".join(f"{tag}\n" for tag in tags), ""
        assert words[:2] == ["image", "rm"]
        tag = words[2].removeprefix("localhost/flaskhost/shop:")
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
        for state in "up", "live", "only":
            host.do(state, name, keep=2)

    return SimpleNamespace(ship=ship, tags=tags, in_use=in_use, storage=storage / "overlay-images")


def test_images_go_with_the_last_release_that_runs_from_them(images):
    for name, key in ("r1", "one"), ("r2", "one"), ("r3", "two"), ("r4", "three"):
        images.ship(name, key)
    assert set(images.tags) == {"two", "three"}


def test_an_image_that_is_still_in_use_goes_the_next_time(images):
    images.ship("r1", "one")
    images.in_use.add("one")
    for name, key in ("r2", "two"), ("r3", "three"):
        images.ship(name, key)
    assert "one" in images.tags
    images.in_use.clear()
    images.ship("r4", "four")
    assert set(images.tags) == {"three", "four"}


def test_the_name_of_what_was_pulled_last_stays_while_there_are_images(images, host):
    images.tags["pulled"] = "id-pulled"
    (images.storage / "id-pulled").mkdir()
    images.ship("r1", "one")
    assert "pulled" in images.tags
    for name in "r2", "r3", "r4":
        host.ship(name)
        host.do("only", name, keep=2)
    assert not images.tags, "the app runs from venvs again"


def test_a_release_whose_image_is_gone_is_none(images, host):
    images.ship("r1", "one")
    images.ship("r2", "two")
    assert releases.Releases(str(host.root), "shop", host.systemd.run_command).former() == "r1"
    (images.storage / "id-one").rmdir()
    found = host.do("read")
    assert found["former"] == "" and found["complete"] == ["r2"] and found["unfinished"] == ["r1"]


@pytest.mark.parametrize(
    ("status", "words"),
    [("137", "the app was killed by signal 9"), ("1", "the app exited"), ("255", "the app exited")],
)
def test_a_container_that_was_killed_says_so_by_its_status(host, monkeypatch, status, words):
    host.ship("r1", workers=0)
    host.build("r2", workers=0)
    plain = host.systemd.show

    def show(name):
        dead = f"ActiveState=failed\nSubState=failed\nNRestarts=0\nResult=exit-code\nExecMainStatus={status}"
        return dead if "r2" in name else plain(name)

    host.systemd.show = show
    monkeypatch.setattr(releases.Page, "ask", lambda page: "no answer")
    with pytest.raises(releases.Unfit, match=words):
        host.do("up", "r2")


# -- what an app decides ------------------------------------------------------------------------------------------------


@pytest.fixture
def listener(tmp_path):
    path = str(tmp_path / "wsgi.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        yield path


@pytest.mark.parametrize("count", [sockets.connections, sockets.listed])
def test_connections_are_counted_beside_sockets_with_any_name(listener, count):
    names = [b"\0\xff\xfe", b"\0 with  blanks ", f"\0 {listener}".encode(), b"\0\n", b"\0" + listener.encode()]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        for name in names:
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(name)
        assert count(listener) == 0
        for client in clients:
            client.connect(listener)
        assert count(listener) == 3 and count(f"{listener}.none") == 0


def test_no_neighbour_can_look_like_a_connection_to_another_app(host, monkeypatch, tmp_path):
    """A name may hold a line as in /proc/net/unix; one that counted it would wait."""
    place = tmp_path / "s"
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as victim, socket.socket(socket.AF_UNIX) as hostile:
        victim.bind("s")
        victim.listen()
        hostile.bind(b"\0\n0000000000000000: 00000003 00000000 00000000 0001 03 1 s")
        assert sockets.listed("s") == 1
        assert sockets.connections("s") == sockets.connections(str(place)) == 0


def test_a_kernel_that_can_not_be_asked_is_read(listener, monkeypatch):
    def absent(_file):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(sockets, "asked", absent)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(listener)
        assert sockets.connections(listener) == 1


def test_history_and_notes_may_hold_anything(host):
    host.ship("r1")
    with open(host.root / "history", "ab") as history:
        history.write(b'{"id": 1}\n{"id": ["r1"]}\n1\nnull\n[]\n{"at": "x"}\n\xff\xfe\n{"id": "r1", "by": "\\u001b[2J"}\n')
    (host.root / "bad").mkdir(exist_ok=True)
    (host.root / "bad/r1").write_bytes(b"\xff\x1b]0;title\x07 it failed")
    for name, content in {"r8": b"[1]", "r9": b"\xff"}.items():
        (host.root / "releases" / name).mkdir()
        (host.root / "releases" / name / "manifest.json").write_bytes(content)
    found = releases.printable_values(host.do("read"))
    assert found["live"] == "r1" and found["releases"]["r1"]["bad"] == "\ufffd it failed"
    assert found["unfinished"] == ["r8", "r9"] and found["cut_over"]["by"] == ""
    json.dumps(found).encode()


def test_an_app_that_never_stops_logging_does_not_hold_up_the_release_that_failed(host, monkeypatch, tmp_path):
    """`journalctl --sync` waits for a queue that is never empty."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/journalctl").write_text('#!/bin/sh\ncase "$*" in *--sync) exec sleep 60 ;; esac\necho the last line\n')
    (tmp_path / "bin/journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(releases, "run", command.run)
    monkeypatch.setattr(releases, "SYNC_SECONDS", 0.5, raising=False)
    systemd = host.systemd.run_command
    host.systemd.run_command = lambda argv: systemd(argv) if argv[0] == "systemctl" else (subprocess.run(argv).returncode, "", "")
    host.build("r1")
    started = time.monotonic()
    assert host.do("down", "r1", reason="it is ill")["log"] == "the last line"
    assert time.monotonic() - started < 10
