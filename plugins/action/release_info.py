"""The controller side of `release_info`: report whether the run that holds the deploy lock has died."""

from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.deploy_lock import is_dead


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        result.update(self._execute_module(task_vars=task_vars))
        if holder := result.get("lock_holder"):
            holder["dead"] = is_dead(holder)
        return result
