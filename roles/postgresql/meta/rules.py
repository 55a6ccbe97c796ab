"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

CHOSEN_BY = "app_services"

postgresql_clients = checks.networks


def postgresql_listen(value, settings):
    complete = settings.get("postgresql_clients") and settings.get("postgresql_password")
    return (
        None
        if not value or complete
        else "it also requires postgresql_clients (the networks of the clients) and postgresql_password (the app's password)."
    )
