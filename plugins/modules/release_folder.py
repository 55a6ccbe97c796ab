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
author: The Flaskhost authors (@flaskhost)
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

EXAMPLES = r"""
- name: Lay out the release
  flaskhost.flaskhost.release_folder:
    app: shop
    root: /srv/shop
    id: 1a2b3c-4d5e6f
    phase: unpacked
    archive: "{{ source.archive }}"
    files: { start: "{{ lookup('ansible.builtin.template', 'start.j2') }}" }
    programs: [start]
    venv: 0123456789ab
    socket: /run/flaskhost/shop/1a2b3c-4d5e6f.sock
    static: { /static/: shop/static }
    shared: [instance]
    state: /var/lib/shop
    group: shop-web
"""

RETURN = r"""
venv_complete: {description: Whether the venv is there already., type: bool, returned: success}
sealed: {description: Whether the release is finished., type: bool, returned: success}
"""

# pylint: disable=ansible-bad-function  # a failure must raise, so that what is unfinished is removed
import compileall
import contextlib
import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import tarfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.archives import UnsafeArchive
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.builder import LayoutError, as_builder
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import Layout, now
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import LockTimeout, acquire
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.source_tree import finish_source, unpack_source
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import remove, seal

# compiled code is an extra: it gets less time than the rest
COMPILE_SECONDS = 300


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


class Release:
    def __init__(self, params):
        self.params = params
        self.layout, self.id = Layout(params["root"], params["app"]), params["id"]
        self.folder, self.code = self.layout.release(self.id), self.layout.release(self.id, "app")
        self.building, self.bad_marker = self.layout.building(self.id), self.layout.bad_marker(self.id)

    def lay_out(self):
        venv = self.layout.venv(self.params["venv"])
        if self.params["phase"] == "unpacked":
            self.unpack(venv)
        venv_complete = os.path.exists(os.path.join(venv, "complete"))
        seal = self.params["phase"] == "sealed" or (venv_complete and not self.params["build"])
        if seal:
            self.seal()
        return {"venv_complete": venv_complete, "sealed": seal}

    def unpack(self, venv):
        params = self.params
        if os.path.exists(self.bad_marker):
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
        self.as_builder(lambda: finish_source(static, shared, params["state"], self.code, self.layout.path("live", "app")))
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
        if os.path.exists(self.bad_marker):
            os.unlink(self.bad_marker)

    def builder(self):
        try:
            return pwd.getpwnam(f"{self.params['app']}-build")
        except KeyError:
            raise LayoutError(
                f"the user {self.params['app']}-build is missing on the host. Run deploy.yml, or provision.yml, once."
            ) from None

    def as_builder(self, work, seconds=None):
        as_builder(self.builder(), self.building, work, seconds)

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
        for name in os.listdir(self.layout.path("releases")):
            link = self.layout.release(name, ".venv")
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
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise OSError(f"`{command[0]}` failed: {done.stderr.decode(errors='replace').strip()[-500:]}")


if __name__ == "__main__":
    main()
