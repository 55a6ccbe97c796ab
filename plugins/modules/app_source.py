#!/usr/bin/python
"""Identify the app's source and pack it into one archive."""

DOCUMENTATION = r"""
module: app_source
short_description: Identify the app's source and pack it
description:
  - Finds which version of the app is asked for, and packs exactly that into a C(tar.gz) file.
  - A git URL is known by its commit; a folder by the hash of its content, so that the same content is always the
    same version. In a git work tree, files that git ignores are left out.
  - Runs on the controller (C(delegate_to=localhost)). Needs git for a git URL, nothing else.
  - Within one run of Ansible the same git URL and version give the same commit, even if the branch moves meanwhile.
options:
  source:
    description: A folder on the controller, or a git URL.
    type: str
    required: true
  base:
    description: Folders from which a relative O(source) is looked for, in order.
    type: list
    elements: path
    default: []
  version:
    description: Branch, tag or commit of a git URL. Empty is the default branch.
    type: str
    default: ''
  exclude:
    description: Names of files and folders that never belong to the source (shell patterns).
    type: list
    elements: str
    default: [.git, .venv, venv, __pycache__, '*.pyc', .pytest_cache, node_modules, .env, instance]
  cache:
    description: Folder for clones and archives.
    type: path
    required: true
  run:
    description: Anything that names this run of Ansible. See above, on branches that move.
    type: str
    default: ''
"""

RETURN = r"""
version: {description: Short commit, or hash of the content., type: str, returned: success}
commit: {description: Full commit of a git URL, else empty., type: str, returned: success}
archive: {description: Path of the archive on the controller., type: str, returned: success}
dependency_file: {description: "C(uv.lock), C(requirements.txt), C(pyproject.toml) or C(setup.py), the first that is there; else empty.", type: str, returned: success}
files: {description: Paths of all files in the source., type: list, returned: success}
"""

import contextlib
import fcntl
import fnmatch
import hashlib
import io
import os
import re
import tarfile

from ansible.module_utils.basic import AnsibleModule

DEPENDENCY_FILES = ("uv.lock", "requirements.txt", "pyproject.toml", "setup.py")
GIT_URL = re.compile(r"^((https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)")
KEPT_ARCHIVES = 20


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "required": True},
            "base": {"type": "list", "elements": "path", "default": []},
            "version": {"type": "str", "default": ""},
            "exclude": {
                "type": "list",
                "elements": "str",
                "default": [
                    ".git",
                    ".venv",
                    "venv",
                    "__pycache__",
                    "*.pyc",
                    ".pytest_cache",
                    "node_modules",
                    ".env",
                    "instance",
                ],
            },
            "cache": {"type": "path", "required": True},
            "run": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    cache = module.params["cache"]
    os.makedirs(cache, mode=0o700, exist_ok=True)
    with locked(os.path.join(cache, "lock")):
        kind = from_git if GIT_URL.match(module.params["source"]) else from_folder
        result = kind(module, cache)
        forget_old_archives(cache)
    result["dependency_file"] = next((name for name in DEPENDENCY_FILES if name in result["files"]), "")
    module.exit_json(changed=False, **result)


@contextlib.contextmanager
def locked(path):
    """Hosts are handled in parallel; their source is fetched and packed once."""
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def forget_old_archives(cache):
    archives = [os.path.join(cache, name) for name in os.listdir(cache) if name.endswith(".tar.gz")]
    for path in sorted(archives, key=os.path.getmtime)[:-KEPT_ARCHIVES]:
        os.unlink(path)


# -- a folder ---------------------------------------------------------------------------------------------------


def from_folder(module, cache):
    folder = find_folder(module)
    exclude = module.params["exclude"]
    paths = [path for path in list_files(module, folder) if not excluded(path, exclude)]
    members = [(path, *read_member(os.path.join(folder, path))) for path in sorted(paths)]
    digest = hashlib.sha256()
    for path, kind, content in members:
        digest.update(f"{path}\0{kind}\0{len(content)}\0".encode() + content)
    version = digest.hexdigest()[:10]
    archive = os.path.join(cache, f"{version}.tar.gz")
    if not os.path.exists(archive):
        write_archive(archive, members)
    os.utime(archive)
    return {"version": version, "commit": "", "archive": archive, "files": sorted(paths)}


def find_folder(module):
    source = os.path.expanduser(module.params["source"])
    candidates = [os.path.join(base, source) for base in module.params["base"]] or [source]
    for candidate in candidates:
        if os.path.isdir(candidate):
            return os.path.realpath(candidate)
    module.fail_json(
        msg=f"app_source: '{module.params['source']}' is neither a git URL nor a folder on this controller "
        f"(looked for {' and '.join(os.path.normpath(path) for path in candidates)}). Set it in group_vars/all/app.yml."
    )


def list_files(module, folder):
    listing = ["git", "-C", folder, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if module.get_bin_path("git"):
        code, out, dummy = module.run_command(listing)
        if code == 0:
            return [path for path in out.split("\0") if path and os.path.lexists(os.path.join(folder, path))]
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not excluded(name, module.params["exclude"])]
        # a link to a folder is one member, like a link to a file
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in names + links]
    return found


def excluded(path, patterns):
    return any(fnmatch.fnmatch(part, pattern) for part in path.split("/") for pattern in patterns)


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


def from_git(module, cache):
    url, wanted = module.params["source"], module.params["version"]
    clone = os.path.join(cache, "git-" + hashlib.sha256(url.encode()).hexdigest()[:16])
    commit = commit_of_this_run(module, clone, wanted)
    short = commit[:10]
    archive = os.path.join(cache, f"{short}.tar.gz")
    if not os.path.exists(archive):
        temporary = f"{archive}.{os.getpid()}"
        git(module, clone, "archive", "--format=tar.gz", "--output", temporary, commit)
        os.rename(temporary, archive)
    os.utime(archive)
    files = git(module, clone, "ls-tree", "-r", "-z", "--name-only", commit).split("\0")
    return {"version": short, "commit": commit, "archive": archive, "files": [path for path in files if path]}


def commit_of_this_run(module, clone, wanted):
    url, run = module.params["source"], module.params["run"]
    note = f"{clone}.run"
    key = f"{run} {wanted} "
    if run and os.path.exists(note):
        with open(note) as handle:
            text = handle.read()
        if text.startswith(key):
            return text[len(key) :]
    if os.path.isdir(clone):
        git(module, clone, "remote", "update", "--prune")
    else:
        temporary = f"{clone}.{os.getpid()}"
        git(module, None, "clone", "--quiet", "--mirror", url, temporary)
        os.rename(temporary, clone)
    code, out, dummy = module.run_command(
        ["git", "-C", clone, "rev-parse", "--verify", "--quiet", f"{wanted or 'HEAD'}^{{commit}}"]
    )
    if code != 0:
        module.fail_json(
            msg=f"app_version: '{wanted}' is no branch, tag or commit of {url}. Name one that is there, "
            "or leave it empty for the default branch (group_vars/all/app.yml, or -e app_version=…)."
        )
    commit = out.strip()
    with open(note, "w") as handle:
        handle.write(key + commit)
    return commit


def git(module, clone, *words):
    command = ["git", *(["-C", clone] if clone else []), *words]
    environment = {"GIT_TERMINAL_PROMPT": "0"}
    code, out, err = module.run_command(command, environ_update=environment)
    if code != 0:
        module.fail_json(
            msg=f"app_source: git could not read {module.params['source']}: {err.strip() or out.strip()}. "
            "Check the URL, and that this controller may read it (ssh key, token)."
        )
    return out


if __name__ == "__main__":
    main()
