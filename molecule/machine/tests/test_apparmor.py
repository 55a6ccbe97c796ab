"""The app's AppArmor profile in the mode `enforce`: every server and a container work, and the profile denies what the app must not do."""

import time

import pytest
from apparmor import confinement, denials
from sites import PATIENCE, SERVERS


@pytest.fixture(scope="module", autouse=True)
def enforced(site):
    run = site.play("deploy.yml", "--tags", "systemd", systemd_apparmor="enforce")
    assert run.ok, run.output


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_works(site, server):
    # mod_wsgi has packages of the distribution
    run = site.play("deploy.yml" if server == "mod_wsgi" else "playbooks/release.yml", app_server=server, systemd_apparmor="enforce")
    assert run.ok, run.output
    site.write(f"by {server}")
    assert site.get("/")[0] == 200 and f"by {server}" in site.get("/")[1]
    for process in {site.main_process(), *site.workers()}:
        assert confinement(site, process) == "flaskhost-sample (enforce)"
    started = time.monotonic()
    site.host.check_output(f"systemctl restart sample@{site.live()}")
    assert time.monotonic() - started < 8 * PATIENCE, "a worker did not get its signal"
    site.wait_until_healthy()
    assert not denials(site)


def test_the_profile_denies_what_the_sandbox_would_deny(site):
    """Root itself is stopped, if it runs with this profile: the profile does not depend on the sandbox."""
    confined = "aa-exec --profile=flaskhost-sample -- "
    assert site.host.run(f"{confined} sh -c 'echo evil >/etc/evil'").rc != 0
    assert site.host.run(f"{confined} sh -c 'kill -0 1'").rc != 0
    assert site.host.run(f"{confined} sh -c 'echo good >/var/lib/sample/good && rm /var/lib/sample/good'").rc == 0
    assert any("DENIED" in line and "/etc/evil" in line for line in denials(site))


@pytest.fixture(scope="module")
def container(site):
    variables = {"app_runtime": "container", "container_build_args": {"PYTHON": "localhost/flaskhost-lab:python"}}
    run = site.play("deploy.yml", systemd_apparmor="enforce", **variables)
    assert run.ok, run.output
    return variables


@pytest.mark.parametrize("mode", ["enforce", "none"])
def test_a_container_stops_in_seconds(site, container, mode):
    """Its processes can send each other signals: a stop does not wait for its timeout."""
    if mode == "none":
        run = site.play("deploy.yml", systemd_apparmor="none", **container)
        assert run.ok, run.output
    before, name = len(denials(site)), f"sample-web-{site.live()}"
    for process in {site.main_process(), *site.workers()}:
        assert confinement(site, process).startswith("flaskhost-sample" if mode == "enforce" else "unconfined")
    site.host.check_output(f"podman exec {name} sh -c 'sleep 99 & kill $!'")
    started = time.monotonic()
    site.host.check_output(f"systemctl stop sample@{site.live()}")
    assert time.monotonic() - started < 8 * PATIENCE
    site.host.check_output(f"systemctl start sample@{site.live()}")
    site.wait_until_healthy()
    assert len(denials(site)) == before
