"""Identify the app's source and pack it: `app_source`, an action on the controller.

A git URL is identified by its commit, a directory by a digest of its content: the same content is always the same version. In a
git working copy, files that git ignores are left out. Within one run of Ansible the same URL and version give the same commit on
every host, even if the branch moves meanwhile.

The source is not trusted, and neither is git's configuration in a working copy: nothing of either runs here, and what
archives.py rejects is an error. Messages show no credentials.

One job a file in plugin_utils: git.py runs git; source_git.py and source_folder.py pack the two kinds of source; source_archive.py
checks and reads the archive; dependencies.py identifies the venv; procfile.py reads the Procfile.
"""

import os
import re
import tarfile

from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives, credentials, lock
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text as texts
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.arguments import checked
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.git import GIT_SECONDS
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_archive import forget_old_archives, read_archive
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_folder import from_folder
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_git import from_git

GIT_URL = re.compile(r"^((https?|ssh|git|file)://|[\w.-]+@[\w.-]+:)")


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(checked(self, "app_source"), base=directories(task_vars))
        cache = args["cache"]
        os.makedirs(cache, mode=0o700, exist_ok=True)
        try:
            # hosts are handled in parallel; their common source is fetched and packed once
            with lock.locked(os.path.join(cache, "lock"), "fetching an app's source", 2 * GIT_SECONDS):
                found = find(args, cache)
                forget_old_archives(cache)
            found |= read_archive(found, args)
        except archives.UnsafeArchive as error:
            return dict(result, failed=True, msg=f"app_source: {error}")
        except lock.LockTimeout as error:
            return dict(result, failed=True, msg=str(error))
        except (SourceError, OSError, tarfile.TarError) as error:
            text = str(error) if isinstance(error, SourceError) else f"app_source: it could not be read: {error}"
            return dict(result, failed=True, msg=texts.one_line(credentials.without_credentials(text), texts.LINE))
        return dict(result, changed=False, **found)


def find(args, cache):
    for name in "source", "version", "folder":
        if texts.NOT_IN_A_LINE.search(str(args.get(name) or "")):
            raise SourceError(f"app_{name}: it has a control character, such as a line break. Write it on one line.")
    folder = os.path.normpath(args["folder"]) if args.get("folder") else ""
    if folder.startswith(("/", "../")) or folder == "..":
        raise SourceError(f"app_folder: '{args['folder']}' is not within the source. Write a relative path, such as backend.")
    kind = from_git if GIT_URL.match(args["source"]) else from_folder
    return kind(dict(args, folder="" if folder == "." else folder), cache)
