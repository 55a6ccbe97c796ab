"""The filters `addresses` and `covering`, for lists of addresses in settings. They wrap functions of module_utils/networks.py."""

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import networks
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.paths import directories
from jinja2 import pass_context


class FilterModule:
    def filters(self):
        return {"addresses": addresses, "covering": covering}


@pass_context
def addresses(context, entries, version=None):
    return networks.addresses(entries, version, directories(context))


@pass_context
def covering(context, entries, address):
    return networks.covering(entries, address, directories(context))
