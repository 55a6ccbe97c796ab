"""The filters `printable` (text of an app's without what a terminal would obey) and `shortened` (its end, long lines cut).

The functions are those of module_utils/text.py."""

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable_values, shortened


class FilterModule:
    def filters(self):
        return {"printable": printable_values, "shortened": shortened}
