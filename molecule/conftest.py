"""With pytest-xdist, tests of different hosts run in parallel, and tests of the same host run one after the other."""

import os

from xdist.scheduler import LoadScopeScheduling

# The directory where molecule/lab/lab keeps its keys. `lab` sets it; a manual `molecule test` does not.
os.environ.setdefault("FLASKHOST_LAB", os.path.expanduser("~/.cache/flaskhost-lab"))


class HostScheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        """The host, from the test's parameters. Tests without a host parameter use the newer one."""
        return "older" if "older" in nodeid.partition("[")[2].rstrip("]").split("-") else "newer"


def pytest_xdist_make_scheduler(config, log):
    return HostScheduling(config, log)
