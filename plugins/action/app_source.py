"""Action plugin `app_source`: identify the app's source and pack it, on the controller.

The version of a git URL is its commit. The version of a directory is a digest of its content, so the same content always has the same
version. In a git working copy, files that git ignores are left out. During one Ansible run, the same URL and version resolve to the
same commit on every host, even if the branch moves in the meantime.

Neither the source nor the git configuration of a working copy is trusted. The plugin runs no code from either of them, and fails if
archives.py rejects the source. Messages contain no credentials.

The work is done by files in plugin_utils: git.py runs git and git_errors.py explains its errors, source_git.py (with git_remote.py,
git_submodules.py and git_lfs.py) and source_directory.py pack the two kinds of sources, source_archive.py checks and reads the archive,
dependencies.py identifies the venv, procfile.py reads the Procfile, and detection.py finds the settings that the operator did not set.
"""

import contextlib
import os
import tarfile

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives, credentials, lock
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text as texts
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.arguments import checked
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git import GIT_SECONDS
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git_remote import URL
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_archive import forget_old_archives, read_archive
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_directory import from_directory
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_git import from_git

# the settings on which detection depends
DETECT_FOR = ("app_env", "app_module", "app_processes", "app_server", "app_runtime", "app_shared")


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(checked(self, "app_source"), base=directories(task_vars))
        args["detect_for"] = operator_settings(task_vars) if args["detect"] else None
        cache = args["cache"]
        os.makedirs(cache, mode=0o700, exist_ok=True)
        try:
            # Ansible handles hosts in parallel; the lock lets only one of them fetch and pack a shared source.
            with lock.locked(os.path.join(cache, "lock"), "fetching an app's source", 2 * GIT_SECONDS):
                found = find(args, cache)
                forget_old_archives(cache)
            found |= read_archive(found, args)
        except archives.UnsafeArchive as error:
            return dict(result, failed=True, msg=f"app_source: {error}")
        except lock.LockTimeout as error:
            return dict(result, failed=True, msg=str(error))
        except (SourceError, OSError, tarfile.TarError) as error:
            text = str(error) if isinstance(error, SourceError) else f"app_source: cannot read the source: {error}"
            return dict(result, failed=True, msg=texts.one_line(credentials.without_credentials(text), texts.LINE))
        return dict(result, changed=False, **found)


def operator_settings(task_vars):
    """Return the operator's settings on which detection depends. hostvars does not have the defaults of roles."""
    settings = task_vars["hostvars"][task_vars["inventory_hostname"]]
    found = {}
    for name in DETECT_FOR:
        # settings_check reports a setting that cannot be read
        with contextlib.suppress(AnsibleError):
            if name in settings:
                found[name] = settings[name]
    return found


def find(args, cache):
    for name in "source", "version", "directory":
        if texts.FORBIDDEN_IN_LINE.search(str(args.get(name) or "")):
            raise SourceError(f"app_{name}: the value contains a control character, such as a line break. Write it on one line.")
    directory = os.path.normpath(args["directory"]) if args.get("directory") else ""
    if directory.startswith(("/", "../")) or directory == "..":
        raise SourceError(
            f"app_directory: '{args['directory']}' is outside the source. Use a path relative to the top of the source, such as backend."
        )
    kind = from_git if URL.match(args["source"]) else from_directory
    return kind(dict(args, directory="" if directory == "." else directory), cache)
