"""Fetch and pack a source that is a git URL. Its version is the tree of a commit.

Within one run of Ansible the same URL and version give the same commit on every host, even if the branch moves meanwhile.
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
# git runs it, and passes what to do as an argument; the values never stand in a command line
CREDENTIAL_HELPER = '!f() { [ "$1" != get ] || printf "username=%s\\npassword=%s\\n" "$FLASKHOST_GIT_USER" "$FLASKHOST_GIT_PASSWORD"; }; f'
ENCODE = "In a password, write / as %2F, # as %23, ? as %3F, @ as %40, : as %3A and a space as %20."
# Identifies this run of Ansible: the playbook's process imports this file with the action, and the workers that it forks inherit the value.
RUN = uuid.uuid4().hex


def from_git(args, cache):
    remote = Remote(args["source"])
    clone = os.path.join(cache, "git-" + hashlib.sha256(remote.url.encode()).hexdigest()[:16])
    commit = commit_of_this_run(remote, args.get("version") or "", clone)
    folder, tree = args.get("folder"), commit
    if folder:
        # a commit that changes nothing in the app's folder is no other version of it
        missing = missing_directory(args)
        tree = name_of(clone, f"{name_of(clone, f'{commit}:{folder}', missing)}^{{tree}}", missing)
    archive = f"{clone}-{tree}.tar.gz"
    if not os.path.exists(archive):
        pack_commit(clone, commit, tree, folder, archive)
    os.utime(archive)
    return {"version": tree[:10], "commit": commit, "archive": archive}


class Remote:
    """A repository's URL, with its credentials kept apart: they appear in no command line and in no clone's configuration."""

    def __init__(self, source):
        try:
            parts = urlsplit(source)
            _port = "://" in source and parts.port  # reading it is the check
        except ValueError:
            raise SourceError(f"app_source: it is no valid URL. {ENCODE}") from None
        user, at, host = parts.netloc.rpartition("@")
        if re.search(r"\s", source):
            raise SourceError(f"app_source: it has a space in its URL. {ENCODE}")
        if "://" in source and (parts.query or parts.fragment):
            raise SourceError("app_source: git takes no parameters in a URL. Write a token as https://TOKEN@HOST/….")
        if parts.scheme == "ssh" and ":" in user:
            raise SourceError("app_source: ssh takes no password from a URL. Remove it, and let this controller use an ssh key.")
        self.url, self.environment = source, {}
        if at and parts.scheme in ("http", "https"):
            self.url = urlunsplit(parts._replace(netloc=host))
            self.environment = helper_for(f"{parts.scheme}://{host}", *user.partition(":"))


def helper_for(place, user, colon, password):
    """Settings of git by environment: a credential helper, which git asks for this place only, wherever a redirect leads."""
    # a user alone may have a password in the owner's own helper, or be a token, which has none
    before = ("helper", "") if colon else ("username", unquote(user))
    settings = [(f"credential.{place}.{key}", value) for key, value in (before, ("helper", CREDENTIAL_HELPER))]
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
    missing = (
        f"app_version: it is no branch, tag or commit of {remote.url}. Name one that is there, or leave it empty for the default branch."
    )
    commit = name_of(clone, f"{wanted or 'HEAD'}^{{commit}}", SourceError(missing))
    with open(note, "w") as handle:
        handle.write(key + commit)
    return commit


def name_of(clone, revision, missing):
    try:
        return git(f"--git-dir={clone}", "rev-parse", "--verify", "--quiet", "--end-of-options", revision)[0].strip()
    except SourceError:
        raise missing from None


def pack_commit(clone, commit, tree, folder, archive):
    # the same content for the same version: not what differs by commit, by clone or by the owner's keys ($Format:…$, $Id$), and
    # nothing that filters of the operator's, such as Git LFS, would make of it: each may run a program, or fetch from where the source says
    os.makedirs(os.path.join(clone, "info"), exist_ok=True)
    with open(os.path.join(clone, "info/attributes"), "w") as handle:
        handle.write("* -export-subst -filter -ident\n")
    check_listing(clone, tree)
    words = ["archive", "--format=tar", commit, *(["--", folder] if folder else [])]
    # each member is checked before it is copied: a small repository may have an endless archive
    with packing(archive) as tar, output_of_git(clone, *words) as output, tarfile.open(fileobj=output, mode="r|") as source:
        archives.check_members(copied(source, tar, folder))


def check_listing(clone, tree):
    """A link or a name of hundreds of megabytes is rejected before git and tarfile have it in memory, several times."""
    sizes, rest = archives.Sizes(), b""
    with output_of_git(clone, "ls-tree", "-r", "-t", "-l", "-z", tree) as output:
        while data := output.read1(LISTING_BYTES):
            *entries, rest = (rest + data).split(b"\0")
            for entry in [*entries, rest] if len(rest) > LISTING_BYTES else entries:
                about, _tab, name = entry.decode(errors="surrogateescape").partition("\t")
                archives.check_name(name)
                mode, _kind, _object, size = about.split()
                is_link = mode == "120000"
                # what export-ignore leaves out may be large
                sizes.add(name, int(size) if is_link else 0, is_link)


def copied(source, tar, folder):
    """Copy one archive into another, member by member; with a directory, only its content, which moves to the top."""
    for member in source:
        if folder and not member.name.startswith(f"{folder}/"):
            continue
        member.name = member.name.removeprefix(f"{folder}/") if folder else member.name
        # these hold the name in the other archive, and the commit
        member.pax_headers = {}
        yield member
        content = source.extractfile(member) if member.isfile() else None
        if content and member.size < LFS_BYTES:
            content = io.BytesIO(content.read())
            reject_pointer(member.name, content.getvalue())
        tar.addfile(member, content)
