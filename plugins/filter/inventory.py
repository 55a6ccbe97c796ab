"""Questions about the inventory: the filter `names_of_machine`."""


class FilterModule:
    def filters(self):
        return {"names_of_machine": names_of_machine}


def names_of_machine(name, names, hostvars):
    """Which of these names of the inventory lead to the same machine as this one: several apps may share it."""

    def address(of):
        return str(hostvars[of].get("ansible_host", of)), str(hostvars[of].get("ansible_port", 22))

    own = address(name)
    return [other for other in names if address(other) == own]
