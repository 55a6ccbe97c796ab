"""The controller side of `release_prune`: identify this run, so that the module can release its deploy lock."""

from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.deploy_lock import holder


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        result.update(self._execute_module(module_args=dict(self._task.args, holder=holder()), task_vars=task_vars))
        return result
