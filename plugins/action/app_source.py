"""Identify the app's source and pack it: `app_source`, an action on the controller.

A git URL is known by its commit; a folder by the hash of its content, so that the same content is always the same
version. In a git work tree, files that git ignores are left out. Within one run of Ansible the same URL and version
give the same commit on every host, even if the branch moves meanwhile.

Options: `source` (a folder on the controller, or a git URL), `version` (branch, tag or commit of a URL; empty is the
default branch), `folder` (of the source, the folder that holds the app; empty for all of it), `base` (folders from which a relative source is looked for, in order), `cache` (folder for clones and
archives), `needs` (settings whose types of process the source's Procfile must have: `app_processes`, `app_server`,
`app_release_command`; without it, nothing is asked of the Procfile).

Returns: `version` (short commit, or hash of the content; with `folder`, of what is in there), `commit` (empty for a folder), `folder` (of a source that is a folder, where the app is), `archive` (a tar.gz on the
controller), `files` (all paths in it), `dependency_file` (the first of DEPENDENCY_FILES that is there, else empty),
`dependencies` (a digest: the same for two sources that need the same venv) and `procfile` (its text; None if there is none),
of which `commands` are those by type (with `needs`).
"""

import contextlib
import difflib
import fcntl
import fnmatch
import hashlib
import io
import os
import re
import subprocess
import tarfile
import uuid

from ansible.plugins.action import ActionBase

DEPENDENCY_FILES = ("uv.lock", "requirements.txt", "pyproject.toml", "setup.py")
GIT_URL = re.compile(r"^((https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)")
EXCLUDE = (".git", ".venv", "venv", "__pycache__", "*.pyc", ".pytest_cache", "node_modules", ".env", "instance")
KEPT_ARCHIVES = 20
PROCESS = re.compile(r"([A-Za-z0-9_-]+)\s*:\s*(\S.*)")
# Names this run of Ansible: the playbook's process imports this file, and the workers that it forks inherit the name.
RUN = uuid.uuid4().hex


class SourceError(Exception):
    """Its text is for the owner: the variable, what is wrong, the cure."""


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        cache = os.path.expanduser(args["cache"])
        os.makedirs(cache, mode=0o700, exist_ok=True)
        kind = from_git if GIT_URL.match(args["source"]) else from_folder
        try:
            # hosts are handled in parallel; their source is fetched and packed once
            with locked(os.path.join(cache, "lock")):
                found = kind(args, cache)
                forget_old_archives(cache)
        except SourceError as error:
            return dict(result, failed=True, msg=str(error))
        with tarfile.open(found["archive"]) as tar:
            found["dependency_file"] = next((name for name in DEPENDENCY_FILES if name in found["files"]), "")
            dependencies = Dependencies(tar, found["version"])
            found["dependencies"] = dependencies.digest(found["dependency_file"])
            found["procfile"] = dependencies.read("Procfile") if "Procfile" in found["files"] else None
        if "needs" in args:
            for name, problem in procfile_problems(found["procfile"], args["needs"]):
                return dict(result, failed=True, msg=f"{name}: {problem}")
            found["commands"] = commands(found["procfile"] or "") if wanted_types(args["needs"]) else {}
        return dict(result, changed=False, **found)


@contextlib.contextmanager
def locked(path):
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def forget_old_archives(cache):
    archives = [os.path.join(cache, name) for name in os.listdir(cache) if name.endswith(".tar.gz")]
    for path in sorted(archives, key=os.path.getmtime)[:-KEPT_ARCHIVES]:
        os.unlink(path)


# -- the Procfile -------------------------------------------------------------------------------------------------


def wanted_types(settings):
    """The types of process that settings ask for: (setting, type)."""
    processes = settings.get("app_processes") or {}
    wanted = [("app_processes", kind) for kind, count in processes.items() if count]
    wanted += [("app_server", "web")] if settings.get("app_server") == "procfile" else []
    return wanted + ([("app_release_command", "release")] if settings.get("app_release_command") == "procfile" else [])


def commands(text):
    """What a Procfile says: a command for each type of process."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        process = PROCESS.fullmatch(line.strip())
        if not process:
            raise SourceError(f"line {number} of its Procfile, '{line.strip()}', is no process: write a type, a colon and a command.")
        if process[1] in found:
            raise SourceError(f"line {number} of its Procfile describes '{process[1]}' a second time.")
        found[process[1]] = process[2]
    return found


def procfile_problems(text, settings):
    """Why settings can't have what they ask for: (setting, what is wrong)."""
    wanted = wanted_types(settings)
    if wanted and text is None:
        kinds = ", ".join(kind for _name, kind in wanted)
        yield (
            wanted[0][0],
            f"the source has no Procfile at its top to say how to run {kinds}. Add one, a line each, such as {wanted[0][1]}: COMMAND.",
        )
        return
    try:
        found = commands(text) if wanted else {}
    except SourceError as error:
        yield "app_source", str(error)
        return
    for name, kind in wanted:
        near = difflib.get_close_matches(kind, found, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(found) or 'none at all'}."
        if kind not in found:
            yield name, f"the source's Procfile has no type of process '{kind}'. {hint}"
        elif problem := shell_problem(found[kind]):
            yield "app_source", f"the command of '{kind}' in its Procfile is none that a shell understands: {problem}."


def shell_problem(command):
    try:
        said = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True).stderr.strip()
    except FileNotFoundError:
        return ""  # the host has one, and will say
    return said.splitlines()[0].rpartition(": ")[2] if said else ""


class Dependencies:
    """What a venv follows from. A project that installs itself has its own code in there."""

    def __init__(self, tar, version):
        self.tar, self.version, self.seen = tar, version, {}

    def digest(self, name):
        installs_itself = name in ("pyproject.toml", "setup.py") or (name == "uv.lock" and self.is_package())
        if name == "requirements.txt":
            installs_itself = self.read_requirements(name)
        elif name:
            self.seen[name] = self.read(name)
        inputs = [self.version] if installs_itself else sorted(self.seen.items())
        return hashlib.sha256(repr([name, inputs]).encode()).hexdigest()[:16]

    def read(self, name):
        try:
            return self.tar.extractfile(name).read().decode(errors="replace")
        except (KeyError, AttributeError):
            return ""

    def is_package(self):
        self.seen["pyproject.toml"] = text = self.read("pyproject.toml")
        return "[build-system]" in text and not re.search(r"^package\s*=\s*false", text, re.MULTILINE)

    def read_requirements(self, name):
        """Whether they name a part of the source itself; all files they include are noted."""
        if name in self.seen:
            return False
        self.seen[name] = text = self.read(name)
        itself = False
        for line in text.splitlines():
            include = re.match(r"(?:-r|-c|--requirement|--constraint)[ =]*(\S+)", line.strip())
            if include:
                itself |= self.read_requirements(os.path.normpath(os.path.join(os.path.dirname(name), include[1])))
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
    paths = [path for path in list_files(folder) if not excluded(path)]
    members = [(path, *read_member(os.path.join(folder, path))) for path in sorted(paths)]
    digest = hashlib.sha256()
    for path, kind, content in members:
        digest.update(f"{path}\0{kind}\0{len(content)}\0".encode() + content)
    version = digest.hexdigest()[:10]
    archive = os.path.join(cache, f"{version}.tar.gz")
    if not os.path.exists(archive):
        write_archive(archive, members)
    os.utime(archive)
    return {"version": version, "commit": "", "archive": archive, "files": sorted(paths), "folder": folder}


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
    listing = ["git", "-C", folder, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(listing, capture_output=True, text=True)
        if done.returncode == 0:
            # a file that git still knows may be gone; a submodule is a folder
            return [path for path in done.stdout.split("\0") if is_file(os.path.join(folder, path))]
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not excluded(name)]
        # a link to a folder is one member, like a link to a file
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in names + links]
    return found


def is_file(path):
    return os.path.isfile(path) or os.path.islink(path)


def excluded(path):
    return any(fnmatch.fnmatch(part, pattern) for part in path.split("/") for pattern in EXCLUDE)


def read_member(path):
    if os.path.islink(path):
        return "link", os.readlink(path).encode()
    with open(path, "rb") as handle:
        return ("program" if os.access(path, os.X_OK) else "file"), handle.read()


def write_archive(archive, members):
    temporary = f"{archive}.{os.getpid()}"
    with tarfile.open(temporary, "w:gz", compresslevel=6) as tar:
        for path, kind, content in members:
            info = tarfile.TarInfo(path)
            # nginx makes an ETag of time and size, Python a .pyc's validity. A time that follows from the content
            # makes both right, on every host and from every controller.
            info.mtime = 1_000_000_000 + int(hashlib.sha256(content).hexdigest()[:7], 16)
            info.mode = 0o755 if kind == "program" else 0o644
            if kind == "link":
                info.type, info.linkname = tarfile.SYMTYPE, content.decode()
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    os.rename(temporary, archive)


# -- a git URL --------------------------------------------------------------------------------------------------


def from_git(args, cache):
    url, wanted = args["source"], args.get("version") or ""
    clone = os.path.join(cache, "git-" + hashlib.sha256(url.encode()).hexdigest()[:16])
    commit = commit_of_this_run(url, wanted, clone)
    folder = os.path.normpath(args["folder"]) if args.get("folder") else ""
    try:
        files = git(url, clone, "ls-tree", "-r", "-z", "--name-only", f"{commit}:{folder}").split("\0")
    except SourceError:
        raise no_such_folder(args) from None
    # a commit that changes nothing in the app's folder is no other version of it
    version = (git(url, clone, "rev-parse", f"{commit}:{folder}").strip() if folder else commit)[:10]
    archive = os.path.join(cache, f"{version}.tar.gz")
    if not os.path.exists(archive):
        temporary = f"{archive}.{os.getpid()}"
        git(url, clone, "archive", "--format=tar.gz", "--output", temporary, commit, *([folder] if folder else []))
        if folder:
            lift(temporary, folder)
        os.rename(temporary, archive)
    os.utime(archive)
    return {"version": version, "commit": commit, "archive": archive, "files": [path for path in files if path]}


def lift(archive, folder):
    """What lies in a folder of it, at the archive's top."""
    lifted = f"{archive}.lifted"
    with tarfile.open(archive) as source, tarfile.open(lifted, "w:gz", compresslevel=6) as tar:
        for member in source.getmembers():
            if member.name.startswith(f"{folder}/"):
                member.name = member.name.removeprefix(f"{folder}/")
                # of a long name, these have the former
                member.pax_headers = {name: value for name, value in member.pax_headers.items() if name not in ("path", "linkpath")}
                tar.addfile(member, source.extractfile(member) if member.isfile() else None)
    os.rename(lifted, archive)


def commit_of_this_run(url, wanted, clone):
    key = f"{RUN} {wanted} "
    note = f"{clone}.run"
    if os.path.exists(note):
        with open(note) as handle:
            text = handle.read()
        if text.startswith(key):
            return text[len(key) :]
    if os.path.isdir(clone):
        git(url, clone, "remote", "update", "--prune")
    else:
        temporary = f"{clone}.{os.getpid()}"
        git(url, None, "clone", "--quiet", "--mirror", url, temporary)
        os.rename(temporary, clone)
    try:
        commit = git(url, clone, "rev-parse", "--verify", "--quiet", f"{wanted or 'HEAD'}^{{commit}}").strip()
    except SourceError:
        raise SourceError(
            f"app_version: it is no branch, tag or commit of {url}. Name one that is there, or leave it empty for the default branch."
        ) from None
    with open(note, "w") as handle:
        handle.write(key + commit)
    return commit


def git(url, clone, *words):
    command = ["git", *(["-C", clone] if clone else []), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, GIT_TERMINAL_PROMPT="0"))
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [done.stdout.strip()]
        why = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1])
        raise SourceError(
            f"app_source: git could not read it ({why}). Check the URL, and that this controller may read it (ssh key, token)."
        )
    return done.stdout
