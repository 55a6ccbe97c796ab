"""The attacker writes the Dockerfile of an app that runs in a container (Debian 13, Ubuntu 24.04 or newer)."""

import pytest
from conftest import STATE

INJECTED = {
    "options": 'WORKDIR /x\\" --user=0:0 --volume=/:/host \\"--env=A=\n',
    "line": "ARG DIRECTORY\nWORKDIR $DIRECTORY\n",
}
ARGUMENTS = {"DIRECTORY": "/x\nExecStartPre=/bin/touch /etc/injected\nPodmanArgs=--privileged\n#"}


@pytest.fixture
def containers(attacker):
    run = attacker.attempt("playbooks/provision.yml", 300, app_runtime="container")
    assert run.ok, run.output
    return {
        "app_runtime": "container",
        "container_build_options": ["--isolation=chroot", "--ulimit=nofile=10000:10000", "--ulimit=nproc=30000:30000"],
        "app_release_command": "",
        "app_static": {},
        "app_processes": {},
        "app_schedule": [],
        "release_health_timeout_seconds": 8,
    }


def injected_units(attacker):
    """Units and sources of units that contain what the image tries to inject."""
    pattern = "--user=0:0|^ExecStartPre=/bin/touch|--privileged|--volume=/:/host"
    paths = "/srv/hostile/releases/*/*unit* /srv/hostile/releases/*/*.service /etc/systemd/system/hostile*"
    return {*attacker.host.run(f"grep -lrE -e '{pattern}' {paths}").stdout.split()}


@pytest.mark.parametrize("age", ["newer"], indirect=True)
@pytest.mark.parametrize("kind", INJECTED)
def test_become_root_through_the_working_directory_of_an_image(attacker, containers, source, kind):
    """The image's working directory contains podman options or a line of a systemd unit: the release is rejected before a unit is
    written."""
    (source / "Dockerfile").write_text(f'FROM scratch\n{INJECTED[kind]}COPY web.py /web.py\nCMD ["/web.py"]\n')
    arguments = ARGUMENTS if kind == "line" else {}
    before, existing = attacker.live(), injected_units(attacker)
    run = attacker.attempt(app_source=source, container_build_args=arguments, **containers)
    found = injected_units(attacker) - existing
    command_ran = attacker.host.file("/etc/injected").exists
    attacker.host.run("rm -f /etc/injected")
    assert not run.ok and not run.hung and attacker.live() == before, run.output
    assert not command_ran and not found, found
    assert "WORKDIR" in run.output or "working directory" in run.output, run.output
    assert attacker.host.file(STATE).exists
