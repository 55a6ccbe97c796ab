"""What follows from a host's facts: the filters `distribution` and `worker_count`."""


class FilterModule:
    def filters(self):
        return {"distribution": distribution, "worker_count": worker_count}


def distribution(facts):
    """Debian is known by its major version, Ubuntu by both numbers of it."""
    version = "distribution_version" if facts["distribution"] == "Ubuntu" else "distribution_major_version"
    return f"{facts['distribution']} {facts[version]}"


def worker_count(facts, mb=150, minimum=1):
    """As many as there are cores, but at least `minimum`; fewer if memory is short."""
    return min(max(int(facts["processor_vcpus"]), minimum), max(int(facts["memtotal_mb"]) // mb, 1))
