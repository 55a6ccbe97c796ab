"""Shared by the unit tests: the project's plugins, runs of playbooks and modules, and an environment without the operator's settings."""

import atexit
import contextlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
COLLECTIONS = PROJECT / "collections"
# the task that loads the defaults of app_* in every playbook
READ_APP = {"ansible.builtin.import_role": {"name": "flaskhost.flaskhost.app", "rolespec_validate": False}}
# the settings of a host that is this machine
LOCAL = {"ansible_connection": "local"}
sys.path.insert(0, str(COLLECTIONS))
# The environment variables that tests inherit. All others may be the operator's: vault passwords, cloud keys, ssh and git settings.
KEPT = ("PATH", "LANG", "LC_", "TERM", "TMPDIR", "TZ", "USER", "LOGNAME", "PYTEST_", "PYTHON", "COVERAGE", "CI")
# settings for package downloads
KEPT_FOR_DOWNLOADS = (
    "UV_",
    "PIP_",
    "SSL_CERT_",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)

# These tests take about half of the time of all unit tests: they build venvs, make backups, and run playbooks for several hosts or stages.
SLOW = {
    f"test_{name}.py"
    for name in ("backup", "hostile_source", "new", "phases", "several_hosts", "shared_state", "stages", "uploads", "venv_builds")
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in SLOW:
            item.add_marker("slow")


def isolate_from_operator():
    """Clear the environment and set an empty home directory, so that ~/.ssh, ~/.gitconfig, ~/.ansible and ~/.config are not read.
    Keep the caches of pip and uv."""
    home, config = Path.home(), os.environ.get("XDG_CONFIG_HOME")
    for name in [name for name in os.environ if not name.startswith(KEPT + KEPT_FOR_DOWNLOADS)]:
        del os.environ[name]
    os.environ.setdefault("UV_CACHE_DIR", str(home / ".cache/uv"))
    os.environ.setdefault("PIP_CACHE_DIR", str(home / ".cache/pip"))
    pip = Path(config or home / ".config") / "pip/pip.conf"
    if pip.is_file():
        os.environ.setdefault("PIP_CONFIG_FILE", str(pip))
    os.environ["HOME"] = tempfile.mkdtemp(prefix="flaskhost-tests-home-")
    atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


isolate_from_operator()
# A shell starts background commands with SIGINT ignored, and their children inherit it: restic could then not be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)


def survivors(mark, seconds=10):
    """Return the processes whose command line contains this mark. Wait for those that were killed: a busy machine takes a moment to end them."""
    end = time.monotonic() + seconds
    while True:
        done = subprocess.run(["ps", "-A", "-ww", "-o", "stat=,args="], capture_output=True, text=True, check=True)
        found = [line for line in done.stdout.splitlines() if mark in line and not line.startswith("Z")]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker adjacent tests, since they share fixtures that run ansible-playbook."""
    return importlib.import_module("xdist.scheduler").WorkStealingScheduling(config, log)


def plugin(path):
    """Import a plugin as a Python module, e.g. plugin("modules/ufw_rules")."""
    return importlib.import_module(f"ansible_collections.flaskhost.flaskhost.plugins.{path.replace('/', '.')}")


def load(file):
    spec = importlib.util.spec_from_file_location(f"{file.parent.name}_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_module(name, /, check_mode=False, environment=None, **arguments):
    """Run a module as Ansible does, with the arguments as JSON on the standard input, and return its result."""
    arguments |= {"_ansible_check_mode": check_mode, "_ansible_remote_tmp": "/tmp"}
    done = subprocess.run(
        [sys.executable, "-m", f"ansible_collections.flaskhost.flaskhost.plugins.modules.{name}"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env={**(os.environ if environment is None else environment), "PYTHONPATH": str(COLLECTIONS)},
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


class PlaybookRun(typing.NamedTuple):
    """The result of ansible-playbook. `text` is the output on one line, and `failures` maps each failed host to its error messages."""

    returncode: int
    stdout: str
    output: str

    @property
    def text(self):
        return " ".join(self.output.split())

    @property
    def failures(self):
        found = re.findall(r"^(?:fatal|failed): \[([^\]\s]+)[^\]]*\](.*?)(?=^\S|\Z)", self.stdout, re.DOTALL | re.MULTILINE)
        return {host: " ".join("".join(text for name, text in found if name == host).split()) for host, _text in found}


def run_playbook(
    directory, playbook, hosts, *arguments, settings=LOCAL, variables=None, succeeds=True, cwd=PROJECT, environment=None, **options
):
    """Run ansible-playbook. It must succeed (succeeds=True), must fail (succeeds=False), or may do either (succeeds=None).

    `playbook` is a path or a list of tasks, which get `variables` as their play's variables. `hosts` is the path of an inventory, or a
    mapping from host to variables; all of these hosts get `settings`. Tasks and mappings are written to files in `directory`.
    """
    if isinstance(playbook, list):
        play = {"hosts": "all", "gather_facts": False, "vars": variables or {}, "tasks": playbook}
        playbook = directory / "book.yml"
        playbook.write_text(json.dumps([play]))
    if isinstance(hosts, dict):
        inventory = {"app_servers": {"hosts": hosts, "vars": settings}}
        hosts = directory / "hosts.json"
        hosts.write_text(json.dumps(inventory))
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", **(environment or {})}
    command = ["ansible-playbook", "-i", hosts, playbook, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, **options)
    run = PlaybookRun(done.returncode, done.stdout, done.stdout + done.stderr)
    assert succeeds is None or (done.returncode == 0) is succeeds, run.output
    return run


def evaluate(directory, tasks, expression, hosts, *arguments, environment=None, **options):
    """Run the tasks and return the value of the expression on each host."""
    show = {"name": "Show the value", "ansible.builtin.debug": {"msg": expression}}
    environment = {**(environment or {}), "ANSIBLE_STDOUT_CALLBACK": "default", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    run = run_playbook(directory, [*tasks, show], hosts, *arguments, environment=environment, **options)
    shown = run.stdout.partition("TASK [Show the value]")[2]
    starts, decoder = re.finditer(r"^ok: \[(\S+)\] => ", shown, re.MULTILINE), json.JSONDecoder()
    return {start[1]: decoder.raw_decode(shown, start.end())[0]["msg"] for start in starts}


def role_settings(*roles):
    """The variables from the roles' defaults/ and vars/."""
    paths = [PROJECT / f"roles/{role}/{directory}/main.yml" for role in roles for directory in ("defaults", "vars")]
    return {name: value for path in paths if path.exists() for name, value in yaml.safe_load(path.read_text()).items()}


def with_modules(directory, **modules):
    """Create a collections directory in which the given source code replaces some of the collection's modules."""
    copy = directory / "collections/ansible_collections/flaskhost/flaskhost"
    (copy / "plugins/modules").mkdir(parents=True)
    for path in [*PROJECT.glob("[!.]*"), *PROJECT.glob("plugins/*"), *PROJECT.glob("plugins/modules/*")]:
        name = path.relative_to(PROJECT)
        if str(name) not in ("collections", "plugins", "plugins/modules") and path.stem not in modules:
            (copy / name).symlink_to(path)
    for name, text in modules.items():
        (copy / "plugins/modules" / name).write_text(text)
    return directory / "collections"


@contextlib.contextmanager
def foreign_listeners(address, count):
    """Listen on `count` ports of the address as another user. Yields the ports."""
    script = f"""
import os, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
os.setuid(65534)
family = socket.AF_INET6 if ":" in {address!r} else socket.AF_INET
listeners = []
for port in range(12_000, 32_000):
    try:
        listeners.append(socket.create_server(({address!r}, port), family=family, backlog=1))
    except OSError:
        continue
    if len(listeners) == {count}:
        break
print(*(one.getsockname()[1] for one in listeners), flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield [int(port) for port in process.stdout.readline().split()]
        process.kill()


@contextlib.contextmanager
def mariadb_server(config=""):
    """Run a MariaDB server with this configuration. Yields a function that runs SQL as a user of the operating system, and the socket."""
    if os.geteuid() or not all(map(shutil.which, ("mariadbd", "mariadb", "mariadb-install-db"))):
        pytest.skip("this machine has no MariaDB, or the test does not run as root")
    # not tmp_path, which only root can access
    with tempfile.TemporaryDirectory() as directory:
        # the installation makes this user an administrator, so it must not be the app's
        shutil.chown(directory, "daemon")
        os.chmod(directory, 0o755)
        (Path(directory) / "my.cnf").write_text(config or "[mariadbd]\nskip-networking\n")
        data, run = ["--user=daemon", f"--datadir={directory}/data"], {"stdin": subprocess.DEVNULL, "cwd": "/"}
        options = ["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=socket"]
        subprocess.run(["mariadb-install-db", *options, *data], check=True, capture_output=True, **run)

        def sql(statements, user="root", *arguments, **run_options):
            client = ["mariadb", "--no-defaults", f"--socket={directory}/sock", f"--user={user}", "--batch", "--skip-column-names"]
            become = ["runuser", f"--user={user}", "--"] if user != "root" else []
            return subprocess.run([*become, *client, *arguments], input=statements, text=True, capture_output=True, cwd="/", **run_options)

        options = [f"--defaults-file={directory}/my.cnf", f"--socket={directory}/sock", f"--pid-file={directory}/pid"]
        with (
            open(f"{directory}/log", "wb") as log,
            subprocess.Popen(["mariadbd", *options, *data], stdout=log, stderr=log, **run) as server,
        ):
            try:
                end = time.monotonic() + 60
                while sql("SELECT 1").returncode and server.poll() is None and time.monotonic() < end:
                    time.sleep(0.2)
                assert sql("SELECT 1").returncode == 0, Path(directory, "log").read_text()
                yield sql, f"{directory}/sock"
            finally:
                server.terminate()
