"""Fetch and pack a source that is a git URL. Its version is the commit, or the tree of `app_directory` in that commit.

During one Ansible run, the same URL and version resolve to the same commit on every host, even if the branch moves in the meantime.
"""

import hashlib
import io
import os
import re
import shutil
import tarfile
import uuid
from urllib.parse import unquote, urlsplit, urlunsplit

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git import git, output_of_git
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import LFS_BYTES, SourceError, missing_directory, reject_pointer
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_archive import packing

LISTING_BYTES = 65536
# git runs this helper with an action as its argument; the credentials never appear in a command line
CREDENTIAL_HELPER = '!f() { [ "$1" != get ] || printf "username=%s\\npassword=%s\\n" "$FLASKHOST_GIT_USER" "$FLASKHOST_GIT_PASSWORD"; }; f'
ENCODE = "In a password, write / as %2F, # as %23, ? as %3F, @ as %40, : as %3A and a space as %20."
# Identifies this Ansible run: the playbook's process imports this file, and the workers that it forks inherit the value.
RUN = uuid.uuid4().hex


def from_git(args, cache):
    remote = Remote(args["source"])
    clone = os.path.join(cache, "git-" + hashlib.sha256(remote.url.encode()).hexdigest()[:16])
    commit = commit_of_this_run(remote, args.get("version") or "", clone)
    directory, tree = args.get("directory"), commit
    if directory:
        # the tree of the directory is the version, so commits that do not change the directory keep the version
        missing = missing_directory(args)
        tree = name_of(clone, f"{name_of(clone, f'{commit}:{directory}', missing)}^{{tree}}", missing)
    archive = f"{clone}-{tree}.tar.gz"
    if not os.path.exists(archive):
        pack_commit(clone, commit, tree, directory, archive)
    os.utime(archive)
    return {"version": tree[:10], "commit": commit, "archive": archive}


class Remote:
    """A repository's URL and its credentials, separated so that the credentials never appear in a command line or in a clone."""

    def __init__(self, source):
        try:
            parts = urlsplit(source)
            _port = "://" in source and parts.port  # raises ValueError if invalid
        except ValueError:
            raise SourceError(f"app_source: the URL is not valid. {ENCODE}") from None
        user, at, host = parts.netloc.rpartition("@")
        if re.search(r"\s", source):
            raise SourceError(f"app_source: the URL contains a space. {ENCODE}")
        if "://" in source and (parts.query or parts.fragment):
            raise SourceError("app_source: git does not support parameters in a URL. Write a token as https://TOKEN@HOST/….")
        if parts.scheme == "ssh" and ":" in user:
            raise SourceError(
                "app_source: ssh does not accept a password in a URL. Remove the password, and use an SSH key on this controller."
            )
        self.url, self.environment = source, {}
        if at and parts.scheme in ("http", "https"):
            self.url = urlunsplit(parts._replace(netloc=host))
            self.environment = helper_for(f"{parts.scheme}://{host}", *user.partition(":"))


def helper_for(server, user, colon, password):
    """Return environment variables that configure a credential helper for this server only, not for redirects."""
    # A user name without a password may be a token, or the operator's own credential helper may know the password.
    before = ("helper", "") if colon else ("username", unquote(user))
    settings = [(f"credential.{server}.{key}", value) for key, value in (before, ("helper", CREDENTIAL_HELPER))]
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    environment = {
        "GIT_CONFIG_COUNT": str(first + len(settings)),
        "FLASKHOST_GIT_USER": unquote(user),
        "FLASKHOST_GIT_PASSWORD": unquote(password),
    }
    for number, (key, value) in enumerate(settings, first):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return environment


def commit_of_this_run(remote, wanted, clone):
    key = f"{RUN} {wanted} "
    note = f"{clone}.run"
    if os.path.exists(note):
        with open(note) as handle:
            text = handle.read()
        if text.startswith(key):
            return text[len(key) :]
    if os.path.isdir(clone):
        git(f"--git-dir={clone}", "remote", "update", "--prune", environment=remote.environment)
    else:
        temporary = f"{clone}.{os.getpid()}"
        try:
            git("clone", "--quiet", "--mirror", "--", remote.url, temporary, environment=remote.environment)
            os.rename(temporary, clone)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    missing = f"app_version: no such branch, tag or commit in {remote.url}. Use an existing one, or leave it empty for the default branch."
    commit = name_of(clone, f"{wanted or 'HEAD'}^{{commit}}", SourceError(missing))
    with open(note, "w") as handle:
        handle.write(key + commit)
    return commit


def name_of(clone, revision, missing):
    try:
        return git(f"--git-dir={clone}", "rev-parse", "--verify", "--quiet", "--end-of-options", revision)[0].strip()
    except SourceError:
        raise missing from None


def pack_commit(clone, commit, tree, directory, archive):
    # The same version must always have the same content: do not expand keywords that depend on the commit or the clone ($Format:…$, $Id$),
    # and do not apply the operator's filters, such as Git LFS, which could run a program or fetch from a server that the source names.
    os.makedirs(os.path.join(clone, "info"), exist_ok=True)
    with open(os.path.join(clone, "info/attributes"), "w") as handle:
        handle.write("* -export-subst -filter -ident\n")
    check_listing(clone, tree)
    arguments = ["archive", "--format=tar", commit, *(["--", directory] if directory else [])]
    # check each member before it is copied, because a small repository can produce an endless archive
    with packing(archive) as tar, output_of_git(clone, *arguments) as output, tarfile.open(fileobj=output, mode="r|") as source:
        archives.check_members(copy_members(source, tar, directory))


def check_listing(clone, tree):
    """Reject names and link targets of hundreds of megabytes before git and tarfile hold several copies of them in memory."""
    sizes, rest = archives.Sizes(), b""
    with output_of_git(clone, "ls-tree", "-r", "-t", "-l", "-z", tree) as output:
        while data := output.read1(LISTING_BYTES):
            *entries, rest = (rest + data).split(b"\0")
            for entry in [*entries, rest] if len(rest) > LISTING_BYTES else entries:
                about, _tab, name = entry.decode(errors="surrogateescape").partition("\t")
                archives.check_name(name)
                mode, _kind, _object, size = about.split()
                is_link = mode == "120000"
                # count only links, because files that export-ignore excludes can be large
                sizes.add(name, int(size) if is_link else 0, is_link)


def copy_members(source, tar, directory):
    """Copy one archive to another, member by member, and yield each. With a directory, copy only its content, and move it to the top."""
    for member in source:
        if directory and not member.name.startswith(f"{directory}/"):
            continue
        member.name = member.name.removeprefix(f"{directory}/") if directory else member.name
        # these headers contain the original name and the commit
        member.pax_headers = {}
        yield member
        content = source.extractfile(member) if member.isfile() else None
        if content and member.size < LFS_BYTES:
            content = io.BytesIO(content.read())
            reject_pointer(member.name, content.getvalue())
        tar.addfile(member, content)
