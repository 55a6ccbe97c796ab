"""The hosts of this scenario."""

import pytest
import testinfra
from sites import Site, copy_sample_app


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The sample contains all tests, but those of recovery on one host only: the older one, unless they need the newer one."""
    recovery = [item for item in items if item.path.name == "test_recovery.py"]
    on_older = {item.originalname for item in recovery if item.callspec.params["site"] == "older"}
    for item in items:
        if item not in recovery or item.callspec.params["site"] == "older" or item.originalname not in on_older:
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
