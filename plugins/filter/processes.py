"""The filter `process_counts`. It is a function of plugin_utils/procfile.py."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.procfile import counts


class FilterModule:
    def filters(self):
        return {"process_counts": counts}
