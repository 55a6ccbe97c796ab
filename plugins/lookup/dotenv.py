"""The names and values of a .env file on the controller, as `flask run` would read them: `lookup('dotenv', path)`.

The file may be encrypted with ansible-vault. A name without a value is left out.
"""

import os

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

try:
    from dotenv import dotenv_values
except ImportError:
    dotenv_values = None


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        if dotenv_values is None:
            raise AnsibleError("a .env file is read by python-dotenv, which is not installed beside Ansible: use .venv, or pip install it")
        return [self.read(os.path.expanduser(path)) for path in terms]

    def read(self, path):
        if not os.path.isfile(path):
            raise AnsibleError(f"{os.path.relpath(path)} is not there; write it, a line each, such as SECRET_KEY=…")
        found = dotenv_values(self._loader.get_real_file(path))
        return {name: value for name, value in found.items() if value is not None}
