"""Rules for settings_check in addition to the argument specs; see plugin_utils/rules.py."""

# the role is a service, which this setting can name
CHOSEN_BY = "app_services"
