"""The filter `find_file`: where a file of the owner's is."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories, find
from jinja2 import pass_context

DOCUMENTATION = r"""
name: find_file
short_description: The path of a file of the owner's
description:
  - Looks for a relative path in the inventory's directory, in the two above it, and in the working directory, in this order.
positional: _input, default
options:
  _input: {description: "A path; V(~) is the home of the user who runs Ansible.", type: str, required: true}
  default: {description: What to return if there is no such file. By default, the path below the working directory., type: str}
"""

EXAMPLES = r"""
# the owner's error page if there is one, else the role's
nginx_error_page_template: "{{ 'templates/pages/50x.html.j2' | flaskhost.flaskhost.find_file(default='50x.html.j2') }}"
"""

RETURN = r"""
_value: {description: The absolute path of the first that exists, or O(default)., type: str}
"""


class FilterModule:
    def filters(self):
        return {"find_file": find_file}


@pass_context
def find_file(context, path, default=None):
    return find(path, directories(context), default)
