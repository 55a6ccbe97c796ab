"""Pack a source that is a git URL: the files of a checkout with its submodules and the files in Git LFS.

Its version is the commit, or the tree of `app_directory` in that commit. During one Ansible run, the same URL and version resolve to the
same commit on every host, even if the branch moves in the meantime.
"""

import difflib
import io
import os
import tarfile
import uuid

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import git_submodules
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git import output_of_git
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git_lfs import LargeFiles
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git_remote import Remote
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import LFS_BYTES, SourceError, is_pointer, missing_directory
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_archive import packing

LISTING_BYTES = 65536
SHOWN_NAMES = 5
# Attributes that would make the content depend on the commit or the clone ($Format:…$, $Id$), run a program (filter), or drop files.
ATTRIBUTES = "* -export-ignore -export-subst -filter -ident\n"
# Identifies this Ansible run: the playbook's process imports this file, and the workers that it forks inherit the value.
RUN = uuid.uuid4().hex


def from_git(args, cache):
    remote = Remote(args["source"], cache)
    commit = commit_of_this_run(remote, args.get("version") or "")
    directory, tree = args.get("directory") or "", commit
    if directory:
        # the tree of the directory is the version, so commits that do not change the directory keep the version
        tree = remote.find(f"{remote.find(f'{commit}:{directory}')}^{{tree}}")
        if not tree:
            raise missing_directory(args)
    archive = f"{remote.clone}-checkout-{tree}.tar.gz"
    if not os.path.exists(archive):
        with packing(archive) as tar:
            # check each member before it is copied, because a small repository can produce an endless archive
            archives.check_members(Checkout(remote, commit, tar).copy(tree, directory))
    os.utime(archive)
    return {"version": tree[:10], "commit": commit, "archive": archive}


def commit_of_this_run(remote, wanted):
    key = f"{RUN} {wanted} "
    note = f"{remote.clone}.run"
    if os.path.exists(note):
        with open(note) as handle:
            text = handle.read()
        if text.startswith(key):
            return text[len(key) :]
    remote.update()
    commit = remote.find(f"{wanted or 'HEAD'}^{{commit}}")
    if not commit:
        raise SourceError(missing_version(remote, wanted))
    with open(note, "w") as handle:
        handle.write(key + commit)
    return commit


def missing_version(remote, wanted):
    names = remote.branches_and_tags()
    if not names:
        return f"app_source: {remote.url} has no commits yet. Push one, or use another repository."
    shown = ", ".join(difflib.get_close_matches(wanted, names, n=SHOWN_NAMES, cutoff=0.3) or names[:SHOWN_NAMES])
    if not wanted:
        return f"app_version: {remote.url} has no default branch. Set app_version to a branch, tag or commit, such as {shown}."
    shallow = "It is an incomplete (shallow) clone. " if os.path.exists(os.path.join(remote.clone, "shallow")) else ""
    return (
        f"app_version: no such branch, tag or commit in {remote.url}. {shallow}Use an existing one, such as {shown}, "
        "or leave it empty for the default branch."
    )


class Checkout:
    """Copies a commit with its submodules to an archive."""

    def __init__(self, remote, commit, tar, prefix="", submodules=None):
        self.remote, self.commit, self.tar, self.prefix = remote, commit, tar, prefix
        # shared with the checkouts of the submodules
        self.submodules = [] if submodules is None else submodules

    def copy(self, tree, directory=""):
        """Copy a tree, member by member, and yield each. With a directory, copy only its content, and move it to the top."""
        os.makedirs(os.path.join(self.remote.clone, "info"), exist_ok=True)
        with open(os.path.join(self.remote.clone, "info/attributes"), "w") as handle:
            handle.write(ATTRIBUTES)
        submodules = check_listing(self.remote.clone, tree)
        arguments = ["archive", "--format=tar", self.commit, *(["--", directory] if directory else [])]
        with output_of_git(self.remote.clone, *arguments) as output, tarfile.open(fileobj=output, mode="r|") as source:
            yield from self.copy_members(source, directory)
        if not submodules:
            return
        urls = git_submodules.urls(self.remote, self.commit)
        for path, commit in submodules.items():
            self.submodules.append(path)
            if len(self.submodules) > git_submodules.MAX_SUBMODULES:
                raise SourceError(f"app_source: the source has more than {git_submodules.MAX_SUBMODULES} git submodules. Remove some.")
            url = urls.get(f"{directory}/{path}" if directory else path, "")
            remote = git_submodules.fetch(self.remote, self.prefix + path, url, commit)
            yield from Checkout(remote, commit, self.tar, f"{self.prefix}{path}/", self.submodules).copy(commit)

    def copy_members(self, source, directory):
        large_files = LargeFiles(self.remote, self.commit)
        for member in source:
            if directory and not member.name.startswith(f"{directory}/"):
                continue
            member.name = self.prefix + (member.name.removeprefix(f"{directory}/") if directory else member.name)
            # these headers contain the original name and the commit
            member.pax_headers = {}
            content = source.extractfile(member) if member.isfile() else None
            if content and member.size < LFS_BYTES:
                content = io.BytesIO(content.read())
                if is_pointer(content.getvalue()):
                    content, member.size = large_files.open(member.name, content.getvalue())
            yield member
            self.tar.addfile(member, content)
            if content:
                content.close()


def check_listing(clone, tree):
    """Reject names, link targets and files that are too large before git and tarfile hold several copies of them in memory.

    Return the commits of the submodules by path.
    """
    sizes, submodules, rest = archives.Sizes(), {}, b""
    with output_of_git(clone, "ls-tree", "-r", "-t", "-l", "-z", tree) as output:
        while data := output.read1(LISTING_BYTES):
            *entries, rest = (rest + data).split(b"\0")
            for entry in [*entries, rest] if len(rest) > LISTING_BYTES else entries:
                about, _tab, name = entry.decode(errors="surrogateescape").partition("\t")
                archives.check_name(name)
                mode, kind, found, size = about.split()
                sizes.add(name, int(size) if size != "-" else 0, mode == "120000")
                if kind == "commit":
                    submodules[name] = found
    return submodules
