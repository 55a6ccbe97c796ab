"""Values derived from a host's facts: the filters `distribution` and `worker_count`.

Ansible validates a role's settings before the role's first task, which gathers missing facts. So both filters must work without facts.
"""


class FilterModule:
    def filters(self):
        return {"distribution": distribution, "worker_count": worker_count}


def distribution(facts):
    """Return the name with the major version of Debian, or with both numbers of Ubuntu's version."""
    name = facts.get("distribution", "")
    version = facts.get("distribution_version" if name == "Ubuntu" else "distribution_major_version", "")
    return f"{name} {version}".strip()


def worker_count(facts, mb=150, minimum=1):
    """Return one process per core, but at least `minimum`, and fewer if memory is short."""
    return min(max(int(facts.get("processor_vcpus", 1)), minimum), max(int(facts.get("memtotal_mb", 0)) // mb, 1))
