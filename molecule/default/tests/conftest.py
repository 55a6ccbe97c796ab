"""The hosts of this scenario."""

import re

import pytest
import testinfra
from sites import Site, copy_sample_app

# `make test` runs these tests on one host only, so that both hosts, which run in parallel, have about the same work
SAMPLE_HOSTS = {
    "test_access.py": "newer",
    "test_recovery.py": "older",
    "test_release.py": "newer",
    "test_check_mode_shows_only_pending_changes": "newer",
}
# `make test` leaves these out: other tests of the sample are similar, and these take long
NOT_IN_SAMPLE = re.compile("hundreds_of_addresses|was_killed.*nginx/main/managed_files")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The sample contains all other tests, each on at least one host."""

    def host(item):
        return item.callspec.params["site"] if hasattr(item, "callspec") else None

    possible = {(item.path.name, item.originalname, host(item)) for item in items}
    for item in items:
        if NOT_IN_SAMPLE.search(item.name):
            continue
        wanted = SAMPLE_HOSTS.get(item.originalname) or SAMPLE_HOSTS.get(item.path.name, host(item))
        if host(item) == wanted or (item.path.name, item.originalname, wanted) not in possible:
            item.add_marker("sample")


@pytest.fixture(params=["older", "newer"], scope="module")
def site(request):
    return Site(request.param)


@pytest.fixture
def source(tmp_path):
    return copy_sample_app(tmp_path / "source")


@pytest.fixture(scope="module")
def client():
    """Another machine on the network."""
    return testinfra.get_host("podman://flaskhost-client")
