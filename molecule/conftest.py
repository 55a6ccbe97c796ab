"""Tests of different hosts run side by side, where the scenario asks for it: pytest-xdist keeps a group in one process."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        host = "older" if "older" in getattr(getattr(item, "callspec", None), "id", "").split("-") else "newer"
        item.add_marker(pytest.mark.xdist_group(host))
