"""The host of this scenario, the load it is under, and what every fault must leave as it was.

A test's docstring says what goes wrong, and after the colon what happens then: docs/reliability.md is made of them.
"""

import re
import time
from collections import Counter

import pytest
from sites import IN_CONTAINERS, SAMPLE, Load, Site, copy_of_sample_app


def pytest_collection_modifyitems(config, items):
    """Most faults are the same whatever an app runs from; some are of a venv, some of a container."""
    other = "venv" if IN_CONTAINERS else "container"
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(other)])
    items[:] = [item for item in items if not item.get_closest_marker(other)]


@pytest.fixture(scope="session")
def site():
    return Site("target")


@pytest.fixture
def load(site):
    """GET and POST requests all the while; none may fail. A sample leaves more of a small machine to the runs."""
    load = Load(site, seconds=600, pace=2 if SAMPLE else 5)
    load.nginx_is_reloaded, load.may_lose = False, 0
    yield load
    answers, errors = load.stop()
    if 0 < answers.get(502, 0) <= load.may_lose:
        COUNTS["lost"] += answers.pop(502)
    # nginx closes idle connections then, be it just when a client sends on one (docs/operate.md)
    closed = [error for error in errors if load.nginx_is_reloaded and re.search("EOF|reset by peer|broken pipe", error)]
    for answer, count in answers.items():
        COUNTS["answered" if answer in (200, 303) else "failed"] += count
    COUNTS["closed"] += len(closed)
    COUNTS["failed"] += len(errors) - len(closed)
    assert errors == closed
    assert set(answers) <= {200, 303} and answers, answers


COUNTS = Counter()


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(
        f"{COUNTS['answered']} requests were answered during these faults, {COUNTS['failed']} failed; "
        f"{COUNTS['closed']} met a connection that nginx closed as it was reloaded, {COUNTS['lost']} an app that was killed."
    )


@pytest.fixture
def fault(site, tmp_path):
    """Something goes wrong. Afterwards a release of the good app needs no help, and the data is all there."""
    fault = Fault(site, tmp_path)
    yield fault
    good = fault.release_good()
    assert good.ok, good.output
    assert site.live() != fault.before and site.entries() >= fault.count
    assert site.instances() == [f"sample@{site.live()}.service"]
    assert not site.host.file("/srv/sample/lock").exists


class Fault:
    def __init__(self, site, folder):
        self.site, self.folder = site, folder
        self.source = copy_of_sample_app(folder / "source")
        site.write("before the fault")
        self.before, self.count = site.live(), site.entries()

    # -- a source to release ------------------------------------------------------------------------------------------

    def edit(self, path, old="", new=""):
        """Replace `old` in a file of the source; without it, the file becomes `new`."""
        file = self.source / path
        text = file.read_text() if old else ""
        assert old in text
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace(old, new, 1) if old else new)

    def append(self, path, text):
        file = self.source / path
        file.write_text(file.read_text() + text)

    def change(self, path="sample_app/pages.py"):
        """So that it is a release of its own."""
        self.append(path, f"\n# {time.time_ns()}\n")
        return {"app_source": str(self.source)}

    def release_good(self):
        """The sample app with a change."""
        good = copy_of_sample_app(self.folder / f"good-{time.time_ns()}")
        page = good / "sample_app/templates/index.html"
        page.write_text(page.read_text() + f"<!-- {good} -->\n")
        return self.site.release(good)

    # -- what must hold -----------------------------------------------------------------------------------------------

    def is_refused(self, *words, live="was not activated", **variables):
        """The release fails, says why and what serves; what was live is live, and alone; the data is all there."""
        run = self.site.release(self.source, **variables)
        assert not run.ok, run.output
        assert run.tells(*words), run.output
        assert run.tells(live, f"Release {self.before} goes on serving"), run.output
        self.is_as_before()
        return run

    def is_as_before(self):
        assert self.site.live() == self.before
        assert self.site.get("/healthz")[0] == 200
        assert self.site.entries() >= self.count
        assert self.site.instances() == [f"sample@{self.before}.service"]
        assert not self.site.host.file("/srv/sample/lock").exists
