"""Identify what an app's venv is built from, from the source's archive."""

import contextlib
import hashlib
import os
import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError

DEPENDENCY_FILES = ("uv.lock", "requirements.txt", "pyproject.toml", "setup.py")
# a lock file of a large project has a few
MAX_TEXT_MB = 32


class Dependencies:
    """The inputs of a venv. The venv of a project that installs itself holds the project's own code."""

    def __init__(self, tar, members, version):
        self.tar, self.version, self.seen, self.room = tar, version, {}, MAX_TEXT_MB * 2**20
        self.members, self.links = {member.name: member for member in members}, archives.links_of(members)

    def digest(self, name):
        installs_itself = name in ("pyproject.toml", "setup.py") or (name == "uv.lock" and self.is_package())
        if name == "requirements.txt":
            installs_itself = self.read_requirements(name)
        elif name:
            self.seen[name] = self.read(name)
        inputs = [self.version] if installs_itself else sorted(self.seen.items())
        return hashlib.sha256(repr([name, inputs]).encode()).hexdigest()[:16]

    def read(self, name):
        """Return the text of a file of the archive, following links within it; empty if it is missing."""
        member = self.member(name)
        if not member:
            return ""
        self.room -= member.size
        if self.room < 0:
            raise SourceError(
                f"app_source: {name!r} brings its Procfile and its lists of dependencies to more than {MAX_TEXT_MB} MB. Make it smaller."
            )
        return self.tar.extractfile(member).read().decode(errors="replace")

    def member(self, name):
        with contextlib.suppress(archives.Outside, archives.Circle):
            found = self.members.get(archives.resolve(name, self.links)[-1])
            return found if found and found.isfile() and not name.startswith("/") else None

    def is_package(self):
        self.seen["pyproject.toml"] = text = self.read("pyproject.toml")
        return "[build-system]" in text and not re.search(r"^package\s*=\s*false", text, re.MULTILINE)

    def read_requirements(self, name):
        """Whether the requirements name a part of the source itself; reads all files that they include."""
        itself, names = False, [name]
        while names:
            name = names.pop()
            if name in self.seen:
                continue
            self.seen[name] = text = self.read(name)
            for line in text.splitlines():
                include = re.match(r"(?:-r|-c|--requirement|--constraint)[ =]*(\S+)", line.strip())
                if include:
                    names.append(os.path.normpath(os.path.join(os.path.dirname(name), include[1])))
                elif re.match(r"(-e|--editable|\.|/|file:)|.*@ *file:", line.strip()):
                    itself = True
        return itself
