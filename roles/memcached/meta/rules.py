"""What settings_check knows about this role besides its argument specs; plugin_utils/rules.py explains it."""

# a service: this setting may name the role
CHOSEN_BY = "app_services"
