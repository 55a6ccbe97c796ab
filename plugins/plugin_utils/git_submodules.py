"""Find and fetch the submodules of a commit.

The repository names their URLs, and is not trusted. A submodule on the same server is fetched as the repository itself, with its
credentials. Other servers get none of the operator's credentials, and a submodule is never a path on the controller, except beside a
repository that is one itself.
"""

import os
import posixpath
from urllib.parse import urljoin, urlsplit, urlunsplit

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git_remote import URL, Remote, configuration
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError

MAX_SUBMODULES = 100
CHECKED_OUT = "Or clone the repository with --recurse-submodules, and set app_source to that directory."


def urls(remote, commit):
    """Return the URLs of the submodules by path, as .gitmodules lists them."""
    if not remote.find(f"{commit}:.gitmodules"):
        return {}
    try:
        text = remote.git("config", f"--blob={commit}:.gitmodules", "-z", "--get-regexp", r"^submodule\..*\.(path|url)$")
    except SourceError:
        return {}
    values = dict(entry.partition("\n")[::2] for entry in text.split("\0") if entry)
    paths = {value: key.removesuffix(".path") for key, value in values.items() if key.endswith(".path")}
    return {path: values[f"{name}.url"] for path, name in paths.items() if f"{name}.url" in values}


def fetch(parent, path, url, commit):
    """Return the remote of a submodule, whose clone has the commit."""
    if not url:
        raise error(path, "without a URL in .gitmodules", "Add it with `git submodule add`, or remove it with `git rm`.")
    try:
        remote = Remote(absolute(parent.url, path, url), parent.cache)
        if remote.server == parent.server and parent.url.startswith("http") and not remote.url.startswith("http"):
            # the credentials of app_source are for https
            remote = Remote(urljoin(parent.url, "/" + remote.path), parent.cache)
        remote.environment = remote.environment or environment(path, remote, parent)
        if not remote.find(f"{commit}^{{commit}}"):
            remote.update()
        if not remote.find(f"{commit}^{{commit}}"):
            # no branch contains it, but the server may still have it
            remote.git("fetch", "--quiet", "origin", commit)
    except SourceError as problem:
        text = str(problem)
        raise SourceError(text if repr(path) in text else f"{text} It is the submodule {path!r}. {CHECKED_OUT}") from None
    return remote


def environment(path, remote, parent):
    """Return the environment for git: that of the repository, if the submodule is on the same server."""
    if urlsplit(remote.url).scheme == "file" and not is_beside(remote.url, parent.url):
        raise error(path, "whose URL is a path", f"Use the URL of a server in .gitmodules. {CHECKED_OUT}")
    if remote.server == parent.server:
        # the helper gives the credentials to this server only
        return parent.environment
    if not remote.url.startswith(("https://", "http://", "git://")):
        raise error(path, f"on another server, {remote.server}, where ssh would use your keys", f"Use its https:// URL. {CHECKED_OUT}")
    return without_credentials(parent.cache)


def error(path, problem, remedy):
    return SourceError(f"app_source: {path!r} of the source is a git submodule {problem}. {remedy}")


def absolute(parent, path, url):
    """Resolve a relative URL, as git does. It cannot leave the server."""
    if not url.startswith(("./", "../")):
        if not URL.match(url):
            raise error(path, "whose URL is a path, or not supported", f"Use the URL of a server in .gitmodules. {CHECKED_OUT}")
        return url
    if "://" in parent:
        parts = urlsplit(parent)
        top = urlunsplit(parts._replace(path=""))
        base = parts.path.strip("/")
    else:
        top, _colon, base = parent.partition(":")
        top += ":"
    found = posixpath.normpath(posixpath.join(base.strip("/"), url))
    if found.startswith("..") or found == ".":
        raise error(path, "whose relative URL leaves its server", "Correct it in .gitmodules.")
    slash = "/" if "://" in parent or parent.partition(":")[2].startswith("/") else ""
    return f"{top}{slash}{found}"


def is_beside(url, parent):
    place = os.path.realpath(urlsplit(url).path)
    directory = os.path.dirname(os.path.realpath(urlsplit(parent).path))
    return urlsplit(parent).scheme == "file" and place.startswith(directory.rstrip("/") + "/")


def without_credentials(home):
    """Return environment variables with which git uses neither the operator's credential helpers nor ~/.netrc."""
    return configuration([("credential.helper", "")]) | {
        "GIT_ASKPASS": "false",
        "GIT_CONFIG_GLOBAL": os.path.expanduser("~/.gitconfig"),
        "HOME": home,
    }
