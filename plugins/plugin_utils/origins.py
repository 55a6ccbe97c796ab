"""Find the file and line in which a variable of a host is set.

Places are searched in the order of their precedence, highest first. Files of other hosts and of groups without this host are not searched,
because several apps can set the same variable.
"""

import functools
import glob
import os
import re

import yaml

MAX_BYTES = 2**20
INI_SECTION = re.compile(r"\s*\[([^\]:]+):?(\w*)\]")


class Origins:
    def __init__(self, inventory, host, groups, project=""):
        """INVENTORY is the inventory's directory. PROJECT is a directory with a group_vars/ of lower precedence."""
        self.inventory, self.host, self.project = inventory, host, project
        self.groups = [name for name in groups if name != "all"]

    def of(self, name):
        """Return (path, line), or None if no file sets the variable."""
        group_files = [path for group in [*self.groups, "all"] for path in variable_files(self.inventory, "group", group)]
        project_files = [path for group in [*self.groups, "all"] for path in variable_files(self.project, "group", group)]
        return (
            in_files(variable_files(self.inventory, "host", self.host), name)
            or self.in_inventory("host", [self.host], name)
            or in_files(group_files, name)
            or self.in_inventory("group", self.groups, name)
            or self.in_inventory("group", ["all"], name)
            or (in_files(project_files, name) if self.project else None)
        )

    def in_inventory(self, kind, owners, name):
        for path in inventory_files(self.inventory):
            found = [line for at, line in inventory_lines(path) if at[0] == kind and at[1] in owners and at[2] == name]
            if found:
                return path, found[-1]
        return None


def in_files(paths, name):
    return next(((path, lines[name]) for path in paths if name in (lines := top_level_lines(path))), None)


def variable_files(directory, kind, owner):
    base = f"{directory}/{kind}_vars/{owner}"
    found = [
        base,
        *(f"{base}.{extension}" for extension in ("yml", "yaml", "json")),
        *sorted(glob.glob(f"{glob.escape(base)}/**", recursive=True)),
    ]
    return [path for path in found if os.path.isfile(path)]


def inventory_files(directory):
    return [path for path in sorted(glob.glob(f"{glob.escape(directory)}/*")) if os.path.isfile(path) and os.path.getsize(path) < MAX_BYTES]


@functools.cache
def top_level_lines(path):
    """Return the line of each variable in a file of variables."""
    return {key.value: key.start_mark.line + 1 for key, _value in pairs(parse(path))}


@functools.cache
def inventory_lines(path):
    """Return ((host or group, its name, variable), line) for each variable in an inventory file."""
    root = parse(path)
    return [*groups_of(root)] if isinstance(root, yaml.MappingNode) else [*ini_lines(path)]


def groups_of(groups):
    for group, content in pairs(groups):
        for key, node in pairs(content):
            if key.value == "vars":
                yield from ((("group", group.value, name.value), name.start_mark.line + 1) for name, _value in pairs(node))
            elif key.value == "hosts":
                for host, variables in pairs(node):
                    yield from ((("host", host.value, name.value), name.start_mark.line + 1) for name, _value in pairs(variables))
            elif key.value == "children":
                yield from groups_of(node)


def ini_lines(path):
    owner, variables = "", False
    with open(path, errors="replace") as handle:
        for number, line in enumerate(handle, 1):
            if section := INI_SECTION.match(line):
                owner, variables = section[1], section[2] == "vars"
            elif variables and "=" in line:
                yield ("group", owner, line.partition("=")[0].strip()), number
            elif words := line.split():
                yield from ((("host", words[0], name), number) for name in re.findall(r"\s(\w+)=", line))


def parse(path):
    """Return the YAML nodes of a file, or None if it is not YAML, such as a vault."""
    try:
        with open(path, errors="replace") as handle:
            return yaml.compose(handle, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None


def pairs(node):
    """Return the keys and values of a mapping."""
    return [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)] if isinstance(node, yaml.MappingNode) else []
