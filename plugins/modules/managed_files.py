#!/usr/bin/python
"""Manage a set of files and directories in one task, and validate them together before any of them is written."""

DOCUMENTATION = r"""
module: managed_files
short_description: Manage a set of files and validate them together
description:
  - Creates, changes and removes files and directories in one task.
  - With O(check), the module first writes all changes to a copy of O(check_in), and runs the check with the copy mounted in place of the
    directory. Only the check sees this mount. If the check fails, nothing is changed.
  - Each file is replaced by a rename. If the module replaces a file that Flaskhost did not write, or one that was edited since, it saves a
    copy in C(/var/backups/flaskhost). For an edited file, it also prints a warning.
  - The module never replaces a directory with a file, or a file with a directory.
author: The Flaskhost authors (@flaskhost)
options:
  files:
    description: The files and directories, in the order in which they are changed.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: The absolute path.
        type: path
        required: true
      content:
        description: The full content of a file.
        type: str
        default: ''
      state:
        description: The wanted state. With V(existing), the module changes only O(files[].lines), the owner, the group and the mode, and
          creates nothing.
        type: str
        choices: [file, directory, absent, existing]
        default: file
      lines:
        description: For a file in state V(existing), values by name. The module corrects the line that begins with the name, or adds it.
        type: dict
        default: {}
      mode:
        description: The permissions, in octal. The default is V(0644) for files and V(0755) for directories.
        type: str
      owner:
        description: The owner.
        type: str
        default: root
      group:
        description: The group.
        type: str
        default: root
  check:
    description: A command that exits with 0 if the files are valid.
    type: list
    elements: str
    default: []
  check_in:
    description: The directory that the check reads.
    type: path
"""

EXAMPLES = r"""
- name: Configure nginx, if nginx accepts the new configuration
  flaskhost.flaskhost.managed_files:
    files:
      - { path: /etc/nginx/sites-enabled, state: directory }
      - path: /etc/nginx/sites-enabled/shop.conf
        content: "{{ lookup('ansible.builtin.template', 'shop.conf.j2') }}"
      - { path: /etc/nginx/sites-enabled/default, state: absent }
    check: [nginx, -t]
    check_in: /etc/nginx

- name: Set one value of a file that the distribution owns
  flaskhost.flaskhost.managed_files:
    files:
      - path: /etc/login.defs
        state: existing
        lines: { UMASK: "027" }
"""

RETURN = r"""
paths: {description: The paths that were changed., type: list, returned: success}
"""

import contextlib
import errno
import grp
import hashlib
import os
import pwd
import re
import shutil
import stat
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import LockTimeout, acquire
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import remove

BACKUPS = "/var/backups/flaskhost"
# extended attribute with the digest of the content that Flaskhost wrote; it does not match if the file was edited
ATTRIBUTE = "user.flaskhost.sha256"
MARK = "Managed by Flaskhost"
ENTRY = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "default": ""},
    "state": {"type": "str", "choices": ["file", "directory", "absent", "existing"], "default": "file"},
    "lines": {"type": "dict", "default": {}},
    "mode": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}


def main():
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": ENTRY},
            "check": {"type": "list", "elements": "str", "default": []},
            "check_in": {"type": "path"},
        },
        supports_check_mode=True,
    )
    # other users must be able to traverse new parent directories, regardless of the session's umask
    os.umask(0o022)
    # two apps on one host may be deployed at the same time, and these files are shared
    try:
        acquire("host", "writing files")
    except LockTimeout as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    entries = [Entry(**wanted) for wanted in module.params["files"]]
    changing = [entry for entry in entries if entry.differs()]
    for entry in changing:
        if entry.is_blocked():
            module.fail_json(msg=f"{entry.path} must be a {entry.state}, but is something else. Move it away. Nothing was changed.")
    if changing and module.params["check"] and os.path.isdir(module.params["check_in"]):
        run_check(module, changing)
    diff = [entry.diff() for entry in changing]
    if not module.check_mode:
        for entry in changing:
            origin = entry.origin() if entry.kind() == "file" and entry.before() != entry.after() else "flaskhost"
            copy = entry.back_up() if origin != "flaskhost" else ""
            if origin == "edited":
                module.warn(f"{entry.path} was edited after Flaskhost wrote it. Flaskhost replaced it and saved the edited file as {copy}")
            entry.apply()
    module.exit_json(changed=bool(changing), paths=[entry.path for entry in changing], diff=diff)


class Entry:
    def __init__(self, path, content, state, lines, mode, owner, group):
        self.path, self.content, self.state, self.lines, self.owner, self.group = path, content, state, lines, owner, group
        self.mode = int(mode or ("0755" if state == "directory" else "0644"), 8)

    def differs(self):
        kind = self.kind()
        if self.state == "absent":
            return kind != "absent"
        if self.state == "existing":
            return kind in ("file", "directory") and (self.before() != self.after() or self.permissions_differ())
        return kind != self.state or self.before() != self.after() or self.permissions_differ()

    def is_blocked(self):
        return (self.state, self.kind()) in (("file", "directory"), ("directory", "file"), ("directory", "other"))

    def origin(self):
        """Return who wrote the current file: "flaskhost", "edited" (written by Flaskhost and changed since) or "other".

        An editor that replaces a file drops the attribute, but usually keeps the mark in the first lines.
        """
        recorded, marked = recorded_digest(self.path), MARK in self.before()[:1000]
        if recorded is None:
            return "flaskhost" if marked else "other"
        if recorded == digest(self.before()):
            return "flaskhost"
        return "edited" if recorded or marked else "other"

    def back_up(self):
        """Save a copy of the file, and return its path."""
        copy = f"{BACKUPS}{self.path}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        os.makedirs(BACKUPS, mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        shutil.copy2(self.path, copy, follow_symlinks=False)
        return copy

    def kind(self):
        if not os.path.lexists(self.path):
            return "absent"
        # a directory can be a link to a directory on another disk
        if self.state == "directory" and os.path.isdir(self.path):
            return "directory"
        mode = os.lstat(self.path).st_mode
        return "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else "other"

    def before(self):
        if self.kind() != "file":
            return ""
        with open(self.path, encoding="utf-8", errors="replace", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as handle:
            return handle.read()

    def after(self):
        return {"file": self.content, "existing": with_lines(self.before(), self.lines)}.get(self.state, "")

    def permissions_differ(self):
        now = os.stat(self.path)
        try:
            ids = pwd.getpwnam(self.owner).pw_uid, grp.getgrnam(self.group).gr_gid
        except KeyError:
            return True  # in check mode, the user or group may not exist yet
        return (now.st_uid, now.st_gid) != ids or stat.S_IMODE(now.st_mode) != self.mode

    def diff(self):
        before, after = f"{self.path} ({self.kind()})", f"{self.path} ({self.state})"
        if self.state == "existing" and self.before() == self.after():
            now = os.stat(self.path)
            texts = f"{now.st_uid}:{now.st_gid} {stat.S_IMODE(now.st_mode):04o}\n", f"{self.owner}:{self.group} {self.mode:04o}\n"
        else:
            texts = self.before(), self.after()
        return {"before_header": before, "after_header": after, "before": texts[0], "after": texts[1]}

    def apply(self, root="", permissions=True):
        path = root + self.path
        if self.state == "existing" and self.before() == self.after():
            if permissions:
                self.set_permissions(path)
            return
        content = self.after()
        if os.path.lexists(path) and self.state != "existing" and self.kind() != self.state:
            remove(path)
        if self.state == "absent":
            return
        if self.state == "directory":
            os.makedirs(path, exist_ok=True)
            if permissions:
                self.set_permissions(path)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        target = f"{path}.new"
        # a daemon such as postgres may own the directory and could have placed anything at this path
        if os.path.lexists(target):
            remove(target)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(target, flags, 0o600), "w", encoding="utf-8") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
            record_digest(handle.fileno(), digest(content))
            if permissions:
                shutil.chown(handle.fileno(), self.owner, self.group)
            os.fchmod(handle.fileno(), self.mode)
        os.rename(target, path)

    def set_permissions(self, path):
        """Set owner, group and mode through one descriptor, so that the path cannot be replaced in between."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            shutil.chown(descriptor, self.owner, self.group)
            os.fchmod(descriptor, self.mode)
        finally:
            os.close(descriptor)


def with_lines(text, lines):
    for name, value in lines.items():
        line = f"{name}\t{value}"
        text, found = re.subn(rf"^[ \t]*{re.escape(name)}[ \t].*$", lambda _, line=line: line, text, flags=re.MULTILINE)
        text = text if found else "\n".join([*text.splitlines(), line, ""])
    return text


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def recorded_digest(path):
    """Return the recorded digest, an empty string if there is none, or None if the file system does not support attributes."""
    try:
        return os.getxattr(path, ATTRIBUTE).decode()
    except OSError as error:
        return "" if error.errno == errno.ENODATA else None


def record_digest(path, text):
    with contextlib.suppress(OSError):
        os.setxattr(path, ATTRIBUTE, text.encode())


def run_check(module, changing):
    """Run the check in a separate mount namespace, in which a copy with all changes is mounted over the directory."""
    directory = module.params["check_in"].rstrip("/")
    candidate = tempfile.mkdtemp(prefix="flaskhost-check-")
    try:
        copy = candidate + directory
        shutil.copytree(directory, copy, symlinks=True)
        for entry in changing:
            if entry.path.startswith(f"{directory}/"):
                entry.apply(root=candidate, permissions=False)
        mounted = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounted, "sh", copy, directory]
        code, out, err = module.run_command([*command, *module.params["check"]])
        if code != 0:
            module.fail_json(
                msg=f"The new configuration is not valid, so nothing was changed. Output of `{' '.join(module.params['check'])}`:\n"
                f"{(err or out).strip()}"
            )
    finally:
        shutil.rmtree(candidate, ignore_errors=True)


if __name__ == "__main__":
    main()
