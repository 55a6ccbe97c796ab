"""Each problem of a host is found and comes with its fix."""

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
SSH_RULE, SSH = {"first": 22, "last": 22, "proto": "tcp"}, {"port": 22, "proto": "tcp", "program": "sshd"}


def report(**changed):
    """The report of a host without problems."""
    return {
        "connection_problem": {},
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
        "opened": [SSH_RULE],
        "listening": [SSH],
        "occupied": [],
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
        "health_warning": "",
        "built": [LIVE],
        "activation": {"at": "2026-11-21T10:00:00Z", "by": "ann@laptop"},
        "releases": {LIVE: {"manifest": {"built": "2026-11-21T09:59:00Z", "by": "ann@laptop", "version": "v1"}, "bad": ""}},
        **changed,
    }


def findings(of_host=None, of_releases=None, behind=()):
    return host.findings(report(**(of_host or {})), releases(**(of_releases or {})), list(behind), LIMITS)


def test_a_host_without_problems_has_no_findings():
    assert {found["state"] for found in findings()} == {"ok"}


def disk(**changed):
    return {"disks": {"/srv": {"free_mb": 9000, "total_mb": 25000, "free_inodes_percent": 90, "read_only": False, **changed}}}


REFUSED = {"found": "The CA rejected the request: port 80 is closed", "fix": "Open port 80.", "refused": True, "at": 1_000_000_000}


def certificate(**changed):
    return {"certificate": {**report()["certificate"], **changed}}


def backups(hours=3, since=500, warnings=(), **changed):
    now = 1_000_000_000.0
    last = {"id": "3f2a91c0", "at": now - hours * 3600} if hours is not None else {"id": "", "at": 0}
    last["warnings"] = {"count": len(warnings), "first": warnings}
    service = {"since": now - since * 3600, "timer": "active", "result": "success", "words": ""}
    return {"backup": {**service, "places": {"host": {"url": "/var/backups/shop", **last}}, **changed}}


def test_successful_backups_are_reported():
    assert [found for found in findings(backups()) if found["what"] == "backup"] == [
        {"what": "backup", "state": "ok", "found": "3f2a91c0, 3 hours ago, to /var/backups/shop", "fix": ""}
    ]
    assert {found["state"] for found in findings(backups(hours=None, since=1))} == {"ok"}


def test_status_reports_a_failed_backup():
    found = host.host_status(report(**backups(result="exit-code", words="no space left on device")), releases(), [], LIMITS)
    assert found["backup"].startswith("ALERT: the last backup failed: no space left on device. Fix the cause")
    assert "3f2a91c0, 3 hours ago" in found["backup"]


def test_records_of_backups_are_read(tmp_path, monkeypatch):
    for name, directory in ("SETTINGS", "etc"), ("BACKUPS", "lib"):
        monkeypatch.setattr(module, name, str(tmp_path / directory))
    (tmp_path / "etc").mkdir()
    (tmp_path / "lib/shop").mkdir(parents=True)
    outputs = {
        "--property=Result": "exit-code",
        "--property=InvocationID": "abc",
        "_SYSTEMD_INVOCATION_ID=abc": "one\ntwo",
        "shop-backup.timer": "active",
    }

    def output(*arguments):
        return next(text for word, text in outputs.items() if word in arguments)

    assert module.backup("shop", output)["places"] == {}
    (tmp_path / "etc/backup-shop.json").write_text('{"places": {"host": "/var/backups/shop", "s3": "s3:https://x/y"}}')
    warnings = {"count": 1, "first": ["a: a FIFO"]}
    (tmp_path / "lib/shop/made.json").write_text(json.dumps({"host": {"id": "3f2a91c0", "at": 7, "warnings": warnings}}))
    found = module.backup("shop", output)
    assert (found["timer"], found["result"], found["words"]) == ("active", "exit-code", "one two")
    assert found["places"]["host"] == {"url": "/var/backups/shop", "id": "3f2a91c0", "at": 7, "warnings": warnings}
    assert found["places"]["s3"] == {"url": "https://x/y", "id": "", "at": 0, "warnings": {"count": 0, "first": []}}
    (tmp_path / "lib/shop/made.json").write_text('{"host": {"id": "3f2a91c0", "at": 7}}')
    assert module.backup("shop", output)["places"]["host"]["warnings"]["count"] == 0, "an earlier version recorded none"


@pytest.mark.parametrize(
    ("changed", "state", "message"),
    [
        (
            {"connection_problem": {"found": "192.0.2.1 is unreachable on port 22: no response", "fix": "See"}},
            "bad",
            "port 22: no response",
        ),
        ({"ahead": -86400.0}, "bad", "86400 seconds behind the controller's clock"),
        ({"ahead": 3600.0}, "bad", "3600 seconds ahead of the controller's clock"),
        ({"synchronized": False}, "note", "correct, but not synchronized"),
        (disk(free_mb=100), "bad", "100 of 25000 MB are free"),
        (disk(free_inodes_percent=1), "bad", "1 % of its inodes are free"),
        (disk(read_only=True), "bad", "read-only"),
        ({"memory": {"total_mb": 500, "available_mb": 100, "swap_mb": 0}}, "bad", "100 MB are available, the app uses 120 MB"),
        ({"apt": {"held_by": "apt-get (77)", "broken": []}}, "note", "apt-get (77) holds the lock of apt"),
        ({"apt": {"held_by": "", "broken": ["nginx"]}}, "bad", "partially installed: nginx"),
        ({"services": {"nginx": "failed"}}, "bad", "failed"),
        ({"firewall": False}, "bad", "every port is open"),
        ({"lists": False}, "bad", "no address is blocked"),
        (
            {"listening": [SSH, {"port": 9000, "proto": "tcp", "program": "python3"}]},
            "note",
            "on ports that the firewall blocks: 9000/tcp (python3)",
        ),
        (
            {"opened": [SSH_RULE, {"first": 5432, "last": 5433, "proto": "tcp"}]},
            "note",
            "no program listens on ports that the firewall allows: 5432/tcp",
        ),
        ({"reboot_for": ["linux-image-amd64"]}, "note", "reboot required by linux-image-amd64"),
        ({"outdated": ["nginx.service"]}, "note", "still running code from before the upgrade: nginx.service"),
        ({"failed_units": ["backup.service"]}, "note", "backup.service has failed"),
        (backups(timer="inactive"), "bad", "no backups are made"),
        (backups(places={}), "bad", "no backups are made"),
        (
            backups(result="exit-code", words="here: no space left on device"),
            "bad",
            "the last backup failed: here: no space left on device",
        ),
        (backups(warnings=["a.db: locked", "b: a FIFO"]), "note", "with 2 warnings: a.db: locked; b: a FIFO"),
        (backups(hours=30), "bad", "the last backup in /var/backups/shop is 30 hours old"),
        (backups(hours=None, since=30), "bad", "no backup in /var/backups/shop"),
        (certificate(ends=0), "bad", "missing"),
        (certificate(ends=1_000_000_000.0 + 3 * DAY), "bad", "expires in 3 days"),
        (certificate(ends=999_000_000.0), "bad", "expired"),
        (certificate(names=["a.example"]), "bad", "does not cover x.b.example"),
        (certificate(self_signed=True), "note", "self-signed, expires in 60 days"),
        (certificate(served=False), "bad", "nginx does not serve the certificate on disk"),
        (certificate(problem=REFUSED), "note", "expires in 60 days and was not renewed: The CA rejected the request: port 80 is closed"),
        (certificate(problem=REFUSED, self_signed=True), "bad", "The CA rejected the request: port 80 is closed"),
        (certificate(problem=REFUSED, ends=1_000_000_000.0 + 3 * DAY), "bad", "The CA rejected the request: port 80 is closed"),
        (certificate(begins=1_000_000_000.0 - 5 * DAY, ends=1_000_000_000.0 + DAY), "bad", "expires in 1 days"),
        ({"domain_addresses": {"a.example": []}}, "bad", "no DNS record"),
        ({"domain_addresses": {"a.example": ["198.51.100.1"]}}, "note", "resolves to 198.51.100.1, which is not this host"),
        ({"closed_ports": {443: "no response"}}, "bad", "unreachable from the controller: no response"),
    ],
)
def test_a_problem_of_the_host_is_found(changed, state, message):
    problems = [found for found in findings(changed) if found["state"] != "ok"]
    assert [found["state"] for found in problems] == [state]
    assert message in problems[0]["found"] and problems[0]["fix"]


HELD = {"who": "ann@laptop", "since": 1_000_000_000, "what": "releasing v2", "dead": False}


@pytest.mark.parametrize(
    ("changed", "state", "message"),
    [
        ({"live": "", "running": []}, "note", "nothing is deployed yet"),
        ({"dangling": True}, "bad", f"the live release {LIVE} has no directory"),
        ({"running": []}, "bad", f"the live release {LIVE} is not running"),
        ({"missing": {LIVE: ["worker.1"], "f-1": ["web"]}, "processes": ["worker.1"]}, "bad", "not running, or not enabled at boot"),
        ({"health": "/healthz returned 500"}, "bad", "/healthz returned 500"),
        ({"restarts": 3}, "note", "systemd restarted it 3 times"),
        ({"lock_holder": HELD}, "note", "in progress: ann@laptop since 2001-09-09 01:46:40 UTC: releasing v2"),
        ({"lock_holder": {**HELD, "dead": True}}, "note", "deploy lock of a dead run (ann@laptop since"),
        ({"edited": ["app/pages.py"]}, "note", "changed by hand: app/pages.py"),
        ({"unfinished": ["f-1"]}, "note", "f-1 is only partially built"),
        ({"running": [LIVE, "f-1"]}, "note", "f-1 is still running"),
    ],
)
def test_a_problem_of_the_releases_is_found(changed, state, message):
    problems = [found for found in findings(of_releases=changed) if found["state"] != "ok"]
    assert [found["state"] for found in problems] == [state]
    assert message in problems[0]["found"] and problems[0]["fix"]


def test_a_daemon_with_an_outdated_configuration_is_reported():
    problems = [found for found in findings(behind=["nginx"]) if found["state"] != "ok"]
    assert [found["found"] for found in problems] == ["nginx runs an older configuration than the one on disk"]


def test_status_summarizes_the_report():
    found = host.host_status(report(), releases(), [], LIMITS)
    assert found == {
        "live": LIVE,
        "since": "2026-11-21T10:00:00Z",
        "by": "ann@laptop",
        "previous": "",
        "health": "healthy",
        "processes": "",
        "runs": "none in progress, none unfinished",
        "disk_fullest": "/",
        "disk_free_mb": 9000,
        "memory_available_mb": 900,
        "memory_app_mb": 120,
        "backup": "",
        "certificate_days": 60,
        "certificate": "60 days left",
        "releases": [{"id": LIVE, "state": "live", "built": "2026-11-21T09:59:00Z", "by": "ann@laptop", "version": "v1", "bad": ""}],
    }


def test_a_six_day_certificate_is_ok_until_its_renewal_is_due():
    week = certificate(begins=1_000_000_000.0 - 3 * DAY, ends=1_000_000_000.0 + 3 * DAY)
    assert {found["state"] for found in findings(week)} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ends": 0}, "none"),
        ({"served": False}, "60 days left; not served by nginx"),
        (
            {"self_signed": True, "problem": REFUSED},
            "60 days left; self-signed; not renewed: The CA rejected the request: port 80 is closed",
        ),
        ({"ends": 999_000_000.0}, "expired"),
    ],
)
def test_status_describes_the_certificate(changed, message):
    assert host.host_status(report(**certificate(**changed)), releases(), [], LIMITS)["certificate"] == message


def test_status_of_an_unreachable_host_and_of_a_bare_host():
    assert host.host_status(report(connection_problem={"found": "no response", "fix": ""}), {}, [], LIMITS)["health"] == "no response"
    bare = releases(live="", running=[], built=[], activation={}, releases={})
    found = host.host_status(report(), bare, [], LIMITS)
    assert (found["live"], found["health"], found["releases"]) == ("", "no live release", [])


def test_an_unreachable_host_is_reported_with_its_port():
    problem = action.unreachable("127.0.0.1", 9, "ssh: connection refused")
    assert problem["found"] == "127.0.0.1 is unreachable on port 9: Connection refused"
    assert action.unreachable("no-such-host.invalid", 22, "")["found"] == "no address found for no-such-host.invalid"


@pytest.fixture
def pem(tmp_path):
    """A certificate and its key in one file."""
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90", "-subj", "/CN=x"]
    names = ["-addext", "subjectAltName=DNS:a.example,DNS:*.b.example"]
    made = subprocess.run(["openssl", "req", "-x509", *options, *names, "-keyout", "-", "-out", "-"], check=True, capture_output=True)
    path = tmp_path / "certificate.pem"
    path.write_bytes(b"# Issued by https://ca.example/directory\n" + made.stdout)
    return path


def openssl(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_a_certificate_is_read_together_with_its_renewal_problem(pem):
    found = module.certificate(str(pem), "a.example", openssl)
    assert (found["names"], found["self_signed"], found["problem"]) == (["a.example", "*.b.example"], True, {})
    assert found["ends"] - found["begins"] == 90 * DAY and abs(found["begins"] - time.time()) < 60
    pem.with_name("problem.json").write_text(json.dumps(REFUSED))
    assert module.certificate(str(pem), "a.example", openssl)["problem"] == {name: REFUSED[name] for name in ("found", "fix")}
    pem.with_name("problem.json").write_text(json.dumps({"found": "closed", "at": 1}))
    assert module.certificate(str(pem), "a.example", openssl)["problem"] == {"found": "closed", "fix": ""}
    pem.with_name("problem.json").write_text("[]")
    assert module.certificate(str(pem), "a.example", openssl)["problem"] == {}
    pem.write_text("junk")
    assert module.certificate(str(pem), "a.example", openssl)["ends"] == 0


def test_the_certificate_on_disk_is_compared_with_the_one_that_nginx_serves(pem):
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


def test_the_holder_of_a_lock_is_found_without_acquiring_the_lock(tmp_path):
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


def test_open_ports_are_read_from_ufw_s_output():
    rules = "Added user rules:\nufw allow 22/tcp\nufw limit 2222/tcp\nufw deny 25/tcp\nufw allow 6000:6007/udp comment 'x 1/tcp'\n"
    rules += "ufw allow from 10.0.0.0/8 to any port 5432 proto tcp\n"
    assert [(rule["first"], rule["last"], rule["proto"]) for rule in module.opened(rules)] == [
        (22, 22, "tcp"),
        (2222, 2222, "tcp"),
        (6000, 6007, "udp"),
        (5432, 5432, "tcp"),
    ]


def test_listeners_on_external_addresses_are_listed_and_loopback_ones_are_not():
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


@pytest.mark.parametrize("opened", [[SSH_RULE], [SSH_RULE, {"first": 1024, "last": 65535, "proto": "tcp"}]])
def test_the_finding_for_thousands_of_listening_ports_is_short(opened):
    lines = [f'tcp LISTEN 0 128 0.0.0.0:{port} 0.0.0.0:* users:(("python3",pid=1,fd={port}))' for port in range(20_000, 50_000)]
    listening = [SSH, *module.listening("\n".join(lines))]
    (found,) = [found for found in findings({"listening": listening, "opened": opened}) if found["what"] == "listening"]
    assert len(found["found"]) < 400 and found["found"].endswith(f"and {29_990 + (len(opened) - 1)} more")


def test_a_hostile_program_name_is_sanitized():
    table = """\
tcp LISTEN 0      128    0.0.0.0:7777 0.0.0.0:* users:(("\ufffd
x")) tcp L 0 0",pid=1789,fd=4))
tcp LISTEN 0      128    0.0.0.0:7778 0.0.0.0:* users:(("\x1b[31m a  b",pid=1789,fd=4))

nonsense
udp UNCONN
"""
    assert [tuple(entry.values()) for entry in module.listening(table)] == [(7777, "tcp", "\ufffd"), (7778, "tcp", "a b")]


def test_a_lock_s_holder_with_a_hostile_name_is_sanitized(tmp_path):
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


def test_a_program_s_output_is_limited_and_printable():
    assert module.output("printf", r"a\xff\033[2J") == "a\ufffd"
    assert module.output("no-such-program") == ""
    assert len(module.output("head", "-c", "9000000", "/dev/zero")) < 1_100_000


def test_a_host_s_output_before_a_failed_login_is_printable(monkeypatch):
    monkeypatch.setattr(action, "probe", lambda _host, _port: "")
    problem = action.unreachable("127.0.0.1", 22, "banner\n\x1b[2JPermission denied\x07 (publickey).\r\n")
    assert problem["found"] == "Permission denied\ufffd (publickey)." and "ansible_user" in problem["fix"]
    assert action.unreachable("127.0.0.1", 22, "")["found"] == "the login failed"


def test_a_program_on_the_site_s_ports_is_named_with_its_remedy():
    """nginx can't start then, and its own log is not where an operator looks (B5)."""
    table = 'tcp   LISTEN 0      511    0.0.0.0:443  0.0.0.0:*    users:(("apache2",pid=99999999,fd=6))\n'
    occupied = [module.problem(entry) for entry in module.occupants(table, module.WEB_PORTS)]
    (found,) = [found for found in findings({"occupied": occupied}) if found["what"] == "listening"]
    assert found["state"] == "bad" and "apache2 (process 99999999) listens on 0.0.0.0:443, which nginx needs" in found["found"]
    assert "Stop process 99999999" in found["fix"] and "run provision.yml" in found["fix"]


def test_a_site_that_redirects_to_a_login_page_is_reported():
    """(A15)"""
    warning = (
        "/ returned 302, a redirect to a login or setup page (/setup). It counts as healthy, but it does not show that the app works. Fix."
    )
    assert [found["state"] for found in findings(None, {"health_warning": warning}) if found["what"] == "site"] == ["note"]
