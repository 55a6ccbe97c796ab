"""The controller side of `release_layout`: copy the archive to the host in the same task."""

import os

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    TRANSFERS_FILES = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        if not self._task.check_mode:
            remote = self._connection._shell.join_path(self._connection._shell.tmpdir, "source.tar.gz")
            self._transfer_file(os.path.expanduser(args["archive"]), remote)
            args["archive"] = remote
        result.update(self._execute_module(module_args=args, task_vars=task_vars))
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result
