"""Each thing that can be wrong with a host is found, and comes with what to do."""

import fcntl
import json
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from conftest import plugin

host, action, module = plugin("filter/host"), plugin("action/host_report"), plugin("modules/host_report")
DAY = 86400
LIMITS = {"disk_mb": 500, "inodes_percent": 5, "certificate_days": 14, "clock_seconds": 30, "backup_hours": 26}
LIVE = "0123456789-01234567"
DOOR, SSH = {"first": 22, "last": 22, "proto": "tcp"}, {"port": 22, "proto": "tcp", "program": "sshd"}


def report(**changed):
    """A host on which all is well."""
    return {
        "away": {},
        "time": 1_000_000_000.0,
        "ahead": 0.1,
        "synchronized": True,
        "python": "3.13.5",
        "disks": {"/": {"free_mb": 9000, "total_mb": 25000, "free_inodes_percent": 90, "read_only": False}},
        "memory": {"total_mb": 2000, "available_mb": 900, "swap_mb": 0},
        "apt": {"held_by": "", "broken": []},
        "certificate": {
            "begins": 1_000_000_000.0 - 30 * DAY,
            "ends": 1_000_000_000.0 + 60 * DAY,
            "self_signed": False,
            "names": ["a.example", "*.b.example"],
            "served": True,
            "problem": {},
        },
        "services": {"nginx": "active"},
        "failed_units": [],
        "backup": {},
        "firewall": True,
        "lists": True,
        "opened": [DOOR],
        "listening": [SSH],
        "reboot_for": [],
        "outdated": [],
        "addresses": ["192.0.2.1"],
        "host_addresses": ["192.0.2.1"],
        "domain_addresses": {"a.example": ["192.0.2.1"], "x.b.example": ["192.0.2.1"]},
        "closed_ports": {},
        **changed,
    }


def releases(**changed):
    return {
        "live": LIVE,
        "previous": "",
        "running": [LIVE],
        "missing": {LIVE: []},
        "processes": [],
        "schedule": [],
        "dangling": False,
        "edited": [],
        "unfinished": [],
        "lock_holder": {},
        "memory_mb": 120,
        "restarts": 0,
        "health": "",
        "built": [LIVE],
        "activation": {"at": "2026-11-21T10:00:00Z", "by": "ann@laptop"},
        "releases": {LIVE: {"manifest": {"built": "2026-11-21T09:59:00Z", "by": "ann@laptop", "version": "v1"}, "bad": ""}},
        **changed,
    }


def findings(of_host=None, of_releases=None, behind=()):
    return host.findings(report(**(of_host or {})), releases(**(of_releases or {})), list(behind), LIMITS)


def test_of_a_good_host_nothing_is_said():
    assert {found["state"] for found in findings()} == {"ok"}


def disk(**changed):
    return {"disks": {"/srv": {"free_mb": 9000, "total_mb": 25000, "free_inodes_percent": 90, "read_only": False, **changed}}}


REFUSED = {"found": "The CA refuses: port 80 is closed", "cure": "Open port 80.", "refused": True, "at": 1_000_000_000}


def certificate(**changed):
    return {"certificate": {**report()["certificate"], **changed}}


def backups(hours=3, since=500, warnings=(), **changed):
    now = 1_000_000_000.0
    made = {"id": "3f2a91c0", "at": now - hours * 3600} if hours is not None else {"id": "", "at": 0}
    made["warnings"] = {"count": len(warnings), "first": warnings}
    there = {"since": now - since * 3600, "timer": "active", "result": "success", "words": ""}
    return {"backup": {**there, "places": {"host": {"url": "/var/backups/shop", **made}}, **changed}}


def test_backups_that_are_made_are_told():
    assert [found for found in findings(backups()) if found["what"] == "backup"] == [
        {"what": "backup", "state": "ok", "found": "3f2a91c0, 3 hours ago, to /var/backups/shop", "cure": ""}
    ]
    assert {found["state"] for found in findings(backups(hours=None, since=1))} == {"ok"}


def test_status_tells_of_a_backup_that_was_not_made():
    found = host.host_status(report(**backups(result="exit-code", words="no space left on device")), releases(), [], LIMITS)
    assert found["backup"].startswith("ALERT: the last was not made: no space left on device. Mend it")
    assert "3f2a91c0, 3 hours ago" in found["backup"]


def test_notes_of_backups_are_read(tmp_path, monkeypatch):
    for name, folder in ("SETTINGS", "etc"), ("BACKUPS", "lib"):
        monkeypatch.setattr(module, name, str(tmp_path / folder))
    (tmp_path / "etc").mkdir()
    (tmp_path / "lib/shop").mkdir(parents=True)
    said = {
        "--property=Result": "exit-code",
        "--property=InvocationID": "abc",
        "_SYSTEMD_INVOCATION_ID=abc": "one\ntwo",
        "shop-backup.timer": "active",
    }

    def output(*words):
        return next(text for word, text in said.items() if word in words)

    assert module.backup("shop", output)["places"] == {}
    (tmp_path / "etc/backup-shop.json").write_text('{"places": {"host": "/var/backups/shop", "s3": "s3:https://x/y"}}')
    warnings = {"count": 1, "first": ["a: a FIFO"]}
    (tmp_path / "lib/shop/made.json").write_text(json.dumps({"host": {"id": "3f2a91c0", "at": 7, "warnings": warnings}}))
    found = module.backup("shop", output)
    assert (found["timer"], found["result"], found["words"]) == ("active", "exit-code", "one two")
    assert found["places"]["host"] == {"url": "/var/backups/shop", "id": "3f2a91c0", "at": 7, "warnings": warnings}
    assert found["places"]["s3"] == {"url": "https://x/y", "id": "", "at": 0, "warnings": {"count": 0, "first": []}}
    (tmp_path / "lib/shop/made.json").write_text('{"host": {"id": "3f2a91c0", "at": 7}}')
    assert module.backup("shop", output)["places"]["host"]["warnings"]["count"] == 0, "a former version noted none"


@pytest.mark.parametrize(
    ("changed", "state", "words"),
    [
        ({"away": {"found": "192.0.2.1 can't be reached on port 22: no answer", "cure": "See"}}, "bad", "port 22: no answer"),
        ({"ahead": -86400.0}, "bad", "86400 seconds behind this machine's"),
        ({"ahead": 3600.0}, "bad", "3600 seconds ahead of this machine's"),
        ({"synchronized": False}, "note", "nothing keeps it so"),
        (disk(free_mb=100), "bad", "100 of 25000 MB are free"),
        (disk(free_inodes_percent=1), "bad", "1 % of its inodes are free"),
        (disk(read_only=True), "bad", "read-only"),
        ({"memory": {"total_mb": 500, "available_mb": 100, "swap_mb": 0}}, "bad", "100 MB can be had, the app takes 120 MB"),
        ({"apt": {"held_by": "apt-get (77)", "broken": []}}, "note", "apt-get (77) is at work"),
        ({"apt": {"held_by": "", "broken": ["nginx"]}}, "bad", "half installed: nginx"),
        ({"services": {"nginx": "failed"}}, "bad", "failed"),
        ({"firewall": False}, "bad", "every port is open"),
        ({"lists": False}, "bad", "nobody is blocked"),
        ({"listening": [SSH, {"port": 9000, "proto": "tcp", "program": "python3"}]}, "note", "not let in: 9000/tcp (python3)"),
        ({"opened": [DOOR, {"first": 5432, "last": 5433, "proto": "tcp"}]}, "note", "nothing, though the firewall lets in: 5432/tcp"),
        ({"reboot_for": ["linux-image-amd64"]}, "note", "a reboot is asked for by linux-image-amd64"),
        ({"outdated": ["nginx.service"]}, "note", "what they replaced still runs: nginx.service"),
        ({"failed_units": ["backup.service"]}, "note", "backup.service has failed"),
        (backups(timer="inactive"), "bad", "none is made"),
        (backups(places={}), "bad", "none is made"),
        (backups(result="exit-code", words="here: no space left on device"), "bad", "was not made: here: no space left on device"),
        (backups(warnings=["a.db: locked", "b: a FIFO"]), "note", "with 2 warnings: a.db: locked; b: a FIFO"),
        (backups(hours=30), "bad", "the last to /var/backups/shop is 30 hours old"),
        (backups(hours=None, since=30), "bad", "there is none in /var/backups/shop"),
        (certificate(ends=0), "bad", "there is none"),
        (certificate(ends=1_000_000_000.0 + 3 * DAY), "bad", "ends in 3 days"),
        (certificate(ends=999_000_000.0), "bad", "has ended"),
        (certificate(names=["a.example"]), "bad", "not for x.b.example"),
        (certificate(self_signed=True), "note", "self-signed, ends in 60 days"),
        (certificate(served=False), "bad", "nginx serves another one than the one on the disk"),
        (certificate(problem=REFUSED), "note", "ends in 60 days, and was not renewed: The CA refuses: port 80 is closed"),
        (certificate(problem=REFUSED, self_signed=True), "bad", "The CA refuses: port 80 is closed"),
        (certificate(problem=REFUSED, ends=1_000_000_000.0 + 3 * DAY), "bad", "The CA refuses: port 80 is closed"),
        (certificate(begins=1_000_000_000.0 - 5 * DAY, ends=1_000_000_000.0 + DAY), "bad", "ends in 1 days"),
        ({"domain_addresses": {"a.example": []}}, "bad", "not in the DNS"),
        ({"domain_addresses": {"a.example": ["198.51.100.1"]}}, "note", "leads to 198.51.100.1, which is not this host"),
        ({"closed_ports": {443: "no answer"}}, "bad", "can't be reached from this machine: no answer"),
    ],
)
def test_what_is_wrong_with_the_host(changed, state, words):
    wrong = [found for found in findings(changed) if found["state"] != "ok"]
    assert [found["state"] for found in wrong] == [state]
    assert words in wrong[0]["found"] and wrong[0]["cure"]


HELD = {"who": "ann@laptop", "since": 1_000_000_000, "what": "releasing v2", "dead": False}


@pytest.mark.parametrize(
    ("changed", "state", "words"),
    [
        ({"live": "", "running": []}, "note", "nothing is deployed here yet"),
        ({"dangling": True}, "bad", f"the live release {LIVE} has no folder"),
        ({"running": []}, "bad", f"the live release {LIVE} does not run"),
        ({"missing": {LIVE: ["worker.1"], "f-1": ["web"]}, "processes": ["worker.1"]}, "bad", "is not up, or would not be at boot"),
        ({"health": "/healthz answered 500"}, "bad", "/healthz answered 500"),
        ({"restarts": 3}, "note", "started it again 3 times"),
        ({"lock_holder": HELD}, "note", "at work: ann@laptop since 2001-09-09 01:46:40 UTC: releasing v2"),
        ({"lock_holder": {**HELD, "dead": True}}, "note", "the lock of ann@laptop since"),
        ({"edited": ["app/pages.py"]}, "note", "by hand: app/pages.py"),
        ({"unfinished": ["f-1"]}, "note", "f-1, half built"),
        ({"running": [LIVE, "f-1"]}, "note", "f-1, still running"),
    ],
)
def test_what_is_wrong_with_the_releases(changed, state, words):
    wrong = [found for found in findings(of_releases=changed) if found["state"] != "ok"]
    assert [found["state"] for found in wrong] == [state]
    assert words in wrong[0]["found"] and wrong[0]["cure"]


def test_a_daemon_that_runs_an_older_configuration_is_a_leftover():
    wrong = [found for found in findings(behind=["nginx"]) if found["state"] != "ok"]
    assert [found["found"] for found in wrong] == ["nginx runs an older configuration than the one on disk"]


def test_status_sums_it_up():
    found = host.host_status(report(), releases(), [], LIMITS)
    assert found == {
        "live": LIVE,
        "since": "2026-11-21T10:00:00Z",
        "by": "ann@laptop",
        "previous": "",
        "health": "well",
        "processes": "",
        "runs": "none at work, none left half-done",
        "disk_fullest": "/",
        "disk_free_mb": 9000,
        "memory_available_mb": 900,
        "memory_app_mb": 120,
        "backup": "",
        "certificate_days": 60,
        "certificate": "60 days left",
        "releases": [{"id": LIVE, "state": "live", "built": "2026-11-21T09:59:00Z", "by": "ann@laptop", "version": "v1", "bad": ""}],
    }


def test_a_certificate_of_six_days_is_good_for_most_of_them():
    week = certificate(begins=1_000_000_000.0 - 3 * DAY, ends=1_000_000_000.0 + 3 * DAY)
    assert {found["state"] for found in findings(week)} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ends": 0}, "none"),
        ({"served": False}, "60 days left; not the one that nginx serves"),
        ({"self_signed": True, "problem": REFUSED}, "60 days left; self-signed; not renewed: The CA refuses: port 80 is closed"),
        ({"ends": 999_000_000.0}, "has ended"),
    ],
)
def test_status_tells_of_the_certificate(changed, words):
    assert host.host_status(report(**certificate(**changed)), releases(), [], LIMITS)["certificate"] == words


def test_status_of_a_host_that_can_not_be_reached_or_is_bare():
    assert host.host_status(report(away={"found": "no answer", "cure": ""}), {}, [], LIMITS)["health"] == "no answer"
    bare = releases(live="", running=[], built=[], activation={}, releases={})
    found = host.host_status(report(), bare, [], LIMITS)
    assert (found["live"], found["health"], found["releases"]) == ("", "nothing is live", [])


def test_a_host_that_does_not_listen_is_told_of_with_the_port():
    with_no_listener = action.unreachable("127.0.0.1", 9, "ssh: connection refused")
    assert with_no_listener["found"] == "127.0.0.1 can't be reached on port 9: Connection refused"
    assert action.unreachable("no-such-host.invalid", 22, "")["found"] == "no address is known for no-such-host.invalid"


@pytest.fixture
def pem(tmp_path):
    """A certificate with its key, in one file."""
    words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90", "-subj", "/CN=x"]
    names = ["-addext", "subjectAltName=DNS:a.example,DNS:*.b.example"]
    made = subprocess.run(["openssl", "req", "-x509", *words, *names, "-keyout", "-", "-out", "-"], check=True, capture_output=True)
    path = tmp_path / "certificate.pem"
    path.write_bytes(b"# Issued by https://ca.example/directory\n" + made.stdout)
    return path


def openssl(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_a_certificate_is_read_with_what_kept_it_from_being_renewed(pem):
    found = module.certificate(str(pem), "a.example", openssl)
    assert (found["names"], found["self_signed"], found["problem"]) == (["a.example", "*.b.example"], True, {})
    assert found["ends"] - found["begins"] == 90 * DAY and abs(found["begins"] - time.time()) < 60
    pem.with_name("problem.json").write_text(json.dumps(REFUSED))
    assert module.certificate(str(pem), "a.example", openssl)["problem"] == REFUSED
    pem.write_text("junk")
    assert module.certificate(str(pem), "a.example", openssl)["ends"] == 0


def test_whether_nginx_serves_it_is_asked_of_nginx(pem):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for _ in range(2):
                context.wrap_socket(listener.accept()[0], server_side=True).close()

        server = threading.Thread(target=serve)
        server.start()
        assert module.is_served(str(pem), "a.example", at=listener.getsockname())
        other = openssl("openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=y", "-keyout", "/dev/null")
        pem.write_text(other)
        assert not module.is_served(str(pem), "a.example", at=listener.getsockname())
        server.join()
    assert not module.is_served(str(pem), "a.example", at=("127.0.0.1", 9)), "nobody listens"


def test_the_holder_of_a_lock_is_named_and_the_lock_not_taken(tmp_path):
    path = tmp_path / "lock"
    path.write_text("")
    assert module.lock_holder(path) == ""
    script = f"import fcntl, time; f = open({str(path)!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        assert str(holder.pid) in module.lock_holder(path)
        holder.kill()
    time.sleep(0.05)
    assert module.lock_holder(path) == ""
    with open(path, "w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_doors_of_the_firewall_are_read_as_ufw_tells_them():
    rules = "Added user rules:\nufw allow 22/tcp\nufw limit 2222/tcp\nufw deny 25/tcp\nufw allow 6000:6007/udp comment 'x 1/tcp'\n"
    rules += "ufw allow from 10.0.0.0/8 to any port 5432 proto tcp\n"
    assert [(door["first"], door["last"], door["proto"]) for door in module.opened(rules)] == [
        (22, 22, "tcp"),
        (2222, 2222, "tcp"),
        (6000, 6007, "udp"),
        (5432, 5432, "tcp"),
    ]


def test_what_listens_to_others_is_named_and_what_listens_to_the_host_itself_is_not():
    table = """\
udp   UNCONN 0      0            127.0.0.53%lo:53        0.0.0.0:*    users:(("systemd-resolve",pid=1,fd=1))
udp   UNCONN 0      0      192.0.2.1%eth0:68        0.0.0.0:*    users:(("systemd-network",pid=1,fd=1))
udp   UNCONN 0      0            0.0.0.0:51820      0.0.0.0:*
tcp   LISTEN 0      128          0.0.0.0:22        0.0.0.0:*    users:(("sshd",pid=1,fd=3))
tcp   LISTEN 0      128             [::]:22           [::]:*    users:(("sshd",pid=1,fd=4))
tcp   LISTEN 0      511                *:443             *:*    users:(("nginx",pid=2,fd=5),("nginx",pid=3,fd=5))
tcp   LISTEN 0      4096           [::1]:6379          [::]:*    users:(("redis-server",pid=9,fd=7))
"""
    assert [tuple(entry.values()) for entry in module.listening(table)] == [
        (22, "tcp", "sshd"),
        (443, "tcp", "nginx"),
        (51820, "udp", "the kernel"),
    ]


@pytest.mark.parametrize("opened", [[DOOR], [DOOR, {"first": 1024, "last": 65535, "proto": "tcp"}]])
def test_an_app_that_listens_on_thousands_of_ports_makes_no_endless_line(opened):
    lines = [f'tcp LISTEN 0 128 0.0.0.0:{port} 0.0.0.0:* users:(("python3",pid=1,fd={port}))' for port in range(20_000, 50_000)]
    heard = [SSH, *module.listening("\n".join(lines))]
    (found,) = [found for found in findings({"listening": heard, "opened": opened}) if found["what"] == "listening"]
    assert len(found["found"]) < 400 and found["found"].endswith(f"and {29_990 + (len(opened) - 1)} more")


def test_the_name_of_a_program_is_the_program_s_choice():
    table = """\
tcp LISTEN 0      128    0.0.0.0:7777 0.0.0.0:* users:(("\ufffd
x")) tcp L 0 0",pid=1789,fd=4))
tcp LISTEN 0      128    0.0.0.0:7778 0.0.0.0:* users:(("\x1b[31m a  b",pid=1789,fd=4))

nonsense
udp UNCONN
"""
    assert [tuple(entry.values()) for entry in module.listening(table)] == [(7777, "tcp", "\ufffd"), (7778, "tcp", "a b")]


def test_a_lock_may_be_held_by_a_program_with_any_name(tmp_path):
    lock = tmp_path / "lock"
    lock.touch()
    code = (
        "import ctypes, fcntl, sys, time; ctypes.CDLL(None).prctl(15, b'\\xff\\x1b[2Jx\\n', 0, 0, 0);"
        "h = open(sys.argv[1], 'w'); fcntl.lockf(h, fcntl.LOCK_EX); print('held', flush=True); time.sleep(30)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert module.lock_holder(lock) == f"\ufffdx ({process.pid})"
        process.kill()


def test_what_a_program_prints_is_bounded_and_printable():
    assert module.output("printf", r"a\xff\033[2J") == "a\ufffd"
    assert module.output("no-such-program") == ""
    assert len(module.output("head", "-c", "9000000", "/dev/zero")) < 1_100_000


def test_what_a_host_sends_before_a_login_fails_is_printable(monkeypatch):
    monkeypatch.setattr(action, "reach", lambda _host, _port: "")
    said = action.unreachable("127.0.0.1", 22, "banner\n\x1b[2JPermission denied\x07 (publickey).\r\n")
    assert said["found"] == "Permission denied\ufffd (publickey)." and "ansible_user" in said["cure"]
    assert action.unreachable("127.0.0.1", 22, "")["found"] == "the login failed"
