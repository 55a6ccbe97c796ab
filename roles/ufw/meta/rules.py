"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import networks
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

ufw_allowed = ufw_blocked = checks.networks


def ufw_rules(value, _settings):
    """Parse the rules in the same way as the module ufw_rules."""
    try:
        for rule in value:
            networks.port_rule(rule)
    except ValueError as error:
        return str(error).partition(": ")[2]
    return None


def ufw_ssh_from(value, settings):
    """A port that is open only to an empty list of addresses would be closed."""
    name = {"allowed": "ufw_allowed", "proxies": "nginx_trusted_proxies"}.get(value)
    return (
        f"{name} is empty, so nobody could connect. Add addresses to it, or set this to everyone."
        if name and not settings.get(name)
        else None
    )


ufw_web_from = ufw_ssh_from
