"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks


def ssh_options(value, settings):
    # without a value, sshd's default applies
    return checks.texts(value, settings, (int, float, type(None)))


def ssh_port(value, _settings):
    return None if 0 <= int(value) < 65536 else "it must be a port from 1 to 65535, or 0 to keep the current port."
