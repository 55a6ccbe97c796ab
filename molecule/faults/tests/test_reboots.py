"""The host crashes during a run: after the reboot a release serves, and a rerun finishes the work."""

import subprocess

import pytest
from sites import BUILD, DOMAIN, during, wait_until


@pytest.mark.parametrize(
    "step", [BUILD, "release/migrate/release_job", pytest.param("release/activate/release_activate", marks=pytest.mark.sample)]
)
def test_a_reboot(fault, step):
    """The host reboots during the build, the migration or the activation: after the reboot the site serves, and a rerun activates the new
    release."""
    release = fault.change("requirements.txt") | {"release_watch_seconds": 5}
    ok, output = during(fault.site, step, lambda process: fault.site.reboot(), **release)
    assert not ok, output
    assert_recovery(fault, release)


def test_a_reboot_during_the_drain(fault):
    """The host reboots while the previous release finishes its last requests: both releases start, the new one serves, and a rerun stops
    the other one."""
    fault.append("sample_app/pages.py", '\n\n@pages.get("/slow")\ndef slow():\n    import time\n\n    time.sleep(20)\n    return "done"\n')
    run = fault.site.release(fault.source)
    assert run.ok, run.output
    address = f"https://{DOMAIN}:{fault.site.port}/slow"
    command = ["curl", "--silent", "--insecure", "--resolve", f"{DOMAIN}:{fault.site.port}:127.0.0.1", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as visitor:
        release = fault.change()
        ok, output = during(fault.site, "release/prune/release_prune", lambda process: fault.site.reboot(), **release)
        visitor.kill()
    assert not ok, output
    assert_recovery(fault, release)


def assert_recovery(fault, release):
    site = fault.site
    wait_until(site.is_healthy)
    assert site.entries() >= fault.count
    run = site.play("playbooks/release.yml", **release)
    assert run.ok and site.live() != fault.before, run.output
    again = site.play("deploy.yml", **release)
    assert again.ok and again.changed == 0, again.output
    assert site.host.check_output("systemctl --failed --no-legend") == ""
