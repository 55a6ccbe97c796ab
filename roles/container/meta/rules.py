"""What the types in argument_specs.yml can't express; plugin_utils/rules.py explains it."""

import re


def container_options(value, _settings):
    """Each is a word between quotes in a unit."""
    bad = [word for word in value if re.search(r'["\\%$`\x00-\x1f\x7f]', str(word))]
    return (
        f"{bad[0]!r} has a character that a unit of systemd reads in its own way: quotes, \\, %, $, ` and control characters."
        if bad
        else None
    )
