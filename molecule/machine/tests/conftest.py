"""Virtual machines that were deployed to. Each file of tests begins with the state after the deploy."""

import os

import pytest
from sites import Site, copy_sample_app, vm


@pytest.fixture(scope="session")
def machine():
    """The machine of this process: pytest runs the files of tests in two processes."""
    machine = f"machine-{int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) + 1}"
    vm("save", machine, "deployed")
    return machine


@pytest.fixture(scope="module")
def site(machine):
    vm("load", machine, "deployed")
    return Site(machine)


@pytest.fixture
def source(tmp_path):
    """The sample app, changed, so that it is a release of its own."""
    copy = copy_sample_app(tmp_path / "source")
    (copy / "changed").write_text(str(tmp_path))
    return copy
