"""Action plugin `previous_stage_check`: warn about a version that the previous stage never ran.

The plugin reads the history from the hosts of that stage. A record on this controller would not include releases by colleagues or CI.
It never fails, because an operator may have to repair production while staging is unreachable.
"""

import json
import os
import re
import sys
import time

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import command, credentials
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.arguments import checked

PLAYBOOK = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", "playbooks", "history.yml"))
PLACEHOLDER = re.compile(r"\bYOUR_[A-Z_]+\b")
SECONDS = 60
# enough for the last several thousand activations of a host
HISTORY_BYTES = 1_000_000
HOSTS = 10
# A compromised host can send endless output, and each Ansible process holds the output in memory.
MEMORY_KB = 1_000_000


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = checked(self, "previous_stage_check")
        stage, version = args["stage"], args["version"]
        inventory = os.path.normpath(os.path.join(str(task_vars["inventory_dir"]), "..", stage))
        warning = warning_about(stage, version, inventory)
        if warning:
            Display().warning(warning)
        return dict(result, changed=False, word=warning)


def warning_about(stage, version, inventory):
    if not os.path.exists(inventory):
        path = os.path.relpath(inventory)
        return f"release_previous_stage is '{stage}', but there is no inventory {path}. Correct the name or create the inventory."
    if has_placeholders(inventory):
        return ""
    try:
        code, output, errors = read_history(stage, inventory)
    except TimeoutError:
        return f"Cannot check whether {stage} ever ran version {version}: no response within {SECONDS} seconds."
    history = [name for name in map(release_of, output.splitlines()) if name]
    if any(name.startswith(f"{version}-") for name in history):
        return ""
    if code and not history:
        message = re.search(r'"msg": "(.+)"', output)
        why = message[1] if message else output + errors
        why = "".join(character if character.isprintable() else " " for character in credentials.without_credentials(why).strip()[:300])
        return f"Cannot check whether {stage} ever ran version {version}: {why}"
    return f"{stage} never ran version {version}. To test the version first, deploy it to {stage}."


def has_placeholders(inventory):
    """Return whether the stage is not set up yet: a hosts file still contains a placeholder."""
    for directory, _directories, names in os.walk(inventory):
        for name in names:
            with open(os.path.join(directory, name), errors="replace") as file:
                if name.startswith("hosts") and PLACEHOLDER.search(file.read()):
                    return True
    return False


def password_of(stage):
    """Return the environment that selects the stage's own vault password. `make secrets` stores it next to the current stage's."""
    current = constants.DEFAULT_VAULT_PASSWORD_FILE
    path = current and os.path.join(os.path.dirname(current), f"vault-{stage}")
    return {"ANSIBLE_VAULT_PASSWORD_FILE": path} if path and os.path.isfile(path) else {}


def read_history(stage, inventory):
    arguments = [PLAYBOOK, "--inventory", inventory, "--extra-vars", f"history_bytes={HISTORY_BYTES}"]
    play = [sys.executable, "-m", "ansible", "playbook", *arguments]
    # the minimal callback prints the output of a command unchanged
    plain = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal"}
    environment = {**plain, **password_of(stage), "ANSIBLE_CONFIG": constants.CONFIG_FILE or ""}
    bounded = ["/bin/sh", "-c", f'ulimit -v {MEMORY_KB}; exec "$@"', "sh", *play]
    started = time.monotonic()
    answer = command.run(bounded, keep=HOSTS * HISTORY_BYTES, seconds=SECONDS, environment=environment)
    if time.monotonic() - started >= SECONDS:
        raise TimeoutError
    return answer


def release_of(line):
    """Return the release in a line of the history. Return an empty string for any other output."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    name = found.get("id") if isinstance(found, dict) else ""
    return name if isinstance(name, str) else ""
