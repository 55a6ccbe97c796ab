#!/usr/bin/python
"""The life of one release's folder: unpacked, sealed, live, bad, absent."""

DOCUMENTATION = r"""
module: release_folder
short_description: The life of one release's folder
description:
  - C(ROOT/releases/ID/) holds a release, C(ROOT/live) and C(ROOT/former) are links to releases, C(ROOT/history) has
    a line for each cut-over, C(ROOT/bad/ID) says why a release must not be used.
  - In it, C(app/) is the source, C(.venv/) what it depends on, C(wsgi.sock) a link to its socket, C(public/) links to
    the folders that nginx serves; beside them stand the server's configuration, the environment and C(start).
  - A release is complete when it has a C(manifest.json), which is written last, by rename.
options:
  root:
    description: The app's folder, such as C(/srv/APP).
    type: path
    required: true
  id:
    description: The release.
    type: str
    required: true
  state:
    description:
      - V(unpacked) starts the release anew from O(archive) and O(files); O(builder) owns C(app) and C(.venv).
      - V(sealed) gives all of it to root, readable by O(group) only, and writes the manifest.
      - V(live) makes it the release that nginx sends requests to, by one rename. The live one becomes the former.
      - V(bad) says why it must not be used.
      - V(absent) removes it.
    type: str
    choices: [unpacked, sealed, live, bad, absent]
    required: true
  archive:
    description: The packed source, on the host.
    type: path
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
  socket:
    description: Where the release's C(wsgi.sock) points to.
    type: path
  static:
    description: Folders of the source whose files nginx serves, by URL; reached as C(public/URL).
    type: dict
    default: {}
  builder:
    description: User who builds the venv.
    type: str
  group:
    description: Group who may read the sealed release.
    type: str
  manifest:
    description: What the manifest tells.
    type: dict
    default: {}
  reason:
    description: Why the release is bad.
    type: str
    default: ''
  by:
    description: Who makes it live, for the history.
    type: str
    default: ''
"""

RETURN = r"""
former:
  description: With V(live), the release that was live before.
  type: str
  returned: state is live
"""

import json
import os
import pwd
import grp
import shutil
import stat
import tarfile
import time

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "id": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "required": True,
                "choices": ["unpacked", "sealed", "live", "bad", "absent"],
            },
            "archive": {"type": "path"},
            "files": {"type": "dict", "default": {}},
            "secret_files": {"type": "dict", "default": {}, "no_log": True},
            "programs": {"type": "list", "elements": "str", "default": []},
            "socket": {"type": "path"},
            "static": {"type": "dict", "default": {}},
            "builder": {"type": "str"},
            "group": {"type": "str"},
            "manifest": {"type": "dict", "default": {}},
            "reason": {"type": "str", "default": ""},
            "by": {"type": "str", "default": ""},
        },
        required_if=[
            ("state", "unpacked", ["archive", "socket", "builder", "group"]),
            ("state", "sealed", ["group"]),
        ],
    )
    release = Release(module.params)
    try:
        module.exit_json(**getattr(release, module.params["state"])())
    except (OSError, tarfile.TarError, KeyError) as error:
        module.fail_json(msg=f"release {release.id}: {error}")


class Release:
    def __init__(self, params):
        self.params = params
        self.root = params["root"]
        self.id = params["id"]
        self.folder = os.path.join(self.root, "releases", self.id)
        self.code = os.path.join(self.folder, "app")
        self.venv = os.path.join(self.folder, ".venv")
        self.bad_note = os.path.join(self.root, "bad", self.id)

    def unpacked(self):
        self.absent()
        # whoever may not read a sealed release must not read one in the making
        os.makedirs(self.code)
        os.chmod(self.folder, 0o711)
        os.makedirs(self.venv)
        with tarfile.open(self.params["archive"]) as tar:
            for member in tar:
                member.mode |= stat.S_IRUSR | stat.S_IWUSR
                # 'data' refuses members and links that would leave the folder
                if hasattr(tarfile, "data_filter"):
                    tar.extract(member, self.code, filter="data")
                else:
                    tar.extract(member, self.code)
        builder = pwd.getpwnam(self.params["builder"])
        for top in (self.code, self.venv):
            os.chmod(top, 0o700)
            for path in walk(top):
                os.lchown(path, builder.pw_uid, builder.pw_gid)
        group = grp.getgrnam(self.params["group"]).gr_gid
        for name, content in self.params["files"].items():
            self.write(name, content, 0o750 if name in self.params["programs"] else 0o640, group)
        for name, content in self.params["secret_files"].items():
            self.write(name, content, 0o600, 0)
        os.symlink(self.params["socket"], os.path.join(self.folder, "wsgi.sock"))
        for url, folder in self.params["static"].items():
            link = os.path.join(self.folder, "public", url.strip("/"))
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(os.path.relpath(os.path.join(self.code, folder), os.path.dirname(link)), link)
        return {"changed": True}

    def sealed(self):
        group = grp.getgrnam(self.params["group"]).gr_gid
        public = [os.path.join(self.code, os.path.normpath(folder)) for folder in self.params["static"].values()]
        for top in (self.code, self.venv):
            for path in walk(top):
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
        manifest = dict(self.params["manifest"], id=self.id, built=now())
        self.replace(os.path.join(self.folder, "manifest.json"), json.dumps(manifest, indent=2) + "\n", 0o640, group)
        self.forgive()
        return {"changed": True}

    def live(self):
        live = os.path.join(self.root, "live")
        former = read_link(live)
        if former == self.id:
            return {"changed": False, "former": former}
        if former:
            self.point(os.path.join(self.root, "former"), former)
        self.point(live, self.id)
        line = {"at": now(), "id": self.id, "by": self.params["by"], "before": former}
        with open(os.path.join(self.root, "history"), "a") as history:
            history.write(json.dumps(line) + "\n")
        self.forgive()
        return {"changed": True, "former": former}

    def bad(self):
        os.makedirs(os.path.dirname(self.bad_note), mode=0o755, exist_ok=True)
        self.replace(self.bad_note, f"{now()} {self.params['reason']}\n", 0o644, 0)
        return {"changed": True}

    def absent(self):
        there = os.path.lexists(self.folder) or os.path.lexists(self.bad_note)
        # first the manifest: a removal that dies midway must not leave a folder that looks complete
        for path in (os.path.join(self.folder, "manifest.json"), self.bad_note):
            if os.path.lexists(path):
                os.unlink(path)
        if os.path.isdir(self.folder) and not os.path.islink(self.folder):
            shutil.rmtree(self.folder)
        elif os.path.lexists(self.folder):
            os.unlink(self.folder)
        return {"changed": there}

    # -- pieces ---------------------------------------------------------------------------------------------

    def forgive(self):
        if os.path.exists(self.bad_note):
            os.unlink(self.bad_note)

    def write(self, name, content, mode, group):
        path = os.path.join(self.folder, name)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as handle:
            handle.write(content)
            os.fchown(handle.fileno(), 0, group)
            os.fchmod(handle.fileno(), mode)

    def point(self, link, release):
        """One rename: whoever follows the link gets the old release or the new one, never none."""
        temporary = f"{link}.new"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(os.path.join("releases", release), temporary)
        os.rename(temporary, link)

    def replace(self, path, content, mode, group):
        temporary = f"{path}.new"
        with open(temporary, "w") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.chown(temporary, 0, group)
        os.chmod(temporary, mode)
        os.rename(temporary, path)


def walk(top):
    yield top
    for parent, folders, names in os.walk(top):
        for name in folders + names:
            yield os.path.join(parent, name)


def read_link(path):
    return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    main()
