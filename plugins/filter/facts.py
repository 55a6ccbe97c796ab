"""What follows from a host's facts: the filters `distribution` and `worker_count`.

Ansible checks a role's settings before its first task, which gathers the facts that are missing. So each has an answer without them.
"""


class FilterModule:
    def filters(self):
        return {"distribution": distribution, "worker_count": worker_count}


def distribution(facts):
    """Debian is known by its major version, Ubuntu by both numbers of it."""
    name = facts.get("distribution", "")
    version = facts.get("distribution_version" if name == "Ubuntu" else "distribution_major_version", "")
    return f"{name} {version}".strip()


def worker_count(facts, mb=150, minimum=1):
    """As many as there are cores, but at least `minimum`; fewer if memory is short."""
    return min(max(int(facts.get("processor_vcpus", 1)), minimum), max(int(facts.get("memtotal_mb", 0)) // mb, 1))
