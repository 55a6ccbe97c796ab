"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

CHOSEN_BY = "app_services"

mariadb_settings = checks.texts_or_numbers
