"""The host of this scenario, the load on it, and what every fault must leave unchanged.

A test's docstring says what goes wrong and, after the colon, what happens. docs/reliability.md is generated from the docstrings.
"""

import re
import time
from collections import Counter

import pytest
from sites import IN_CONTAINERS, SAMPLE, Load, Site, copy_sample_app


def pytest_collection_modifyitems(config, items):
    """Most faults affect both runtimes. Deselect the tests that apply only to the other one."""
    other = "venv" if IN_CONTAINERS else "container"
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(other)])
    items[:] = [item for item in items if not item.get_closest_marker(other)]


@pytest.fixture(scope="session")
def site():
    return Site("target")


@pytest.fixture
def load(site):
    """GET and POST requests for the duration of a test. None may fail. In a sample the rate is lower, which leaves more of a small machine
    to the runs."""
    load = Load(site, seconds=600, pace=2 if SAMPLE else 5)
    load.nginx_is_reloaded, load.may_lose = False, 0
    yield load
    answers, errors = load.stop()
    if 0 < answers.get(502, 0) <= load.may_lose:
        COUNTS["lost"] += answers.pop(502)
    # on a reload, nginx closes idle connections, possibly just when a client sends on one (docs/releases-and-rollback.md)
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
        f"{COUNTS['answered']} requests succeeded during these faults, {COUNTS['failed']} failed; "
        f"{COUNTS['closed']} were sent on a connection that nginx closed on a reload, {COUNTS['lost']} to an app that was killed."
    )


@pytest.fixture
def fault(site, tmp_path):
    """A fault. Afterwards, a release of the healthy app must succeed without help, and no data may be lost."""
    fault = Fault(site, tmp_path)
    yield fault
    good = fault.release_good()
    assert good.ok, good.output
    assert site.live() != fault.before and site.entries() >= fault.count
    assert site.instances() == [f"sample@{site.live()}.service"]
    assert not site.host.file("/srv/sample/lock").exists


class Fault:
    def __init__(self, site, directory):
        self.site, self.directory = site, directory
        self.source = copy_sample_app(directory / "source")
        site.write("before the fault")
        self.before, self.count = site.live(), site.entries()

    # -- a source to release ------------------------------------------------------------------------------------------

    def edit(self, path, old="", new=""):
        """Replace `old` in a source file. Without `old`, write `new` to the file."""
        file = self.source / path
        text = file.read_text() if old else ""
        assert old in text
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace(old, new, 1) if old else new)

    def append(self, path, text):
        file = self.source / path
        file.write_text(file.read_text() + text)

    def change(self, path="sample_app/pages.py"):
        """Change a source file, so that it makes a new release."""
        self.append(path, f"\n# {time.time_ns()}\n")
        return {"app_source": str(self.source)}

    def release_good(self):
        """Release the sample app with a harmless change."""
        good = copy_sample_app(self.directory / f"good-{time.time_ns()}")
        page = good / "sample_app/templates/index.html"
        page.write_text(page.read_text() + f"<!-- {good} -->\n")
        return self.site.release(good)

    # -- what must hold -----------------------------------------------------------------------------------------------

    def is_rejected(self, *messages, live="was not activated", **variables):
        """The release fails, reports the reason and the release that keeps serving. Only that one runs, and no data is lost."""
        run = self.site.release(self.source, **variables)
        assert not run.ok, run.output
        assert run.reports(*messages), run.output
        assert run.reports(live, f"Release {self.before} keeps serving"), run.output
        self.is_unchanged()
        return run

    def is_unchanged(self):
        assert self.site.live() == self.before
        assert self.site.get("/healthz")[0] == 200
        assert self.site.entries() >= self.count
        assert self.site.instances() == [f"sample@{self.before}.service"]
        assert not self.site.host.file("/srv/sample/lock").exists
