"""What an archive of an app's source may hold: the controller checks it before any host is touched, and the host before it unpacks.

The source is not trusted. Root must be able to unpack it without leaving the directory, and afterwards to follow `app_shared` and
`app_static` in it without meeting a link that leads elsewhere. Python 3.9 and newer; nothing but the standard library.
"""

import posixpath
import re
import tarfile

# control characters, line separators, and bytes that are not UTF-8 (tarfile makes surrogates of them)
BAD_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_DEPTH = 100
MAX_LINKS = 40  # the kernel's own limit for one path
MAX_LINK_BYTES = 1024
MAX_MB = 2048
MAX_MEMBERS = 200_000
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 2048
MAX_STEPS = 1000  # directories that one path passes through, by way of all its links
MODES = 0o777
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


class UnsafeArchive(ValueError):
    """Its text says which member is wrong, why, and what to do."""


def check_members(members, shared=(), static=()):
    """Raise UnsafeArchive unless these members of a tar file can be unpacked safely, and SHARED and STATIC be followed in there."""
    found, sizes = {}, Sizes()
    for member in members:
        sizes.add(member.name, len(member.linkname.encode(errors="replace")) if member.issym() else member.size, member.issym())
        check_member(member)
        if member.name in found:
            raise unsafe(member.name, "is there twice", "Commit one of the two only")
        found[member.name] = member
    for name in found:
        for parent in parents(name):
            if parent in found and not found[parent].isdir():
                raise unsafe(name, f"lies beneath {parent!r}, which is not a directory", "Rename one of the two")
    links = links_of(found.values())
    for name in links:
        check_link(name, links)
    for problem in shared_problems(shared, found, links):
        raise UnsafeArchive(f"app_shared: {problem}")
    for problem in static_problems(static, shared, links):
        raise UnsafeArchive(f"app_static: {problem}")


class Sizes:
    """How many members there are, and how large they are together."""

    def __init__(self):
        self.number = self.bytes = 0

    def add(self, name, size, is_link):
        self.number += 1
        self.bytes += size
        if self.number > MAX_MEMBERS:
            raise UnsafeArchive(f"the source has more than {MAX_MEMBERS} files. Leave out what the app doesn't need.")
        if is_link and size > MAX_LINK_BYTES:
            raise unsafe(name, f"is a link to a path of more than {MAX_LINK_BYTES} bytes", "Remove the link")
        if self.bytes > MAX_MB * 2**20:
            raise unsafe(name, f"brings the source to more than {MAX_MB} MB", "Keep large files out of the source")


def check_member(member):
    name = member.name
    check_name(name)
    if member.type not in (*PLAIN, tarfile.DIRTYPE, tarfile.SYMTYPE) or member.sparse is not None:
        raise unsafe(name, "is neither a file nor a directory nor a symbolic link", "Remove it from the source")
    if member.mode & ~MODES:
        raise unsafe(name, f"has the mode {member.mode:04o}", "Remove its setuid, setgid or sticky bit")
    if member.issym() and (not member.linkname or BAD_CHARACTERS.search(member.linkname)):
        raise unsafe(name, f"is a link to {member.linkname!r}, which has unprintable characters", "Remove the link")


def check_name(name):
    if BAD_CHARACTERS.search(name):
        raise unsafe(name, "has control characters in its name, or bytes that are not UTF-8", "Rename it")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise unsafe(name, "is not a plain relative path", "Remove it from the source")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts) or len(name.encode()) > MAX_PATH_BYTES:
        raise unsafe(name, "has a name that is too long", "Shorten it")
    if len(parts) > MAX_DEPTH:
        raise unsafe(name, f"lies more than {MAX_DEPTH} directories deep", "Move it up")


def check_link(name, links):
    target = links[name]
    if target.startswith("/"):
        raise unsafe(name, f"is a link to the absolute path {target!r}", "Link to a relative path within the source, or use app_shared")
    try:
        resolve(name, links)
    except Outside:
        raise unsafe(name, f"is a link to {target!r}, which leads out of the source", "Link to a path within the source") from None
    except Circle:
        raise unsafe(
            name, f"is a link to {target!r}, which leads back to itself, or through too many links or directories", "Remove the link"
        ) from None


def links_of(members):
    return {member.name: member.linkname for member in members if member.issym()}


class Outside(ValueError):
    """A path that leaves the source."""


class Circle(ValueError):
    """A path that goes through more links than the kernel follows, or through too many directories."""


def resolve(path, links):
    """Where a path of the source leads to through its links, and every path on the way, the result last."""
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
        # AT holds each directory's whole path, which is made of the one above it
        at.append(f"{at[-1]}/{part}" if at else part)
        passed.append(at[-1])
        if len(passed) > MAX_STEPS or len(at) > MAX_DEPTH or len(at[-1]) > MAX_PATH_BYTES:
            raise Circle(path)
        target = links.get(at[-1])
        if target is None:
            continue
        followed += 1
        if target.startswith("/"):
            raise Outside(path)
        if followed > MAX_LINKS:
            raise Circle(path)
        at.pop()
        rest += target.split("/")[::-1]
    return [*passed, at[-1] if at else "."]


def shared_problems(shared, members, links):
    """Why app_shared can't be: directories that the app writes to, put in place of those of the source; MEMBERS are names, or a dictionary by name."""
    for number, folder in enumerate(shared := list(shared)):
        path = normal(folder)
        for other in shared[:number]:
            if overlap(path, normal(other)):
                yield f"'{folder}' and '{other}' overlap. Name the outer one only."
        for parent in parents(path):
            if parent in links:
                yield f"'{folder}' goes through '{parent}', a link of the source. Name the directory that the link leads to."
            elif parent in members and not is_directory(members, parent):
                yield f"'{folder}' lies beneath {parent!r}, which is a file of the source. Name a directory."
        if path in members and path not in links and not is_directory(members, path):
            yield f"'{folder}' is a file of the source, and must be a directory."


def static_problems(static, shared, links):
    """Why app_static can't be: directories that lead out of the source, or that the app writes to."""
    for folder in static:
        try:
            passed = resolve(str(folder), links)
        except Outside:
            yield f"'{folder}' leads out of the source. Name a directory within the source."
            continue
        except Circle:
            yield f"'{folder}' is a link that leads back to itself. Name a directory within the source."
            continue
        for name in shared:
            path = normal(name)
            # a directory on the way counts too: when a release is laid out, a link to the app's data takes its place
            if overlap(passed[-1], path) or any(is_within(step, path) for step in (normal(folder), *passed)):
                yield (
                    f"'{folder}' overlaps '{name}' of app_shared. nginx can't read what the app writes: "
                    "let the app serve these files itself, and take them out of app_static."
                )


def is_directory(members, name):
    """A name without a type is that of a file: lists of files have no directories."""
    return isinstance(members, dict) and members[name].isdir()


def normal(path):
    return posixpath.normpath(str(path))


def parents(path):
    """All directories above it."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def is_within(path, folder):
    return folder == "." or path == folder or path.startswith(f"{folder}/")


def overlap(one, other):
    return is_within(one, other) or is_within(other, one)


def unsafe(name, what, remedy):
    # !r: control characters in a name must not reach a terminal
    shown = name if len(name) <= MAX_NAME_BYTES else f"{name[:MAX_NAME_BYTES]}…"
    return UnsafeArchive(f"{shown!r} of the source {what}. {remedy}.")
