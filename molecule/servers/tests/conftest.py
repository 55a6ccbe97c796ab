"""Every server on every distribution, each with its own app."""

import shutil

import pytest
from sites import PROJECT, SERVERS, Site


def app_of(name):
    server = name.partition("-")[0]
    return Site(name, app=server, domain=f"{server.replace('_', '')}.test")


NAMES = [f"{server}-older" for server in SERVERS]
NAMES += [pytest.param(f"{server}-newer", marks=pytest.mark.sample) for server in SERVERS]


@pytest.fixture(params=NAMES, scope="module")
def site(request):
    return app_of(request.param)


@pytest.fixture
def source(tmp_path):
    """The app's source with a change, so that it makes a new release."""
    copy = shutil.copytree(PROJECT / "molecule/servers/app", tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "changed").write_text(str(tmp_path))
    return copy
