#!/usr/bin/python
"""Several files, folders and links of one concern, proven together before any takes its place."""

DOCUMENTATION = r"""
module: managed_files
short_description: Files of one concern, proven together before any takes its place
description:
  - Makes files, folders and absences what they should be, all in one task.
  - With O(check), the whole set is first put into a copy of O(check_in), and the check runs with that copy mounted in its
    place, seen by the check alone. What it refuses never reaches the disk.
  - A file changes by one rename. What else stood there, a file of another's or one of ours that somebody has edited since, is
    kept under C(/var/backups/flaskhost); of an edited one there is a warning.
  - A folder is never replaced by a file, nor a file by a folder.
author: The Flaskhost authors (@flaskhost)
options:
  files:
    description:
      - In this order.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where.
        type: path
        required: true
      content:
        description: A file's whole text.
        type: str
        default: ''
      state:
        description: What it is to be; V(existing) is whatever is there, and only its rights and O(files[].lines) are seen to.
        type: str
        choices: [file, directory, absent, existing]
        default: file
      lines:
        description: Of a V(existing) file, values by name; the line that begins with the name is put right, or added.
        type: dict
        default: {}
      mode:
        description: Its rights, in octal; by default V(0644), of a folder V(0755).
        type: str
      owner:
        description: Its owner.
        type: str
        default: root
      group:
        description: Its group.
        type: str
        default: root
  check:
    description: Command that exits with 0 if the files are good.
    type: list
    elements: str
    default: []
  check_in:
    description: The folder that the check reads.
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
paths: {description: What was changed., type: list, returned: success}
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
# a file's own note of what was written to it; that of an edited file no longer fits
NOTE = "user.flaskhost.sha256"
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
    # folders on the way to a file are for others to pass through, whatever the session's own umask
    os.umask(0o022)
    # two apps of one host may be deployed at once, and share this: each waits for its turn
    try:
        acquire("host", "writing files")
    except LockTimeout as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    entries = [Entry(**wanted) for wanted in module.params["files"]]
    changing = [entry for entry in entries if entry.differs()]
    for entry in changing:
        if entry.is_blocked():
            module.fail_json(msg=f"{entry.path} has to be a {entry.state}, and is none: move it out of the way. Nothing was changed.")
    if changing and module.params["check"] and os.path.isdir(module.params["check_in"]):
        prove(module, changing)
    diff = [entry.diff() for entry in changing]
    if not module.check_mode:
        for entry in changing:
            whose = entry.whose() if entry.kind() == "file" and entry.before() != entry.after() else "ours"
            kept = entry.keep() if whose != "ours" else ""
            if whose == "edited":
                module.warn(f"{entry.path} was edited since Flaskhost wrote it, and is put right; the edited one is kept as {kept}")
            entry.apply()
    module.exit_json(changed=bool(changing), paths=[entry.path for entry in changing], diff=diff)


class Entry:
    def __init__(self, path, content, state, lines, mode, owner, group):
        self.path, self.content, self.state, self.lines, self.owner, self.group = path, content, state, lines, owner, group
        self.mode = int(mode or ("0755" if state == "directory" else "0644"), 8)

    def differs(self):
        there = self.kind()
        if self.state == "absent":
            return there != "absent"
        if self.state == "existing":
            return there in ("file", "directory") and (self.before() != self.after() or self.rights_differ())
        return there != self.state or self.before() != self.after() or self.rights_differ()

    def is_blocked(self):
        return (self.state, self.kind()) in (("file", "directory"), ("directory", "file"), ("directory", "other"))

    def whose(self):
        """Who wrote what stands there. An editor that replaces a file loses its note, and leaves its first lines."""
        noted, ours = note_of(self.path), MARK in self.before()[:1000]
        if noted is None:
            return "ours" if ours else "theirs"
        if noted == digest(self.before()):
            return "ours"
        return "edited" if noted or ours else "theirs"

    def keep(self):
        """A copy of what is about to be lost."""
        copy = f"{BACKUPS}{self.path}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        os.makedirs(BACKUPS, mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        shutil.copy2(self.path, copy, follow_symlinks=False)
        return copy

    def kind(self):
        if not os.path.lexists(self.path):
            return "absent"
        # a folder may be a link to one on another disk
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

    def rights_differ(self):
        now = os.stat(self.path)
        try:
            ids = pwd.getpwnam(self.owner).pw_uid, grp.getgrnam(self.group).gr_gid
        except KeyError:
            return True  # in check mode, an owner that is yet to be made
        return (now.st_uid, now.st_gid) != ids or stat.S_IMODE(now.st_mode) != self.mode

    def diff(self):
        before, after = f"{self.path} ({self.kind()})", f"{self.path} ({self.state})"
        if self.state == "existing" and self.before() == self.after():
            now = os.stat(self.path)
            texts = f"{now.st_uid}:{now.st_gid} {stat.S_IMODE(now.st_mode):04o}\n", f"{self.owner}:{self.group} {self.mode:04o}\n"
        else:
            texts = self.before(), self.after()
        return {"before_header": before, "after_header": after, "before": texts[0], "after": texts[1]}

    def apply(self, below="", rights=True):
        path = below + self.path
        if self.state == "existing" and self.before() == self.after():
            if rights:
                self.give_to_owner(path)
            return
        content = self.after()
        if os.path.lexists(path) and self.state != "existing" and self.kind() != self.state:
            remove(path)
        if self.state == "absent":
            return
        if self.state == "directory":
            os.makedirs(path, exist_ok=True)
            if rights:
                self.give_to_owner(path)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        target = f"{path}.new"
        # the directory may belong to a daemon, such as postgres, which can put there what it likes
        if os.path.lexists(target):
            remove(target)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(target, flags, 0o600), "w", encoding="utf-8") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
            note(handle.fileno(), digest(content))
            if rights:
                shutil.chown(handle.fileno(), self.owner, self.group)
            os.fchmod(handle.fileno(), self.mode)
        os.rename(target, path)

    def give_to_owner(self, path):
        """By one descriptor: what the path leads to can't change in between."""
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


def note_of(path):
    """None on a file system that has no place for notes."""
    try:
        return os.getxattr(path, NOTE).decode()
    except OSError as error:
        return "" if error.errno == errno.ENODATA else None


def note(path, text):
    with contextlib.suppress(OSError):
        os.setxattr(path, NOTE, text.encode())


def prove(module, changing):
    """Run the check in a mount namespace of its own, where the candidates stand in the folder's place."""
    folder = module.params["check_in"].rstrip("/")
    candidate = tempfile.mkdtemp(prefix="flaskhost-check-")
    try:
        copy = candidate + folder
        shutil.copytree(folder, copy, symlinks=True)
        for entry in changing:
            if entry.path.startswith(f"{folder}/"):
                entry.apply(below=candidate, rights=False)
        mounted = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounted, "sh", copy, folder]
        code, out, err = module.run_command([*command, *module.params["check"]])
        if code != 0:
            module.fail_json(
                msg=f"The new settings are not valid, so nothing was changed. {' '.join(module.params['check'])} said:\n"
                f"{(err or out).strip()}"
            )
    finally:
        shutil.rmtree(candidate, ignore_errors=True)


if __name__ == "__main__":
    main()
