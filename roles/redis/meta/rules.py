"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

CHOSEN_BY = "app_services"

redis_settings = checks.texts_or_numbers


def redis_port(value, settings):
    if not int(value):
        return None
    if not 1024 <= int(value) <= 65535:
        return "it must be a port from 1024 to 65535, or 0 for none."
    if not settings.get("redis_password"):
        return "it also requires redis_password, because every user of the host can connect to a port."
    return None
