"""What the types in argument_specs.yml can't express; plugin_utils/rules.py explains it."""


def ssh_port(value, _settings):
    return None if 0 <= int(value) < 65536 else "a port is a number from 1 to 65535 (0 leaves it as it is)."
