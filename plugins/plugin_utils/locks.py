"""Convert the lock files that uv cannot read to requirements: poetry.lock, Pipfile.lock and pylock.toml.

The files are parsed and not exported by their own tools: each is plain TOML or JSON that lists every version with its hashes, while Poetry alone
needs fifty more packages and executes plugins of the source. uv verifies the hashes and resolves the markers for the venv's Python.
"""

import dataclasses
import re

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import python_versions, requirements
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

# the index that uv uses itself
PYPI = re.compile(r"https://pypi\.(org|python\.org)/simple/?")
CONDITION = re.compile(r"""(['"])([\w.-]+)\1 (not )?in (extras|dependency_groups)""")


class LockError(ValueError):
    """The lock file cannot be used. The message is the problem and the remedy."""


@dataclasses.dataclass
class Converted:
    """What a lock file installs: lines of a requirements file, pins for what these require, and lines that install parts of the source."""

    requirements: list = dataclasses.field(default_factory=list)
    constraints: list = dataclasses.field(default_factory=list)
    local: list = dataclasses.field(default_factory=list)
    indexes: list = dataclasses.field(default_factory=list)

    def add(self, line):
        if not requirements.is_safe(line):
            raise LockError(f"{line[:80]!r} is not a requirement. Create the lock file again.")
        (self.requirements if requirements.local_path(line) is None else self.local).append(line)

    def add_index(self, url):
        if not re.fullmatch(r"[^\s#]+", url):
            raise LockError(f"{url[:80]!r} is not the URL of a package index. Create the lock file again.")
        if not PYPI.fullmatch(url) and f"--extra-index-url {url}" not in self.indexes:
            self.indexes.append(f"--extra-index-url {url}")


def line(requirement, marker="", hashes=()):
    return f"{requirement}{f' ; {marker}' if marker else ''}{''.join(f' --hash={digest}' for digest in sorted(hashes))}"


# -- Poetry --


def from_poetry(lock, project, extras, groups, overridden=()):
    """The requirements are those of pyproject.toml. The constraints pin them, and all that they require, to the versions of the lock file."""
    found, packages = Converted(), {}
    for package in lock.get("package", []):
        packages.setdefault(canonicalize_name(package["name"]), []).append(package)
    for name, entries in packages.items():
        for package in entries:
            source = package.get("source", {})
            if source.get("type", "legacy") not in ("legacy", "pypi"):
                continue
            if source.get("type") == "legacy":
                found.add_index(source["url"])
            marker = poetry_marker(package, groups) if len(entries) > 1 else ""
            if len(entries) > 1 and not marker and "groups" not in package:
                raise LockError(
                    f"it has two versions of {name}, and no markers to choose between them. Run `poetry lock` with Poetry 2 or newer, "
                    "which writes them."
                )
            pin = line(f"{name}=={package['version']}", marker, poetry_hashes(package, lock))
            if name not in overridden:
                if not requirements.is_safe(pin):
                    raise LockError(f"{pin[:80]!r} is not a requirement. Create the lock file again.")
                found.constraints.append(pin)
    for name, wanted, marker in poetry_roots(project, extras, groups):
        if name not in packages:
            raise LockError(f"it does not contain {name}, which pyproject.toml requires. Run `poetry lock`.")
        found.add(poetry_root(requirements.with_extras(name, wanted), packages[name][0], marker, lock))
    return found


def poetry_hashes(package, lock):
    # before version 2.0, the lock file has the hashes in a table of its own
    files = package.get("files") or lock.get("metadata", {}).get("files", {}).get(package["name"], [])
    return [file["hash"] for file in files]


def poetry_marker(package, groups):
    markers = package.get("markers", "")
    if isinstance(markers, str):
        return markers
    chosen = [markers.get(group, "") for group in ["main", *groups] if group in package.get("groups", [])]
    return " or ".join(f"({marker})" for marker in chosen) if all(chosen) else ""


def poetry_root(requirement, package, marker, lock):
    source = package.get("source", {})
    kind, url = source.get("type", "legacy"), source.get("url", "")
    inside = f"#subdirectory={source['subdirectory']}" if source.get("subdirectory") else ""
    if kind == "git":
        return line(f"{requirement} @ git+{ssh_url(url)}@{source['resolved_reference']}{inside}", marker)
    if kind == "url":
        return line(f"{requirement} @ {url}{inside}", marker, poetry_hashes(package, lock))
    if kind in ("file", "directory"):
        return line(f"./{url}{requirement[len(requirement.partition('[')[0]) :]}", marker)
    return line(requirement, marker)


def ssh_url(url):
    """git@host:path is only understood by git itself."""
    found = re.fullmatch(r"([\w.-]+@[\w.-]+):(?!//)(.+)", url)
    return f"ssh://{found[1]}/{found[2]}" if found else url


def poetry_roots(project, extras, groups):
    """Yield (name, extras, marker) of what pyproject.toml requires, without the versions, which the lock file has."""
    standard, poetry = project.get("project", {}), project.get("tool", {}).get("poetry", {})
    optional = standard.get("optional-dependencies", {})
    lists = [standard.get("dependencies", []), *(optional.get(extra, []) for extra in extras)]
    lists += [group_requirements(project, group) for group in groups]
    for text in [text for texts in lists for text in texts]:
        try:
            parsed = Requirement(text)
        except InvalidRequirement:
            raise LockError(f"pyproject.toml has the invalid requirement {text[:80]!r}. Correct it, and run `poetry lock`.") from None
        yield canonicalize_name(parsed.name), parsed.extras, str(parsed.marker or "")
    named = {canonicalize_name(name) for extra in extras for name in poetry.get("extras", {}).get(extra, [])}
    tables = [poetry.get("dependencies", {})]
    # older versions of Poetry have one group, dev
    tables += [poetry.get("group", {}).get(group, {}).get("dependencies", {}) for group in groups]
    tables += [poetry.get("dev-dependencies", {})] if "dev" in groups else []
    known = {canonicalize_name(Requirement(text).name) for texts in lists for text in texts}
    for number, table in enumerate(tables):
        for name, value in table.items():
            key = canonicalize_name(name)
            for written in value if isinstance(value, list) else [value]:
                entry = written if isinstance(written, dict) else {}
                skipped = key == "python" or key in known or (number == 0 and entry.get("optional") and key not in named)
                # in [project], this table only says where a requirement comes from
                if not skipped and not (standard.get("dependencies") and number == 0):
                    yield key, entry.get("extras", []), poetry_condition(entry)


def poetry_condition(entry):
    parts = [entry.get("markers", "")]
    parts += [f"sys_platform == '{entry['platform']}'"] if entry.get("platform") else []
    if entry.get("python"):
        parts += [f"python_full_version {clause.operator} '{clause.version}'" for clause in python_versions.specifier(entry["python"])]
    return " and ".join(f"({part})" for part in parts if part)


def group_requirements(project, group, seen=()):
    """The requirements of a dependency group of the standard table, with the groups that it includes."""
    found = []
    for entry in project.get("dependency-groups", {}).get(group, []):
        if isinstance(entry, str):
            found.append(entry)
        elif group not in seen:
            found += group_requirements(project, entry["include-group"], (*seen, group))
    return found


# -- Pipenv --


def from_pipenv(lock, groups):
    """A Pipfile.lock lists all packages. A Pipfile has the same entries, without the packages that these require."""
    found, is_lock = Converted(), "_meta" in lock
    sources = lock["_meta"].get("sources", []) if is_lock else lock.get("source", [])
    for source in sources:
        found.add_index(source["url"])
    for section in ("default" if is_lock else "packages", *groups):
        for name, entry in lock.get(pipenv_section(section, is_lock), {}).items():
            found.add(pipenv_line(name, entry if isinstance(entry, dict) else {"version": entry}))
    return found


def pipenv_section(group, is_lock):
    names = ("develop", "dev", "dev-packages")
    return ("develop" if is_lock else "dev-packages") if group in names else group


def pipenv_line(name, entry):
    name = requirements.with_extras(canonicalize_name(name), entry.get("extras", []))
    parts = [entry.get("markers", "")]
    # a Pipfile can have each marker as a key
    parts += [f"{key} {entry[key]}" for key in ("os_name", "sys_platform", "platform_machine", "python_version") if entry.get(key)]
    marker = " and ".join(f"({part})" for part in parts if part) if len([*filter(None, parts)]) > 1 else "".join(parts)
    if unknown := [kind for kind in ("hg", "svn", "bzr") if kind in entry]:
        raise LockError(f"{name} comes from {unknown[0]}, which uv does not support. Use a package of an index, or git.")
    if "git" in entry:
        inside = f"#subdirectory={entry['subdirectory']}" if entry.get("subdirectory") else ""
        return line(
            f"{name} @ git+{ssh_url(entry['git'].removeprefix('git+'))}{'@' if entry.get('ref') else ''}{entry.get('ref', '')}{inside}",
            marker,
        )
    place = entry.get("path") or entry.get("file")
    if place and requirements.REMOTE.match(place):
        return line(f"{name} @ {place}", marker, entry.get("hashes", []))
    if place:
        return line(f"./{place.removeprefix('./')}{name[len(name.partition('[')[0]) :]}", marker)
    version = entry.get("version", "*")
    return line(f"{name}{'' if version == '*' else version}", marker, entry.get("hashes", []))


# -- pylock.toml --


def from_pylock(lock, extras, groups):
    found = Converted()
    # the groups that the tool which wrote the file installs by default
    groups = {*groups, *(group for group in lock.get("default-groups", []) if group != "dev")}
    for package in lock.get("packages", []):
        marker = CONDITION.sub(
            lambda match: (
                f"python_version {'<' if (match[2] in (extras if match[4] == 'extras' else groups)) is bool(match[3]) else '>'} '0'"
            ),
            " ".join(package.get("marker", "").split()),
        )
        found.add(pylock_line(package, marker))
        if package.get("index"):
            found.add_index(package["index"])
    return found


def pylock_line(package, marker):
    name = canonicalize_name(package["name"])
    if vcs := package.get("vcs"):
        if vcs["type"] != "git":
            raise LockError(f"{name} comes from {vcs['type']}, which uv does not support. Use a package of an index, or git.")
        inside = f"#subdirectory={vcs['subdirectory']}" if vcs.get("subdirectory") else ""
        return line(f"{name} @ git+{ssh_url(vcs.get('url') or vcs['path'])}@{vcs['commit-id']}{inside}", marker)
    if directory := package.get("directory"):
        return line(f"./{directory['path'].removeprefix('./')}", marker)
    if archive := package.get("archive"):
        return pylock_file(name, archive, marker)
    files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
    if files and not any(file.get("url", "").startswith("http") for file in files):
        return pylock_file(name, files[0], marker)
    if "version" not in package:
        raise LockError(f"it has no version of {name}. Create the lock file again.")
    return line(f"{name}=={package['version']}", marker, [digest for file in files for digest in pylock_hashes(file)])


def pylock_file(name, file, marker):
    if file.get("url"):
        return line(f"{name} @ {file['url']}", marker, pylock_hashes(file))
    return line(f"./{file['path'].removeprefix('./')}", marker)


def pylock_hashes(file):
    return [f"{kind}:{digest}" for kind, digest in file.get("hashes", {}).items()]
