"""Pack a source that is a directory on the controller. Its version is a digest of its content.

In a git working copy, files that git ignores are left out.
"""

import contextlib
import errno
import fnmatch
import hashlib
import io
import os
import re
import stat
import tarfile

from ansible.utils.display import Display
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git import git
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError, missing_directory, reject_pointer, submodule
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_archive import packing

EXCLUDE = (".git", ".venv", "venv", "__pycache__", "*.pyc", ".pytest_cache", "node_modules", ".env", "instance")


def from_folder(args, cache):
    folder = find_folder(args)
    if args.get("folder"):
        folder = os.path.join(folder, args["folder"])
        if not os.path.isdir(folder):
            raise missing_directory(args)
        if os.path.realpath(folder) != folder:
            raise SourceError(f"app_folder: '{args['folder']}' goes through a link of the source. Name the directory that it leads to.")
    members, size = [], 0
    for path in sorted(list_files(folder)):
        if not excluded(path) and (member := read_member(folder, path, archives.MAX_MB * 2**20 - size)):
            members.append(member)
            size += member[0].size
    digest = hashlib.sha256()
    for info, content in members:
        kind = "link" if info.issym() else "program" if info.mode & 0o100 else "file"
        text = info.linkname.encode() if info.issym() else content
        digest.update(f"{info.name}\0{kind}\0{len(text)}\0".encode() + text)
    version = digest.hexdigest()[:10]
    # by its whole name: somebody can make another source whose name begins the same
    archive = os.path.join(cache, f"{digest.hexdigest()}.tar.gz")
    if not os.path.exists(archive):
        with packing(archive) as tar:
            for info, content in members:
                tar.addfile(info, io.BytesIO(content))
    os.utime(archive)
    return {"version": version, "commit": "", "archive": archive, "folder": folder}


def find_folder(args):
    source = os.path.expanduser(args["source"])
    candidates = [os.path.join(base, source) for base in args.get("base", [])] or [source]
    for candidate in candidates:
        if args["source"] and os.path.isdir(candidate):
            return os.path.realpath(candidate)
    looked = " and ".join(os.path.normpath(path) for path in candidates)
    raise SourceError(f"app_source: it is neither a git URL nor a folder on this controller (looked for {looked}).")


def list_files(folder):
    if has_git(folder):
        return list_working_copy(folder)
    found = []
    for parent, folders, names in os.walk(folder, onerror=reject_unreadable):
        folders[:] = [name for name in folders if not excluded(name)]
        # a link to a folder is one member, like a link to a file
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in names + links]
    return found


def has_git(folder):
    """Whether a directory is in a git working copy, even a broken one: files that git ignores are never shipped."""
    while not os.path.lexists(os.path.join(folder, ".git")):
        # git looks no further either
        if os.path.ismount(folder):
            return False
        folder = os.path.dirname(folder)
    return True


def list_working_copy(folder):
    # no protocol: an object that is not there is not fetched from where the working copy says
    listing, said = git(
        "-C", folder, "ls-files", "--cached", "--others", "--exclude-standard", "-z", environment={"GIT_ALLOW_PROTOCOL": "none"}
    )
    for path in re.findall("could not open directory '(.*?)/?'", said):
        if not excluded(path):
            raise SourceError(f"app_source: {path!r} can't be read. Make it readable, or add it to .gitignore.")
    found = {path for path in listing.split("\0") if path and not excluded(path)}
    for path in sorted(found):
        if os.path.isdir(os.path.join(folder, path)) and not os.path.islink(os.path.join(folder, path)):
            if not path.endswith("/"):
                raise submodule(path)
            warn(path.rstrip("/"), "is a git repository of its own")
            found.remove(path)
    return found


def reject_unreadable(error):
    raise SourceError(f"app_source: {error.filename!r} can't be read ({error.strerror}). Make it readable, or take it out of the source.")


def warn(path, what):
    Display().warning(f"{path!r} of the source {what}, and is left out.")


def excluded(path):
    return any(fnmatch.fnmatch(part, pattern) for part in path.split("/") for pattern in EXCLUDE)


def read_member(folder, path, room):
    """Return a path's entry in the archive and its content; None if it can't be shipped."""
    info, content = tarfile.TarInfo(path), b""
    archives.check_name(path)
    name = os.path.basename(path)
    try:
        with parent_of(folder, path) as parent:
            if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=parent)
                archives.check_member(info)
            else:
                content = read_file(name, parent, info, room)
    except FileNotFoundError:
        # git may know it still, or it was removed meanwhile
        return None
    except OSError as error:
        error.filename = path
        reject_unreadable(error)
    if content is None:
        warn(path, "is neither a file nor a directory nor a link")
        return None
    reject_pointer(path, content)
    info.size = len(content)
    # nginx makes an ETag of time and size, Python a .pyc's validity. A time that follows from the content
    # makes both right, on every host and from every controller.
    text = info.linkname.encode() if info.issym() else content
    info.mtime = 1_000_000_000 + int(hashlib.sha256(text).hexdigest()[:7], 16)
    return info, content


@contextlib.contextmanager
def parent_of(folder, path):
    """Open the directory that holds a path of the source. No link beneath FOLDER is followed: it may lead anywhere on this controller."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in archives.parents(path):
            above = at
            try:
                at = os.open(os.path.basename(parent), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    remedy = "Make it a directory again, or remove what lies beneath it from git (git rm --cached)"
                    raise archives.unsafe(path, f"lies beneath {parent!r}, which is not a directory", remedy) from None
                raise
            os.close(above)
        yield at
    finally:
        os.close(at)


def read_file(name, parent, info, room):
    if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return None
    # whatever has taken its place meanwhile: without O_NONBLOCK, a FIFO is waited for until somebody writes to it
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    with open(descriptor, "rb") as handle:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        if found.st_size > room:
            raise SourceError(
                f"app_source: {info.name!r} brings the source to more than {archives.MAX_MB} MB. Keep large files out of it (.gitignore)."
            )
        info.mode = 0o755 if found.st_mode & 0o100 else 0o644
        # no more than there was: it may be written to meanwhile
        return handle.read(found.st_size)
