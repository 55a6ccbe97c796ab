"""A git URL, its credentials, and the clone of its repository on the controller."""

import hashlib
import os
import re
import shutil
from urllib.parse import unquote, urlsplit, urlunsplit

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git import git
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError

URL = re.compile(r"^((https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)")
# git runs this helper with an action as its argument; the credentials never appear in a command line
CREDENTIAL_HELPER = '!f() { [ "$1" != get ] || printf "username=%s\\npassword=%s\\n" "$FLASKHOST_GIT_USER" "$FLASKHOST_GIT_PASSWORD"; }; f'
ENCODE = "In a password, write / as %2F, # as %23, ? as %3F, @ as %40, : as %3A and a space as %20."


class Remote:
    """A repository's URL and its credentials, separated so that the credentials never appear in a command line or in a clone."""

    def __init__(self, source, cache):
        try:
            parts = urlsplit(source)
            _port = "://" in source and parts.port  # raises ValueError if invalid
        except ValueError:
            raise SourceError(f"app_source: the URL is not valid. {ENCODE}") from None
        user, at, host = parts.netloc.rpartition("@")
        if re.search(r"\s", source):
            raise SourceError(f"app_source: the URL contains a space. {ENCODE}")
        if "://" in source and (parts.query or parts.fragment):
            raise SourceError("app_source: git does not support parameters in a URL. Write a token and an @ before the server's name.")
        if parts.scheme == "ssh" and ":" in user:
            raise SourceError(
                "app_source: ssh does not accept a password in a URL. Remove the password, and use an SSH key on this controller."
            )
        self.url, self.environment = source, {}
        if at and parts.scheme in ("http", "https"):
            self.url = urlunsplit(parts._replace(netloc=host))
            self.environment = helper_for(f"{parts.scheme}://{host}", *user.partition(":"))
        self.cache, self.clone = cache, os.path.join(cache, "git-" + hashlib.sha256(self.url.encode()).hexdigest()[:16])

    @property
    def server(self):
        """Return the server's name and port."""
        place = urlsplit(self.url).netloc if "://" in self.url else self.url.partition(":")[0]
        return place.rpartition("@")[2].lower()

    @property
    def path(self):
        """Return the path on the server."""
        return (urlsplit(self.url).path if "://" in self.url else self.url.partition(":")[2]).lstrip("/")

    def update(self):
        """Fetch all branches and tags."""
        if os.path.isdir(self.clone):
            self.git("remote", "update", "--prune")
            return
        temporary = f"{self.clone}.{os.getpid()}"
        try:
            git("clone", "--quiet", "--mirror", "--", self.url, temporary, environment=self.environment)
            os.rename(temporary, self.clone)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def git(self, *arguments):
        return git(f"--git-dir={self.clone}", *arguments, environment=self.environment)[0]

    def find(self, revision):
        """Return the ID of an object, or an empty string if the clone does not have it."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", "--end-of-options", revision).strip()
        except SourceError:
            return ""

    def branches_and_tags(self):
        names = self.git("for-each-ref", "--count=1000", "--sort=-creatordate", "--format=%(refname:lstrip=2)", "refs/heads", "refs/tags")
        return names.splitlines()


def helper_for(server, user, colon, password):
    """Return environment variables that configure a credential helper for this server only, not for redirects."""
    # A user name without a password may be a token, or the operator's own credential helper may know the password.
    before = ("helper", "") if colon else ("username", unquote(user))
    settings = [(f"credential.{server}.{key}", value) for key, value in (before, ("helper", CREDENTIAL_HELPER))]
    return configuration(settings) | {"FLASKHOST_GIT_USER": unquote(user), "FLASKHOST_GIT_PASSWORD": unquote(password)}


def configuration(settings):
    """Return environment variables that add (name, value) to git's configuration."""
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    environment = {"GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (key, value) in enumerate(settings, first):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return environment
