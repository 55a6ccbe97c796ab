"""Choose the Python version of an app: the distribution's if the app accepts it, otherwise a build that uv manages."""

import json
import re

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

# The minor versions of Python 3 that uv offers and that the servers support. Only a newer version of uv offers newer ones.
OLDEST, NEWEST = 9, 15
VERSION = re.compile(r"3\.\d+(\.\d+)?")
MAX_LENGTH = 200
# a patch version that every released one is older than
LATEST_PATCH = 99
NOTHING = {"version": "", "version_file": "", "requires": "", "requires_file": ""}
OFFERED = f"3.{OLDEST} to 3.{NEWEST}"


def specifier(text):
    """Parse a version specifier, also with Poetry's operators ^ and ~, and return an empty set if it is not valid."""
    clauses, text = [], re.sub(r" ?, ?", ",", " ".join(str(text)[:MAX_LENGTH].split()))
    for clause in re.split(r",| (?=[<>=!~^])", text):
        found = re.fullmatch(r"(\^|~(?!=)|)\s*(\d+(?:\.\d+)*)", clause)
        if not found:
            clauses.append("" if clause == "*" else clause)
            continue
        numbers = [int(number) for number in found[2].split(".")]
        if found[1] == "^":
            clauses.append(f">={found[2]},<{numbers[0] + 1}")
        elif found[1] == "~":
            below = [*numbers[:1], numbers[1] + 1] if len(numbers) > 1 else [numbers[0] + 1]
            clauses.append(f">={found[2]},<{'.'.join(map(str, below))}")
        else:
            clauses.append(f"=={found[2]}{'' if len(numbers) > 2 else '.*'}")
    try:
        return SpecifierSet(",".join(filter(None, clauses)))
    except InvalidSpecifier:
        return SpecifierSet()


def accepts(requires, version):
    """Return whether a version satisfies a specifier. For a minor version, assume its latest patch."""
    numbers = version.split(".")
    full = version if len(numbers) > 2 else f"{version}.{LATEST_PATCH}"
    try:
        return specifier(requires).contains(Version(full), prereleases=True)
    except InvalidVersion:
        return True


def choose(setting, found, host):
    """Return the version that uv has to provide, or an empty string for the host's own Python. `host` is a full version.

    `found` is what the source says: `version` from a file that names one, and `requires` from the app's metadata.
    """
    requires, minor = found.get("requires", ""), ".".join(host.split(".")[:2])
    version = setting or found.get("version", "")
    if not version and not accepts(requires, host):
        version = nearest(requires, int(minor.split(".")[1]))
    is_hosts = not version or version in (minor, host)
    # with a setting, the operator has decided
    return "" if is_hosts and (setting or accepts(requires, host)) else version or minor


def nearest(requires, minor):
    """Return the version closest to the host's that the app accepts. The newer of two."""
    accepted = [number for number in range(OLDEST, NEWEST + 1) if accepts(requires, f"3.{number}")]
    return f"3.{min(accepted, key=lambda number: (abs(number - minor), -number))}" if accepted else ""


def problems(setting, found):
    """Yield (setting, value, problem) for a version that uv does not offer, or that the app does not accept."""
    version, requires = setting or found.get("version", ""), found.get("requires", "")
    place = "" if setting else f"{found.get('version_file')} of the source names Python {version}. "
    if version and not (VERSION.fullmatch(version) and OLDEST <= int(version.split(".")[1]) <= NEWEST):
        yield (
            "app_python",
            setting or None,
            f"{place}Python {version} is not available. Use {OFFERED}, in quotes.",
        )
    elif version and not accepts(requires, version):
        yield (
            "app_python",
            setting or None,
            f"{place}{found['requires_file']} of the source requires Python {requires}. Set app_python to a version that satisfies this.",
        )
    elif requires and not nearest(requires, OLDEST):
        yield (
            "app_python",
            setting or None,
            f"{found['requires_file']} of the source requires Python {requires}, which is not available. Change it to allow one of {OFFERED}.",
        )


def named_version(text):
    """Return the minor version that .python-version or runtime.txt names. Ignore the patch, which would get no security fixes.

    Ignore other content too, such as the name of a virtual environment of pyenv.
    """
    names = [entry.split("#")[0].strip() for entry in text.splitlines()]
    found = re.fullmatch(r"(?:cpython[@-]|python-?)?(\d+\.\d+)(?:\.\d+)?(?:-[a-z].*)?", next(filter(None, names), ""))
    return found[1] if found else ""


def of_setup(setup_cfg, setup_py):
    """Return python_requires of setup.cfg or setup.py, without running it."""
    found = re.search(r"^python_requires ?= ?(.+)$", setup_cfg, re.MULTILINE)
    found = found or re.search(r"""\bpython_requires ?= ?['"]([^'"\n]+)""", setup_py)
    return found[1].strip() if found else ""


def of_source(source, project):
    """Return what the source says about its Python version, and which file says it. SOURCE reads its files, PROJECT is its pyproject.toml."""
    found = dict(NOTHING)
    for name in ".python-version", "runtime.txt":
        version = named_version(source.read(source.beside(name)) or source.read(name))
        if version and not found["version"]:
            found |= {"version": version, "version_file": name}
    poetry = project.get("tool", {}).get("poetry", {}).get("dependencies", {})
    requires = {"pyproject.toml": project.get("project", {}).get("requires-python") or poetry.get("python", "")}
    if source.kind in ("uv", "pylock"):
        requires[source.name] = source.toml(source.name).get("requires-python", "")
    requires["setup.cfg or setup.py"] = of_setup(source.read(source.beside("setup.cfg")), source.read(source.beside("setup.py")))
    if source.kind == "pipenv" and not found["version"]:
        name = source.beside("Pipfile") if source.member(source.beside("Pipfile")) else source.name
        wanted = (source.parsed(name, json.loads)["_meta"] if name.endswith(".lock") else source.toml(name)).get("requires", {})
        version = named_version(str(wanted.get("python_full_version") or wanted.get("python_version") or ""))
        found |= {"version": version, "version_file": name if version else ""}
    name = next((name for name, value in requires.items() if isinstance(value, str) and value), "")
    return found | ({"requires": requires[name], "requires_file": name} if name else {})
