"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

import re


def systemd_writable(value, _settings):
    bad = [path for path in value if not re.fullmatch(r"(/[\w.@+-]+)+", str(path)) or ".." in str(path).split("/")]
    return f"{bad[0]!r} is not a plain absolute path, such as /mnt/uploads." if bad else None
