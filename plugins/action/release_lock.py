"""The controller's half of `release_lock`: it names this run as a holder of the deploy lock, and says whether another holder has died."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.deploy_lock import LockAction


class ActionModule(LockAction):
    pass
