"""What a release does to those who use the site meanwhile: nothing."""

import re

import pytest
from sites import Load


def change(source, text):
    page = source / "sample_app/templates/index.html"
    page.write_text(page.read_text().replace("It runs", text))


def spoil(source, name, text):
    (source / "sample_app" / name).write_text(text)


def assert_untouched(site, before, run):
    assert not run.ok
    assert site.live() == before
    assert site.get("/healthz")[0] == 200
    assert site.instances() == [f"sample@{before}.service"]


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
    # rolled back: the former release is live again, the data is all there, the one that was left is marked
    assert site.live() == before
    assert site.entries() >= count + answers[303]
    assert site.host.file(f"/srv/sample/bad/{site.former()}").contains("rolled back by")


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


def test_a_broken_import_never_gets_a_request(site, source):
    before = site.live()
    spoil(source, "models.py", "import nothing_of_this_name\n")
    run = site.release(source, app_release_command="")
    assert_untouched(site, before, run)
    assert run.tells("the app exited: ModuleNotFoundError: No module named 'nothing_of_this_name'", f"Release {before} goes on serving")


def test_an_app_that_hangs_never_gets_a_request(site, source):
    before = site.live()
    page = source / "sample_app/pages.py"
    page.write_text(page.read_text() + "\nimport time\ntime.sleep(3600)\n")
    run = site.release(source, app_release_command="", release_health_timeout_seconds=5)
    assert_untouched(site, before, run)
    assert run.tells("was not made live", "/healthz gave no answer within 5 seconds")


def test_a_failing_release_command_stops_the_release(site, source):
    before = site.live()
    change(source, "It migrates")
    run = site.release(source, app_release_command="echo the schema is not ready; exit 3")
    assert_untouched(site, before, run)
    assert run.tells("the schema is not ready")


def test_a_dependency_that_is_nowhere_stops_the_release(site, source):
    before = site.live()
    (source / "requirements.txt").write_text("Flask\nno-such-package-flaskhost-test==1.0\n")
    run = site.release(source)
    assert not run.ok and site.live() == before
    assert run.tells("no-such-package-flaskhost-test")


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
    assert_untouched(site, before, run)
    assert run.tells("was live for a moment and is not any more", "/healthz answered 500")


def test_roll_back_to_a_release_that_is_not_kept_is_refused(site):
    before = site.live()
    run = site.play("playbooks/rollback.yml", release_to="0000000000-00000000")
    assert not run.ok and site.live() == before
    assert run.tells("release_to: 0000000000-00000000 is not kept on this host", before)


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
    site.wait_until_well()


@pytest.mark.parametrize("holder", ["here", "elsewhere"])
def test_a_held_lock_keeps_a_second_run_out(site, source, holder):
    """A run on another controller is believed for a while; one on this controller only while its process lives."""
    controller = "another-machine"
    if holder == "here":
        with open("/etc/machine-id") as handle:
            controller = handle.read().strip()
    lock = '{"who": "ann@laptop", "controller": "%s", "pid": 1, "token": "%s:1:never", "since": \'$(date +%%s)\', "what": "releasing v7"}'
    site.host.check_output(f"echo '{lock % (controller, controller)}' >/srv/sample/lock")
    change(source, f"It waits {holder}")
    before = site.live()
    run = site.release(source)
    if holder == "elsewhere":
        assert not run.ok and site.live() == before
        assert run.tells("ann@laptop has been at work here since", "releasing v7", "Nothing was touched")
        site.host.check_output("rm /srv/sample/lock")
    else:
        assert run.ok and site.live() != before, run.output
        assert run.tells("The lock was still held by ann@laptop (releasing v7), whose run has died")
    assert not site.host.file("/srv/sample/lock").exists
