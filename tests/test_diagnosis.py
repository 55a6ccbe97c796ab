"""The fix that a failed release recommends, tested with real messages and hostile logs."""

import re
import time

import pytest
import yaml
from conftest import PROJECT, plugin, run_playbook

diagnosis = plugin("filter/diagnosis")
WRITABLE = "app_shared"
CODE = "systemd_allow_writable_code: true"
EXITED = "Start the release and wait until it is healthy: the app exited"

# real messages from the sandbox of app.service.j2 on Debian 12 (systemd 252) and 13 (257)
IN_THE_SANDBOX = [
    ("FileNotFoundError: [Errno 2] No such file or directory: '/proc/meminfo'", "[ProcSubset=all]"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/proc/stat'", "[ProcSubset=all]"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/proc/net/dev'", "[ProcSubset=all]"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/proc/cpuinfo'", "[ProcSubset=all]"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/proc/filesystems'", "[ProcSubset=all]"),
    ("OSError: Load averages are unobtainable", "[ProcSubset=all]"),
    ("OSError: [Errno 97] Address family not supported by protocol", "[RestrictAddressFamilies=AF_NETLINK]"),
    ("    syscall: 'uv_interface_addresses'", "[RestrictAddressFamilies=AF_NETLINK]"),
    (
        "MemoryError: Cannot allocate write+execute memory for ffi.callback(). You might be running on a system that prevents this.",
        CODE,
    ),
    ("# Fatal javascript OOM in MemoryChunk allocation failed during deserialization.", CODE),
    ("#\n# Fatal error in , line 0\n# Check failed", CODE),
    (" 2: 0x7f86368ad5e8 V8_Fatal(char const*, ...) [/lib/x86_64-linux-gnu/libnode.so.115]", CODE),
    ("OSError: [Errno 30] Read-only file system: 'logs'", WRITABLE),
    ("OSError: [Errno 30] Read-only file system: '/etc/x'", WRITABLE),
    ("Error: EROFS: read-only file system, mkdir '/srv/tryapp/x'", WRITABLE),
    ("touch: cannot touch '/srv/shop/x': Read-only file system", WRITABLE),
    ("sqlite3.OperationalError: unable to open database file", WRITABLE),
    ("sqlite3.OperationalError: attempt to write a readonly database", "$STATE_DIRECTORY"),
    ("PermissionError: [Errno 13] Permission denied: '/home/x'", "/home"),
    ("PermissionError: [Errno 1] Operation not permitted", "systemd_service_lines: [SystemCallFilter=NAME]"),
    ("PermissionError: [Errno 1] Operation not permitted: '/var/lib/tryapp'", "sandbox"),
    ('sudo: The "no new privileges" flag is set, which prevents sudo from running as root.', "sudo"),
    ("unshare: unshare failed: Operation not permitted", "--no-sandbox"),
    ("OSError: [Errno 1] error while attempting to bind on address ('127.0.0.1', 0): operation not permitted", "SocketBindAllow=any"),
    ("Error: listen EPERM: operation not permitted 127.0.0.1", "SocketBindAllow=any"),
    ("chgrp: changing group of 'x': Invalid argument", "PrivateUsers=no"),
    ("Bad system call", "SystemCallFilter=NAME"),
]
OTHERS = [
    ("OSError: [Errno 28] No space left on device: '/var/lib/shop/x'", "disk is full"),
    ("OSError: [Errno 30] Read-only file system: '/var/lib/shop/x'", "when a disk fails"),
    ("error: failed to create directory `/srv/shop/venvs/x`: Read-only file system (os error 30)", "when a disk fails"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/srv/shop/releases/r1/app/logs/app.log'", "app_shared: [logs]"),
    ("Error: ENOENT: no such file or directory, open 'uploads/x'", "app_shared"),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'ffmpeg'", "python_venv_extra_packages"),
    ("bash: line 1: npm: command not found", "python_venv_extra_packages"),
    ("MemoryError", "Give the app more memory"),
    ('psycopg2.OperationalError: FATAL:  password authentication failed for user "x"', "The database rejects the login"),
    ('FATAL:  database "x" does not exist', "The database rejects the login"),
    ("connection to server at 10.0.0.5 (10.0.0.5), port 5432 failed: timeout expired", "The database is unreachable"),
    ("OperationalError: could not translate host name", "The database is unreachable"),
    ("redis.exceptions.ConnectionError: Error 111", "Redis is unreachable"),
    ("your requirements are unsatisfiable", "no such version for Python 3.13"),
    (
        "Because you require pyuwsgi==2.0.20 and pyuwsgi>=2.0.30, we can conclude that your requirements are unsatisfiable.",
        "requires another version of pyuwsgi than Flaskhost (pyuwsgi>=2.0.30). Remove the app's version, or set uwsgi_requirement",
    ),
    (
        "Because the current Python version (3.13.5) does not satisfy Python>=3.14 and x==1 depends on Python>=3.14, we can conclude",
        "Set app_python to a version that it accepts",
    ),
    (
        "Because there is no version of x==9 and you require x==9, we can conclude that your requirements are unsatisfiable.",
        "app_overrides",
    ),
    ("  cause: Git executable not found. Ensure that Git is installed and available.", "python_venv_extra_packages: [git]"),
    ("fatal: could not read Username for 'https://github.com': terminal prompts disabled", "app_build_secrets, such as {'github.com'"),
    ("git@github.com: Permission denied (publickey).", "uses https for ssh URLs"),
    ("error: Failed to fetch: `https://index.example/simple/x/`  HTTP status client error (401 Unauthorized)", "app_build_secrets"),
    ("error: Hash mismatch for `six==1.17.0`", "create the lock file again"),
    ("error: Multiple top-level packages discovered in a flat-layout: ['shop', 'migrations'].", "Flaskhost installs only the dependencies"),
    ("error: Failed to build `x`", "Run deploy.yml, which installs the packages that uwsgi needs (gcc, libc-dev). If the package"),
    ("Connection refused", "python_venv_index_url"),
    ("sqlite3.OperationalError: no such table: entry", "Check that app_release_command migrates the database"),
    ("ModuleNotFoundError: No module named 'x'", "dependencies"),
    ("nothing that is known", "Fix the app or its settings, then run this again."),
    ("", "Fix the app or its settings, then run this again."),
]
FROM_THE_RUN = [
    ("Lay out the release: /srv/shop/releases/x: Read-only file system", "when a disk fails"),
    ("Run the release command: the command failed with exit code 159", "SystemCallFilter=NAME"),
    ("Start: the app crashed with signal 31", "SystemCallFilter=NAME"),
    ("Start: the app crashed with signal 5", CODE),
    ("Start: the app crashed with signal 11", CODE),
    ("Start: the app was killed by signal 9", "Give the app more memory"),
    ("Start: not enough memory to start it beside the live release", "Give the app more memory"),
    ("Start: /healthz returned 404 (checked for 60 seconds)", "app_health_path"),
]


def remedy(failure, log=""):
    return diagnosis.remedy(failure, log, "/var/lib/shop", "3.13", "uwsgi", ["gcc", "libc-dev"], "pyuwsgi>=2.0.30")


@pytest.mark.parametrize(("log", "advice"), IN_THE_SANDBOX + OTHERS)
def test_the_fix_for_an_app_s_log_message(log, advice):
    """Remedies for packages name the setting: git, the server's version, credentials, Python and overrides. (B19)"""
    assert advice in remedy(EXITED, f"starting\n{log}\n[ERROR] Worker (pid:11) exited with code 3.")


@pytest.mark.parametrize(("failure", "advice"), FROM_THE_RUN)
def test_the_fix_for_a_failed_task(failure, advice):
    assert advice in remedy(failure)


PIECES = [
    "x",
    "connection to server ",
    "OperationalError",
    "FATAL: role ",
    "FATAL: ",
    "[Errno 30] ",
    "/proc/",
    " ",
    "\x1b[",
    "\n",
    "Python",
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_long_line_is_processed_quickly(piece):
    started = time.process_time()
    remedy(piece * (400_000 // len(piece)), piece * (4_000_000 // len(piece)))
    assert time.process_time() - started < 1


def test_repeated_lines_do_not_hide_the_end_of_the_log():
    assert "app_shared" in remedy(EXITED, "noise\n" * 100_000 + "OSError: [Errno 30] Read-only file system: 'logs'\n")


RESULTS = [
    (
        {"reason": "the request to /healthz failed (\x1b[2J\x07)", "log": "\x1b]0;t\x07" + "A" * 400_000},
        "the request to /healthz failed (\ufffd)",
        "Fix the app",
    ),
    (
        {"msg": "non-zero", "stdout": "\x9b31m" + "connection to server " * 20_000, "stderr": "FATAL: " * 9000},
        "[… ",
        "Fix the app",
    ),
    ({"msg": "it failed", "stderr": "OSError: [Errno 97] Address family not supported by protocol"}, "Errno 97", "AF_NETLINK"),
]
# Failures of a first release: the last line of the app's log, and parts of the message that the operator sees.
FIRST_RELEASES = [
    # psutil (B20)
    (
        "FileNotFoundError: [Errno 2] No such file or directory: '/proc/meminfo'",
        ["which psutil reads", "systemd_service_lines: [ProcSubset=all]"],
    ),
    ("OSError: [Errno 97] Address family not supported by protocol", ["psutil.net_if_addrs", "[RestrictAddressFamilies=AF_NETLINK]"]),
    # a directory that is read-only or missing (B10): os.mkdir("logs"), Flask-SQLAlchemy, FileHandler("logs/app.log")
    ("OSError: [Errno 30] Read-only file system: 'logs'", ["/var/lib/shop ($STATE_DIRECTORY)", "app_shared: [logs]"]),
    ("OSError: [Errno 30] Read-only file system: '/srv/shop/releases/r2/app/instance'", ["$STATE_DIRECTORY", "app_shared"]),
    ("OSError: [Errno 30] Read-only file system: '/srv/shop/venvs/k/var'", ["$STATE_DIRECTORY", "app_shared"]),
    ("sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) unable to open database file", ["$STATE_DIRECTORY", "app_shared"]),
    (
        "FileNotFoundError: [Errno 2] No such file or directory: '/srv/shop/releases/r2/app/logs/app.log'",
        ["git stores no empty directories", "/var/lib/shop ($STATE_DIRECTORY)", "app_shared: [logs]"],
    ),
]
RESULTS += [({"reason": "the app exited", "log": f"Traceback\n{line}"}, line, parts[0]) for line, parts in FIRST_RELEASES]


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The output of the role's task that reports a failure, with one host for each result."""
    settings = yaml.safe_load((PROJECT / "roles/release/vars/main.yml").read_text())
    report = next(
        task for task in yaml.safe_load((PROJECT / "roles/release/tasks/abandon.yml").read_text()) if "ansible.builtin.fail" in task
    )
    settings = {
        name: value
        for name, value in settings.items()
        if name.removeprefix("__release_") in ("failure", "trouble", "log", "remedy", "end", "serving", "is_activated", "is_reverted")
    }
    settings |= {
        "release_app": "shop",
        "release_id": "r2",
        "release_host": {"live": "r1"},
        "release_stopped": {"log": "{{ ansible_failed_result.log | default('') }}"},
        "release_server": {"packages": []},
        "release_server_role": "gunicorn",
        "ansible_failed_task": {"name": "Start"},
    }
    tasks = [{"ansible.builtin.set_fact": {"ansible_facts": {"python": {"version": {"major": 3, "minor": 13}}}}}, report]
    hosts = {f"h{number}": {"ansible_failed_result": result} for number, (result, _reason, _remedy) in enumerate(RESULTS)}
    started = time.monotonic()
    run = run_playbook(tmp_path_factory.mktemp("failed"), tasks, hosts, variables=settings, succeeds=False)
    assert time.monotonic() - started < 15
    return run


@pytest.mark.parametrize("number", range(len(RESULTS)))
def test_the_message_of_a_failed_release(failed, number):
    message, (_result, reason, remedy) = failed.failures[f"h{number}"], RESULTS[number]
    assert "Release r2 was not activated." in message and reason in message and remedy in message
    assert "Release r1 keeps serving." in message
    assert "when a disk fails" not in message
    assert not set(failed.stdout) & {"\x1b", "\x07", "\x9b"} and max(map(len, failed.stdout.split("\n"))) < 2300


@pytest.mark.parametrize("number", range(len(FIRST_RELEASES)))
def test_the_message_names_the_setting_that_fixes_a_first_release(failed, number):
    """The operator sees app_shared and $STATE_DIRECTORY for files, and the sandbox's line for psutil. (B10, B20)"""
    line, parts = FIRST_RELEASES[number]
    message = failed.failures[f"h{len(RESULTS) - len(FIRST_RELEASES) + number}"]
    assert line in message and all(part in message for part in parts), message


def headings():
    page = (PROJECT / "docs/troubleshooting.md").read_text()
    return page, [line.removeprefix("### ") for line in page.splitlines() if line.startswith("### ")]


def test_the_troubleshooting_page_has_each_remedy_of_a_first_release():
    """Its headings are the beginnings of the messages."""
    beginnings = [heading.strip("` ").rstrip("…, ") for heading in headings()[1]]
    for line, _parts in FIRST_RELEASES:
        assert any(beginning and remedy(EXITED, line).startswith(beginning) for beginning in beginnings), line


def test_the_ten_most_frequent_failures_are_headings_of_the_troubleshooting_page():
    """The table at its top lists them."""
    page, known = headings()
    table = re.findall(r"^\| (`.*?`) \| ", page.partition("\n- [")[0], re.MULTILINE)
    assert len(table) == 10 and {*table} <= {*known}


# of ssh, and with a number that decides about the next word
NOT_LITERAL = {
    "Failed to connect to the host via ssh",
    "settings need your attention",
    "Ansible collections are missing or too old on this controller",
}


def test_the_headings_of_the_troubleshooting_page_are_messages():
    """… in a heading stands for a value."""
    kinds = ("plugins/**/*.py", "playbooks/*.yml", "roles/**/*.py", "roles/**/*.yml")
    # literals on several lines are one message
    source = " ".join(re.sub(r"""["']\s*\n\s*f?["']""", "", path.read_text()) for kind in kinds for path in PROJECT.glob(kind))
    # a field of an f-string, but not an expression of Jinja
    source = re.sub(r"(?<!\{)\{[^{}]+\}", "…", " ".join(source.split()))
    for heading in headings()[1]:
        for part in re.split(r"…|\b404\b|\b302\b|(?<=\.) |: ", heading.strip("`")):
            text = part.strip(" .,'()")
            assert text in source or text in NOT_LITERAL, (heading, text)
