"""Parse lists of networks and firewall rules from settings.

An entry is an address, a network, or a file with one address or network per line. In a file, # begins a comment.
"""

import ipaddress
import os
import re


def addresses(entries, version=None, directories=("",)):
    """Return the networks (all, or only those of IPv4 or IPv6) in their shortest form, sorted and without overlaps."""
    found = list(networks(entries, directories))
    return [
        short(network)
        for kind in (4, 6)
        if version in (None, kind)
        for network in ipaddress.collapse_addresses(network for network in found if network.version == kind)
    ]


def covering(entries, address, directories=("",)):
    """Return the first network that contains the address, or an empty string if there is none or the address is empty."""
    if not address:
        return ""
    address = ipaddress.ip_address(str(address).partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return next(
        (short(network) for network in networks(entries, directories) if network.version == address.version and address in network), ""
    )


def networks(entries, directories=("",)):
    """Yield the networks of a list. A relative path of a file is looked up in the directories, in order."""
    for entry in entries:
        try:
            yield ipaddress.ip_network(str(entry), strict=False)
        except ValueError:
            yield from networks_of_file(str(entry), directories)


def networks_of_file(name, directories):
    paths = [os.path.join(directory, os.path.expanduser(name)) for directory in directories]
    path = next(filter(os.path.isfile, paths), "")
    if not path:
        raise ValueError(
            f"'{name}' is not an address, a network, or an existing file. "
            "Examples of addresses and networks are 203.0.113.7, 203.0.113.0/24 and 2001:db8::/32."
        )
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            text = line.partition("#")[0].strip()
            try:
                if text:
                    yield ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise ValueError(f"{name}, line {number}: '{text}' is not an address or network.") from None


def port_rule(rule):
    """Return the rule in the syntax of `ufw show added`."""
    unknown = set(rule) - {"port", "proto", "from", "rule"}
    if unknown or "port" not in rule:
        raise ValueError(
            f"ufw_rules: {rule} is not a valid rule. It must have port, and can have proto, from and rule (see the README of the role ufw)."
        )
    action, proto, port = rule.get("rule", "allow"), rule.get("proto", "tcp"), str(rule["port"])
    if action not in ("allow", "deny", "reject", "limit"):
        raise ValueError(f"ufw_rules: rule '{action}' in {rule} must be one of allow, deny, reject, limit.")
    if proto not in ("tcp", "udp"):
        raise ValueError(f"ufw_rules: proto '{proto}' in {rule} must be tcp or udp.")
    if not re.fullmatch(r"\d+(:\d+)?", port) or not all(0 < int(number) < 65536 for number in port.split(":")):
        raise ValueError(f"ufw_rules: port '{port}' in {rule} must be a port (1 to 65535) or a range such as 6000:6007.")
    if rule.get("from") in (None, "any", "0.0.0.0/0"):
        return f"{action} {port}/{proto}"
    try:
        network = ipaddress.ip_network(rule["from"], strict=False)
    except ValueError:
        raise ValueError(f"ufw_rules: from '{rule['from']}' in {rule} must be an address or network.") from None
    return f"{action} from {short(network)} to any port {port} proto {proto}"


def short(network):
    return str(network.network_address if network.num_addresses == 1 else network)
