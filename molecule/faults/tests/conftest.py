"""The host of this scenario, the load it is under, and what every fault must leave as it was."""

import pytest
from sites import Load, Site, copy_of_sample_app


@pytest.fixture(scope="session")
def site():
    return Site("target")


@pytest.fixture(scope="module")
def load(site):
    """GET and POST requests all the while; none may fail."""
    load = Load(site, seconds=3600)
    yield load
    answers, errors = load.stop()
    print(f"\n{sum(answers.values())} requests: {answers}, errors {errors}")
    assert not errors
    assert set(answers) <= {200, 303} and answers, answers


@pytest.fixture
def fault(site, tmp_path, load):
    """A release that goes wrong, under load; afterwards, a good one."""
    fault = Fault(site, tmp_path)
    yield fault
    good = fault.release_good()
    assert good.ok, good.output
    assert site.live() != fault.before and site.entries() >= fault.count


class Fault:
    def __init__(self, site, folder):
        self.site, self.folder = site, folder
        self.source = copy_of_sample_app(folder / "source")
        self.site.write("before the fault")
        self.before, self.count = site.live(), site.entries()

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

    def is_refused(self, *words, live="was not made live", **variables):
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
        running = "systemctl list-units --plain --no-legend --state=active,activating 'sample@*' | cut -d' ' -f1"
        assert self.site.host.check_output(running) == f"sample@{self.before}.service"
        assert not self.site.host.file("/srv/sample/lock").exists

    def release_good(self):
        """The sample app with a change, so that it is a release of its own."""
        good = copy_of_sample_app(self.folder / "good")
        page = good / "sample_app/templates/index.html"
        page.write_text(page.read_text() + f"<!-- {good} -->\n")
        return self.site.release(good)
