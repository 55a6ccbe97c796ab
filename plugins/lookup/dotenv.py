"""The lookup `dotenv`: read a .env file on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: dotenv
author: The Flaskhost authors (@flaskhost)
short_description: Read the names and values of a .env file
description:
  - Reads a C(.env) file on the controller in the same way as C(flask run), but does not use the variables of the controller's environment.
  - C(${NAME}) becomes the value of C(NAME) if an earlier line of the file sets it. Otherwise it stays as it is.
  - The file can be encrypted with ansible-vault. Names without a value are ignored.
requirements:
  - python-dotenv (on the controller)
options:
  _terms:
    description: Paths of the files.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
# in inventories/production/group_vars/app_servers.yml
app_secrets: "{{ lookup('flaskhost.flaskhost.dotenv', inventory_dir ~ '/.env') }}"
"""

RETURN = r"""
_list:
  description: One dictionary of names and values for each file.
  type: list
  elements: dict
"""

import os
import re

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

try:
    from dotenv import dotenv_values
except ImportError:
    dotenv_values = None

# a variable as python-dotenv writes it, with an optional default
REFERENCE = re.compile(r"\$\{([^}:]*)(?::-[^}]*)?\}")


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        if dotenv_values is None:
            raise AnsibleError(
                "The lookup dotenv requires the Python package python-dotenv. Install it next to Ansible: pip install python-dotenv"
            )
        return [self.read(os.path.expanduser(path)) for path in terms]

    def read(self, path):
        if not os.path.isfile(path):
            raise AnsibleError(f"{os.path.relpath(path)} does not exist. Create it with one NAME=value per line, such as SECRET_KEY=…")
        values = {}
        for name, value in dotenv_values(self._loader.get_real_file(path), interpolate=False).items():
            if value is not None:
                values[name] = REFERENCE.sub(lambda found: values.get(found[1], found[0]), value)
        return values
