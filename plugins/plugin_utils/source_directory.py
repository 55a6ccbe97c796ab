"""Pack a source that is a directory on the controller. Its version is a digest of its content.

In a git working copy, files that git ignores are left out, and all tracked files are kept. Among the other files, virtual environments,
caches and `.env` files are left out.
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
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError, missing_directory, reject_pointer
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_archive import packing

# left out unless git tracks them; .env contains the secrets of the developer's own machine
EXCLUDE = (".git", ".hg", ".svn", ".venv", ".env", "__pycache__", "*.pyc", "node_modules", ".tox", ".nox", ".DS_Store")
# files in a directory that is a virtual environment (of venv, virtualenv before 20, conda), or a cache (https://bford.info/cachedir/)
MARKERS = ("pyvenv.cfg", "bin/activate_this.py", "conda-meta/history", "CACHEDIR.TAG")
# git's mode of a submodule
SUBMODULE = "160000 "
# what venv creates, if the source itself is a virtual environment
ENVIRONMENT = ("bin", "include", "lib", "lib64", "pyvenv.cfg", "Scripts", "Include", "Lib")


def from_directory(args, cache):
    directory = find_directory(args)
    if args.get("directory"):
        directory = os.path.join(directory, args["directory"])
        if not os.path.isdir(directory):
            raise missing_directory(args)
        if os.path.realpath(directory) != directory:
            raise SourceError(f"app_directory: '{args['directory']}' contains a symbolic link. Use the directory that the link points to.")
    members, size = [], 0
    for path in sorted(list_files(directory)):
        if member := read_member(directory, path, archives.MAX_MB * 2**20 - size):
            members.append(member)
            size += member[0].size
    digest = hashlib.sha256()
    for info, content in members:
        kind = "link" if info.issym() else "program" if info.mode & 0o100 else "file"
        text = info.linkname.encode() if info.issym() else content
        digest.update(f"{info.name}\0{kind}\0{len(text)}\0".encode() + text)
    version = digest.hexdigest()[:10]
    # the full digest, because anybody could create another source with the same short version
    archive = os.path.join(cache, f"{digest.hexdigest()}.tar.gz")
    if not os.path.exists(archive):
        with packing(archive) as tar:
            for info, content in members:
                tar.addfile(info, io.BytesIO(content))
    os.utime(archive)
    return {"version": version, "commit": "", "archive": archive, "directory": directory}


def find_directory(args):
    source = os.path.expanduser(args["source"])
    candidates = [os.path.join(base, source) for base in args.get("base", [])] or [source]
    for candidate in candidates:
        if args["source"] and os.path.isdir(candidate):
            return os.path.realpath(candidate)
    paths = " and ".join(os.path.normpath(path) for path in candidates)
    raise SourceError(
        f"app_source: it is neither a git URL nor a directory on this controller (looked for {paths}). Correct the URL or path."
    )


def list_files(directory):
    if has_git(directory):
        found = list_working_copy(directory)
        if not found:
            raise SourceError(
                f"app_source: git lists no files in {directory!r}. It may be ignored by the repository that contains it (.gitignore). "
                "Add its files to git, or copy the directory to a place outside of the repository."
            )
        return found
    found, junk = [], Junk(directory)
    for parent, directories, names in os.walk(directory, onerror=reject_unreadable):
        within = os.path.relpath(parent, directory)
        directories[:] = [name for name in directories if not junk.contains(os.path.normpath(os.path.join(within, name)))]
        # a link to a directory is one member, like a link to a file
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        found += [path for name in names + links if not junk.contains(path := os.path.normpath(os.path.join(within, name)))]
    return found


class Junk:
    """The files of a source that are not the app's: virtual environments, caches and `.env` files."""

    def __init__(self, top):
        self.top, self.known = top, {}
        self.is_environment = os.path.lexists(os.path.join(top, "pyvenv.cfg"))

    def contains(self, path):
        return any(self.begins_at(part) for part in [*archives.parents(path), path])

    def begins_at(self, path):
        if path not in self.known:
            above, name = os.path.split(path)
            place = os.path.join(self.top, path)
            self.known[path] = (
                any(fnmatch.fnmatch(name, pattern) for pattern in EXCLUDE)
                or (self.is_environment and not above and name in ENVIRONMENT)
                or (os.path.isdir(place) and any(os.path.exists(os.path.join(place, marker)) for marker in MARKERS))
            )
        return self.known[path]


def has_git(directory):
    """Return whether a directory is in a git working copy, even in a broken one, so that ignored files are never deployed."""
    while not os.path.lexists(os.path.join(directory, ".git")):
        # git does not search beyond a mount point either
        if os.path.ismount(directory):
            return False
        directory = os.path.dirname(directory)
    return True


def list_working_copy(top, prefix=""):
    """List the files of a working copy and its submodules: all that git tracks, and those that are neither ignored nor junk."""
    directory, junk = os.path.join(top, prefix), Junk(top)
    # without any protocol, git cannot fetch missing objects from a remote that the working copy configures; and the directory of a
    # submodule must be a repository itself, not just a part of the one above
    environment = {"GIT_ALLOW_PROTOCOL": "none"} | ({"GIT_CEILING_DIRECTORIES": os.path.dirname(directory.rstrip("/"))} if prefix else {})
    tracked, _messages = git("-C", directory, "ls-files", "--stage", "-z", environment=environment)
    others, messages = git("-C", directory, "ls-files", "--others", "--exclude-standard", "-z", environment=environment)
    for path in re.findall("could not open directory '(.*?)/?'", messages):
        if not junk.contains(prefix + path):
            raise SourceError(f"app_source: cannot read {prefix + path!r}. Make it readable, or add it to .gitignore.")
    found = set()
    for entry in sorted({*tracked.split("\0")} - {""}):
        about, _tab, path = entry.partition("\t")
        if about.startswith(SUBMODULE):
            found |= list_submodule(top, prefix + path)
        elif not is_directory(os.path.join(top, prefix + path)):
            found.add(prefix + path)
    for path in sorted({*others.split("\0")} - {""}):
        if junk.contains(prefix + path.rstrip("/")):
            continue
        if path.endswith("/"):
            warn(prefix + path.rstrip("/"), "is a separate git repository")
        else:
            found.add(prefix + path)
    return found


def list_submodule(top, path):
    place = os.path.join(top, path)
    if os.path.lexists(place) and not is_directory(place):
        # a file has replaced it
        return {path}
    if not os.path.lexists(os.path.join(place, ".git")):
        raise SourceError(
            f"app_source: {path!r} of the source is a git submodule that is not checked out. "
            "Run `git submodule update --init --recursive` in the working copy."
        )
    with parent_of(top, f"{path}/.git"):
        return list_working_copy(top, f"{path}/")


def is_directory(path):
    return os.path.isdir(path) and not os.path.islink(path)


def reject_unreadable(error):
    raise SourceError(f"app_source: cannot read {error.filename!r} ({error.strerror}). Make it readable, or remove it from the source.")


def warn(path, problem):
    Display().warning(f"{path!r} of the source {problem} and is not deployed.")


def read_member(directory, path, room):
    """Return a path's entry in the archive and its content, or None if it cannot be deployed."""
    info, content = tarfile.TarInfo(path), b""
    archives.check_name(path)
    name = os.path.basename(path)
    try:
        with parent_of(directory, path) as parent:
            if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=parent)
                archives.check_member(info)
            else:
                content = read_file(name, parent, info, room)
    except FileNotFoundError:
        # a deleted file that is still in git's index, or a file that was removed just now
        return None
    except OSError as error:
        error.filename = path
        reject_unreadable(error)
    if content is None:
        warn(path, "is not a file, directory or symbolic link")
        return None
    reject_pointer(path, content)
    info.size = len(content)
    # nginx computes an ETag from time and size, and Python uses both to validate a .pyc file. A time derived from the content keeps both
    # consistent, on every host and from every controller.
    text = info.linkname.encode() if info.issym() else content
    info.mtime = 1_000_000_000 + int(hashlib.sha256(text).hexdigest()[:7], 16)
    return info, content


@contextlib.contextmanager
def parent_of(directory, path):
    """Open the parent directory of a path in the source. Do not follow links below DIRECTORY, which could point anywhere."""
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in archives.parents(path):
            above = at
            try:
                at = os.open(os.path.basename(parent), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    remedy = "Make it a directory again, or remove the files below it from git (git rm --cached)"
                    raise archives.unsafe(path, f"is below {parent!r}, which is not a directory", remedy) from None
                raise
            os.close(above)
        yield at
    finally:
        os.close(at)


def read_file(name, parent, info, room):
    if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return None
    # O_NONBLOCK, because the file may have been replaced by a FIFO, and open() would wait for a writer
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    with open(descriptor, "rb") as handle:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        if found.st_size > room:
            raise SourceError(
                f"app_source: with {info.name!r}, the source is larger than {archives.MAX_MB} MB. Exclude large files (.gitignore)."
            )
        info.mode = 0o755 if found.st_mode & 0o100 else 0o644
        # limit the read to this size, because the file may be growing
        return handle.read(found.st_size)
