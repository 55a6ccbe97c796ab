"""Warn about a version that the stage before never had: `stage_before`, an action on the controller.

Its hosts are asked, for they are the only ones who know: a record on this controller would say nothing of what a colleague, or
CI, has shipped. It never fails: whoever can't reach staging may still need to mend production.
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
# the last thousands of cut-overs, of each host
HISTORY_BYTES = 1_000_000
HOSTS = 10
# a host that was taken over may answer without end, and each of Ansible's processes has the answer in memory
MEMORY_KB = 1_000_000


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = checked(self, "stage_before")
        stage, version = args["stage"], args["version"]
        inventory = os.path.normpath(os.path.join(str(task_vars["inventory_dir"]), "..", stage))
        word = say(stage, version, inventory)
        if word:
            Display().warning(word)
        return dict(result, changed=False, word=word)


def say(stage, version, inventory):
    if not os.path.exists(inventory):
        return f"release_after_stage is '{stage}', and there is no inventory {os.path.relpath(inventory)}."
    if is_untouched(inventory):
        return ""
    try:
        code, output, errors = ask(stage, inventory)
    except TimeoutError:
        return f"Whether {stage} ever had version {version} can't be told: it gave no answer within {SECONDS} seconds."
    history = [name for name in map(release_of, output.splitlines()) if name]
    if any(name.startswith(f"{version}-") for name in history):
        return ""
    if code and not history:
        words = re.search(r'"msg": "(.+)"', output)
        why = words[1] if words else output + errors
        why = "".join(character if character.isprintable() else " " for character in credentials.without_credentials(why).strip()[:300])
        return f"Whether {stage} ever had version {version} can't be told: {why}"
    return f"{stage} never had version {version}: nobody has tried it there. To try it first, deploy to {stage}."


def is_untouched(inventory):
    """Nobody has said yet where that stage is."""
    for folder, _folders, names in os.walk(inventory):
        for name in names:
            with open(os.path.join(folder, name), errors="replace") as file:
                if name.startswith("hosts") and PLACEHOLDER.search(file.read()):
                    return True
    return False


def password_of(stage):
    """Its secrets open with a password of its own, which `make secrets` keeps beside this stage's."""
    ours = constants.DEFAULT_VAULT_PASSWORD_FILE
    theirs = ours and os.path.join(os.path.dirname(ours), f"vault-{stage}")
    return {"ANSIBLE_VAULT_PASSWORD_FILE": theirs} if theirs and os.path.isfile(theirs) else {}


def ask(stage, inventory):
    words = [PLAYBOOK, "--inventory", inventory, "--extra-vars", f"history_bytes={HISTORY_BYTES}"]
    play = [sys.executable, "-m", "ansible", "playbook", *words]
    # as `ansible` shows the answer of a command: as it is
    plain = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal"}
    environment = {**plain, **password_of(stage), "ANSIBLE_CONFIG": constants.CONFIG_FILE or ""}
    bounded = ["/bin/sh", "-c", f'ulimit -v {MEMORY_KB}; exec "$@"', "sh", *play]
    started = time.monotonic()
    answer = command.run(bounded, keep=HOSTS * HISTORY_BYTES, seconds=SECONDS, environment=environment)
    if time.monotonic() - started >= SECONDS:
        raise TimeoutError
    return answer


def release_of(line):
    """The release that a line of the history names, if it is one: there may be anything else in the answer."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    name = found.get("id") if isinstance(found, dict) else ""
    return name if isinstance(name, str) else ""
