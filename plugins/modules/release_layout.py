#!/usr/bin/python
"""Create the directory of a release from its source and its settings."""

DOCUMENTATION = r"""
module: release_layout
short_description: Create the directory of a release
description:
  - Creates the directory of a release, owned by root and readable for O(group), and replaces an existing one. It does not build the venv.
  - C(ROOT/releases/ID/) is a release. C(app/) contains the source, C(.venv) is a link to the venv, C(wsgi.sock) is a link to the socket,
    and C(public/) contains links to the directories that nginx serves. The directory also contains the server's configuration, the
    environment, C(start), and C(manifest.json), which is written last, by a rename. A release without a manifest is unfinished.
  - The user C(APP-build) unpacks and compiles the source, and compresses its static files, in C(ROOT/releases/.building/ID). Only root can
    enter C(.building). Then the module changes the owner to root, and moves the directory to its final path.
  - C(ROOT/venvs/KEY/) is a venv. Releases with the same dependencies share it. It is complete when it contains a file C(complete).
  - C(ROOT/bad/ID) contains the reason why a release must not be activated. Rebuilding the release removes it.
author: The Flaskhost authors (@flaskhost)
options:
  app:
    description: The name of the app. The module holds the app's lock.
    type: str
    required: true
  root:
    description: The app's directory, such as C(/srv/APP).
    type: path
    required: true
  id:
    description: The ID of the release.
    type: str
    required: true
  phase:
    description:
      - V(unpacked) unpacks the source into C(ROOT/releases/.building/ID). If nothing is left to build, because the venv is complete and
        O(build) is false, it also finishes the release.
      - V(configured) writes O(private_files) for the build command. Without this phase, they are written when the release is finished.
      - V(sealed) finishes the release after the build.
    type: str
    choices: [unpacked, configured, sealed]
    required: true
  build:
    description: Whether a build command runs in the source before the release is finished.
    type: bool
    default: false
  archive:
    description: The archive of the source on the controller. All members are checked before the archive is unpacked.
    type: path
    required: true
  files:
    description: Content of additional files by name. Those listed in O(programs) are executable.
    type: dict
    default: {}
  secret_files:
    description: Content of files that only root can read, by name.
    type: dict
    default: {}
  private_files:
    description: Content of files to add to the source, by path. The app and its build command can read them, and other users can't.
    type: dict
    default: {}
  programs:
    description: Names of the O(files) that are executable.
    type: list
    elements: str
    default: []
  venv:
    description: The name of the venv in C(ROOT/venvs).
    type: str
    required: true
  socket:
    description: The path that the link C(wsgi.sock) points to.
    type: path
    required: true
  static:
    description: >-
      Directories of the source that nginx serves, by URL. They are linked as C(public/URL). For each text file in them, the module creates
      a compressed copy (C(.gz), and C(.br) if brotli is installed) for browsers that accept it.
    type: dict
    default: {}
  shared:
    description:
      - Directories and files of the source that the app writes to. Each becomes a link to the same path in O(state).
      - What the source has there is kept in C(ROOT/releases/ID/seed). The app copies it to O(state) if the path does not exist there yet.
    type: list
    elements: str
    default: []
  state:
    description: The app's data directory.
    type: path
    default: ''
  group:
    description: The group that can read the release.
    type: str
    required: true
  manifest:
    description: Values to write to the manifest.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Create the release's directory
  flaskhost.flaskhost.release_layout:
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
venv_complete: {description: Whether the venv is complete., type: bool, returned: success}
sealed: {description: Whether the release is finished., type: bool, returned: success}
"""

# pylint: disable=ansible-bad-function  # a failure must raise an exception, so that the unfinished release is removed
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
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.public import Public
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.source_tree import finish_source, unpack_seed, unpack_source, write_files
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import remove, seal

# compiling is optional, so it has a shorter time limit
COMPILE_SECONDS = 300


def main():
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "id": {"type": "str", "required": True},
            "phase": {"type": "str", "choices": ["unpacked", "configured", "sealed"], "required": True},
            "build": {"type": "bool", "default": False},
            "archive": {"type": "path", "required": True},
            "files": {"type": "dict", "default": {}},
            "secret_files": {"type": "dict", "default": {}, "no_log": True},
            "private_files": {"type": "dict", "default": {}, "no_log": True},
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
    # nginx must be able to traverse the new directories, regardless of the session's umask
    os.umask(0o022)
    release = Release(module.params)
    try:
        # a run that lost its connection may have left a step running on the host; wait until it ends
        acquire(module.params["app"], f"creating release {release.id}")
        module.exit_json(changed=True, **release.lay_out())
    except (OSError, tarfile.TarError, KeyError, UnsafeArchive, LayoutError) as error:
        # if the disk is full, the services need the space
        release.remove()
        module.fail_json(msg=f"cannot create release {release.id}: {printable(str(error))}")
    except LockTimeout as error:
        module.fail_json(msg=str(error))


class Release:
    def __init__(self, params):
        self.params = params
        self.layout, self.id = Layout(params["root"], params["app"]), params["id"]
        self.directory, self.code = self.layout.release(self.id), self.layout.release(self.id, "app")
        self.building, self.building_seed = self.layout.building(self.id), self.layout.building(f"{self.id}.seed")
        self.bad_marker = self.layout.bad_marker(self.id)

    def lay_out(self):
        venv = self.layout.venv(self.params["venv"])
        if self.params["phase"] == "unpacked":
            self.unpack(venv)
        if self.params["phase"] == "configured":
            self.as_builder(lambda: write_files(self.params["private_files"]))
        venv_complete = os.path.exists(os.path.join(venv, "complete"))
        seal = self.params["phase"] == "sealed" or (venv_complete and not self.params["build"])
        if seal:
            self.seal()
        return {"venv_complete": venv_complete, "sealed": seal}

    def unpack(self, venv):
        params = self.params
        if os.path.exists(self.bad_marker):
            self.invalidate_venv(venv)
        self.remove()
        # only root can enter the directory until its group is set
        os.makedirs(self.directory, mode=0o700)
        # nginx only traverses the directory; the app must also list it, because Python finds modules only in directories that it can list
        shutil.chown(self.directory, 0, params["group"])
        os.chmod(self.directory, 0o751)
        # a mount point: the build sees the source here, which is in .building
        os.mkdir(self.code, 0o711)
        for name, content in params["secret_files"].items():
            self.write(name, content, 0o600, 0)
        os.symlink(venv, os.path.join(self.directory, ".venv"))
        os.makedirs(os.path.dirname(self.building), mode=0o700, exist_ok=True)
        user = self.builder()
        for directory in self.building, self.building_seed:
            os.mkdir(directory, 0o700)
            os.chown(directory, user.pw_uid, user.pw_gid)
        with open(params["archive"], "rb") as archive:
            self.as_builder(lambda: unpack_source(archive, params["shared"], params["state"], params["static"].values()))
        if params["shared"]:
            # apart from the code, so that the build does not see it
            with open(params["archive"], "rb") as archive:
                as_builder(user, self.building_seed, lambda: unpack_seed(archive, params["shared"]))

    def seal(self):
        params = self.params
        static = [os.path.normpath(directory) for directory in params["static"].values()]
        shared = [os.path.normpath(directory) for directory in params["shared"]]
        self.as_builder(lambda: finish_source(static, shared, params["state"], self.code, self.layout.path("live", "app")))
        self.as_builder(lambda: write_files(params["private_files"]))
        # without compiled code, the app only starts slower
        with contextlib.suppress(LayoutError):
            self.as_builder(lambda: compileall.compile_dir(".", quiet=2, ddir=None), COMPILE_SECONDS)
        self.give_to_root(static)
        os.rename(self.building, self.code)
        os.rename(self.building_seed, os.path.join(self.directory, "seed"))
        for name, content in params["files"].items():
            self.write(name, content, 0o750 if name in params["programs"] else 0o640, params["group"])
        os.symlink(params["socket"], os.path.join(self.directory, "wsgi.sock"))
        Public(os.path.join(self.directory, "public"), self.code).link(params["static"])
        manifest = dict(params["manifest"], id=self.id, built=now())
        self.replace(os.path.join(self.directory, "manifest.json"), json.dumps(manifest, indent=2) + "\n", 0o640, params["group"])
        if os.path.exists(self.bad_marker):
            os.unlink(self.bad_marker)

    def builder(self):
        try:
            return pwd.getpwnam(f"{self.params['app']}-build")
        except KeyError:
            raise LayoutError(f"the user {self.params['app']}-build is missing on the host. Run deploy.yml or provision.yml.") from None

    def as_builder(self, work, seconds=None):
        as_builder(self.builder(), self.building, work, seconds)

    def give_to_root(self, static):
        """Let the app read its code but not write it, and let nginx read only the directories that it serves."""
        for directory in self.building, self.building_seed:
            seal(directory, grp.getgrnam(self.params["group"]).gr_gid)
        for directory in static:
            path = os.path.realpath(os.path.join(self.building, directory))
            if not os.path.isdir(path) or not path.startswith(os.path.realpath(self.building) + os.sep):
                continue
            run("chmod", "-R", "o=rX", path)
            while path != os.path.realpath(self.building):
                path = os.path.dirname(path)
                os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | stat.S_IXOTH)

    def invalidate_venv(self, venv):
        """Have the venv of a bad release rebuilt, because it may be the cause, unless another release uses it."""
        # the ID of an image identifies its content, so a rebuild would not change it
        if os.path.exists(os.path.join(venv, "image")):
            return
        for name in os.listdir(self.layout.path("releases")):
            link = self.layout.release(name, ".venv")
            if name != self.id and os.path.islink(link) and os.readlink(link) == venv:
                return
        if os.path.exists(os.path.join(venv, "complete")):
            os.unlink(os.path.join(venv, "complete"))

    def remove(self):
        # remove the manifest first, so that an interrupted removal does not leave a directory that looks finished
        manifest = os.path.join(self.directory, "manifest.json")
        if os.path.lexists(manifest):
            os.unlink(manifest)
        remove(self.directory, self.building, self.building_seed)

    def write(self, name, content, mode, group):
        path = os.path.join(self.directory, name)
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
