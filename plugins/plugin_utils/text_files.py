"""Read the text files of a source from its archive: at most a certain size in total, and only inside the source."""

import contextlib
import json

import tomllib
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError

# the lock file of a large project has a few MB
MAX_TEXT_MB = 32


class TextFiles:
    def __init__(self, tar, members):
        self.tar, self.members, self.links = tar, {member.name: member for member in members}, archives.links_of(members)
        # `reading` is the file that was parsed last, for messages
        self.room, self.texts, self.reading = MAX_TEXT_MB * 2**20, {}, ""

    def read(self, name):
        """Return the text of a file in the archive, or an empty string if it is missing. Follow links inside the archive."""
        if name in self.texts:
            return self.texts[name]
        member = self.member(name)
        if not member:
            return ""
        self.room -= member.size
        if self.room < 0:
            raise SourceError(
                f"app_source: with {name!r}, the source's Procfile and dependency files are larger than {MAX_TEXT_MB} MB. Make it smaller."
            )
        self.texts[name] = text = self.tar.extractfile(member).read().decode(errors="replace")
        return text

    def member(self, name):
        with contextlib.suppress(archives.Outside, archives.LinkLoop):
            found = self.members.get(archives.resolve(name, self.links)[-1])
            return found if found and found.isfile() and not name.startswith("/") else None

    def toml(self, name):
        return self.parsed(name, tomllib.loads)

    def parsed(self, name, parse):
        self.reading = name
        content = parse(self.read(name) or "{}" if parse is json.loads else self.read(name))
        return content if isinstance(content, dict) else {}
