"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

CHOSEN_BY = "app_services"
