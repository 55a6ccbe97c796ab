"""The controller's half of `release_prune`: it names this run as the holder of the deploy lock, which the module may release."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.deploy_lock import LockAction


class ActionModule(LockAction):
    pass
