"""What must hold after any change: the site serves, a release fails no request, and a broken release changes nothing."""

import pytest
from sites import Load, Site, copy_sample_app


@pytest.fixture(scope="module")
def site():
    return Site("checked")


@pytest.fixture
def source(tmp_path):
    return copy_sample_app(tmp_path / "source")


def test_the_site_serves(site):
    assert site.get("/")[0] == 200 and site.is_healthy()
    for unit in "nginx", f"sample@{site.live()}":
        assert site.host.service(unit).is_running and site.host.service(unit).is_enabled
    assert "Status: active" in site.host.check_output("ufw status")


def test_a_release_and_a_rollback_under_load_fail_no_request(site, source):
    before = site.live()
    page = source / "sample_app/templates/index.html"
    page.write_text(page.read_text().replace("It runs", "It runs again"))
    load = Load(site)
    run = site.release(source)
    released = site.get("/")[1]
    back = site.play("playbooks/rollback.yml")
    answers, errors = load.stop()
    assert run.ok and back.ok, run.output + back.output
    assert "It runs again" in released and site.live() == before
    assert not errors and set(answers) == {200, 303} and sum(answers.values()) > 200, (answers, errors)


def test_a_broken_release_changes_nothing(site, source):
    before = site.live()
    (source / "sample_app/__init__.py").write_text("raise SystemExit('broken')\n")
    run = site.release(source)
    assert not run.ok and "broken" in run.output, run.output
    assert site.live() == before and site.is_healthy()
