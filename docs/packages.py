#!/usr/bin/env python3
"""Look up the packages that the roles install in each distribution's index, and write docs/packages.json.

A unit test compares that file with the packages that the roles install. After adding a package to a role, run this and `make docs`.
"""

import json
import lzma
import re
import urllib.request
from datetime import date
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
TABLE = PROJECT / "docs/packages.json"
UBUNTU = ("http://archive.ubuntu.com/ubuntu", ["main", "universe"])
DEBIAN = ("http://deb.debian.org/debian", ["main"])
DISTRIBUTIONS = {
    "Debian 12": (*DEBIAN, "bookworm"),
    "Debian 13": (*DEBIAN, "trixie"),
    "Ubuntu 22.04": (*UBUNTU, "jammy"),
    "Ubuntu 24.04": (*UBUNTU, "noble"),
    "Ubuntu 26.04": (*UBUNTU, "resolute"),
}


def main():
    names = package_names()
    found = {distribution: look_up(names, *place) for distribution, place in DISTRIBUTIONS.items()}
    sources = {distribution: f"{mirror}/dists/{suite}" for distribution, (mirror, _components, suite) in DISTRIBUTIONS.items()}
    table = {"date": date.today().isoformat(), "sources": sources, "packages": {name: {} for name in sorted(names)}}
    for distribution, packages in found.items():
        for name, where in packages.items():
            table["packages"][name][distribution] = where
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


def package_names():
    """Return all packages in the *_packages settings of all roles, regardless of conditions."""
    settings = [path.read_text() for pattern in ("roles/*/defaults/main.yml", "roles/*/vars/main.yml") for path in PROJECT.glob(pattern)]
    values = re.findall(r"^\w+_packages: *((?:.*\n)(?: +.*\n)*)", "".join(settings), re.MULTILINE)
    words = [word for value in values for text in re.findall(r"\[([^\[\]]*)\]", value) for word in text.split(",")]
    words = [word.strip(" '\"") for word in words]
    return {word for word in words if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", word)}


def look_up(names, mirror, components, suite):
    """Return the component and version of each package that the distribution has; updates override the original version."""
    found = {}
    for pocket in (suite, f"{suite}-updates"):
        for component in components:
            url = f"{mirror}/dists/{pocket}/{component}/binary-amd64/Packages.xz"
            with urllib.request.urlopen(url, timeout=60) as answer:
                index = lzma.decompress(answer.read()).decode()
            for name, version in re.findall(r"^Package: (\S+)$(?:\n.+)*?\nVersion: (\S+)$", index, re.MULTILINE):
                if name in names:
                    found[name] = f"{component} {version}"
    return found


if __name__ == "__main__":
    main()
