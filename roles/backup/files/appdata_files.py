"""Pack an app's files into a tar stream and unpack them, for appdata.py. Managed by Flaskhost (role backup).

The files may be hostile: names with any bytes, links, FIFOs, huge holes, files that change while they are read. None of them may
prevent the backup of the rest. Directories are opened by descriptor, never by path.
"""

import contextlib
import errno
import fnmatch
import json
import os
import re
import stat
import tarfile

MB = 1024**2
NAMED = 20
# suffixes of the files that belong to an SQLite database
BESIDE = ("-wal", "-shm", "-journal")
# deeper directories and files with more holes are left out
DEPTH, HOLES = 500, 10_000
# seconds since 1970
TIME = 2**33
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Failure(Exception):
    """An error whose text becomes the report."""


class Warnings:
    """Files that were left out or may be inconsistent."""

    def __init__(self):
        self.count, self.lost, self.first = 0, 0, []

    def add(self, path, reason, lost=True):
        self.count += 1
        self.lost += lost
        if len(self.first) < NAMED:
            self.first.append(f"{shown(path)}: {reason}")


def shown(text):
    """Make any bytes safe to print on a terminal."""
    text = os.fsencode(str(text)).decode(errors="replace") if isinstance(text, str) else str(text)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 300 else f"{text[:150]}…{text[-149:]}"


# -- reading a tree -------------------------------------------------------------------------------------------------


class NotRegular(Exception):
    """A FIFO, a socket or a device."""


def walk(root, warnings, patterns=None):
    """Yield (path, descriptor of the parent, name, descriptor if it is a directory) for each entry. Closes all of them, and C(root)."""
    start = patterns.start() if patterns else None
    stack = [(root, listing(root, "", warnings), "", start)]
    try:
        while stack:
            parent, entries, prefix, state = stack[-1]
            entry = following(entries, prefix, warnings)
            if entry is None:
                stack.pop()
                os.close(parent)
                continue
            path = prefix + entry.name
            below = patterns.step(state, entry.name) if patterns else None
            if patterns and patterns.match(below):
                continue
            try:
                if not entry.is_dir(follow_symlinks=False):
                    yield path, parent, entry.name, None
                elif len(stack) > DEPTH:
                    warnings.add(path, f"left out: more than {DEPTH} directories deep")
                else:
                    directory = os.open(entry.name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                    stack.append((directory, listing(directory, path, warnings), f"{path}/", below))
                    yield path, parent, entry.name, directory
            except OSError as error:
                # root owns the lost+found directory of a file system
                if entry.name != "lost+found" or error.errno != errno.EACCES:
                    warnings.add(path, f"left out: {error.strerror}")
    finally:
        for descriptor, *_others in stack:
            os.close(descriptor)


def listing(directory, path, warnings):
    try:
        return os.scandir(directory)
    except OSError as error:
        warnings.add(path or ".", f"left out: {error.strerror}")
        return iter(())


def following(entries, path, warnings):
    try:
        return next(entries, None)
    except OSError as error:
        warnings.add(path or ".", f"could not be read to the end: {error.strerror}")


@contextlib.contextmanager
def opened(parent, name):
    """Open a regular file and return it with its fstat result. Does not block if the entry has another type."""
    file = os.open(name, REGULAR, dir_fd=parent)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise NotRegular
        yield file, found
    finally:
        os.close(file)


class Patterns:
    """The patterns of backup_exclude, in restic's syntax: a pattern that begins with / is a path; any other pattern matches at every depth.

    C(start) and C(step) return, for each pattern, how many of its parts the path has matched so far. The cost of a path is therefore that
    of its last name.
    """

    def __init__(self, patterns, roots):
        self.roots = [[part for part in root.split("/") if part] for root in roots]
        self.patterns = []
        for pattern in patterns:
            keeps, text = pattern.startswith("!"), pattern.removeprefix("!")
            parts = [part for part in text.split("/") if part not in ("", ".")]
            if not text.startswith("/"):
                parts.insert(0, "**")
            self.patterns.append((keeps, [part if part == "**" else component(part) for part in parts]))

    def start(self):
        found = [set() for _pattern in self.patterns]
        for root in self.roots:
            states = [self.skip({0}, parts) for _pattern, parts in self.patterns]
            for name in root:
                states = self.step(states, name)
            found = [one | other for one, other in zip(found, states, strict=True)]
        return found

    @staticmethod
    def skip(positions, parts):
        """`**` can match zero directories."""
        found = set(positions)
        for start in positions:
            end = next((position for position in range(start, len(parts)) if parts[position] != "**"), len(parts))
            found.update(range(start, end + 1))
        return found

    def step(self, states, name):
        result = []
        for (_pattern, parts), positions in zip(self.patterns, states, strict=True):
            found = set()
            for position in positions:
                if position < len(parts) and parts[position] == "**":
                    found.add(position)
                elif position < len(parts) and parts[position](name):
                    found.add(position + 1)
            result.append(self.skip(found, parts))
        return result

    def match(self, states):
        out = False
        for (keeps, parts), positions in zip(self.patterns, states, strict=True):
            if len(parts) in positions:
                out = not keeps
        return out


def component(part):
    """Return a function that matches a name. Translates Go's syntax into fnmatch's."""
    pattern = re.sub(r"\\(.)", lambda found: f"[{found[1]}]" if found[1] in "*?[" else found[1], part).replace("[^", "[!")
    return re.compile(fnmatch.translate(pattern)).match


# -- writing a tar stream -------------------------------------------------------------------------------------------


class Archive:
    """A tar stream. Its last member is `end`: a stream without it is truncated."""

    def __init__(self, descriptor, warnings):
        self.warnings = warnings
        # buffered here, because tarfile's own buffer gets slower as it grows
        self.file = open(descriptor, "wb", buffering=MB)  # noqa: SIM115
        names = {"format": tarfile.PAX_FORMAT, "encoding": "utf-8", "errors": "surrogateescape"}
        self.tar = tarfile.open(fileobj=self.file, mode="w|", copybufsize=MB, **names)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error:
            return
        self.add(tarfile.TarInfo("end"), json.dumps({"format": 1, "warnings": self.warnings.count}).encode())
        self.tar.close()
        self.file.close()

    def add(self, member, content=None):
        if isinstance(content, bytes):
            member.size, content = len(content), Bytes(content)
        try:
            self.tar.addfile(member, content)
        except OSError as error:
            # Content.read raises no OSError, so the error comes from the stream
            reason = "the reader has closed the stream" if isinstance(error, BrokenPipeError) else error.strerror
            raise Failure(f"the backup can't be written: {reason}") from None
        # tarfile would keep every member in memory
        self.tar.members = []

    def add_pieces(self, name, pieces):
        """Split content of unknown length into members: a tar header contains the length."""
        for number, piece in enumerate(pieces):
            self.add(tarfile.TarInfo(f"{name}/{number:06}"), piece)

    def add_tree(self, root, patterns=None, databases=None):
        for path, parent, name, directory in walk(root, self.warnings, patterns):
            try:
                if directory is not None:
                    self.add(described(path, os.fstat(directory), tarfile.DIRTYPE))
                elif not (databases and databases.belongs_to_database(parent, name)):
                    self.add_entry(path, parent, name, databases)
            except FileNotFoundError:
                self.warnings.add(path, "left out: it was removed while it was read")

    def add_entry(self, path, parent, name, databases):
        try:
            found = os.lstat(name, dir_fd=parent)
            if stat.S_ISLNK(found.st_mode):
                member = described(path, found, tarfile.SYMTYPE)
                member.linkname = os.readlink(name, dir_fd=parent)
                self.add(member)
                return
            if not stat.S_ISREG(found.st_mode):
                raise NotRegular
            with opened(parent, name) as (file, found):
                is_database = databases is not None and databases.looks_like_database(file)
                copy = databases.copy(path, found) if is_database else None
                with copy or contextlib.nullcontext():
                    member = described(path, found, tarfile.REGTYPE)
                    content = Content(copy.fileno() if copy else file)
                    content.describe(member)
                    self.add(member, content)
                    if content.short:
                        self.warnings.add(path, "inconsistent: it could not be read to the end, or it was truncated while it was read")
        except NotRegular:
            self.warnings.add(path, "left out: a FIFO, a socket or a device", lost=False)
        except TooManyHoles:
            self.warnings.add(path, f"left out: more than {HOLES} holes")
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                # the name of a database plus a suffix is too long, so no such file can exist
                raise FileNotFoundError from None
            replaced = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EINVAL)
            self.warnings.add(path, f"left out: {'it was replaced while it was read' if replaced else error.strerror}")
        else:
            if is_database and copy is None:
                for suffix in BESIDE:
                    with contextlib.suppress(FileNotFoundError):
                        self.add_entry(path + suffix, parent, name + suffix, None)


def described(path, found, kind):
    member = tarfile.TarInfo(f"files/{path}")
    member.type, member.mode, member.mtime = kind, stat.S_IMODE(found.st_mode) & 0o777, bounded(int(found.st_mtime))
    return member


def bounded(seconds):
    """Limit a file's time, which can be any number, to a range that every system can set."""
    return min(max(-TIME, seconds), TIME)


class TooManyHoles(Exception):
    pass


class Bytes:
    def __init__(self, content):
        self.rest = memoryview(content)

    def read(self, size):
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece


class Content:
    """A file's content without its holes. Always returns the announced number of bytes, even if the file is truncated or unreadable."""

    def __init__(self, file):
        self.file, self.short = file, False

    def describe(self, member):
        found = os.fstat(self.file)
        member.size, self.segments = found.st_size, [(0, found.st_size)]
        if found.st_size - found.st_blocks * 512 < MB:
            return
        self.segments = list(segments(self.file, found.st_size))
        member.size = sum(length for _start, length in self.segments)
        # the GNU sparse format 0.1
        shape = [*self.segments, (found.st_size, 0)]
        member.pax_headers = {
            "GNU.sparse.size": str(found.st_size),
            "GNU.sparse.numblocks": str(len(shape)),
            "GNU.sparse.map": ",".join(f"{start},{length}" for start, length in shape),
        }

    def read(self, size):
        pieces, missing = [], size
        while missing and self.segments:
            start, length = self.segments[0]
            try:
                piece = os.pread(self.file, min(missing, length), start)
            except OSError:
                piece = b""
            if not piece and length:
                self.short = True
                piece = bytes(min(missing, length))
            self.segments[0] = (start + len(piece), length - len(piece))
            if not self.segments[0][1]:
                self.segments.pop(0)
            pieces.append(piece)
            missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def segments(file, size):
    end, count = 0, 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = min(os.lseek(file, start, os.SEEK_HOLE), size)
        count += 1
        if count > HOLES:
            raise TooManyHoles
        if start < end:
            yield start, end - start


# -- unpacking ------------------------------------------------------------------------------------------------------


def members(descriptor):
    """Yield each member of a stream with its content in pieces. Fails at the end of a truncated stream."""
    ended = False
    with open(os.dup(descriptor), "rb", buffering=MB) as file:
        try:
            with tarfile.open(fileobj=file, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
                while member := tar.next():
                    ended = member.name == "end"
                    yield member, pieces(tar, member)
                    # tarfile would keep every member in memory
                    tar.members = []
        except (tarfile.TarError, EOFError) as error:
            raise Failure(f"the backup can't be read: {error}") from None
    if not ended:
        raise Failure("the backup is incomplete: the stream is truncated")


def pieces(tar, member):
    """Yield the content without holes, as it is stored in the stream."""
    tar.fileobj.seek(member.offset_data)
    rest = sum(length for _start, length in member.sparse) if member.sparse is not None else member.size
    while rest:
        piece = tar.fileobj.read(min(rest, MB))
        if not piece:
            raise Failure("the backup is incomplete: the stream is truncated")
        rest -= len(piece)
        yield piece


def unpack(stream, root, warnings):
    tree = Tree(root, warnings)
    for member, content in members(stream):
        kind, _slash, path = member.name.partition("/")
        if kind != "files":
            continue
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise Failure(f"the backup contains a path outside of its directory: {shown(path)}")
        try:
            tree.add(member, parts, content)
        except NotADirectoryError:
            warnings.add(path, "not restored: its parent is not a directory")
        except IsADirectoryError:
            warnings.add(path, "not restored: a directory has the same path")
    tree.close()


class Tree:
    """Write files below a directory. The descriptors of the directories on the current path stay open."""

    def __init__(self, root, warnings):
        self.root, self.warnings = root, warnings
        # name, descriptor, and the member whose metadata is set after the directory's content is written
        self.open = []

    def directory(self, parts):
        shared = 0
        while shared < min(len(parts), len(self.open)) and self.open[shared][0] == parts[shared]:
            shared += 1
        self.close(shared)
        for name in parts[shared:]:
            self.enter(name)
        return self.open[-1][1] if self.open else self.root

    def enter(self, name, member=None):
        parent = self.open[-1][1] if self.open else self.root
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            # an existing directory keeps its mode
            member = None
        try:
            self.open.append((name, os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent), member))
        except OSError as error:
            raise NotADirectoryError(error.errno, os.strerror(errno.ENOTDIR)) if error.errno == errno.ELOOP else error from None

    def close(self, keep=0):
        while len(self.open) > keep:
            _name, descriptor, member = self.open.pop()
            if member:
                finish(descriptor, member)
            os.close(descriptor)

    def add(self, member, parts, content):
        parent, name = self.directory(parts[:-1]), parts[-1]
        if member.isdir():
            self.enter(name, member)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.isreg():
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                self.write(file, member, content)
                finish(file, member)
            finally:
                os.close(file)

    @staticmethod
    def write(file, member, content):
        if member.sparse is None:
            for piece in content:
                write_all(file, piece)
            return
        places = iter([list(place) for place in member.sparse if place[1]])
        start, room = next(places, (0, 0))
        for piece in content:
            rest = memoryview(piece)
            while rest:
                if not room:
                    start, room = next(places)
                written = os.pwrite(file, rest[:room], start)
                rest, start, room = rest[written:], start + written, room - written
        os.truncate(file, member.size)


def finish(descriptor, member):
    # no set-user-ID bit: the app's sandbox rejects it
    os.fchmod(descriptor, member.mode & 0o777)
    os.utime(descriptor, (bounded(member.mtime), bounded(member.mtime)))


def write_all(descriptor, data):
    data = memoryview(data)
    while data:
        data = data[os.write(descriptor, data) :]
