"""Action plugin `settings_check`: check the settings of all hosts at once, on the controller, before any host is changed.

The plugin contains no role or setting by name. Types and choices come from each role's `meta/argument_specs.yml`, and further rules from
its `meta/rules.py` (plugin_utils/rules.py explains how to write one). One message lists all problems, each with the setting, its value,
what is allowed, and the file to change.
"""

import difflib
import os
import re

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.arguments import checked
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.problems import (
    PROJECT,
    UNREADABLE,
    Problem,
    RenamedSetting,
    Sources,
    UnknownName,
    is_secret,
)
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.rules import read_roles
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.spec import describe, type_problem

PLACEHOLDER = re.compile(r"\bYOUR_[A-Z_]+\b")
# The operator sets the first two; the rules need the inventory's directory to resolve relative paths.
ANSIBLE_VARIABLES = ("ansible_host", "ansible_user", "inventory_dir")


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        fact_names = checked(self, "settings_check")["facts"]
        roles, hosts, found = read_roles(), task_vars["ansible_play_hosts_all"], {}
        for host in hosts:
            settings = task_vars["hostvars"][host]
            sources = Sources(settings)
            facts = {name: settings[name] for name in fact_names}
            for problem in check(settings, roles, facts):
                found.setdefault(problem.text(sources), []).append(host)
        if problem := ignored_configuration(task_vars["playbook_dir"]):
            found[problem] = hosts
        for host, problem in check_between(hosts, task_vars["hostvars"], roles):
            found.setdefault(problem.text(Sources(task_vars["hostvars"][host])), []).append(host)
        if found:
            lines = [text if len(affected) == len(hosts) else f"{text} (host {', '.join(affected)})" for text, affected in found.items()]
            count = "One setting needs" if len(lines) == 1 else f"{len(lines)} settings need"
            result.update(failed=True, msg=f"{count} your attention. No host was touched.\n\n" + "\n".join(lines))
        return result


def ignored_configuration(playbooks):
    """Return the problem of a clone whose ansible.cfg Ansible has not read: its group_vars/ would override the inventory. A playbook outside
    the clone does not read this group_vars/."""
    order, file = constants.VARIABLE_PRECEDENCE, os.path.join(PROJECT, "ansible.cfg")
    if (
        not os.path.exists(file)
        or os.path.realpath(playbooks) not in (PROJECT, f"{PROJECT}/playbooks")
        or order.index("all_plugins_play") < order.index("all_inventory")
    ):
        return ""
    return (
        "- ansible.cfg of this clone is not in use, so its group_vars/ would override your inventory. Ansible reads the file in the working "
        f"directory only, and not in a directory that every user can write to, such as /mnt/c in WSL.\n  Run: export ANSIBLE_CONFIG={file}"
    )


def check(settings, roles, facts):
    """Yield all problems of one host's settings."""
    specs = {name: spec for role in roles for name, spec in role.options.items()}
    names = [name for name in settings if isinstance(name, str) and name not in facts]
    settings, unreadable = read(settings, [*ANSIBLE_VARIABLES, *specs])
    yield from unreadable
    yield from placeholders(settings)
    renamed = {old: new for role in roles for old, new in role.renamed.items()}
    yield from (RenamedSetting(name, renamed[name]) for name in names if name in renamed)
    unknown = [name for name in names if name not in specs and name not in renamed]
    yield from unknown_names(unknown, specs, tuple(role.reserved_prefix for role in roles if role.reserved_prefix))
    known, rejected = settings | facts, {problem.name for problem in unreadable}
    for role in roles:
        for name, spec in role.options.items():
            if name not in rejected and (problem := value_problem(name, spec, role.rules.get(name), known)):
                rejected.add(name)
                yield problem
    for role in roles:
        for name, value, allowed in role.combined(known):
            if name not in rejected:
                yield Problem(name, value, allowed)


def check_between(hosts, hostvars, roles):
    """Yield (host, problem) for each problem that involves the settings of several hosts."""
    names = [*ANSIBLE_VARIABLES, *(name for role in roles for name in role.options)]
    settings = {host: read(hostvars[host], names)[0] for host in hosts}
    for role in roles:
        for host, *problem in role.between_hosts(settings):
            yield host, Problem(*problem)


def read(settings, names):
    """Return the values, and a problem for each value whose template or vault cannot be read."""
    values, problems = {}, []
    for name in names:
        try:
            if name in settings:
                values[name] = settings[name]
                str(values[name])
        except AnsibleError as error:
            values.pop(name, None)
            problems.append(Problem(name, UNREADABLE, f"{error.message.rstrip('.')}."))
    return values, problems


def placeholders(settings):
    for name, value in settings.items():
        found = PLACEHOLDER.search(str(value)) if value is not None else None
        if found:
            yield Problem(name, found[0] if is_secret(name) else value, f"{found[0]} is a placeholder. Replace it with your own value.")


def unknown_names(names, specs, reserved):
    prefixes = {name.split("_")[0] for name in specs}
    for name in names:
        if "_" not in name or name.split("_")[0] not in prefixes:
            continue
        near = difflib.get_close_matches(name, specs, n=1, cutoff=0.8)
        # a variable that does not belong to Flaskhost may also begin with the name of a role
        if near or name.startswith(reserved):
            yield UnknownName(name, *near)


def value_problem(name, spec, rule, settings):
    if name not in settings:
        return Problem(name, None, describe(spec)) if spec.get("required") else None
    value = settings[name]
    if PLACEHOLDER.search(str(value)):
        return None
    allowed = type_problem(value, spec) or (rule(value, settings) if rule else None)
    return Problem(name, value, allowed) if allowed else None
