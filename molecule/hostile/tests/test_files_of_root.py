"""The attacker puts links, pipes and deep directories where root works: in the app's data, in a repository, in a build."""

import shlex
import subprocess

import pytest
from conftest import STATE, write_package
from sites import wait_until

# -- the data directory ------------------------------------------------------------------------------------------------


@pytest.mark.machine
@pytest.mark.sample
def test_become_root_through_a_link_in_the_data_directory(attacker, bait):
    """The app replaces a directory of its data with a link to a root-owned directory, and exits: systemd starts it again, and no root-owned
    file changes its owner."""
    attacker.bash(f"cd {STATE} && mv data data.old && ln -s {bait.path} data")
    attacker.restart()
    assert bait.is_untouched()


@pytest.mark.parametrize(("path", "target"), [("data", "thumbs"), ("data/cache", "thumbs"), ("data/cache", "new")])
def test_make_directories_as_root_through_a_link_in_the_data_directory(attacker, bait, path, target):
    """The app replaces its data directory or a shared directory with a link to a root-owned directory or to a missing path: nothing is
    created there, and nothing changes its owner."""
    attacker.bash(f"cd {STATE} && mv data data.old && mkdir -p $(dirname {path}) && ln -s {bait.path}/{target} {path}")
    attacker.restart()
    assert bait.is_untouched()


@pytest.mark.parametrize("process", ["worker.1@LIVE", "schedule-tidy"])
def test_become_root_through_the_start_of_another_process(attacker, bait, process):
    """The same link exists when a worker or a scheduled job starts: no root-owned file changes its owner."""
    attacker.bash(f"cd {STATE} && mv data data.old && ln -s {bait.path} data")
    attacker.host.run(f"systemctl restart hostile-{process.replace('LIVE', attacker.live())}.service")
    assert bait.is_untouched()


def test_become_root_through_a_link_during_a_release(attacker, bait, source):
    """The same link exists when a release with one more shared directory is built, migrated and started: no root-owned file changes."""
    attacker.bash(f"cd {STATE} && mv data data.old && ln -s {bait.path} data && ln -s {bait.path} more")
    attacker.attempt(
        app_source=source, app_shared=["data/cache", "more/thumbs"], app_build_command="true", release_health_timeout_seconds=8
    )
    assert bait.is_untouched()


def test_become_root_through_a_one_off_command(attacker, bait):
    """The same link exists when an operator runs a one-off command: no root-owned file changes."""
    attacker.bash(f"cd {STATE} && mv data data.old && ln -s {bait.path} data")
    attacker.attempt("playbooks/run.yml", release_run="true")
    assert bait.is_untouched()


def test_link_to_a_file_of_root(attacker):
    """The app creates hard links to root-owned files in its data, to have them changed or backed up: the kernel denies it."""
    output = attacker.bash(
        f"for file in /etc/shadow /etc/passwd /srv/hostile/live/env; do ln $file {STATE}/$(basename $file); done; ls {STATE}"
    )
    assert "shadow" not in output.splitlines() and "passwd" not in output.splitlines() and "env" not in output.splitlines(), output


# -- a repository ------------------------------------------------------------------------------------------------------


@pytest.mark.sample
def test_become_root_through_a_link_in_the_repository(attacker, bait, source):
    """A commit contains a link to a root-owned directory in place of a shared directory: the release is rejected, and no root-owned file is
    removed."""
    (source / "data").symlink_to(bait.path)
    before = attacker.live()
    run = attacker.attempt(app_source=source)
    assert bait.is_untouched()
    assert not run.ok and not run.hung and attacker.live() == before, run.output


def git(directory, *arguments, stdin=None):
    result = subprocess.run(
        ["git", "-C", directory, "-c", "user.name=x", "-c", "user.email=x@x", *arguments], input=stdin, capture_output=True, check=True
    )
    return result.stdout.strip()


def test_write_as_root_through_a_duplicate_name_in_a_repository(attacker, bait, source):
    """A git tree contains a name twice, as a link to root-owned files and as a directory: the release is rejected, and nothing is written
    there."""
    git(source, "init", "--quiet")
    git(source, "add", "--all")
    tree = git(source, "cat-file", "tree", git(source, "write-tree").decode())
    raw = subprocess.run(["git", "-C", source, "cat-file", "tree", git(source, "write-tree")], capture_output=True, check=True).stdout
    link = git(source, "hash-object", "-w", "--stdin", stdin=bait.path.encode())
    file = git(source, "hash-object", "-w", "--stdin", stdin=b"written as root\n")
    directory = git(source, "mktree", stdin=b"100644 blob " + file + b"\tevil\n")
    twice = b"120000 zz\0" + bytes.fromhex(link.decode()) + b"40000 zz\0" + bytes.fromhex(directory.decode())
    assert tree
    both = git(source, "hash-object", "-t", "tree", "--literally", "-w", "--stdin", stdin=raw + twice)
    commit = git(source, "commit-tree", both.decode(), "-m", "evil")
    git(source, "update-ref", "HEAD", commit.decode())
    before = attacker.live()
    run = attacker.attempt(app_source=f"file://{source}")
    assert bait.is_untouched()
    assert not run.ok and not run.hung and attacker.live() == before, run.output


def test_serve_a_file_of_root_through_a_link_from_a_build(attacker, bait, source):
    """A build leaves a link to root-owned files among the static files: the release is rejected, or nginx doesn't follow the link."""
    build = f"ln -s {bait.path}/thumbs static/etc && ln -s {bait.path}/thumbs/list.txt static/list.txt"
    attacker.attempt(app_source=source, app_build_command=build)
    assert bait.is_untouched()
    assert attacker.get("/static/list.txt")[0] == 404 and attacker.get("/static/etc/list.txt")[0] == 404


# -- static files that are compressed ----------------------------------------------------------------------------------


def test_make_root_write_in_a_shared_directory_of_static_files(attacker, bait, source):
    """The static files are in a shared directory, where the app creates a link to root-owned files: the settings are rejected, and nothing
    is compressed there."""
    attacker.bash(f"mkdir -p {STATE}/media && ln -s {bait.path}/thumbs {STATE}/media/thumbs")
    before = attacker.live()
    run = attacker.attempt(app_source=source, app_shared=["media"], app_static={"/static/": "static", "/m/": "media/thumbs"})
    assert bait.is_untouched()
    assert not run.ok and not run.hung and attacker.live() == before, run.output


def test_make_root_write_in_a_shared_directory_below_static_files(attacker, source):
    """A shared directory is below the static files: the settings are rejected."""
    attacker.bash(f"mkdir -p {STATE}/static/up && seq 3000 >{STATE}/static/up/list.txt")
    run = attacker.attempt(app_source=source, app_shared=["static/up"])
    assert not attacker.host.file(f"{STATE}/static/up/list.txt.gz").exists
    assert not run.ok and not run.hung, run.output


def test_make_root_write_through_a_committed_link(attacker, bait, source):
    """In a commit, the directory of static files is a link into the app's data, where there is a pipe and another link: nothing is
    compressed there, and no run hangs."""
    attacker.bash(
        f"mkdir -p {STATE}/data/out && cd {STATE}/data/out && seq 3000 >list.txt && mkfifo pipe.css && ln -s {bait.path}/thumbs more"
    )
    (source / "public").symlink_to(f"{STATE}/data/out")
    run = attacker.attempt(app_source=source, app_static={"/static/": "static", "/p/": "public"})
    assert not run.hung, run.output
    assert bait.is_untouched()
    assert not attacker.host.file(f"{STATE}/data/out/list.txt.gz").exists


# -- backups -----------------------------------------------------------------------------------------------------------

# Watch a file with inotify. After this many readers have closed it, replace its directory with a link.
SWAP_AFTER_READERS = """
import ctypes, os, struct
os.chdir(os.environ['STATE_DIRECTORY'])
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init()
libc.inotify_add_watch(watch, b'd/evil.sh', 0x8 | 0x10)
seen = 0
while seen < readers:
    data = os.read(watch, 4096)
    while data:
        seen += 1
        length = struct.unpack('iIII', data[:16])[3]
        data = data[16 + length:]
os.rename('d', 'd.old')
os.symlink('/etc/profile.d', 'd')
"""
MAKE_SQLITE = """
import os, sqlite3
path = os.path.join(os.environ['STATE_DIRECTORY'], name)
os.makedirs(os.path.dirname(path), exist_ok=True)
database = sqlite3.connect(path)
database.execute('create table t (a)')
database.execute("insert into t values ('#!/bin/sh')")
database.commit()
database.close()
"""


@pytest.mark.parametrize("readers", [pytest.param(2, marks=[pytest.mark.sample, pytest.mark.machine]), 1, 3])
def test_plant_a_file_with_a_restore(attacker, readers):
    """During a backup, the app replaces the directory of a database that was just copied with a link to /etc/profile.d. The backup is then
    restored: nothing is written outside of the app's data."""
    attacker.python(MAKE_SQLITE, name="d/evil.sh")
    attacker.python(SWAP_AFTER_READERS, background=True, readers=readers)
    run = attacker.backup()
    assert not run.hung, run.output
    restored = attacker.restore("latest")
    assert not restored.hung, restored.output
    assert "evil.sh" not in attacker.host.check_output("ls /etc/profile.d")


SWAP_ALWAYS = """
import os, time
os.chdir(os.environ['STATE_DIRECTORY'])
os.symlink('/etc/profile.d', 'other')
end = time.monotonic() + seconds
while time.monotonic() < end:
    for there, aside in ('d', 'd.old'), ('other', 'd'), ('d', 'other'), ('d.old', 'd'):
        os.rename(there, aside)
        if there != 'd':
            time.sleep(0.05)
"""


def test_plant_a_file_with_an_alternating_link(attacker):
    """During a backup and its restore, the directory of a database alternates between a directory and a link: nothing is written outside of
    the app's data."""
    attacker.python(MAKE_SQLITE, name="d/evil.sh")
    attacker.python(SWAP_ALWAYS, background=True, seconds=90)
    assert not attacker.backup().hung
    assert not attacker.restore("latest").hung
    assert "evil.sh" not in attacker.host.check_output("ls /etc/profile.d")


# Open the directory where backups are prepared, through any process of the app's user that can write to it. Then replace directories in
# it with links.
SWAP_WHILE_OWNED = """
import os, time
me = open('/proc/self/cgroup').read()
handle, end = None, time.monotonic() + seconds
while handle is None and time.monotonic() < end:
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            path = f'/proc/{pid}/root/var/lib/flaskhost/hostile'
            # it is read-only in the app's own units
            if open(f'/proc/{pid}/cgroup').read() != me and not os.statvfs(path).f_flag & os.ST_RDONLY:
                handle = os.open(path, os.O_PATH)
                print('opened the directory', flush=True)
                break
        except OSError:
            pass
swapped, seen = 0, None
while handle is not None and time.monotonic() < end and not swapped:
    try:
        now = os.stat('fetched/files', dir_fd=handle).st_ctime_ns
    except OSError:
        continue
    # root lists the files before it changes the first one
    seen = seen or now
    if now == seen:
        continue
    for number in range(300):
        try:
            os.rename(f'fetched/files/tree/{number}', f'fetched/files/tree/old{number}', src_dir_fd=handle, dst_dir_fd=handle)
            os.symlink(bait + '/cache', f'fetched/files/tree/{number}', dir_fd=handle)
            swapped += 1
        except OSError as error:
            if number == 0:
                print(error, flush=True)
                break
print('swapped', swapped, flush=True)
"""


def test_take_a_file_of_root_during_a_restore(attacker, bait):
    """Through a process of the backup that runs as the app's user, the app opens the directory where backups are prepared, and creates
    links there while root works on it: no root-owned file changes its owner."""
    attacker.python(MAKE_SQLITE, name="d/one.db")
    attacker.bash(
        f"cd {STATE} && mkdir tree fill && cd fill && for n in $(seq 6000); do >$n; done; cd ../tree && for n in $(seq 0 299); do mkdir $n; >$n/secret; done"
    )
    attacker.python(SWAP_WHILE_OWNED, background=True, seconds=100, bait=bait.path)
    run = attacker.backup()
    assert run.ok, run.output
    attacker.restore("latest")
    assert bait.is_untouched(), attacker.host.run(f"cat {STATE}/background.log").stdout


# -- pruning -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def deep_directories_removed(attacker):
    """Remove what would break later runs, whether or not the release was pruned."""
    yield
    attacker.host.check_output("rm -rf /srv/hostile/releases/*/app/d /srv/hostile/venvs/*/d")


DEEP = """import os
for _ in range(1500):
    os.mkdir('d')
    os.chdir('d')
"""


def test_prevent_pruning_with_deep_directories(attacker, deep_directories_removed, tmp_path, source):
    """A build leaves directories nested 1,500 levels deep: the release is rejected, or pruned in time, and later releases succeed."""
    (source / "deep.py").write_text(DEEP)
    first = attacker.attempt(app_source=source, app_build_command="python3 deep.py")
    deep = attacker.live()
    for number in range(2):
        (source / "deep.py").write_text("")
        (source / "changed").write_text(f"{tmp_path} {number}")
        run = attacker.attempt(app_source=source, release_keep=1)
        assert run.ok, first.output + run.output
    assert attacker.live() != deep
    assert deep not in attacker.host.check_output("ls /srv/hostile/releases").split() or not first.ok
    assert attacker.host.run("find /srv/hostile/releases -path '*/d/d/d/d' -prune | grep .").rc != 0


DEEP_SETUP = """
import os
from setuptools import setup
setup(name="evil", version="1", py_modules=[])
venv = os.environ.get("VIRTUAL_ENV", "")
if os.path.isdir(venv) and not os.path.exists(venv + "/d"):
    os.chdir(venv)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
"""


def test_prevent_pruning_with_a_deep_venv(attacker, deep_directories_removed, tmp_path, source):
    """The setup.py of a dependency leaves directories nested 1,500 levels deep in the venv: the venv is rejected, or pruned in time, and
    later releases succeed."""
    write_package(source, DEEP_SETUP)
    first = attacker.attempt(app_source=source)
    for number in range(2):
        (source / "requirements.txt").write_text("Flask\npsycopg[binary]\nredis\n")
        (source / "changed").write_text(f"{tmp_path} {number}")
        run = attacker.attempt(app_source=source, release_keep=1)
        assert run.ok, first.output + run.output
    wait_until(lambda: attacker.host.run("find /srv/hostile/venvs -path '*/d/d/d/d' -prune | grep .").rc != 0, 10)


# -- the ACME client ---------------------------------------------------------------------------------------------------

FAKE_CLIENT = """#!/bin/sh
# replaces certbot: what a compromised client leaves in its own directory
while [ $# -gt 0 ]; do [ "$1" != --logs-dir ] || logs=$2; shift; done
rm -rf "$logs"
mkdir -p "$logs"
WHAT
exit 1
"""


LEFTOVERS = ('mkfifo "$logs/letsencrypt.log"', 'ln -s /dev/zero "$logs/letsencrypt.log"', 'ln -s /etc/shadow "$logs/letsencrypt.log"')


def test_hang_root_with_a_pipe_of_the_acme_client(attacker):
    """A compromised ACME client leaves a pipe, an endless device or a link where root reads its log: the run ends in time, with an error,
    and prints nothing from root's files."""
    host = attacker.host
    settings = {"tls_source": "letsencrypt", "tls_packages": [], "tls_acme_probe": False, "tls_acme_directory": "https://127.0.0.1:9/dir"}
    try:
        provisioned = attacker.attempt("playbooks/provision.yml", **settings)
        assert provisioned.ok, provisioned.output
        host.check_output("mkdir -p /var/lib/flaskhost-acme/hostile && chown hostile-tls /var/lib/flaskhost-acme/hostile")
        for leftover in LEFTOVERS:
            client = shlex.quote(FAKE_CLIENT.replace("WHAT", leftover))
            host.check_output(f"printf '%s' {client} >/usr/local/bin/certbot && chmod 0755 /usr/local/bin/certbot")
            run = attacker.attempt("playbooks/certificate.yml", 60, **settings)
            host.run("kill -9 $(pgrep --full '[h]ostile-certificate')")
            assert not run.hung and not run.ok, f"{leftover}\n{run.output}"
            assert "root:" not in run.output
    finally:
        host.run("rm -f /usr/local/bin/certbot")
        restored = attacker.attempt("playbooks/provision.yml")
    assert restored.ok, restored.output
