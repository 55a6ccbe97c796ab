"""With several processes (pytest-xdist), tests of different hosts run side by side, and those of one host in turn."""

from xdist.scheduler import LoadScopeScheduling


class HostScheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        """The host, by the test's parameters; tests without one use the newer."""
        return "older" if "older" in nodeid.partition("[")[2].rstrip("]").split("-") else "newer"


def pytest_xdist_make_scheduler(config, log):
    return HostScheduling(config, log)
