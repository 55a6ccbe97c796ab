"""With several processes (pytest-xdist), tests of different hosts run side by side, and those of one host in turn."""

import os

from xdist.scheduler import LoadScopeScheduling

# where molecule/lab/lab keeps its keys; its own commands say so, and `molecule test` as it is typed doesn't
os.environ.setdefault("FLASKHOST_LAB", os.path.expanduser("~/.cache/flaskhost-lab"))


class HostScheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        """The host, by the test's parameters; tests without one use the newer."""
        return "older" if "older" in nodeid.partition("[")[2].rstrip("]").split("-") else "newer"


def pytest_xdist_make_scheduler(config, log):
    return HostScheduling(config, log)
