"""The attacker gives answers that are endless, slow, huge or not text to the programs that read them."""

import threading
import time

import pytest
from conftest import STATE

# -- the health page ---------------------------------------------------------------------------------------------------

SETTINGS = {"release_health_answer_seconds": 1, "release_health_timeout_seconds": 8}


class Memory:
    """The most that one process of root's took meanwhile, in MB."""

    def __init__(self, host):
        self.host, self.most, self.ends = host, 0, False
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.ends:
            # what Ansible runs on the host
            told = self.host.run(
                "ps -o rss= -p $(pgrep --full --euid root '[A]nsiballZ|^/usr/bin/python3$' | paste -sd,) | sort -n | tail -n 1"
            ).stdout.strip()
            self.most = max(self.most, int(told or 0) // 1024)
            time.sleep(0.3)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_error):
        self.ends = True
        self.thread.join()


@pytest.mark.parametrize("mood", ["slow", pytest.param("endless", marks=pytest.mark.sample), "big"])
def test_hang_a_release_by_its_health_page(attacker, source, mood):
    """The next release's health page sends a byte every half second, or never ends, or is 400 MB: a slow one fails the release within its time
    limit, and of a long one root reads no more than 64 KB."""
    before = attacker.live()
    attacker.bash(f"echo {mood} >{STATE}/health")
    with Memory(attacker.host) as memory:
        run = attacker.attempt(app_source=source, seconds=90, **SETTINGS)
    attacker.end_runs()
    attacker.host.check_output(f"rm -f {STATE}/health")
    assert not run.hung, run.output
    assert memory.most < 150, memory.most
    # what is read of a long one is a good answer
    assert run.ok == (mood != "slow") and (attacker.live() == before) == (mood == "slow"), run.output


@pytest.mark.parametrize("mood", ["slow", "endless"])
@pytest.mark.parametrize("playbook", ["playbooks/status.yml", "playbooks/doctor.yml"])
def test_hang_the_report_by_the_health_page(attacker, mood, playbook):
    """The live release's health page sends a byte every half second, or never ends: `make status` and `make doctor` end, and report it."""
    attacker.bash(f"echo {mood} >{STATE}/health")
    run = attacker.attempt(playbook, 60)
    attacker.end_runs()
    assert not run.hung, run.output


# -- backups -----------------------------------------------------------------------------------------------------------


def backed_up(attacker, seconds=400):
    """A file of the app's is in a new backup, whatever else is among its data."""
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


def test_hang_the_backup_by_an_upload(attacker):
    """A visitor uploads a database of 28 KB with a constraint that takes hours to check: the backup has everything, within its time limit."""
    assert int(attacker.python(EXPENSIVE)) < 60_000
    backed_up(attacker)


GREEDY = """
import os, sqlite3
os.chdir(os.environ['STATE_DIRECTORY'])
database = sqlite3.connect('greedy.db')
database.execute('pragma ignore_check_constraints = on')
database.execute('create table t (a integer check (length(zeroblob(900000000) || zeroblob(100000000 - a)) > 0))')
database.execute('insert into t values (1)')
database.commit()
"""


def test_take_the_memory_of_the_host_by_an_upload(attacker):
    """A visitor uploads a database whose check takes gigabytes of memory: the backup has everything else."""
    attacker.python(GREEDY)
    backed_up(attacker)


LOCKED = """
import os, sqlite3, time
os.chdir(os.environ['STATE_DIRECTORY'])
database = sqlite3.connect('locked.db', isolation_level=None)
database.execute('pragma locking_mode = exclusive')
database.execute('create table t (a)')
database.execute('begin exclusive')
time.sleep(500)
"""


def test_block_the_backup_by_a_lock(attacker):
    """The app keeps a database of its own locked: the backup has everything else, and reports that database."""
    attacker.python(LOCKED, background=True)
    time.sleep(2)
    run = backed_up(attacker)
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


def test_break_the_backup_by_many_databases(attacker):
    """The app keeps 9,000 databases: the backup has all its files, within its time limit."""
    attacker.python(MANY)
    backed_up(attacker)


PIPES = """
import os, time
os.chdir(os.environ['STATE_DIRECTORY'])
os.mkfifo('pipe.db')
end = time.monotonic() + 120
# now a database, now a pipe
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


def test_block_the_backup_by_a_pipe(attacker):
    """The app replaces its databases by pipes and pipes by databases while a backup is made: the backup doesn't block."""
    attacker.python(PIPES, background=True)
    time.sleep(1)
    backed_up(attacker, 200)


DEEP = """
import os
os.chdir(os.environ['STATE_DIRECTORY'])
for _ in range(2500):
    os.mkdir('d')
    os.chdir('d')
"""


@pytest.mark.sample
def test_break_the_backup_by_names_and_depth(attacker):
    """The app has names that are not text, with line breaks, and like options, directories 2,500 deep, sockets and a loop of links: the backup has
    all else."""
    attacker.bash(
        f"cd {STATE} && printf x >$'bad\\xff\\nname' && printf x >./--exclude=precious.txt && printf x >$'*[a-' && ln -s . loop && mkdir $'dir\\xfe'"
        " && cp $'bad\\xff\\nname' $'dir\\xfe/x.db'"
    )
    attacker.python(MAKE_ODD_DATABASE)
    attacker.python(DEEP)
    backed_up(attacker)


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
    """A backup is made that takes its time; meanwhile an operator asks which backups there are: the list is printed, or that one is being made."""
    attacker.python(LOCKED, background=True)
    attacker.python(EXPENSIVE)
    time.sleep(1)
    attacker.host.check_output("systemctl start --no-block hostile-backup.service; sleep 2")
    run = attacker.attempt("playbooks/restore.yml", 60)
    attacker.end_runs()
    assert not run.hung, run.output


# -- what is not text ---------------------------------------------------------------------------------------------------

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


def test_break_the_neighbor_s_release_by_a_socket_whose_name_is_no_text(attacker, victim, source):
    """The app opens a socket whose name is not UTF-8: the neighbor's release is drained and goes live as ever."""
    attacker.python(LISTEN, background=True)
    time.sleep(1)
    (source / "changed").write_text(f"{source} of the victim")
    run = victim.attempt(app_source=source, seconds=90)
    assert run.ok, run.output


@pytest.mark.parametrize("playbook", ["playbooks/status.yml", "playbooks/doctor.yml"])
def test_break_the_report_by_names_that_are_no_text(attacker, playbook):
    """The app has a process that listens, with a name that is not UTF-8 and has control characters: `make status` and `make doctor` end well, and
    write no control character."""
    attacker.python(LISTEN, background=True)
    time.sleep(1)
    run = attacker.attempt(playbook, 90)
    # the lab's names are in no DNS, which the doctor finds
    assert not run.hung and "Traceback" not in run.output and (run.ok or "not in the DNS" in run.output), run.output
    assert "\x1b" not in run.output and "\\e[2J" not in run.output and "\\u001b" not in run.output.lower(), run.output


def test_break_a_release_by_a_migration_whose_output_is_no_text(attacker, source):
    """The release command prints bytes that are not UTF-8: the release goes live."""
    before = attacker.live()
    run = attacker.attempt(app_source=source, app_release_command="printf '\\377\\376 done\\n'; printf '\\377' >&2")
    assert run.ok and attacker.live() != before, run.output


def test_break_a_one_off_command_by_output_that_is_no_text(attacker):
    """A one-off command prints bytes that are not UTF-8 and control characters: the operator sees it without them."""
    run = attacker.attempt("playbooks/run.yml", release_run="printf '\\377\\376 done \\033[2J\\n'")
    assert run.ok and "done" in run.output, run.output
    assert "\x1b" not in run.output, run.output


def test_break_the_backup_s_report_by_file_names(attacker):
    """A file's name has control characters: what the backup prints of it has none."""
    attacker.python(
        "import os\nopen(os.environ['STATE_DIRECTORY'] + '/evil\\x1b[2J\\x07.db', 'wb').write(b'SQLite format 3' + bytes(1) + b'x' * 5000)"
    )
    run = backed_up(attacker)
    assert "\x1b" not in run.output, run.output


# -- log lines ---------------------------------------------------------------------------------------------------------

ESCAPES = """
import sys
print("\\x1b]0;owned\\x07\\x1b[2J\\x1b[31m\\x9b2J\\x08\\x08 the end of it", file=sys.stderr, flush=True)
raise RuntimeError("\\x1b[2J owned \\x1b]52;c;ZXZpbA==\\x07")
"""


def test_send_control_characters_to_the_operator_s_terminal(attacker, source):
    """A release fails with log lines that have terminal escape sequences: the operator sees its final log lines without them."""
    (source / "web.py").write_text(ESCAPES)
    run = attacker.attempt(app_source=source, release_health_timeout_seconds=8)
    assert not run.ok and "owned" in run.output, run.output
    found = {character for character in run.output if (ord(character) < 32 and character not in "\n\t\r") or 127 <= ord(character) < 160}
    assert not found, found
    # a terminal would not see these, but `echo -e` and some callbacks would
    assert '"\\e' not in run.output


def test_send_control_characters_from_a_migration(attacker, source):
    """A release command fails, and prints terminal escape sequences: the operator sees its output without them."""
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
def test_hang_the_operator_by_a_long_line(attacker, source, line):
    """A release command fails, and prints a line of 400 KB, made to keep a regular expression busy: the run ends in time."""
    (source / "migrate.py").write_text(f"import sys\nsys.stderr.write('{LONG[line]}\\n')\nsys.exit(1)\n")
    run = attacker.attempt(app_source=source, seconds=60)
    assert not run.ok and not run.hung, run.output[-2000:]


def test_hang_the_operator_by_long_log_lines(attacker, source):
    """A release fails after log lines of 400 KB: the run ends in time, and the operator gets its final log lines, not megabytes."""
    (source / "web.py").write_text(
        "import sys\nfor _ in range(20):\n    sys.stderr.write('connection to server ' * 20000 + '\\n')\nraise RuntimeError('owned')\n"
    )
    run = attacker.attempt(app_source=source, seconds=90, release_health_timeout_seconds=8)
    assert not run.ok and not run.hung, run.output[-2000:]
    assert len(run.output) < 1_000_000, len(run.output)
