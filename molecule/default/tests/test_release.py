"""Visitors don't notice a release. What can go wrong with a release is tested in the scenario `faults`."""

import re

from sites import Load, wait_until


def change(source, text):
    page = source / "sample_app/templates/index.html"
    page.write_text(page.read_text().replace("It runs", text))


def test_a_release_under_load_fails_no_request(site, source):
    site.write("kept over the release")
    before, count = site.live(), site.entries()
    change(source, "It runs again")
    load = Load(site)
    run = site.release(source)
    back = site.play("playbooks/rollback.yml")
    answers, errors = load.stop()
    print(f"{site.name}: {answers}, errors {errors}")
    assert run.ok and back.ok, run.output + back.output
    assert not errors
    assert set(answers) == {200, 303} and sum(answers.values()) > 500, answers
    # after the rollback, the previous release is live again, no data is lost, and the other release is marked as bad
    assert site.live() == before
    assert site.entries() >= count + answers[303]
    assert site.host.file(f"/srv/sample/bad/{site.previous()}").contains("rolled back by")


def test_an_unchanged_source_makes_no_new_release(site, source):
    first = site.release(source)
    second = site.release(source)
    assert first.ok and second.ok and second.changed == 0, second.output
    assert not site.host.file("/srv/sample/lock").exists


def test_a_changed_setting_makes_a_release_and_is_rolled_back_with_it(site, source):
    before = site.live()
    run = site.release(source, gunicorn_threads=3)
    assert run.ok, run.output
    assert site.live() != before
    assert site.live().split("-")[0] == before.split("-")[0], "the source is unchanged"
    assert "threads = 3" in site.host.file("/srv/sample/live/gunicorn.conf.py").content_string
    assert site.play("playbooks/rollback.yml").ok
    assert re.search(r"^threads = .*\b24\b", site.host.file("/srv/sample/live/gunicorn.conf.py").content_string, re.MULTILINE)


def test_a_release_that_fails_after_its_activation_is_rolled_back(site, source):
    """It is healthy on its own socket and unhealthy through nginx: only the public check detects that."""
    before = site.live()
    page = source / "sample_app/pages.py"
    page.write_text(
        page.read_text().replace(
            "    db.session.execute(db.select(Entry.id).limit(1))", "    if request.headers.get('X-Real-IP'):\n        abort(500)"
        )
    )
    run = site.release(source)
    assert not run.ok and site.live() == before, run.output
    assert site.get("/healthz")[0] == 200
    assert site.instances() == [f"sample@{before}.service"]
    assert run.reports("was activated, but the activation was reverted", "/healthz returned 500")


def test_roll_back_to_a_named_release(site, source):
    target = site.live()
    change(source, "Another release")
    assert site.release(source).ok and site.live() != target
    run = site.play("playbooks/rollback.yml", release_to=target)
    assert run.ok and site.live() == target, run.output


def test_only_the_newest_five_releases_are_kept(site):
    assert len(site.host.check_output("ls /srv/sample/releases").split()) <= 6


def test_status_shows_the_live_release(site):
    run = site.play("playbooks/status.yml")
    assert run.ok and re.search(rf"{site.live()}\s+live", run.output), run.output


def test_nginx_shows_its_error_page_while_the_app_is_stopped(site):
    unit = f"sample@{site.live()}"
    site.host.check_output(f"systemctl stop {unit}")
    try:
        status, body = site.get("/")
        assert status == 502 and "Back in a moment" in body
    finally:
        site.host.check_output(f"systemctl start {unit}")
    wait_until(site.is_healthy)


def test_a_lock_of_another_controller_blocks_a_run(site, source):
    """The lock counts as held for a while, since this controller can't check whether the other run is alive."""
    lock = '{"who": "ann@laptop", "controller": "another", "pid": 1, "token": "another:1:never", "since": \'$(date +%s)\', "what": "releasing v7"}'
    site.host.check_output(f"echo '{lock}' >/srv/sample/lock")
    change(source, "This release is blocked")
    before = site.live()
    run = site.release(source)
    assert not run.ok and site.live() == before
    assert run.reports("ann@laptop has held the deploy lock since", "releasing v7", "Nothing was changed")
    site.host.check_output("rm /srv/sample/lock")
