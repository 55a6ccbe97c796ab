"""The same version goes from stage to stage; each has its own settings, secrets and database."""

from conftest import change


def version(site):
    return site.live().partition("-")[0]


def test_the_version_of_staging_goes_to_production_without_a_word(staging, production):
    versions = [site.first_live.partition("-")[0] for site in (staging, production)]
    assert versions[0] == versions[1] and staging.first_live != production.first_live
    assert "never had version" not in production.first.output and "can't be told" not in production.first.output


def test_each_stage_has_its_own_settings_and_secrets(staging, production):
    for site, secret in (staging, "only for the lab's staging, it's $5"), (production, "only-for-the-lab-s-production"):
        assert f"<dd>{site.name}</dd>" in site.get("/")[1]
        assert site.host.check_output("/srv/sample/run printenv SECRET_KEY").strip() == secret
        assert site.host.file("/srv/sample/live/env").mode == 0o600


def test_a_version_that_staging_never_had_gets_a_word(staging, production, source):
    """It goes live all the same: whoever mends production at night knows why."""
    change(source)
    run = production.release(source)
    assert run.ok and run.tells(
        f"staging never had version {version(production)}: nobody has tried it there. To try it first, deploy to staging"
    ), run.output
    assert staging.release(source).ok
    change(source)
    assert staging.release(source).ok
    run = production.release(source)
    assert run.ok and "never had" not in run.output, run.output


def test_nothing_is_asked_of_staging_if_there_is_nothing_new(production):
    run = production.play("playbooks/release.yml", app_source="sample_app")
    assert run.ok, run.output
    again = production.play("playbooks/release.yml", app_source="sample_app", release_after_stage="nowhere")
    assert again.ok and again.changed == 0 and "no inventory" not in again.output, again.output
