"""The attacker uses up what another app of the host needs, or tries to access that app."""

import shlex
import time

import pytest
from conftest import STATE
from sites import wait_until

# -- memory that belongs to no process: /run, /dev/shm, queues ----------------------------------------------------------

# At most 300 MB, because the test machine provides this memory.
FILL = """
import os
written = files = 0
try:
    with open(directory + '/filler', 'wb') as file:
        for _ in range(300):
            written += file.write(bytes(2 ** 20))
except OSError as error:
    print(error)
try:
    for files in range(30000):
        open(f'{directory}/many{files}', 'w').close()
except OSError as error:
    print(error)
print(written // 2 ** 20, files)
"""


def filled(attacker, directory):
    """The megabytes and the number of files that the app could write there."""
    output = attacker.python(FILL, directory=directory).splitlines()
    megabytes, files = map(int, output[-1].split())
    return megabytes, files


@pytest.mark.sample
def test_fill_run(attacker, victim):
    """The app fills its runtime directory with data and files: it gets a small share, and the host can still write to /run."""
    directory = attacker.host.check_output("dirname $(readlink /srv/hostile/live/wsgi.sock)")
    before = attacker.host.check_output("df --output=used /run | tail -n 1")
    try:
        megabytes, files = filled(attacker, directory)
        taken = int(attacker.host.check_output("df --output=used /run | tail -n 1")) - int(before)
        attacker.host.check_output("touch /run/still-room && rm /run/still-room")
    finally:
        attacker.host.run(f"find {directory} -name filler -delete -o -name 'many*' -delete")
    assert megabytes < 100 and files < 29_000, (megabytes, files)
    assert taken < 20_000, taken


@pytest.mark.parametrize(
    "directory",
    ["/dev/shm", "/dev/mqueue", "/run/lock", "/tmp", "/var/tmp", "/run/user", "/run/systemd"],
)
def test_fill_a_shared_directory(attacker, victim, directory):
    """The app fills /dev/shm and other directories that everyone can write to: it gets a private copy, and the neighbor has as much space
    as before."""
    try:
        output = attacker.python(FILL, directory=directory)
        seen = attacker.host.run(f"ls {directory}/filler {directory}/many0").stdout
        mine = (
            victim.python(
                f"import os\nopen('{directory}/of-the-victim', 'wb').write(bytes(2 ** 20))\nprint('written')\nos.remove('{directory}/of-the-victim')"
            )
            if directory in ("/dev/shm", "/tmp", "/var/tmp")
            else "written"
        )
    finally:
        attacker.host.run(f"find {directory} -maxdepth 1 -name filler -delete -o -maxdepth 1 -name 'many*' -delete")
        attacker.bash(f"rm -f {directory}/filler; find {directory} -maxdepth 1 -name 'many*' -delete 2>/dev/null; true")
    assert seen == "" and mine == "written", (output, seen, mine)


SYSV = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.shmget(0x7777, 100 * 2 ** 20, 0o1666))
print(libc.msgget(0x7777, 0o1666))
"""


def test_leave_shared_memory_behind(attacker, victim):
    """The app creates System V shared memory and queues, which outlive it: the neighbor can't see them."""
    attacker.python(SYSV)
    try:
        output = victim.bash("cat /proc/sysvipc/shm /proc/sysvipc/msg; ipcs -a") + victim.python(
            "import ctypes\nprint('found', ctypes.CDLL(None).shmget(0x7777, 1, 0))"
        )
        assert output.endswith("found -1"), output
        assert "0x00007777" not in attacker.host.check_output("ipcs -a")
    finally:
        attacker.host.run("ipcrm -M 0x7777; ipcrm -Q 0x7777")


# -- the services ------------------------------------------------------------------------------------------------------

CONNECT = """
import os, psycopg, time
held = []
try:
    for _ in range(150):
        held.append(psycopg.connect(os.environ['DATABASE_URL'], connect_timeout=5))
except psycopg.Error as error:
    print(str(error).strip().splitlines()[-1], flush=True)
print('holds', len(held), flush=True)
time.sleep(seconds)
"""


@pytest.mark.machine
def test_take_all_connections_of_postgresql(attacker, victim):
    """The app opens connections to PostgreSQL until it gets no more: its neighbor and the backup can still connect."""
    attacker.python(CONNECT, background=True, seconds=60)
    wait_until(lambda: "holds" in attacker.host.run(f"cat {STATE}/background.log").stdout, 30)
    status, body = victim.get("/rows")
    assert status == 200, (body, attacker.host.check_output(f"cat {STATE}/background.log"))
    backup = victim.attempt("playbooks/backup.yml", 90)
    assert backup.ok, backup.output


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql:///victim?host=/run/postgresql",
        "postgresql:///postgres?host=/run/postgresql",
        "postgresql:///template1?host=/run/postgresql",
        "postgresql://postgres@/postgres?host=/run/postgresql",
        "postgresql://victim@/victim?host=/run/postgresql",
    ],
)
def test_read_the_neighbors_database(attacker, url):
    """The app connects to the databases of its neighbor and of PostgreSQL itself, and asks PostgreSQL to read a file or to run a program:
    all of it is denied."""
    code = (
        "import os, psycopg\n"
        "try:\n"
        "    with psycopg.connect(url or os.environ['DATABASE_URL'], connect_timeout=5) as database:\n"
        "        print(database.execute(statement).fetchall())\n"
        "except psycopg.Error as error:\n"
        "    print('denied', error)\n"
    )
    statements = (
        ["select count(*) from releases"]
        if url
        else [
            "select pg_read_file('/etc/passwd')",
            "copy (select 1) to program 'id'",
            "create role evil superuser",
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'victim'",
            "alter role hostile connection limit 1000",
        ]
    )
    for statement in statements:
        output = attacker.python(code, url=url, statement=statement)
        assert "denied" in output or output == "[]", (statement, output)


ADMIN = """
import os, redis
connection = redis.Redis.from_url(os.environ['REDIS_URL'])
for command in commands:
    try:
        print(command, 'allowed', connection.execute_command(*command))
    except redis.RedisError as error:
        print(command, 'denied', error)
"""
COMMANDS = [
    ["CONFIG", "SET", "maxmemory", "8gb"],
    ["CONFIG", "SET", "dir", "/var/lib/redis/victim"],
    ["CONFIG", "GET", "*"],
    ["CONFIG", "REWRITE"],
    ["ACL", "SETUSER", "evil", "on", "nopass", "+@all", "~*"],
    ["ACL", "LIST"],
    ["MODULE", "LOAD", "/var/lib/hostile/evil.so"],
    ["REPLICAOF", "127.0.0.1", "6379"],
    ["DEBUG", "SLEEP", "0"],
    ["SAVE"],
    ["BGREWRITEAOF"],
    ["MONITOR"],
    ["CLUSTER", "RESET"],
    ["LATENCY", "RESET"],
    ["CLIENT", "KILL", "TYPE", "normal"],
    ["SHUTDOWN", "NOSAVE"],
]


@pytest.mark.sample
def test_administer_redis(attacker):
    """The app tries to change where its Redis writes, how much memory it uses and what it loads, and to stop it: all of it is denied."""
    started = attacker.host.check_output("systemctl show --value --property=ActiveEnterTimestampMonotonic redis-server@hostile")
    output = attacker.python(ADMIN, commands=COMMANDS)
    wait_until(lambda: attacker.host.service("redis-server@hostile").is_running, 20)
    assert "] allowed" not in output and output.count("] denied") == len(COMMANDS), output
    assert started == attacker.host.check_output("systemctl show --value --property=ActiveEnterTimestampMonotonic redis-server@hostile")


def test_redis_still_works_for_apps(attacker):
    """The app uses its Redis as a cache, as a queue and for messages: all of it works."""
    commands = [
        ["SET", "a", "1"],
        ["GET", "a"],
        ["LPUSH", "q", "job"],
        ["BRPOP", "q", "1"],
        ["PUBLISH", "c", "m"],
        ["EVAL", "return 1", "0"],
        ["XADD", "s", "*", "f", "v"],
        ["EXPIRE", "a", "5"],
        ["SCAN", "0"],
        ["PING"],
        ["INFO"],
    ]
    output = attacker.python(ADMIN, commands=commands)
    assert output.count("] allowed") == len(commands), output


def test_connect_to_the_neighbors_redis(attacker):
    """The app connects to the Redis of its neighbor: the connection is denied."""
    output = attacker.python(
        "import redis\ntry:\n    print(redis.Redis(unix_socket_path='/run/redis-victim/redis.sock').ping())\nexcept Exception as error:\n    print('denied', error)"
    )
    assert output.startswith("denied"), output


# -- the journal -------------------------------------------------------------------------------------------------------

FLOOD = """
import base64, os, sys
for _ in range(4000):
    sys.stderr.write(base64.b64encode(os.urandom(30000)).decode() + '\\n')
"""


def test_flood_the_journal(attacker, victim):
    """The app writes more log lines than the journal may keep: its neighbor's lines and those of sshd are kept."""
    marker = f"marker-{time.time_ns()}"
    victim.get("/log", "--data", f"text={marker}")
    attacker.host.check_output(f"logger --tag sshd {marker}-sshd; sleep 1; journalctl --sync")
    # the worker writes them, because its output goes to the journal
    attacker.python(
        "import os\nos.chdir(state)\nopen('flood.py', 'w').write(flood)\nopen('worker.new', 'w').write('python $STATE_DIRECTORY/flood.py; touch $STATE_DIRECTORY/flooded')\n"
        "os.rename('worker.new', 'worker.sh')",
        state=STATE,
        flood=FLOOD,
    )
    wait_until(lambda: attacker.host.file(f"{STATE}/flooded").exists, 90)
    attacker.host.run("journalctl --sync; sleep 2")
    assert marker in attacker.host.run(f"journalctl --namespace='*' --grep {marker} --no-pager --output=cat").stdout
    assert f"{marker}-sshd" in attacker.host.run(f"journalctl --grep {marker}-sshd --no-pager --output=cat").stdout


@pytest.mark.sample
def test_flood_the_journal_through_redis(attacker):
    """The app makes its Redis write many log lines, which go to the host's journal: only a few get there."""
    marker = f"flood-{time.time_ns()}"
    attacker.python(ADMIN, commands=[["EVAL", f"for i = 1, 20000 do redis.log(redis.LOG_WARNING, '{marker}') end return 1", "0"]])
    attacker.host.check_output("sleep 1; journalctl --sync; true")
    lines = int(attacker.host.check_output(f"journalctl --grep {marker} --no-pager --output=cat | wc -l"))
    assert 0 < lines < 1000, lines


FORGE = """
import socket
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for path, text in (
    ('/run/systemd/journal/socket', 'MESSAGE={0}\\nSYSLOG_IDENTIFIER=victim\\nPRIORITY=0\\n'),
    ('/run/systemd/journal/socket', 'MESSAGE={0}\\nSYSLOG_IDENTIFIER=sshd\\n_SYSTEMD_UNIT=ssh.service\\n'),
    ('/run/systemd/journal/dev-log', '<38>sshd[1]: {0}'),
    ('/dev/log', '<38>sshd[1]: {0}'),
    ('/run/systemd/journal.victim/socket', 'MESSAGE={0}\\nPRIORITY=0\\n'),
    ('/run/systemd/journal.victim/dev-log', '<38>victim[1]: {0}'),
):
    try:
        journal.sendto(text.format(marker).encode(), path)
    except OSError as error:
        print(path, error)
"""


def test_forge_log_lines_of_the_neighbor(attacker):
    """The app writes log lines under the names of its neighbor and of sshd: none of them appears in their logs."""
    marker = f"forged-{time.time_ns()}"
    attacker.python(FORGE, marker=marker)
    attacker.host.check_output("sleep 1; journalctl --sync; true")
    for selection in ("--identifier=victim", "--identifier=sshd", "--unit=ssh", "--unit='victim@*'", "--namespace=victim"):
        assert marker not in attacker.host.run(f"journalctl {selection} --since=-5min --no-pager --output=cat").stdout, selection


def test_flood_systemd(attacker):
    """The app sends messages to the sockets of systemd and its helpers, which everyone can write to: it finds none except those of its own
    journal."""
    output = attacker.bash("find /run/systemd -type s 2>/dev/null | grep -v '^/run/systemd/journal/'; true")
    assert output == "", output
    output = attacker.python(
        "import socket\ntry:\n    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'X=1', '/run/systemd/notify')\n    print('sent')\nexcept OSError as error:\n    print('denied', error)"
    )
    assert output.startswith("denied"), output


# -- sockets and ports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [pytest.param("link", marks=[pytest.mark.sample, pytest.mark.machine]), "directory"])
def test_redirect_nginx_to_the_neighbor(attacker, victim, target):
    """The app replaces its socket, or the socket's directory, with a link to its neighbor's: nginx doesn't send visitors there."""
    mine = attacker.host.check_output("readlink /srv/hostile/live/wsgi.sock")
    victim_socket = attacker.host.check_output("readlink /srv/victim/live/wsgi.sock")
    before, directory = victim.get("/")[1], mine.rpartition("/")[0]
    if target == "link":
        attacker.bash(f"ln -sf {victim_socket} {mine}")
    else:
        attacker.bash(f"mv {directory} {directory}.old; ln -s {victim_socket.rpartition('/')[0]} {directory}")
    # nginx keeps its connections to the app open for a second
    time.sleep(2)
    try:
        assert before not in attacker.get("/")[1]
    finally:
        attacker.host.run(f"rm -rf {directory}.old; [ ! -L {directory} ] || rm {directory}; systemctl restart hostile@{attacker.live()}")


def test_pass_a_health_check_with_the_neighbors_socket(attacker, victim, source):
    """The next release's server links its socket to its neighbor's, so that the neighbor's health page answers the check: the release
    fails, and the one after it succeeds."""
    victim_socket = attacker.host.check_output("readlink /srv/victim/live/wsgi.sock")
    (source / "web.py").write_text(
        f"import os, time\nos.symlink({victim_socket!r}, os.environ['SOCKET'] + '.new')\nos.rename(os.environ['SOCKET'] + '.new', os.environ['SOCKET'])\ntime.sleep(60)\n"
    )
    before, page = attacker.live(), victim.get("/")[1]
    run = attacker.attempt(app_source=source, release_health_timeout_seconds=8, app_processes={})
    assert not run.ok and attacker.live() == before, run.output
    assert page not in attacker.get("/")[1]
    again = attacker.attempt()
    assert again.ok and len(attacker.instances()) == 1, again.output


def test_connect_to_the_neighbors_socket(attacker):
    """The app connects to its neighbor's socket, bypassing nginx, and reads its files: all of it is denied."""
    victim_socket = attacker.host.check_output("readlink /srv/victim/live/wsgi.sock")
    output = attacker.python(
        f"import socket\ntry:\n    socket.socket(socket.AF_UNIX).connect({victim_socket!r})\n    print('connected')\nexcept OSError as error:\n    print('denied', error)"
    )
    assert output.startswith("denied"), output
    output = attacker.bash(
        "cat /srv/victim/live/env /srv/victim/live/app/web.py /var/lib/victim/* /srv/victim/live/manifest.json 2>/dev/null; ls /var/lib/victim /srv/victim/releases /run/victim /run/flaskhost/victim 2>/dev/null; true"
    )
    assert output == "", output


BIND = """
import socket
for family, address in ((socket.AF_INET, ('0.0.0.0', port)), (socket.AF_INET, ('127.0.0.1', port)), (socket.AF_INET6, ('::', port))):
    try:
        server = socket.socket(family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(address)
        server.listen()
        print('bound', address)
    except OSError as error:
        print('denied', error)
"""


@pytest.mark.machine
@pytest.mark.parametrize("port", [22, 80, 443])
def test_take_a_port(attacker, port):
    """The app binds the ports on which nginx and sshd listen, on any address: it gets none of them."""
    output = attacker.python(BIND, port=port)
    assert "bound" not in output, output


def test_see_the_neighbors_processes(attacker, victim):
    """The app reads the processes of its neighbor and of root, and sends them signals: it can't see or signal any of them."""
    pid = victim.main_process()
    output = attacker.bash(
        f"cat /proc/{pid}/environ 2>/dev/null; [ -O /proc/1 ] || cat /proc/1/environ 2>/dev/null; kill -STOP {pid} 2>/dev/null && echo stopped; ls -d /proc/{pid} 2>/dev/null; ps aux 2>/dev/null | grep -c '[v]ictim'; true"
    )
    assert output.splitlines()[-1:] in ([], ["0"]) and "marker" not in output and "stopped" not in output, output


def test_read_secrets_of_the_host(attacker):
    """The app looks for secrets in all files that it can read, such as keys, backups, settings of other apps and the operator's files: it
    finds none."""
    output = attacker.bash(
        "cat /etc/flaskhost/* /etc/ssl/flaskhost/*/* /root/.ssh/* /etc/shadow /etc/redis/redis-victim.conf /var/backups/*/* /var/log/nginx/*"
        f" /var/lib/flaskhost/*/* 2>/dev/null | head -c 2000; find / -xdev -readable -newermt 2020-01-01 -type f \\( -name '*.key' -o -name '*.pem' -o -name '.env' -o -name env \\) -path '*{shlex.quote('flaskhost')}*' 2>/dev/null"
    )
    assert output == "", output


def test_block_the_neighbor_through_nginx(attacker, victim):
    """The app keeps 600 connections to nginx open: the neighbor's visitors don't notice."""
    attacker.python(
        "import socket, time\nheld = []\nfor _ in range(600):\n    try:\n        held.append(socket.create_connection(('127.0.0.1', 443), 2))\n    except OSError:\n        break\ntime.sleep(15)",
        background=True,
    )
    for _ in range(10):
        assert victim.get("/")[0] == 200
        time.sleep(0.3)


BIND_ALL = """
import resource, socket
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
sockets, bound = [], 0
for port in range(32768, 61000):
    taker = socket.socket()
    try:
        taker.bind(('127.0.0.77', port))
        sockets.append(taker)
        bound += 1
    except OSError:
        taker.close()
print(bound)
"""


def test_take_every_outgoing_port(attacker):
    """The app binds the ports that outgoing connections need, and asks the kernel for any free port: it gets none of them if systemd is
    built with BPF (Debian 13)."""
    if attacker.age == "older":
        pytest.skip("its systemd is built without BPF, as docs/security.md says")
    assert attacker.python(BIND_ALL) == "0"
    output = attacker.python(
        "import socket\ntry:\n    socket.socket().bind(('127.0.0.77', 0))\n    print('bound')\nexcept OSError as error:\n    print('denied', error)"
    )
    assert output.startswith("denied"), output
    assert "listens" in attacker.python("import socket\nsocket.create_server(('127.0.0.77', 15000))\nprint('listens')")


FLOOD_THE_NEIGHBOR = """
import collections, http.client, socket, ssl
context = ssl._create_unverified_context()
statuses = collections.Counter()
for source in range(sources):
    raw = socket.create_connection(('127.0.0.1', 443), source_address=(f'127.0.2.{source + 1}', 21000 + source) if source else None)
    connection = http.client.HTTPConnection('victim.test')
    connection.sock = context.wrap_socket(raw, server_hostname='victim.test')
    for _ in range(900 // sources):
        connection.request('GET', path)
        answer = connection.getresponse()
        answer.read()
        statuses[answer.status] += 1
    connection.close()
print(statuses[200], statuses[429])
"""


@pytest.mark.parametrize(("path", "sources"), [("/", 1), ("/healthz", 1), pytest.param("/", 9, marks=pytest.mark.sample)])
def test_overload_the_neighbor_over_the_loopback(attacker, victim, path, sources):
    """The app sends its neighbor any number of requests over the loopback, from one address or from many: they are limited like a
    visitor's, and a release of the neighbor succeeds meanwhile."""
    answered, limited = map(int, attacker.python(FLOOD_THE_NEIGHBOR, path=path, sources=sources).split())
    assert answered + limited == 900 and limited > 100, (answered, limited)
    attacker.python(
        f"while True:\n    try:\n        exec({FLOOD_THE_NEIGHBOR!r})\n    except OSError:\n        pass",
        background=True,
        path=path,
        sources=sources,
    )
    run = victim.attempt(seconds=90)
    assert run.ok, run.output


CONNECT_TO_SSHD = """
import socket
reached = []
for number in range(70):
    caller = socket.socket()
    caller.bind((f'127.0.1.{number + 1}', 22000 + number))
    caller.settimeout(5)
    try:
        caller.connect((address, 22))
        reached.append(caller)
    except OSError:
        pass
print(len(reached))
"""


@pytest.mark.parametrize("address", [pytest.param("127.0.0.1", marks=pytest.mark.sample), "own"])
def test_lock_the_operator_out_of_ssh(attacker, address):
    """The app opens connections to sshd from many loopback addresses without logging in, to use up all that sshd accepts: none of them
    succeeds."""
    own = attacker.host.check_output("hostname -I").split()[0]
    assert attacker.python(CONNECT_TO_SSHD, address=own if address == "own" else address) == "0"
    # root and other users still can
    assert attacker.host.run("bash -c 'exec 3<>/dev/tcp/127.0.0.1/22 && head -c 4 <&3'").stdout == "SSH-"


READ_SLOWLY = """
import socket, ssl, time
context = ssl._create_unverified_context()
readers = []
for _ in range(4):
    reader = context.wrap_socket(socket.create_connection(('127.0.0.1', 443)), server_hostname='hostile.test')
    reader.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: hostile.test\\r\\n\\r\\n')
    readers.append(reader)
end = time.monotonic() + seconds
while time.monotonic() < end:
    for reader in readers:
        reader.recv(100)
    time.sleep(0.5)
"""


def test_fill_the_disk_through_nginx(attacker):
    """The app has an endless page, and reads it slowly: nginx buffers little of it on the host's disk."""
    attacker.bash(f"echo endless >{STATE}/health")
    attacker.python(READ_SLOWLY, background=True, seconds=10)
    time.sleep(8)
    # nginx has already unlinked these files
    held = attacker.host.check_output(
        "for file in /proc/[0-9]*/fd/*; do case $(readlink $file) in /var/lib/nginx/*) stat -Lc %b $file ;; esac; done 2>/dev/null"
        " | awk '{ blocks += $1 } END { print int(blocks) }'"
    )
    attacker.host.run(f"rm -f {STATE}/health")
    assert 0 < int(held) * 512 < 80 * 2**20, held
