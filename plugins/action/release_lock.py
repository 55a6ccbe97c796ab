"""The controller side of `release_lock`: identify this run to the module, and take over the lock of a run that has died."""

from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.deploy_lock import held_message, holder, is_dead


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args, holder=holder())
        result.update(self._execute_module(module_args=args, task_vars=task_vars))
        other = result.get("lock_holder") if result.get("failed") else None
        if other and is_dead(other):
            args["dead_holder"] = other["token"]
            result = self._execute_module(module_args=args, task_vars=task_vars)
            other = result.get("lock_holder") if result.get("failed") else None
        if other:
            result["msg"] = held_message(other, args)
        return result
