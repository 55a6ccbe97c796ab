"""The filter `app_python`, a function of plugin_utils/python_versions.py."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.python_versions import choose


class FilterModule:
    def filters(self):
        return {"app_python": choose}
