"""Compute a digest of everything in the source's archive that an app's venv is built from."""

import contextlib
import hashlib
import os
import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError

DEPENDENCY_FILES = ("uv.lock", "requirements.txt", "pyproject.toml", "setup.py")
# the lock file of a large project has a few MB
MAX_TEXT_MB = 32


class Dependencies:
    """The inputs of a venv. If a project installs itself, its venv also contains the project's code, so the whole version is an input."""

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
        """Return the text of a file in the archive, or an empty string if it is missing. Follow links inside the archive."""
        member = self.member(name)
        if not member:
            return ""
        self.room -= member.size
        if self.room < 0:
            raise SourceError(
                f"app_source: with {name!r}, the source's Procfile and dependency files are larger than {MAX_TEXT_MB} MB. Make it smaller."
            )
        return self.tar.extractfile(member).read().decode(errors="replace")

    def member(self, name):
        with contextlib.suppress(archives.Outside, archives.LinkLoop):
            found = self.members.get(archives.resolve(name, self.links)[-1])
            return found if found and found.isfile() and not name.startswith("/") else None

    def is_package(self):
        self.seen["pyproject.toml"] = text = self.read("pyproject.toml")
        return "[build-system]" in text and not re.search(r"^package\s*=\s*false", text, re.MULTILINE)

    def read_requirements(self, name):
        """Return whether the requirements install a part of the source itself. Read all files that they include."""
        installs_source, names = False, [name]
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
                    installs_source = True
        return installs_source
