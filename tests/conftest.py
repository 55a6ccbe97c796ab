"""What the unit tests share: the project's plugins, imported as Ansible would."""

import contextlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import ansible.module_utils

PROJECT = Path(__file__).resolve().parents[1]
# as `module_utils` in ansible.cfg has it for modules
ansible.module_utils.__path__.append(str(PROJECT / "plugins/module_utils"))


def plugin(path):
    """A plugin as a Python module, e.g. plugin("modules/ufw_rules")."""
    return load(PROJECT / f"plugins/{path}.py")


def load(file):
    spec = importlib.util.spec_from_file_location(f"{file.parent.name}_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AS_ANSIBLE = """
import runpy, sys, ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_module(name, /, check_mode=False, environment=None, **arguments):
    """A module's result, run as Ansible runs it: arguments as JSON on the standard input."""
    arguments |= {"_ansible_check_mode": check_mode, "_ansible_remote_tmp": "/tmp"}
    done = subprocess.run(
        [sys.executable, "-c", AS_ANSIBLE, PROJECT / "plugins/module_utils", PROJECT / f"plugins/modules/{name}.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def foreign_listeners(address, count):
    """The ports of an address on which another user listens."""
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
