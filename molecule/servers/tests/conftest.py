"""Every server on every distribution, each with its own app."""

import re
import shutil

import pytest
from sites import PROJECT, SERVERS, Site


def app_of(name):
    server = name.partition("-")[0]
    return Site(name, app=server, domain=f"{server.replace('_', '')}.test")


NAMES = [f"{server}-older" for server in SERVERS]
NAMES += [pytest.param(f"{server}-newer", marks=pytest.mark.sample) for server in SERVERS]


# Of these tests, which take long with each server, `make test` runs only the ones with a matching parameter.
SAMPLES = {
    "test_a_release_finishes_requests_in_progress_and_affects_no_other_app": "uwsgi|uvicorn",
    "test_an_app_that_can_not_be_imported_is_rejected": "gunicorn",
    "test_an_upload_that_the_app_refuses_gets_the_app_s_status": "15000000",
    "test_many_simultaneous_requests": "gunicorn|waitress",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if not re.search(SAMPLES.get(item.originalname, ""), item.name):
            item.own_markers = [mark for mark in item.own_markers if mark.name != "sample"]


@pytest.fixture(params=NAMES, scope="module")
def site(request):
    return app_of(request.param)


@pytest.fixture
def source(tmp_path):
    """The app's source with a change, so that it makes a new release."""
    copy = shutil.copytree(PROJECT / "molecule/servers/app", tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "changed").write_text(str(tmp_path))
    return copy
