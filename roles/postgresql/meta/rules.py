"""What the types in argument_specs.yml can't express; plugin_utils/rules.py explains it."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

# a service: this setting may name the role
CHOSEN_BY = "app_services"

postgresql_clients = checks.networks


def postgresql_listen(value, settings):
    complete = settings.get("postgresql_clients") and settings.get("postgresql_password")
    return (
        None
        if not value or complete
        else "beyond its socket it needs postgresql_clients, for whom that is, and postgresql_password, the app's."
    )
