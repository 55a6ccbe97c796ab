"""The filter `names_of_machine`: find the inventory hosts that are the same machine."""


class FilterModule:
    def filters(self):
        return {"names_of_machine": names_of_machine}


def names_of_machine(name, names, hostvars):
    """Return those of the given inventory hosts that are the same machine as this one. Several apps can share a machine."""

    def address(host):
        return str(hostvars[host].get("ansible_host", host)), str(hostvars[host].get("ansible_port", 22))

    own = address(name)
    return [other for other in names if address(other) == own]
