"""The filters `source_name`, `hosts_of_app`, `detected` and `detected_settings`: names of apps, and what was detected in a source."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.detection_text import as_settings, lines_of_hosts
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.names import name_of_app, source_name


class FilterModule:
    def filters(self):
        return {"source_name": source_name, "hosts_of_app": hosts_of_app, "detected": lines_of_hosts, "detected_settings": as_settings}


def hosts_of_app(name, hosts, hostvars):
    """Return those of the hosts that run this app."""
    return [host for host in hosts if name_of_app(hostvars[host]) == name]
