"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

import re

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

container_build_args = checks.texts


def container_options(value, _settings):
    """Each option becomes a quoted word in a unit."""
    bad = [word for word in value if re.search(r'["\\%$`\x00-\x1f\x7f]', str(word))]
    return (
        f"{bad[0]!r} contains a character that is special in a systemd unit: quotes, \\, %, $, ` and control characters are not allowed."
        if bad
        else None
    )
