"""Identify the app's source and pack it: `app_source`, an action on the controller.

A git URL is known by its commit; a folder by the hash of its content, so that the same content is always the same
version. In a git work tree, files that git ignores are left out. Within one run of Ansible the same URL and version
give the same commit on every host, even if the branch moves meanwhile.

Options: `source` (a folder on the controller, or a git URL), `version` (branch, tag or commit of a URL; empty is the
default branch), `folder` (of the source, the folder that holds the app; empty for all of it), `cache` (folder for clones and
archives), `needs` (settings whose types of process the source's Procfile must have: `app_processes`, `app_server`,
`app_release_command`; without it, nothing is asked of the Procfile).

The source is not trusted, and neither is git's configuration in a working copy: nothing of either runs here, and what
archives.py rejects is an error. Messages show no credentials.

Returns: `version` (short commit, or hash of the content; with `folder`, of what is in there), `commit` (empty for a folder), `folder` (of a source that is a folder, where the app is), `archive` (a tar.gz on the
controller), `files` (all paths in it), `links` (the target of each that is a link), `dependency_file` (the first of DEPENDENCY_FILES that is there, else empty),
`dependencies` (a digest: the same for two sources that need the same venv) and `procfile` (its text; None if there is none),
of which `commands` are those by type (with `needs`).
"""

import contextlib
import errno
import fnmatch
import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import uuid
from urllib.parse import unquote, urlsplit, urlunsplit

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives, command, credentials, lock
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text as texts
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import procfile
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories

DEPENDENCY_FILES = ("uv.lock", "requirements.txt", "pyproject.toml", "setup.py")
GIT_URL = re.compile(r"^((https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)")
EXCLUDE = (".git", ".venv", "venv", "__pycache__", "*.pyc", ".pytest_cache", "node_modules", ".env", "instance")
KEPT_ARCHIVES = 20
# a lock file of a large project has a few
MAX_TEXT_MB = 32
GIT_SECONDS = 1800
LISTING_BYTES = 65536
# what git has in the place of a file that is in Git LFS
LFS_POINTER, LFS_BYTES = b"version https://git-lfs.github.com/spec/", 1024
# nothing that a repository's own configuration names is run
SETTINGS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "safe.bareRepository=explicit",
    "http.lowSpeedLimit=100",
    "http.lowSpeedTime=60",
)
GIT = ["git", *(word for setting in SETTINGS for word in ("-c", setting))]
PROTOCOLS = "https:http:ssh:git:file"
# such as git sets for its hooks: another repository would be read
GIT_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_PREFIX")
# git runs it, and passes what to do as an argument; the values never stand in a command line
CREDENTIAL_HELPER = '!f() { [ "$1" != get ] || printf "username=%s\\npassword=%s\\n" "$FLASKHOST_GIT_USER" "$FLASKHOST_GIT_PASSWORD"; }; f'
AT_URL = "Check the URL, and that this controller may read it (ssh key, token)."
ENCODE = "In a password, write / as %2F, # as %23, ? as %3F, @ as %40, : as %3A and a space as %20."
IN_WORKING_COPY = "Make `git status` succeed in it for the user who deploys."
# Names this run of Ansible: the playbook's process imports this file, and the workers that it forks inherit the name.
RUN = uuid.uuid4().hex


class SourceError(Exception):
    """Its text is for the owner: the variable, what is wrong, the cure."""


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args, base=directories(task_vars))
        cache = os.path.expanduser(args["cache"])
        os.makedirs(cache, mode=0o700, exist_ok=True)
        try:
            # hosts are handled in parallel; their source is fetched and packed once
            with lock.locked(os.path.join(cache, "lock"), "fetching an app's source", 2 * GIT_SECONDS):
                found = find(args, cache)
                forget_old_archives(cache)
            found |= read_archive(found, args)
        except archives.UnsafeArchive as error:
            return dict(result, failed=True, msg=f"app_source: {error}")
        except lock.LockTimeout as error:
            return dict(result, failed=True, msg=str(error))
        except (SourceError, OSError, tarfile.TarError) as error:
            text = str(error) if isinstance(error, SourceError) else f"app_source: it could not be read: {error}"
            return dict(result, failed=True, msg=texts.one_line(credentials.without_credentials(text), texts.LINE))
        return dict(result, changed=False, **found)


def find(args, cache):
    for name in "source", "version", "folder":
        if texts.NOT_IN_A_LINE.search(str(args.get(name) or "")):
            raise SourceError(f"app_{name}: it has a control character, such as a line break. Write it on one line.")
    folder = os.path.normpath(args["folder"]) if args.get("folder") else ""
    if folder.startswith(("/", "../")) or folder == "..":
        raise SourceError(f"app_folder: '{args['folder']}' is not within the source. Write a relative path, such as backend.")
    kind = from_git if GIT_URL.match(args["source"]) else from_folder
    return kind(dict(args, folder="" if folder == "." else folder), cache)


def read_archive(source, args):
    """What the archive holds, after it has been checked: it may be an older version's, so it is checked each time."""
    with tarfile.open(source["archive"]) as tar:
        members = tar.getmembers()
        archives.check_members(members)
        reject_submodules(members)
        files = sorted(member.name for member in members if not member.isdir())
        found = {"files": files, "links": archives.links_of(members)}
        found["dependency_file"] = next((name for name in DEPENDENCY_FILES if name in files), "")
        dependencies = Dependencies(tar, members, source["version"])
        found["dependencies"] = dependencies.digest(found["dependency_file"])
        found["procfile"] = dependencies.read("Procfile") if "Procfile" in files else None
    if "needs" in args:
        for name, problem in procfile.problems(found["procfile"], args["needs"]):
            raise SourceError(f"{name}: {problem}")
        found["commands"] = procfile.commands(found["procfile"] or "") if procfile.wanted_types(args["needs"]) else {}
    return found


def forget_old_archives(cache):
    archives = [os.path.join(cache, name) for name in os.listdir(cache) if name.endswith(".tar.gz")]
    for path in sorted(archives, key=os.path.getmtime)[:-KEPT_ARCHIVES]:
        os.unlink(path)


class Dependencies:
    """What a venv follows from. A project that installs itself has its own code in there."""

    def __init__(self, tar, members, version):
        self.tar, self.version, self.seen, self.room = tar, version, {}, MAX_TEXT_MB * 2**20
        self.members, self.links = {member.name: member for member in members}, archives.links_of(members)

    def digest(self, name):
        installs_itself = name in ("pyproject.toml", "setup.py") or (name == "uv.lock" and self.is_package())
        if name == "requirements.txt":
            installs_itself = self.read_requirements(name)
        elif name:
            self.seen[name] = self.read(name)
        inputs = [self.version] if installs_itself else sorted(self.seen.items())
        return hashlib.sha256(repr([name, inputs]).encode()).hexdigest()[:16]

    def read(self, name):
        """The text of a file, wherever its links lead; empty if there is none."""
        member = self.member(name)
        if not member:
            return ""
        self.room -= member.size
        if self.room < 0:
            raise SourceError(
                f"app_source: {name!r} brings its Procfile and its lists of dependencies to more than {MAX_TEXT_MB} MB. Make it smaller."
            )
        return self.tar.extractfile(member).read().decode(errors="replace")

    def member(self, name):
        with contextlib.suppress(archives.Outside, archives.Circle):
            found = self.members.get(archives.resolve(name, self.links)[-1])
            return found if found and found.isfile() and not name.startswith("/") else None

    def is_package(self):
        self.seen["pyproject.toml"] = text = self.read("pyproject.toml")
        return "[build-system]" in text and not re.search(r"^package\s*=\s*false", text, re.MULTILINE)

    def read_requirements(self, name):
        """Whether they name a part of the source itself; all files they include are noted."""
        itself, names = False, [name]
        while names:
            name = names.pop()
            if name in self.seen:
                continue
            self.seen[name] = text = self.read(name)
            for line in text.splitlines():
                include = re.match(r"(?:-r|-c|--requirement|--constraint)[ =]*(\S+)", line.strip())
                if include:
                    names.append(os.path.normpath(os.path.join(os.path.dirname(name), include[1])))
                elif re.match(r"(-e|--editable|\.|/|file:)|.*@ *file:", line.strip()):
                    itself = True
        return itself


# -- a folder ---------------------------------------------------------------------------------------------------


def from_folder(args, cache):
    folder = find_folder(args)
    if args.get("folder"):
        folder = os.path.join(folder, args["folder"])
        if not os.path.isdir(folder):
            raise no_such_folder(args)
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


def no_such_folder(args):
    return SourceError(f"app_folder: {args['source']} has no folder '{args['folder']}'.")


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
    """Whether it lies in a git working copy, whatever is wrong with that: what git ignores is never shipped."""
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


def reject_submodules(members):
    """git archives one as an empty directory, which git doesn't have otherwise."""
    parents = {os.path.dirname(member.name) for member in members}
    for member in members:
        if member.isdir() and member.name not in parents:
            raise submodule(member.name)


def submodule(path):
    return SourceError(
        f"app_source: {path!r} of the source is a git submodule, which is not fetched. Put its files into the repository, or install it as a package."
    )


def reject_pointer(path, content):
    if len(content) < LFS_BYTES and content.startswith(LFS_POINTER):
        raise SourceError(
            f"app_source: {path!r} of the source is in Git LFS, from which nothing is fetched. Run `git lfs pull` in a working copy, and name that as app_source."
        )


def reject_unreadable(error):
    raise SourceError(f"app_source: {error.filename!r} can't be read ({error.strerror}). Make it readable, or take it out of the source.")


def warn(path, what):
    Display().warning(f"{path!r} of the source {what}, and is left out.")


def excluded(path):
    return any(fnmatch.fnmatch(part, pattern) for part in path.split("/") for pattern in EXCLUDE)


def read_member(folder, path, room):
    """Its entry in the archive, and its content; nothing if it is nothing that can be shipped."""
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
    """The directory in which a path of the source lies, as a descriptor. No link beneath FOLDER is followed: it may lead anywhere on this controller."""
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


@contextlib.contextmanager
def packing(archive):
    """An archive that is there when it is whole."""
    temporary = f"{archive}.{os.getpid()}"
    try:
        with tarfile.open(temporary, "w:gz", compresslevel=6) as tar:
            yield tar
        os.rename(temporary, archive)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


# -- a git URL --------------------------------------------------------------------------------------------------


def from_git(args, cache):
    remote = Remote(args["source"])
    clone = os.path.join(cache, "git-" + hashlib.sha256(remote.url.encode()).hexdigest()[:16])
    commit = commit_of_this_run(remote, args.get("version") or "", clone)
    folder, tree = args.get("folder"), commit
    if folder:
        # a commit that changes nothing in the app's folder is no other version of it
        missing = no_such_folder(args)
        tree = name_of(clone, f"{name_of(clone, f'{commit}:{folder}', missing)}^{{tree}}", missing)
    archive = f"{clone}-{tree}.tar.gz"
    if not os.path.exists(archive):
        pack_commit(clone, commit, tree, folder, archive)
    os.utime(archive)
    return {"version": tree[:10], "commit": commit, "archive": archive}


class Remote:
    """A repository's URL, and apart from it the credentials that it had: they stand in no command line and in no clone's configuration."""

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
                about, _, name = entry.decode(errors="surrogateescape").partition("\t")
                archives.check_name(name)
                mode, _kind, _object, size = about.split()
                is_link = mode == "120000"
                # what export-ignore leaves out may be large
                sizes.add(name, int(size) if is_link else 0, is_link)


@contextlib.contextmanager
def output_of_git(clone, *words):
    """What git prints, as a stream. Git is killed when its time is over, or when the reader has failed."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            [*GIT, f"--git-dir={clone}", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=git_environment()
        ) as process,
        command.deadline(process, GIT_SECONDS) as late,
    ):
        broken = None
        try:
            yield process.stdout
        except BaseException as error:
            command.kill_all(process)
            if not isinstance(error, tarfile.TarError):
                raise
            # git knows better why it has stopped
            broken = error
        code = process.wait()
        if late.is_set():
            raise too_slow()
        if code != 0:
            said.seek(0)
            raise git_problem(said.read().decode(errors="replace"), AT_URL)
        if broken:
            raise broken


def copied(source, tar, folder):
    """The members of one archive on their way into another; with a folder, what lies in there, at the top."""
    for member in source:
        if folder and not member.name.startswith(f"{folder}/"):
            continue
        member.name = member.name.removeprefix(f"{folder}/") if folder else member.name
        # these have the former name, and the commit
        member.pax_headers = {}
        yield member
        content = source.extractfile(member) if member.isfile() else None
        if content and member.size < LFS_BYTES:
            content = io.BytesIO(content.read())
            reject_pointer(member.name, content.getvalue())
        tar.addfile(member, content)


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


# -- git -------------------------------------------------------------------------------------------------------


def git(*words, environment=()):
    """What it says: (its output, its messages)."""
    try:
        process = subprocess.Popen(
            [*GIT, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=git_environment() | dict(environment),
        )
    except FileNotFoundError:
        raise SourceError("app_source: git is not installed on this controller, and is needed to read it. Install git.") from None
    with process, command.deadline(process, GIT_SECONDS) as late:
        out, said = process.communicate()
    said = said.decode(errors="replace")
    if late.is_set():
        raise too_slow()
    if process.returncode != 0:
        raise git_problem(said, IN_WORKING_COPY if words[0] == "-C" else AT_URL)
    # a name may be of any bytes
    return out.decode(errors="surrogateescape"), said


def git_environment():
    ours = {
        "GIT_ALLOW_PROTOCOL": PROTOCOLS,
        "GIT_LITERAL_PATHSPECS": "1",
        # or a repository could put another commit in the place of the one that app_version names
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    return {name: value for name, value in os.environ.items() if name not in GIT_ELSEWHERE} | ours


def too_slow():
    return SourceError(f"app_source: git has not read it within {GIT_SECONDS // 60} minutes. Try the same with `git clone`.")


def git_problem(said, remedy):
    lines = said.strip().splitlines() or ["it failed without a message"]
    why = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1])[:500]
    return SourceError(f"app_source: git could not read it ({why}). {remedy}")
