"""What a release does to those who use the site meanwhile: nothing. What can go wrong with one has a scenario of its own, `faults`."""

import re

from sites import Load, wait_until


def change(source, text):
    page = source / "sample_app/templates/index.html"
    page.write_text(page.read_text().replace("It runs", text))


def test_a_release_under_load_fails_no_request(site, source):
    site.write("kept over the release")
    before, count = site.live(), site.entries()
    change(source, "It runs anew")
    load = Load(site)
    run = site.release(source)
    back = site.play("playbooks/rollback.yml")
    answers, errors = load.stop()
    print(f"{site.name}: {answers}, errors {errors}")
    assert run.ok and back.ok, run.output + back.output
    assert not errors
    assert set(answers) == {200, 303} and sum(answers.values()) > 500, answers
    # rolled back: the previous release is live again, the data is all there, the one that was left is marked
    assert site.live() == before
    assert site.entries() >= count + answers[303]
    assert site.host.file(f"/srv/sample/bad/{site.previous()}").contains("rolled back by")


def test_the_same_source_is_the_same_release(site, source):
    first = site.release(source)
    second = site.release(source)
    assert first.ok and second.ok and second.changed == 0, second.output
    assert not site.host.file("/srv/sample/lock").exists


def test_a_setting_makes_a_release_and_rolls_back_with_it(site, source):
    before = site.live()
    run = site.release(source, gunicorn_threads=3)
    assert run.ok, run.output
    assert site.live() != before
    assert site.live().split("-")[0] == before.split("-")[0], "the source is the same"
    assert "threads = 3" in site.host.file("/srv/sample/live/gunicorn.conf.py").content_string
    assert site.play("playbooks/rollback.yml").ok
    assert "threads = 24" in site.host.file("/srv/sample/live/gunicorn.conf.py").content_string


def test_a_site_that_fails_after_the_cut_over_goes_back_by_itself(site, source):
    """It does well on its own socket, and badly through nginx: only the public check can tell."""
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
    assert run.tells("was live for a moment and is not any more", "/healthz answered 500")


def test_roll_back_to_a_named_release(site, source):
    target = site.live()
    change(source, "On the way to another")
    assert site.release(source).ok and site.live() != target
    run = site.play("playbooks/rollback.yml", release_to=target)
    assert run.ok and site.live() == target, run.output


def test_the_newest_five_are_kept(site):
    assert len(site.host.check_output("ls /srv/sample/releases").split()) <= 6


def test_status_tells_what_is_live(site):
    run = site.play("playbooks/status.yml")
    assert run.ok and re.search(rf"{site.live()}\s+live", run.output), run.output


def test_nginx_shows_its_own_page_while_nothing_is_live(site):
    unit = f"sample@{site.live()}"
    site.host.check_output(f"systemctl stop {unit}")
    try:
        status, body = site.get("/")
        assert status == 502 and "Back in a moment" in body
    finally:
        site.host.check_output(f"systemctl start {unit}")
    wait_until(site.is_well)


def test_a_lock_of_another_controller_keeps_a_run_out(site, source):
    """It is believed for a while: nobody here can tell whether that run still lives."""
    lock = '{"who": "ann@laptop", "controller": "another", "pid": 1, "token": "another:1:never", "since": \'$(date +%s)\', "what": "releasing v7"}'
    site.host.check_output(f"echo '{lock}' >/srv/sample/lock")
    change(source, "It waits")
    before = site.live()
    run = site.release(source)
    assert not run.ok and site.live() == before
    assert run.tells("ann@laptop has been at work here since", "releasing v7", "Nothing was touched")
    site.host.check_output("rm /srv/sample/lock")
