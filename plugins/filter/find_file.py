"""The filter `find_file`: locate one of the operator's files."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories, find
from jinja2 import pass_context

DOCUMENTATION = r"""
name: find_file
short_description: Locate one of the operator's files
author: The Flaskhost authors (@flaskhost)
description:
  - Looks up a relative path in the inventory's directory, in the two directories above it, and in the working directory, in this order.
positional: default
options:
  _input: {description: "A path. V(~) is the home directory of the user who runs Ansible.", type: str, required: true}
  default: {description: "The value to return if there is no such file. The default is the path below the working directory.", type: str}
"""

EXAMPLES = r"""
# use the operator's error page if it exists, otherwise the role's
nginx_error_page_template: "{{ 'templates/pages/50x.html.j2' | flaskhost.flaskhost.find_file(default='50x.html.j2') }}"
"""

RETURN = r"""
_value: {description: "The absolute path of the first match, or O(default).", type: str}
"""


class FilterModule:
    def filters(self):
        return {"find_file": find_file}


@pass_context
def find_file(context, path, default=None):
    return find(path, directories(context), default)
