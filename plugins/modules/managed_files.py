#!/usr/bin/python
"""Several files, folders and links of one concern, proven together before any takes its place."""

DOCUMENTATION = r"""
module: managed_files
short_description: Files of one concern, proven together before any takes its place
description:
  - Makes files, folders and absences what they should be, all in one task.
  - With O(check), the whole set is first put into a copy of O(check_in), and the check runs with that copy mounted in its
    place, seen by the check alone. What it refuses never reaches the disk.
  - A file changes by one rename.
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
        description: What it is to be.
        type: str
        choices: [file, directory, absent]
        default: file
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

RETURN = r"""
paths: {description: What was changed., type: list, returned: success}
"""

import grp
import os
import pwd
import shutil
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

ENTRY = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "default": ""},
    "state": {"type": "str", "choices": ["file", "directory", "absent"], "default": "file"},
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
    entries = [Entry(**wanted) for wanted in module.params["files"]]
    changing = [entry for entry in entries if entry.differs()]
    if changing and module.params["check"] and os.path.isdir(module.params["check_in"]):
        prove(module, changing)
    diff = [entry.diff() for entry in changing]
    if not module.check_mode:
        for entry in changing:
            entry.apply()
    module.exit_json(changed=bool(changing), paths=[entry.path for entry in changing], diff=diff)


class Entry:
    def __init__(self, path, content, state, mode, owner, group):
        self.path, self.content, self.state, self.owner, self.group = path, content, state, owner, group
        self.mode = int(mode or ("0755" if state == "directory" else "0644"), 8)

    def differs(self):
        there = self.kind()
        if self.state == "absent":
            return there != "absent"
        return there != self.state or self.before() != self.after() or self.rights_differ()

    def kind(self):
        if not os.path.lexists(self.path):
            return "absent"
        mode = os.lstat(self.path).st_mode
        return "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else "other"

    def before(self):
        if self.kind() != "file":
            return ""
        with open(self.path, encoding="utf-8", errors="replace") as handle:
            return handle.read()

    def after(self):
        return self.content if self.state == "file" else ""

    def rights_differ(self):
        now = os.lstat(self.path)
        try:
            ids = pwd.getpwnam(self.owner).pw_uid, grp.getgrnam(self.group).gr_gid
        except KeyError:
            return True  # in check mode, an owner that is yet to be made
        return (now.st_uid, now.st_gid) != ids or stat.S_IMODE(now.st_mode) != self.mode

    def diff(self):
        before, after = f"{self.path} ({self.kind()})", f"{self.path} ({self.state})"
        return {"before_header": before, "after_header": after, "before": self.before(), "after": self.after()}

    def apply(self, below="", rights=True):
        path = below + self.path
        if os.path.lexists(path) and (self.state == "absent" or self.kind() != self.state):
            shutil.rmtree(path) if self.kind() == "directory" else os.unlink(path)
        if self.state == "absent":
            return
        if self.state == "directory":
            os.makedirs(path, exist_ok=True)
            target = path
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            target = f"{path}.new"
            with open(target, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as handle:
                handle.write(self.content)
                handle.flush()
                os.fsync(handle.fileno())
        if rights:
            shutil.chown(target, self.owner, self.group)
        os.chmod(target, self.mode)
        if target != path:
            os.rename(target, path)


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
