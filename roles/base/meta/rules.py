"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

base_reboot_time = checks.matches(
    r"|([01]\d|2[0-3]):[0-5]\d", 'it must be a time of the day, such as "04:30" (in quotes, or YAML reads a number), or empty.'
)
