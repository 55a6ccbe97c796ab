"""Faults that occur only with an app in a container (`app_runtime: container`). `make test-containers` runs the other faults with such an
app too."""

import json

import pytest
from sites import wait_until

pytestmark = pytest.mark.container
under_load = pytest.mark.usefixtures("load")

DOCKERFILE = "Dockerfile"
REGISTRY = "127.0.0.1:5000"


@under_load
def test_an_image_that_does_not_build(fault):
    """The Dockerfile fails: the run shows the end of the build's output and changes no host."""
    fault.append(DOCKERFILE, "RUN echo there is no compiler; exit 3\n")
    fault.is_rejected("Bring the image to the host", "the build of the image failed on this controller", "there is no compiler")


def test_an_image_without_a_command(fault):
    """The image has no command: the run reports it, and the release is not activated."""
    fault.append(DOCKERFILE, "CMD []\n")
    fault.is_rejected("the image has no command to start the app. Add CMD or ENTRYPOINT", release_health_timeout_seconds=5)


def test_a_container_that_never_answers(fault):
    """The image's command never answers: its container is killed, and only the mark that the release is bad remains on the host."""
    fault.append(DOCKERFILE, 'CMD ["sleep", "600"]\n')
    fault.is_rejected(release_health_timeout_seconds=5)
    assert fault.site.host.check_output("podman ps --all --format '{{.Names}}'").split() == [f"sample-web-{fault.before}"]


@under_load
def test_an_image_that_listens_on_a_port(fault):
    """The image's command opens no socket but listens on $PORT, as hosting platforms require: nginx serves it too."""
    fault.append(DOCKERFILE, 'CMD ["sh", "-c", "exec gunicorn --bind 0.0.0.0:$PORT --threads 16 \'sample_app:create_app()\'"]\n')
    run = fault.site.release(fault.source)
    assert run.ok and fault.site.live() != fault.before, run.output


@under_load
def test_an_unreachable_registry(fault):
    """The image can't be pulled: the run reports it before it changes anything."""
    run = fault.site.release(fault.source, app_image="127.0.0.1:9/shop/sample:1")
    assert not run.ok and run.changed == 0
    assert run.reports("app_image: target can't pull 127.0.0.1:9/shop/sample:1", "refused", "Nothing was changed"), run.output
    fault.is_unchanged()


LOGIN = {"container_registry_user": "ann", "container_registry_password": "hunter2-of-the-registry"}


@pytest.fixture
def registry(fault):
    """A registry that requires ann's password."""
    host = fault.site.host
    host.check_output("apt-get install --quiet --quiet --assume-yes docker-registry apache2-utils >/dev/null")
    host.check_output("htpasswd -Bbc /etc/docker/registry/htpasswd ann %s 2>/dev/null", LOGIN["container_registry_password"])
    host.check_output("chown docker-registry /etc/docker/registry/htpasswd; grep -q 'path: .*htpasswd' /etc/docker/registry/config.yml")
    host.check_output("sed -i 's,path: .*htpasswd.*,path: /etc/docker/registry/htpasswd,' /etc/docker/registry/config.yml")
    host.check_output(
        f"mkdir -p /etc/containers/registries.conf.d && printf '[[registry]]\\nlocation = \"{REGISTRY}\"\\ninsecure = true\\n' "
        ">/etc/containers/registries.conf.d/lab.conf"
    )
    host.check_output("systemctl restart docker-registry")
    key = "ann:" + LOGIN["container_registry_password"]
    yield lambda image, tag: host.check_output(f"podman push --quiet --creds {key} {image} {REGISTRY}/shop/sample:{tag}")
    host.check_output("systemctl disable --quiet --now docker-registry && rm /etc/containers/registries.conf.d/lab.conf")


@under_load
def test_a_tag_that_moves_to_another_image(fault, registry):
    """A tag moves to another image after a release: the next release uses the new image; while the tag doesn't move, there is nothing to
    release. The registry's password is neither printed nor stored."""
    host, settings = fault.site.host, {"app_image": f"{REGISTRY}/shop/sample:1", **LOGIN}
    image = host.check_output("podman container inspect --format '{{.ImageName}}' $(podman ps --quiet --filter name=sample-web)")
    registry(image, "1")
    run = fault.site.play("playbooks/release.yml", "-vvv", app_source=str(fault.source), **settings)
    assert run.ok and fault.site.live() != fault.before, run.output
    assert LOGIN["container_registry_password"] not in run.output
    assert (
        host.run(
            "grep --recursive --devices=skip --files-with-matches hunter2-of-the[-]registry /run /root /etc /srv /var/lib/containers"
        ).stdout
        == ""
    )
    first_image = fault.site.live()
    without_login = fault.site.release(fault.source, app_image=settings["app_image"])
    assert not without_login.ok and without_login.reports("container_registry_user"), without_login.output
    assert fault.site.release(fault.source, **settings).changed == 0
    assert fault.release_good().ok
    registry(host.check_output("podman image ls --format '{{.Repository}}:{{.Tag}}' --sort created | head -n 1"), "1")
    run = fault.site.release(fault.source, **settings)
    assert run.ok and fault.site.live() not in (first_image, fault.before), run.output


@under_load
def test_a_switch_from_a_venv_and_back(fault):
    """An app switches from a venv to a container, and is rolled back to the venv: no request fails."""
    run = fault.site.play("deploy.yml", **fault.change(), app_runtime="venv")
    assert run.ok, run.output
    venv = fault.site.live()
    assert fault.release_good().ok
    run = fault.site.play("playbooks/rollback.yml")
    assert run.ok and fault.site.live() == venv, run.output
    # the container stops in the background
    fault.site.host.check_output(
        "for i in $(seq 100); do podman ps --quiet --filter name=sample-web | grep -q . || exit 0; sleep 0.2; done; exit 1"
    )
    fault.before = ""


def test_an_attacker_in_the_container(fault):
    """An attacker takes over the app: it does not run as root, has no capabilities, and can write only to its data and its own /tmp."""
    host = fault.site.host
    status = host.check_output("cat /proc/$(pgrep --oldest --uid sample --full gunicorn)/status")
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert {fields["Uid"], fields["CapEff"], fields["CapBnd"], fields["NoNewPrivs"]} == {
        "\t".join([host.check_output("id -u sample")] * 4),
        "0" * 16,
        "1",
    }
    script = (
        "for place in /app /etc /srv/sample/live/app /run /var/lib/sample /tmp; do touch $place/x 2>/dev/null && echo $place; done; true"
    )
    run = fault.site.play("playbooks/run.yml", release_run=f"echo can write to $({script})")
    assert run.ok and run.reports("can write to /var/lib/sample /tmp"), run.output
    assert not host.file("/tmp/x").exists


def test_worker_processes_in_containers(fault):
    """A release has worker processes and a schedule, and the host reboots: they run in the same image, and start again."""
    fault.append("Procfile", 'tick: while sleep 0.5; do echo "$APP_RELEASE" >>"$STATE_DIRECTORY/ticks"; done\n')
    schedule = [{"name": "tock", "command": 'echo "$APP_RELEASE" >>"$STATE_DIRECTORY/tocks"', "at": "*-*-* *:*:0/2"}]
    settings = {"app_processes": {"tick": 2}, "app_schedule": schedule}
    run = fault.site.play("deploy.yml", app_source=str(fault.source), **settings)
    assert run.ok, run.output
    assert fault.site.play("deploy.yml", app_source=str(fault.source), **settings).changed == 0
    host, live = fault.site.host, fault.site.live()
    assert host.check_output("podman ps --format '{{.Names}}' | grep tick | sort").split() == [f"sample-tick.{n}-{live}" for n in (1, 2)]
    fault.site.reboot()
    wait_until(fault.site.is_healthy)
    for name in "ticks", "tocks":
        host.check_output(
            f"rm -f /var/lib/sample/{name}; for i in $(seq 100); do [ -s /var/lib/sample/{name} ] && exit 0; sleep 0.2; done; exit 1"
        )
        assert set(host.check_output(f"cat /var/lib/sample/{name}").split()) == {live}


def test_a_link_in_the_data_directory(fault):
    """An attacker takes over the app and replaces a directory of `app_shared` with a link to /etc: when root starts the app again, /etc is
    unchanged, and the container sees its own /etc instead of the host's."""
    fault.edit("Dockerfile", "WORKDIR /app\n", "WORKDIR /app\nRUN mkdir -p instance\n")
    run = fault.site.release(fault.source, app_shared=["instance"])
    assert run.ok, run.output
    host, unit = fault.site.host, f"sample@{fault.site.live()}"
    assert host.check_output("stat --format '%U' /var/lib/sample/instance") == "sample"
    host.check_output("cd /var/lib/sample && runuser -u sample -- rmdir instance && runuser -u sample -- ln -s /etc instance")
    host.check_output("echo of-the-host >/etc/flaskhost-mark")
    host.run(f"systemctl restart {unit}")
    assert host.check_output("stat --format '%a %U' /etc") == "755 root"
    list_files = f"podman exec sample-web-{fault.site.live()} ls /app/instance/"
    wait_until(lambda: host.run(list_files).rc == 0)
    assert "flaskhost-mark" not in host.check_output(list_files)
    run = fault.site.play("playbooks/run.yml", release_run="ls /app/instance/")
    assert run.ok and not run.reports("flaskhost-mark"), run.output
    host.check_output("rm /etc/flaskhost-mark")
    host.check_output("rm /var/lib/sample/instance")


@pytest.mark.parametrize("workdir", ['/x" --user=0:0 --volume=/:/host "--env=A=', "/x%i"])
def test_a_working_directory_with_podman_options(fault, workdir):
    """The image's WORKDIR contains podman options or systemd specifiers: the release is rejected before a unit is written."""
    fault.append(DOCKERFILE, f"WORKDIR {json.dumps(workdir)}\n")
    fault.is_rejected("Dockerfile: the image's working directory", "No unit was written")


def test_the_image_without_flaskhost(fault):
    """The image runs without Flaskhost: it runs as its own user, listens on the given port, and stops on request."""
    host = fault.site.host
    image = host.check_output("podman container inspect --format '{{.ImageName}}' $(podman ps --quiet --filter name=sample-web)")
    options = "--network=host --pids-limit=0 --ulimit=host --env PORT=8123 --env APP_STAGE=production --env SECRET_KEY=x"
    host.check_output(f"podman run --detach --name elsewhere {options} {image}")
    try:
        host.check_output("podman exec elsewhere flask --app sample_app db upgrade")
        request = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8123/healthz')"
        host.check_output(f'for i in $(seq 100); do python3 -c "{request}" 2>/dev/null && exit 0; sleep 0.2; done; exit 1')
        assert host.check_output("podman exec elsewhere id -u") == "1000"
        assert (
            host.check_output("podman stop --time 20 elsewhere >/dev/null; podman inspect --format '{{.State.ExitCode}}' elsewhere") == "0"
        )
    finally:
        host.run("podman rm --force elsewhere")


def test_removed_images(fault):
    """Images that only previous releases need are removed: a rollback reports that there is no previous release, and the next release that
    needs an image builds it again."""
    fault.change()
    assert fault.site.release(fault.source).ok
    previous = fault.site.live()
    assert fault.release_good().ok
    host, live = fault.site.host, fault.site.live()
    # previous releases stop in the background
    host.check_output(
        "for i in $(seq 100); do [ $(podman ps --quiet --filter name=sample-web | wc -l) = 1 ] && exit 0; sleep 0.2; done; exit 1"
    )
    host.check_output("podman image prune --all --force")
    run = fault.site.play("playbooks/rollback.yml")
    assert not run.ok and run.reports("There is no previous release to roll back to"), run.output
    assert fault.site.live() == live and fault.site.get("/healthz")[0] == 200
    run = fault.site.release(fault.source)
    assert run.ok and fault.site.live() == previous, run.output
