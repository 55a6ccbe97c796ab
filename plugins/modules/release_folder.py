#!/usr/bin/python
"""One release's folder, laid out from its source and its settings."""

DOCUMENTATION = r"""
module: release_folder
short_description: Lay out a release's folder
description:
  - Makes the folder anew, owned by root, readable by O(group), all but the venv itself.
  - C(ROOT/releases/ID/) holds a release - C(app/) is the source, C(.venv) a link to what it depends on, C(wsgi.sock) a link
    to its socket, C(public/) links to the folders that nginx serves; beside them stand the server's configuration, the
    environment, C(start), and a C(manifest.json), which is written last, by rename. A folder without it is unfinished.
  - The source is unpacked, compiled and packed for browsers by the user C(APP-build), in C(ROOT/releases/.building/ID), whose parent only root can
    enter. When that is done it becomes root's, and is moved to its place.
  - C(ROOT/venvs/KEY/) holds a venv; releases that depend on the same share it. It is whole when it has a file
    C(complete).
  - C(ROOT/bad/ID) says why a release must not be used; one that is made anew is trusted again.
options:
  app:
    description: The app; its lock is held.
    type: str
    required: true
  root:
    description: The app's folder, such as C(/srv/APP).
    type: path
    required: true
  id:
    description: The release.
    type: str
    required: true
  phase:
    description:
      - V(unpacked) ends with the source in C(ROOT/releases/.building/ID), unless nothing is left to build - the venv is whole, and O(build) is false.
      - V(sealed) goes on from there.
    type: str
    choices: [unpacked, sealed]
    required: true
  build:
    description: Whether something will be built in the source.
    type: bool
    default: false
  archive:
    description: The packed source, on the controller. Its members are checked before any is unpacked.
    type: path
    required: true
  files:
    description: Content of further files by name; those named in O(programs) can be executed.
    type: dict
    default: {}
  secret_files:
    description: Content of files that only root may read.
    type: dict
    default: {}
  programs:
    description: Which of O(files) are programs.
    type: list
    elements: str
    default: []
  venv:
    description: The venv's key.
    type: str
    required: true
  socket:
    description: Where the release's C(wsgi.sock) points to.
    type: path
    required: true
  static:
    description: >-
      Folders of the source whose files nginx serves, by URL; reached as C(public/URL). Beside each file of text lies the same
      packed (C(.gz), and C(.br) where brotli is installed), for browsers that take it.
    type: dict
    default: {}
  shared:
    description: Folders of the source that the app writes to; each becomes a link to the folder of that name in O(state).
    type: list
    elements: str
    default: []
  state:
    description: The folder of the app's data.
    type: path
    default: ''
  group:
    description: Group who may read the release.
    type: str
    required: true
  manifest:
    description: What the manifest tells.
    type: dict
    default: {}
"""

RETURN = r"""
venv_complete: {description: Whether the venv is there already., type: bool, returned: success}
sealed: {description: Whether the release is finished., type: bool, returned: success}
"""

import compileall
import contextlib
import filecmp
import grp
import gzip
import json
import os
import pwd
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.archives import Circle, Outside, UnsafeArchive, check_members, resolve
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import LockTimeout, acquire
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import remove, seal

# what gains by being packed; pictures, films and most fonts are packed already
TEXT = (".css", ".csv", ".htm", ".html", ".js", ".json", ".map", ".mjs", ".otf", ".svg", ".ttf", ".txt", ".wasm", ".webmanifest", ".xml")
# a smaller one fits into one packet as it is
PACKED_FROM_BYTES = 1024
# what the building user may take for the source: it is not trusted, and a few bytes of Python can take gigabytes to compile
WORK_SECONDS, COMPILE_SECONDS, WORK_BYTES = 900, 300, 2**30


def main():
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "id": {"type": "str", "required": True},
            "phase": {"type": "str", "choices": ["unpacked", "sealed"], "required": True},
            "build": {"type": "bool", "default": False},
            "archive": {"type": "path", "required": True},
            "files": {"type": "dict", "default": {}},
            "secret_files": {"type": "dict", "default": {}, "no_log": True},
            "programs": {"type": "list", "elements": "str", "default": []},
            "venv": {"type": "str", "required": True},
            "socket": {"type": "path", "required": True},
            "static": {"type": "dict", "default": {}},
            "shared": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "path", "default": ""},
            "group": {"type": "str", "required": True},
            "manifest": {"type": "dict", "default": {}},
        },
    )
    # nginx passes through folders that are made here, whatever the session's own umask
    os.umask(0o022)
    release = Release(module.params)
    try:
        # a run whose connection broke may have left a step at work on the host: wait until it has ended
        acquire(module.params["app"], f"laying out release {release.id}")
        module.exit_json(changed=True, **release.lay_out())
    except (OSError, tarfile.TarError, KeyError, UnsafeArchive, LayoutError) as error:
        # on a disk that is full, what serves needs the room
        release.remove()
        module.fail_json(msg=f"release {release.id} could not be laid out: {printable(str(error))}")
    except LockTimeout as error:
        module.fail_json(msg=str(error))


class LayoutError(Exception):
    """What the source or its build is, and must not be."""


class Release:
    def __init__(self, params):
        self.params = params
        self.root = params["root"]
        self.id = params["id"]
        self.folder = os.path.join(self.root, "releases", self.id)
        self.code = os.path.join(self.folder, "app")
        # in a directory that only root can enter
        self.building = os.path.join(self.root, "releases", ".building", self.id)
        self.bad_note = os.path.join(self.root, "bad", self.id)

    def lay_out(self):
        venv = os.path.join(self.root, "venvs", self.params["venv"])
        if self.params["phase"] == "unpacked":
            self.unpack(venv)
        venv_complete = os.path.exists(os.path.join(venv, "complete"))
        seal = self.params["phase"] == "sealed" or (venv_complete and not self.params["build"])
        if seal:
            self.seal()
        return {"venv_complete": venv_complete, "sealed": seal}

    def unpack(self, venv):
        params = self.params
        if os.path.exists(self.bad_note):
            self.distrust(venv)
        self.remove()
        # whoever may not read a finished release must not read one in the making
        os.makedirs(self.folder, mode=0o700)
        # nginx passes through, the app may look: Python finds modules only in folders that it can list
        shutil.chown(self.folder, 0, params["group"])
        os.chmod(self.folder, 0o751)
        # the build finds the source here, which is elsewhere
        os.mkdir(self.code, 0o711)
        for name, content in params["secret_files"].items():
            self.write(name, content, 0o600, 0)
        os.symlink(venv, os.path.join(self.folder, ".venv"))
        os.makedirs(os.path.dirname(self.building), mode=0o700, exist_ok=True)
        os.mkdir(self.building, 0o700)
        user = self.builder()
        os.chown(self.building, user.pw_uid, user.pw_gid)
        with open(params["archive"], "rb") as archive:
            self.as_builder(lambda: unpack_source(archive, params["shared"], params["state"], params["static"].values()))

    def seal(self):
        params = self.params
        static = [os.path.normpath(folder) for folder in params["static"].values()]
        shared = [os.path.normpath(folder) for folder in params["shared"]]
        self.as_builder(lambda: finish_source(static, shared, params["state"], self.code, os.path.join(self.root, "live", "app")))
        # without compiled code, the app only starts more slowly
        with contextlib.suppress(LayoutError):
            self.as_builder(lambda: compileall.compile_dir(".", quiet=2, ddir=None), COMPILE_SECONDS)
        self.give_to_root(static)
        os.rename(self.building, self.code)
        for name, content in params["files"].items():
            self.write(name, content, 0o750 if name in params["programs"] else 0o640, params["group"])
        os.symlink(params["socket"], os.path.join(self.folder, "wsgi.sock"))
        for url, folder in params["static"].items():
            link = os.path.join(self.folder, "public", url.strip("/"))
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(os.path.relpath(os.path.join(self.code, folder), os.path.dirname(link)), link)
        manifest = dict(params["manifest"], id=self.id, built=now())
        self.replace(os.path.join(self.folder, "manifest.json"), json.dumps(manifest, indent=2) + "\n", 0o640, params["group"])
        if os.path.exists(self.bad_note):
            os.unlink(self.bad_note)

    def builder(self):
        try:
            return pwd.getpwnam(f"{self.params['app']}-build")
        except KeyError:
            raise LayoutError(
                f"the user {self.params['app']}-build is missing on the host. Run deploy.yml, or provision.yml, once."
            ) from None

    def as_builder(self, work, seconds=None):
        """Have it done by the building user, in the directory that is being built: what the source holds is not trusted."""
        user, seconds = self.builder(), seconds or WORK_SECONDS
        directory = os.open(self.building, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.setsid()
                os.close(reading)
                os.fchdir(directory)
                drop_privileges(user)
                # root may end before its deadline, and the host's memory is for what serves
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
                resource.setrlimit(resource.RLIMIT_AS, (WORK_BYTES, WORK_BYTES))
                work()
                status = 0
            except MemoryError:
                os.write(writing, f"the source takes more than {WORK_BYTES // 2**20} MB of memory to handle".encode())
            except (OSError, ValueError, LayoutError, tarfile.TarError, RecursionError, subprocess.SubprocessError) as error:
                os.write(writing, str(error).encode(errors="replace")[:2000])
            finally:
                os._exit(status)
        os.close(writing)
        os.close(directory)
        with os.fdopen(os.pidfd_open(child), "rb") as process, os.fdopen(reading, "rb") as pipe:
            ended = select.select([process], [], [], seconds)[0]
            with contextlib.suppress(ProcessLookupError):
                # what it has started, too
                os.killpg(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            told = os.read(pipe.fileno(), 2000).decode(errors="replace") if select.select([pipe], [], [], 0)[0] else ""
        if not ended:
            raise LayoutError(f"the source took longer than {seconds} seconds to handle. Leave large files out of it")
        if status:
            raise LayoutError(told or f"the process that handles the source ended with status {status}")

    def give_to_root(self, static):
        """The app may read its code and not write it; nginx may read the folders it serves, and nothing else."""
        seal(self.building, grp.getgrnam(self.params["group"]).gr_gid)
        for folder in static:
            path = os.path.realpath(os.path.join(self.building, folder))
            if not os.path.isdir(path) or not path.startswith(os.path.realpath(self.building) + os.sep):
                continue
            run("chmod", "-R", "o=rX", path)
            while path != os.path.realpath(self.building):
                path = os.path.dirname(path)
                os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | stat.S_IXOTH)

    def distrust(self, venv):
        """What a bad release depends on may be what is bad about it: unless another release uses it, make it anew."""
        # an image is known by what is in it
        if os.path.exists(os.path.join(venv, "image")):
            return
        for name in os.listdir(os.path.join(self.root, "releases")):
            link = os.path.join(self.root, "releases", name, ".venv")
            if name != self.id and os.path.islink(link) and os.readlink(link) == venv:
                return
        if os.path.exists(os.path.join(venv, "complete")):
            os.unlink(os.path.join(venv, "complete"))

    def remove(self):
        # first the manifest: a removal that dies midway must not leave a folder that looks finished
        manifest = os.path.join(self.folder, "manifest.json")
        if os.path.lexists(manifest):
            os.unlink(manifest)
        remove(self.folder, self.building)

    def write(self, name, content, mode, group):
        path = os.path.join(self.folder, name)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(content)
            shutil.chown(path, 0, group)
            os.fchmod(handle.fileno(), mode)

    def replace(self, path, content, mode, group):
        temporary = f"{path}.new"
        with open(temporary, "w") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        shutil.chown(temporary, 0, group)
        os.chmod(temporary, mode)
        os.rename(temporary, path)


def run(*command):
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise OSError(f"`{command[0]}` failed: {done.stderr.decode(errors='replace').strip()[-500:]}")


# -- as the building user, in the directory that is being built: all paths are relative to it ----------------------------


def drop_privileges(user):
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.umask(0o022)


def unpack_source(archive, shared, state, static):
    with tarfile.open(fileobj=archive) as tar:
        check_members(tar, shared=shared, static=static)
        archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        # Python's own filter asks for the directory's absolute path, where this user can't go; what is in there was checked
        options = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
        tar.extractall(".", **options)
    for folder in map(os.path.normpath, shared):
        if os.path.isdir(folder) and not os.path.islink(folder):
            shutil.rmtree(folder)
        elif os.path.lexists(folder):
            os.unlink(folder)
        os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)
        os.symlink(os.path.join(state, folder), folder)


def finish_source(static, shared, state, code, live):
    links = check_links(shared, state, code)
    for folder in static:
        # a link that leads to the app's data is not followed
        with contextlib.suppress(Outside):
            pack(resolve(folder, links)[-1], live)


def check_links(shared, state, code):
    """The links of the source. What a build has made is as little trusted; compiled code of its own making goes: it would be believed."""
    links = {}
    for parent, folders, names in walk("."):
        for name in [*folders, *names]:
            path = os.path.normpath(os.path.join(parent, name))
            if name == "__pycache__":
                subprocess.run(["rm", "-rf", "--", path], check=True, stdin=subprocess.DEVNULL)
            elif os.path.islink(path):
                links[path] = os.readlink(path)
        folders[:] = [name for name in folders if name != "__pycache__"]
    for path, target in links.items():
        if target.startswith(code + os.sep):
            # as a build sees its source
            links[path] = os.path.relpath(target[len(code) + 1 :], os.path.dirname(path) or ".")
    within = {path: target for path, target in links.items() if path not in shared or target != os.path.join(state, path)}
    for path, target in within.items():
        try:
            resolve(path, within)
        except (Outside, Circle):
            raise LayoutError(
                f"a link leads out of the source, or nowhere: {path!r} to {target!r}. Let app_build_command link to what is within the source."
            ) from None
    return links


def pack(folder, live):
    """Once here as well as can be, instead of for each visitor in a hurry; what the live release has packed already is taken over."""
    for parent, _folders, names in walk(folder):
        for name in names:
            pack_file(os.path.normpath(os.path.join(parent, name)), live)


def pack_file(path, live):
    if not path.lower().endswith(TEXT) or not stat.S_ISREG(os.lstat(path).st_mode) or os.path.getsize(path) < PACKED_FROM_BYTES:
        return
    served = os.path.join(live, path)
    known = os.path.isfile(served) and filecmp.cmp(path, served, shallow=False)
    for ending, packer in PACKERS.items():
        # an app may bring its own
        if os.path.lexists(path + ending):
            continue
        if known and os.path.isfile(served + ending):
            shutil.copyfile(served + ending, path + ending)
        elif not packer(path, path + ending):
            continue
        # browsers ask whether it is newer than theirs
        shutil.copystat(path, path + ending)


def pack_gz(path, packed):
    with open(path, "rb") as plain, gzip.GzipFile(packed, "wb", compresslevel=9, mtime=0) as target:
        shutil.copyfileobj(plain, target)
    return True


def pack_br(path, packed):
    if not shutil.which("brotli"):
        return False
    done = subprocess.run(["brotli", "--best", f"--output={packed}", "--", path], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise OSError(f"brotli can't pack {path}: {done.stderr.strip()}")
    return True


PACKERS = {".gz": pack_gz, ".br": pack_br}


def walk(top):
    """os.walk, which calls itself for each level before Python 3.12."""
    if sys.getrecursionlimit() < 20_000:
        sys.setrecursionlimit(20_000)
    return os.walk(top)


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    main()
