"""The filters `printable` (make untrusted text safe to print) and `shortened` (keep its end, truncate long lines).

They are functions of module_utils/text.py.
"""

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable_values, shortened


class FilterModule:
    def filters(self):
        return {"printable": printable_values, "shortened": shortened}
