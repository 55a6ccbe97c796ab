"""Link the directories of a release that nginx serves, by URL."""

import os


class Public:
    """The directory of the links. CODE is the release's source, which root owns."""

    def __init__(self, directory, code):
        self.directory, self.code = directory, code

    def link(self, static):
        """STATIC has directories of the source by URL."""
        self.publish("", "", {url.strip("/"): os.path.join(self.code, directory) for url, directory in static.items()})

    def publish(self, url, own, directories):
        """Link the directory that nginx serves at this URL, and those at the URLs below it.

        With a URL below it, such as /static/admin/ below /static/, the URL becomes a directory with links to the content of its own
        directory, because root must not write into the code.
        """
        path, below = os.path.join(self.directory, url), {}
        if own and not directories:
            os.symlink(os.path.relpath(own, os.path.dirname(path)), path)
            return
        for inner, directory in directories.items():
            name = inner.removeprefix(url).lstrip("/").split("/")[0]
            below.setdefault(name, {})[inner] = directory
        if below:
            os.makedirs(path, exist_ok=True)
        own = own if own and self.is_code(own) else ""
        for name in os.listdir(own) if own else []:
            if name not in below:
                os.symlink(os.path.relpath(os.path.join(own, name), path), os.path.join(path, name))
        for name, found in below.items():
            child = f"{url}/{name}".lstrip("/")
            self.publish(child, found.pop(child, own and os.path.join(own, name)), found)

    def is_code(self, path):
        """Return whether a directory of the source exists, and no link leads out of the source."""
        return os.path.isdir(path) and os.path.realpath(path).startswith(os.path.realpath(self.code) + os.sep)
