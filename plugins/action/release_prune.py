"""The controller's half of `release_prune`: it names this run as the holder of the deploy lock, which the module may release."""

from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.deploy_lock import holder


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        result.update(self._execute_module(module_args=dict(self._task.args, holder=holder()), task_vars=task_vars))
        return result
