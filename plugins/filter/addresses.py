"""Lists of addresses as owners write them: the filters `addresses` and `covering`.

An entry is an address, a network, or a file (in the project's folder) that has one of them a line; # begins a comment there.
"""

import ipaddress
import os

PROJECT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))


class FilterModule:
    def filters(self):
        return {"addresses": addresses, "covering": covering}


def addresses(entries, version=None):
    """All of them (or only those of IPv4, or of IPv6), in their shortest form and in order, none within another."""
    found = list(networks(entries))
    return [
        short(network)
        for kind in (4, 6)
        if version in (None, kind)
        for network in ipaddress.collapse_addresses(network for network in found if network.version == kind)
    ]


def covering(entries, address):
    """The network of the list in which an address is; empty if it is in none, or if there is no address."""
    if not address:
        return ""
    address = ipaddress.ip_address(str(address).partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return next((short(network) for network in networks(entries) if network.version == address.version and address in network), "")


def networks(entries):
    for entry in entries:
        try:
            yield ipaddress.ip_network(str(entry), strict=False)
        except ValueError:
            yield from networks_of_file(str(entry))


def networks_of_file(name):
    path = os.path.join(PROJECT, os.path.expanduser(name))
    if not os.path.isfile(path):
        raise ValueError(
            f"'{name}' is no address or network, and no file with such. Write it as 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32."
        )
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            text = line.partition("#")[0].strip()
            try:
                if text:
                    yield ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise ValueError(f"{name}, line {number}: '{text}' is no address or network.") from None


def short(network):
    return str(network.network_address if network.num_addresses == 1 else network)
