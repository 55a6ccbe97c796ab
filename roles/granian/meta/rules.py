"""Rules for settings_check in addition to the argument specs; see plugin_utils/rules.py."""

# app_server can name this role
CHOSEN_BY = "app_server"
