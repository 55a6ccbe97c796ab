"""The same version is deployed stage by stage. Each stage has its own settings, secrets and database."""

from conftest import change


def version(site):
    return site.live().partition("-")[0]


def test_a_version_that_ran_on_staging_is_released_without_a_warning(staging, production):
    versions = [site.first_live.partition("-")[0] for site in (staging, production)]
    assert versions[0] == versions[1] and staging.first_live != production.first_live
    assert "never ran version" not in production.first.output and "Cannot check" not in production.first.output


def test_each_stage_has_its_own_settings_and_secrets(staging, production):
    for site, secret in (staging, "only for the lab's staging, it's $5"), (production, "only-for-the-lab-s-production"):
        assert f"<dd>{site.name}</dd>" in site.get("/")[1]
        assert site.host.check_output("/srv/sample/run printenv SECRET_KEY").strip() == secret
        assert site.host.file("/srv/sample/live/env").mode == 0o600


def test_a_version_that_staging_never_ran_is_released_with_a_warning(staging, production, source):
    """It is still activated: an urgent fix may have to skip staging."""
    change(source)
    run = production.release(source)
    assert run.ok and run.reports(f"staging never ran version {version(production)}. To test the version first, deploy it to staging"), (
        run.output
    )
    assert staging.release(source).ok
    change(source)
    assert staging.release(source).ok
    run = production.release(source)
    assert run.ok and "never ran" not in run.output, run.output


def test_staging_is_not_queried_if_nothing_changed(production):
    run = production.play("playbooks/release.yml", app_source="sample_app")
    assert run.ok, run.output
    again = production.play("playbooks/release.yml", app_source="sample_app", release_previous_stage="nowhere")
    assert again.ok and again.changed == 0 and "no inventory" not in again.output, again.output
