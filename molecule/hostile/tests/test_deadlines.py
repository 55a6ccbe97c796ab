"""The attacker sends endless, slow, huge or non-text data to the programs that read it."""

import threading
import time

import pytest
from conftest import STATE

# -- the health page ---------------------------------------------------------------------------------------------------

SETTINGS = {"release_health_answer_seconds": 1, "release_health_timeout_seconds": 8}


class Memory:
    """The peak memory of a single root process during the test, in MB."""

    def __init__(self, host):
        self.host, self.peak, self.stopped = host, 0, False
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.stopped:
            # Ansible's processes on the host
            output = self.host.run(
                "ps -o rss= -p $(pgrep --full --euid root '[A]nsiballZ|^/usr/bin/python3$' | paste -sd,) | sort -n | tail -n 1"
            ).stdout.strip()
            self.peak = max(self.peak, int(output or 0) // 1024)
            time.sleep(0.3)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_error):
        self.stopped = True
        self.thread.join()


@pytest.mark.parametrize("behavior", ["slow", pytest.param("endless", marks=pytest.mark.sample), "big"])
def test_hang_a_release_with_its_health_page(attacker, source, behavior):
    """The next release's health page sends a byte every half second, never ends, or is 400 MB: a slow page fails the release within its
    time limit, and of a long page root reads no more than 64 KB."""
    before = attacker.live()
    attacker.bash(f"echo {behavior} >{STATE}/health")
    with Memory(attacker.host) as memory:
        run = attacker.attempt(app_source=source, seconds=90, **SETTINGS)
    attacker.end_runs()
    attacker.host.check_output(f"rm -f {STATE}/health")
    assert not run.hung, run.output
    assert memory.peak < 150, memory.peak
    # the first 64 KB of a long page are a healthy answer
    assert run.ok == (behavior != "slow") and (attacker.live() == before) == (behavior == "slow"), run.output


@pytest.mark.parametrize("behavior", ["slow", "endless"])
@pytest.mark.parametrize("playbook", ["playbooks/status.yml", "playbooks/doctor.yml"])
def test_hang_status_and_doctor_with_the_health_page(attacker, behavior, playbook):
    """The live release's health page sends a byte every half second, or never ends: `make status` and `make doctor` end within their time
    limit."""
    attacker.bash(f"echo {behavior} >{STATE}/health")
    run = attacker.attempt(playbook, 60)
    attacker.end_runs()
    assert not run.hung, run.output


# -- backups -----------------------------------------------------------------------------------------------------------


def assert_backup(attacker, seconds=400):
    """A new backup contains a file of the app, besides everything else in its data."""
    before = attacker.backups()
    attacker.bash(f"date +%s.%N >{STATE}/precious.txt")
    precious = attacker.host.check_output(f"cat {STATE}/precious.txt")
    started = time.monotonic()
    run = attacker.backup(seconds)
    attacker.end_runs()
    assert not run.hung, run.output
    now = attacker.backups()
    assert len(now) == len(before) + 1, run.output
    print(f"backed up in {time.monotonic() - started:.0f} seconds")
    restored = attacker.restore(now[-1])
    assert restored.ok and attacker.host.check_output(f"cat {STATE}/precious.txt") == precious, restored.output
    return run


EXPENSIVE = """
import os, sqlite3
os.chdir(os.environ['STATE_DIRECTORY'])
database = sqlite3.connect('upload.db')
database.execute('pragma ignore_check_constraints = on')
database.execute('create table t (a integer check (length(hex(zeroblob(90000000 + a))) > 0))')
database.executemany('insert into t values (?)', [(n,) for n in range(2000)])
database.commit()
database.close()
print(os.path.getsize('upload.db'))
"""


def test_hang_the_backup_with_an_upload(attacker):
    """A visitor uploads a 28 KB database with a constraint that takes hours to check: the backup is complete, within its time limit."""
    assert int(attacker.python(EXPENSIVE)) < 60_000
    assert_backup(attacker)


GREEDY = """
import os, sqlite3
os.chdir(os.environ['STATE_DIRECTORY'])
database = sqlite3.connect('greedy.db')
database.execute('pragma ignore_check_constraints = on')
database.execute('create table t (a integer check (length(zeroblob(900000000) || zeroblob(100000000 - a)) > 0))')
database.execute('insert into t values (1)')
database.commit()
"""


def test_exhaust_the_memory_with_an_upload(attacker):
    """A visitor uploads a database whose check takes gigabytes of memory: the backup contains everything else."""
    attacker.python(GREEDY)
    assert_backup(attacker)


LOCKED = """
import os, sqlite3, time
os.chdir(os.environ['STATE_DIRECTORY'])
database = sqlite3.connect('locked.db', isolation_level=None)
database.execute('pragma locking_mode = exclusive')
database.execute('create table t (a)')
database.execute('begin exclusive')
time.sleep(500)
"""


def test_block_the_backup_with_a_lock(attacker):
    """The app keeps one of its databases locked: the backup contains everything else, and reports that database."""
    attacker.python(LOCKED, background=True)
    time.sleep(2)
    run = assert_backup(attacker)
    assert "locked.db" in run.output


MANY = """
import os, shutil, sqlite3
os.chdir(os.environ['STATE_DIRECTORY'])
database = sqlite3.connect('one.db')
database.execute('create table t (a)')
database.commit()
database.close()
os.mkdir('many')
for number in range(9000):
    shutil.copyfile('one.db', f'many/{"x" * 60}-{number}.db')
"""


def test_break_the_backup_with_many_databases(attacker):
    """The app has 9,000 databases: the backup contains all files, within its time limit."""
    attacker.python(MANY)
    assert_backup(attacker)


PIPES = """
import os, time
os.chdir(os.environ['STATE_DIRECTORY'])
os.mkfifo('pipe.db')
end = time.monotonic() + 120
# alternate between databases and pipes
while time.monotonic() < end:
    for number in range(100):
        with open(f'swap{number}.new', 'wb') as file:
            file.write(b'SQLite format 3' + bytes(1) + bytes(4000))
        os.rename(f'swap{number}.new', f'swap{number}.db')
    time.sleep(0.02)
    for number in range(100):
        os.mkfifo(f'swap{number}.new')
        os.rename(f'swap{number}.new', f'swap{number}.db')
    time.sleep(0.02)
"""


def test_block_the_backup_with_a_pipe(attacker):
    """During a backup, the app keeps replacing its databases with pipes and the pipes with databases: the backup doesn't block."""
    attacker.python(PIPES, background=True)
    time.sleep(1)
    assert_backup(attacker, 200)


DEEP = """
import os
os.chdir(os.environ['STATE_DIRECTORY'])
for _ in range(2500):
    os.mkdir('d')
    os.chdir('d')
"""


@pytest.mark.sample
def test_break_the_backup_with_names_and_depth(attacker):
    """The app has file names that are not text, contain line breaks or look like options, directories nested 2,500 levels deep, sockets and
    a loop of links: the backup contains everything else."""
    attacker.bash(
        f"cd {STATE} && printf x >$'bad\\xff\\nname' && printf x >./--exclude=precious.txt && printf x >$'*[a-' && ln -s . loop && mkdir $'dir\\xfe'"
        " && cp $'bad\\xff\\nname' $'dir\\xfe/x.db'"
    )
    attacker.python(MAKE_ODD_DATABASE)
    attacker.python(DEEP)
    assert_backup(attacker)


MAKE_ODD_DATABASE = """
import os, socket, sqlite3
os.chdir(os.environ['STATE_DIRECTORY'])
database = sqlite3.connect('odd\\nname [x]*.db')
database.execute('create table t (a)')
database.commit()
database.close()
os.rename('odd\\nname [x]*.db', b'odd\\xff\\nname [x]*.db')
socket.socket(socket.AF_UNIX).bind('a.sock')
"""


def test_restore_while_a_backup_hangs(attacker):
    """During a slow backup, an operator lists the backups: the run prints the list, or that a backup is running."""
    attacker.python(LOCKED, background=True)
    attacker.python(EXPENSIVE)
    time.sleep(1)
    attacker.host.check_output("systemctl start --no-block hostile-backup.service; sleep 2")
    run = attacker.attempt("playbooks/restore.yml", 60)
    attacker.end_runs()
    assert not run.hung, run.output


# -- non-text data -----------------------------------------------------------------------------------------------------

LISTEN = """
import ctypes, socket, time
abstract = socket.socket(socket.AF_UNIX)
abstract.bind(b'\\0\\xff\\xfe\\n evil')
abstract.listen()
ctypes.CDLL(None).prctl(15, b'\\xff\\xfe\\x1b[2J', 0, 0, 0)
port = socket.socket()
port.bind(('0.0.0.0', 0))
port.listen()
time.sleep(200)
"""


def test_break_the_neighbors_release_with_a_non_text_socket_name(attacker, victim, source):
    """The app opens a socket whose name is not UTF-8: the neighbor's release is activated, and the previous one drained, as usual."""
    attacker.python(LISTEN, background=True)
    time.sleep(1)
    (source / "changed").write_text(f"{source} of the victim")
    run = victim.attempt(app_source=source, seconds=90)
    assert run.ok, run.output


@pytest.mark.parametrize("playbook", ["playbooks/status.yml", "playbooks/doctor.yml"])
def test_break_status_and_doctor_with_non_text_names(attacker, playbook):
    """The app has a listening process whose name is not UTF-8 and contains control characters: `make status` and `make doctor` succeed, and
    print no control character."""
    attacker.python(LISTEN, background=True)
    time.sleep(1)
    run = attacker.attempt(playbook, 90)
    # doctor reports that the lab's names are not in the DNS
    assert not run.hung and "Traceback" not in run.output and (run.ok or "no DNS record" in run.output), run.output
    assert "\x1b" not in run.output and "\\e[2J" not in run.output and "\\u001b" not in run.output.lower(), run.output


def test_break_a_release_with_non_text_output(attacker, source):
    """The release command prints bytes that are not UTF-8: the release is activated."""
    before = attacker.live()
    run = attacker.attempt(app_source=source, app_release_command="printf '\\377\\376 done\\n'; printf '\\377' >&2")
    assert run.ok and attacker.live() != before, run.output


def test_break_a_one_off_command_with_non_text_output(attacker):
    """A one-off command prints bytes that are not UTF-8, and control characters: the operator sees the output without them."""
    run = attacker.attempt("playbooks/run.yml", release_run="printf '\\377\\376 done \\033[2J\\n'")
    assert run.ok and "done" in run.output, run.output
    assert "\x1b" not in run.output, run.output


def test_send_control_characters_in_file_names(attacker):
    """A file name contains control characters: the output of the backup contains none."""
    attacker.python(
        "import os\nopen(os.environ['STATE_DIRECTORY'] + '/evil\\x1b[2J\\x07.db', 'wb').write(b'SQLite format 3' + bytes(1) + b'x' * 5000)"
    )
    run = assert_backup(attacker)
    assert "\x1b" not in run.output, run.output


# -- log lines ---------------------------------------------------------------------------------------------------------

ESCAPES = """
import sys
print("\\x1b]0;owned\\x07\\x1b[2J\\x1b[31m\\x9b2J\\x08\\x08 the end of it", file=sys.stderr, flush=True)
raise RuntimeError("\\x1b[2J owned \\x1b]52;c;ZXZpbA==\\x07")
"""


def test_send_control_characters_in_log_lines(attacker, source):
    """A release fails, and its log lines contain terminal escape sequences: the operator sees the final log lines without them."""
    (source / "web.py").write_text(ESCAPES)
    run = attacker.attempt(app_source=source, release_health_timeout_seconds=8)
    assert not run.ok and "owned" in run.output, run.output
    found = {character for character in run.output if (ord(character) < 32 and character not in "\n\t\r") or 127 <= ord(character) < 160}
    assert not found, found
    # a terminal would not interpret this, but `echo -e` and some callbacks would
    assert '"\\e' not in run.output


def test_send_control_characters_from_a_migration(attacker, source):
    """A release command fails and prints terminal escape sequences: the operator sees its output without them."""
    run = attacker.attempt(app_source=source, app_release_command="printf '\\033]0;owned\\007\\033[2J owned\\n'; exit 3")
    assert not run.ok and "owned" in run.output, run.output
    assert "\x1b" not in run.output and "\x07" not in run.output, run.output


LONG = {
    "the database's error": "OperationalError" * 25_000,
    "a connection that failed": "connection to server " * 20_000,
    "a traceback": "Traceback (most recent call last)\\n" * 12_000,
    "one letter": "x" * 400_000,
    "spaces": " " * 400_000,
}


@pytest.mark.parametrize("line", LONG)
def test_hang_a_run_with_a_long_line(attacker, source, line):
    """A release command fails and prints a line of 400 KB that is expensive for regular expressions: the run ends in time."""
    (source / "migrate.py").write_text(f"import sys\nsys.stderr.write('{LONG[line]}\\n')\nsys.exit(1)\n")
    run = attacker.attempt(app_source=source, seconds=240)
    assert not run.ok and not run.hung, run.output[-2000:]


def test_hang_a_run_with_long_log_lines(attacker, source):
    """A release fails after log lines of 400 KB: the run ends in time, and prints the final log lines instead of megabytes."""
    (source / "web.py").write_text(
        "import sys\nfor _ in range(20):\n    sys.stderr.write('connection to server ' * 20000 + '\\n')\nraise RuntimeError('owned')\n"
    )
    run = attacker.attempt(app_source=source, seconds=90, release_health_timeout_seconds=8)
    assert not run.ok and not run.hung, run.output[-2000:]
    assert len(run.output) < 1_000_000, len(run.output)
