"""The filters `database_address` and `without_credentials`. They are functions of module_utils/urls.py and credentials.py."""

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.credentials import without_credentials
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.urls import database_address


class FilterModule:
    def filters(self):
        return {"database_address": database_address, "without_credentials": without_credentials}
