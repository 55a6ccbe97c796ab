"""Check the archive of an app's source: on the controller before any host is changed, and on the host before it is unpacked.

The source is not trusted. Root must be able to unpack it without leaving the directory, and then to use the paths in `app_shared` and
`app_static` without following a link to another place. This file supports Python 3.9 and newer, and uses only the standard library.
"""

import posixpath
import re
import tarfile

# files that an app runs, and does not write to
CODE = (".py", ".pyc", ".so")
# control characters, line separators, and bytes that are not UTF-8 (tarfile decodes them to surrogates)
BAD_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_DEPTH = 100
MAX_LINKS = 40  # the kernel's limit for one path
MAX_LINK_BYTES = 1024
MAX_MB = 2048
MAX_MEMBERS = 200_000
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 2048
MAX_STEPS = 1000  # directories that a path traverses, including those of its links
MODES = 0o777
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


class UnsafeArchive(ValueError):
    """The message names the member, the problem and the remedy."""


def check_members(members, shared=(), static=()):
    """Raise UnsafeArchive unless these members of a tar file are safe to unpack, and SHARED and STATIC are safe to use inside it."""
    found, sizes = {}, Sizes()
    for member in members:
        sizes.add(member.name, len(member.linkname.encode(errors="replace")) if member.issym() else member.size, member.issym())
        check_member(member)
        if member.name in found:
            raise unsafe(member.name, "exists twice", "Keep only one of the two")
        found[member.name] = member
    for name in found:
        for parent in parents(name):
            if parent in found and not found[parent].isdir():
                raise unsafe(name, f"is below {parent!r}, which is not a directory", "Rename one of the two")
    links = links_of(found.values())
    for name in links:
        check_link(name, links)
    for problem in shared_problems(shared, found, links):
        raise UnsafeArchive(f"app_shared: {problem}")
    for problem in static_problems(static, shared, links):
        raise UnsafeArchive(f"app_static: {problem}")


class Sizes:
    """Count the members and their total size."""

    def __init__(self):
        self.number = self.bytes = 0

    def add(self, name, size, is_link):
        self.number += 1
        self.bytes += size
        if self.number > MAX_MEMBERS:
            raise UnsafeArchive(f"the source has more than {MAX_MEMBERS} files. Remove files that the app does not need.")
        if is_link and size > MAX_LINK_BYTES:
            raise unsafe(name, f"is a link whose target is longer than {MAX_LINK_BYTES} bytes", "Remove the link")
        if self.bytes > MAX_MB * 2**20:
            raise UnsafeArchive(f"with {shown(name)!r}, the source is larger than {MAX_MB} MB. Exclude large files from the source.")


def check_member(member):
    name = member.name
    check_name(name)
    if member.type not in (*PLAIN, tarfile.DIRTYPE, tarfile.SYMTYPE) or member.sparse is not None:
        raise unsafe(name, "is not a file, directory or symbolic link", "Remove it from the source")
    if member.mode & ~MODES:
        raise unsafe(name, f"has the mode {member.mode:04o}", "Remove its setuid, setgid or sticky bit")
    if member.issym() and (not member.linkname or BAD_CHARACTERS.search(member.linkname)):
        raise unsafe(name, f"is a link to {member.linkname!r}, which is empty or contains unprintable characters", "Remove the link")


def check_name(name):
    if BAD_CHARACTERS.search(name):
        raise unsafe(name, "has a name with control characters or bytes that are not UTF-8", "Rename it")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise unsafe(name, "is not a plain relative path", "Remove it from the source")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts) or len(name.encode()) > MAX_PATH_BYTES:
        raise unsafe(name, "has a name that is too long", "Shorten it")
    if len(parts) > MAX_DEPTH:
        raise unsafe(name, f"is nested more than {MAX_DEPTH} directories deep", "Move it up")


def check_link(name, links):
    target = links[name]
    if target.startswith("/"):
        raise unsafe(name, f"is a link to the absolute path {target!r}", "Link to a relative path in the source, or use app_shared")
    try:
        resolve(name, links)
    except Outside:
        raise unsafe(name, f"is a link to {target!r}, which is outside the source", "Link to a path in the source") from None
    except LinkLoop:
        problem = f"is a link to {target!r}, which is a loop or passes through too many links or directories"
        raise unsafe(name, problem, "Remove the link") from None


def links_of(members):
    return {member.name: member.linkname for member in members if member.issym()}


class Outside(ValueError):
    """The path leaves the source."""


class LinkLoop(ValueError):
    """The path passes through more links than the kernel follows, or through too many directories."""


def resolve(path, links):
    """Resolve a path of the source through its links. Return every path on the way, with the final path last."""
    rest, at, followed, passed = path.split("/")[::-1], [], 0, []
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                raise Outside(path)
            at.pop()
            continue
        # `at` contains the full path of each directory from the top to the current one
        at.append(f"{at[-1]}/{part}" if at else part)
        passed.append(at[-1])
        if len(passed) > MAX_STEPS or len(at) > MAX_DEPTH or len(at[-1]) > MAX_PATH_BYTES:
            raise LinkLoop(path)
        target = links.get(at[-1])
        if target is None:
            continue
        followed += 1
        if target.startswith("/"):
            raise Outside(path)
        if followed > MAX_LINKS:
            raise LinkLoop(path)
        at.pop()
        rest += target.split("/")[::-1]
    return [*passed, at[-1] if at else "."]


def shared_problems(shared, members, links):
    """Yield the problems of app_shared, whose paths become links to the app's data.

    MEMBERS is a list of names, or a dictionary of members by name.
    """
    for number, shared_path in enumerate(shared := list(shared)):
        path = normal(shared_path)
        for other in shared[:number]:
            if overlap(path, normal(other)):
                yield f"'{shared_path}' and '{other}' overlap. List only the outer one."
        for parent in parents(path):
            if parent in links:
                yield f"'{shared_path}' contains the symbolic link '{parent}' of the source. Use the directory that the link points to."
            elif parent in members and not is_directory(members, parent):
                yield f"'{shared_path}' is below {parent!r}, which is a file of the source. Use a directory."
        if path in members and path.endswith(CODE):
            yield f"'{shared_path}' is code of the source, which would never change again. List only files that the app writes to."
        for name in links:
            if name.startswith(f"{path}/") and not is_within(resolve(name, links)[-1], path):
                yield (
                    f"'{shared_path}' contains the symbolic link '{name}', which points to '{links[name]}'. Replace it by the file, because "
                    "the directory moves to the app's data."
                )


def static_problems(static, shared, links):
    """Yield the problems of app_static: directories outside the source, and directories that the app can write to."""
    for directory in static:
        try:
            passed = resolve(str(directory), links)
        except Outside:
            yield f"'{directory}' is outside the source. Use a directory in the source."
            continue
        except LinkLoop:
            yield f"'{directory}' is a symbolic link that forms a loop. Use a directory in the source."
            continue
        for name in shared:
            path = normal(name)
            # check directories on the way too: a shared one becomes a link to the app's data when the release is laid out
            if overlap(passed[-1], path) or any(is_within(step, path) for step in (normal(directory), *passed)):
                yield (
                    f"'{directory}' overlaps with '{name}' in app_shared. nginx cannot read files that the app writes. "
                    "Remove the directory from app_static, and let the app serve these files."
                )


def is_directory(members, name):
    """Return whether a member is a directory. A list of names contains only files."""
    return isinstance(members, dict) and members[name].isdir()


def normal(path):
    return posixpath.normpath(str(path))


def parents(path):
    """Return all directories above the path."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def is_within(path, directory):
    return directory == "." or path == directory or path.startswith(f"{directory}/")


def overlap(one, other):
    return is_within(one, other) or is_within(other, one)


def unsafe(name, problem, remedy):
    # !r, because control characters in a name must not be printed
    return UnsafeArchive(f"{shown(name)!r} of the source {problem}. {remedy}.")


def shown(name):
    return name if len(name) <= MAX_NAME_BYTES else f"{name[:MAX_NAME_BYTES]}…"
