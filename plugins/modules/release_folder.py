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
  - C(ROOT/venvs/KEY/) holds a venv; releases that depend on the same share it. It is whole when it has a file
    C(complete).
  - C(ROOT/bad/ID) says why a release must not be used; one that is made anew is trusted again.
options:
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
      - V(finished) does it all.
      - V(unpacked) ends with the source, which is O(user)'s to build in; V(sealed) goes on from there, and takes it from them.
    type: str
    choices: [finished, unpacked, sealed]
    default: finished
  user:
    description: The app's user; needed for V(unpacked).
    type: str
    default: ''
  archive:
    description: The packed source, on the controller.
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
"""

import compileall
import fcntl
import filecmp
import grp
import gzip
import json
import os
import pwd
import shutil
import stat
import subprocess
import tarfile
import time

from ansible.module_utils.basic import AnsibleModule

# what gains by being packed; pictures, films and most fonts are packed already
TEXT = (".css", ".csv", ".htm", ".html", ".js", ".json", ".map", ".mjs", ".otf", ".svg", ".ttf", ".txt", ".wasm", ".webmanifest", ".xml")
# a smaller one fits into one packet as it is
PACKED_FROM_BYTES = 1024


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "id": {"type": "str", "required": True},
            "phase": {"type": "str", "choices": ["finished", "unpacked", "sealed"], "default": "finished"},
            "user": {"type": "str", "default": ""},
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
        # a run whose connection broke may have left a step at work on the host: wait until it has ended, and hold until we have
        fcntl.flock(os.open(release.root, os.O_RDONLY), fcntl.LOCK_EX)
        module.exit_json(changed=True, **release.lay_out())
    except (OSError, tarfile.TarError, KeyError) as error:
        # on a disk that is full, what serves needs the room
        release.remove()
        module.fail_json(msg=f"release {release.id} could not be laid out: {error}")


class Release:
    def __init__(self, params):
        self.params = params
        self.root = params["root"]
        self.id = params["id"]
        self.folder = os.path.join(self.root, "releases", self.id)
        self.code = os.path.join(self.folder, "app")
        self.bad_note = os.path.join(self.root, "bad", self.id)

    def lay_out(self):
        venv = os.path.join(self.root, "venvs", self.params["venv"])
        group = grp.getgrnam(self.params["group"]).gr_gid
        if self.params["phase"] != "sealed":
            self.unpack(venv, group)
        if self.params["phase"] != "unpacked":
            self.seal(group)
        return {"venv_complete": os.path.exists(os.path.join(venv, "complete"))}

    def unpack(self, venv, group):
        params = self.params
        if os.path.exists(self.bad_note):
            self.distrust(venv)
        self.remove()
        # whoever may not read a finished release must not read one in the making
        os.makedirs(self.code, mode=0o700)
        # nginx passes through, the app may look: Python finds modules only in folders that it can list
        os.chown(self.folder, 0, group)
        os.chmod(self.folder, 0o751)
        with tarfile.open(params["archive"]) as tar:
            # 'data' refuses members and links that would leave the folder
            options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(self.code, **options)
        self.share()
        for name, content in params["secret_files"].items():
            self.write(name, content, 0o600, 0)
        os.symlink(venv, os.path.join(self.folder, ".venv"))
        if params["phase"] == "unpacked":
            user = pwd.getpwnam(params["user"]).pw_uid
            for path in walk(self.code):
                os.lchown(path, user, group)

    def seal(self, group):
        params = self.params
        if params["phase"] == "sealed":
            self.take_over(group)
        compileall.compile_dir(self.code, quiet=2, ddir=None)
        self.pack()
        self.give_to_root(group)
        for name, content in params["files"].items():
            self.write(name, content, 0o750 if name in params["programs"] else 0o640, group)
        os.symlink(params["socket"], os.path.join(self.folder, "wsgi.sock"))
        for url, folder in params["static"].items():
            link = os.path.join(self.folder, "public", url.strip("/"))
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(os.path.relpath(os.path.join(self.code, folder), os.path.dirname(link)), link)
        manifest = dict(params["manifest"], id=self.id, built=now())
        self.replace(os.path.join(self.folder, "manifest.json"), json.dumps(manifest, indent=2) + "\n", 0o640, group)
        if os.path.exists(self.bad_note):
            os.unlink(self.bad_note)

    def take_over(self, group):
        """What its user has built there may be bad: from here on, it is read, and nothing is written through it."""
        self.give_to_root(group)
        for path in list(walk(self.code)):
            if os.path.basename(path) == "__pycache__" and os.path.lexists(path):
                os.unlink(path) if os.path.islink(path) else shutil.rmtree(path)
            elif os.path.islink(path) and not self.may_link(path):
                raise OSError(f"app_build_command left a link that leads out of the source: {os.path.relpath(path, self.code)}")

    def may_link(self, path):
        target = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        shared = [os.path.join(self.params["state"], os.path.normpath(folder)) for folder in self.params["shared"]]
        return target.startswith(self.code + os.sep) or target in shared

    def share(self):
        for folder in self.params["shared"]:
            link = os.path.join(self.code, os.path.normpath(folder))
            if os.path.isdir(link) and not os.path.islink(link):
                shutil.rmtree(link)
            elif os.path.lexists(link):
                os.unlink(link)
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(os.path.join(self.params["state"], os.path.normpath(folder)), link)

    def pack(self):
        """Once here as well as can be, instead of for each visitor in a hurry; what the live release has packed already is taken over."""
        live = os.path.join(self.root, "live", "app")
        for folder in self.params["static"].values():
            for path in list(walk(os.path.join(self.code, folder))):
                if not path.lower().endswith(TEXT) or os.path.islink(path) or not os.path.isfile(path):
                    continue
                if os.path.getsize(path) < PACKED_FROM_BYTES:
                    continue
                served = os.path.join(live, os.path.relpath(path, self.code))
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
        if os.path.isdir(self.folder) and not os.path.islink(self.folder):
            shutil.rmtree(self.folder)
        elif os.path.lexists(self.folder):
            os.unlink(self.folder)

    def give_to_root(self, group):
        """The app may read its code and not write it; nginx may read the folders it serves, and nothing else."""
        public = [os.path.join(self.code, os.path.normpath(folder)) for folder in self.params["static"].values()]
        for path in walk(self.code):
            os.lchown(path, 0, group)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                continue
            readable = 0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644
            if any(path == folder or path.startswith(folder + os.sep) for folder in public):
                os.chmod(path, readable)
            elif any(folder.startswith(path + os.sep) for folder in public):
                os.chmod(path, 0o751)
            else:
                os.chmod(path, readable & 0o750)

    def write(self, name, content, mode, group):
        path = os.path.join(self.folder, name)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(content)
            os.fchown(handle.fileno(), 0, group)
            os.fchmod(handle.fileno(), mode)

    def replace(self, path, content, mode, group):
        temporary = f"{path}.new"
        with open(temporary, "w") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.chown(temporary, 0, group)
        os.chmod(temporary, mode)
        os.rename(temporary, path)


def pack_gz(path, packed):
    with open(path, "rb") as plain, gzip.GzipFile(packed, "wb", compresslevel=9, mtime=0) as target:
        shutil.copyfileobj(plain, target)
    return True


def pack_br(path, packed):
    if not shutil.which("brotli"):
        return False
    done = subprocess.run(["brotli", "--best", f"--output={packed}", "--", path], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"brotli can't pack {path}: {done.stderr.strip()}")
    return True


PACKERS = {".gz": pack_gz, ".br": pack_br}


def walk(top):
    yield top
    for parent, folders, names in os.walk(top):
        for name in folders + names:
            yield os.path.join(parent, name)


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    main()
