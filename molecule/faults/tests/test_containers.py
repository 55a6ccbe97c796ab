"""What only an app in a container meets (`app_runtime: container`; `make test-containers` has all else go wrong with one too)."""

import pytest

pytestmark = pytest.mark.container
under_load = pytest.mark.usefixtures("load")

DOCKERFILE = "Dockerfile"
REGISTRY = "127.0.0.1:5000"


@under_load
def test_an_image_that_can_not_be_built(fault):
    """The Dockerfile fails: the run shows the end of what the build said, and no host is touched."""
    fault.append(DOCKERFILE, "RUN echo there is no compiler; exit 3\n")
    fault.is_refused("Have the image on the host", "the image could not be built on this controller", "there is no compiler")


def test_an_image_without_a_command(fault):
    """The image has no command."""
    fault.append(DOCKERFILE, "CMD []\n")
    fault.is_refused("the image has no command (CMD, ENTRYPOINT)", release_health_timeout_seconds=5)


@under_load
def test_an_image_that_knows_ports_only(fault):
    """The image's command opens no socket, but the port $PORT, as platforms ask of it: it is reached all the same."""
    fault.append(DOCKERFILE, 'CMD ["sh", "-c", "exec gunicorn --bind 0.0.0.0:$PORT --threads 16 \'sample_app:create_app()\'"]\n')
    run = fault.site.release(fault.source)
    assert run.ok and fault.site.live() != fault.before, run.output


@under_load
def test_a_registry_that_does_not_answer(fault):
    """The image that is to be pulled can't be had: the run says so before it touches anything."""
    run = fault.site.release(fault.source, app_image="127.0.0.1:9/shop/sample:1")
    assert not run.ok and run.changed == 0
    assert run.tells("app_image: target can't pull 127.0.0.1:9/shop/sample:1", "refused", "Nothing was changed"), run.output
    fault.is_as_before()


@pytest.fixture
def registry(fault):
    host = fault.site.host
    host.check_output("apt-get install --quiet --quiet --assume-yes docker-registry >/dev/null")
    host.check_output(
        f"mkdir -p /etc/containers/registries.conf.d && printf '[[registry]]\\nlocation = \"{REGISTRY}\"\\ninsecure = true\\n' "
        ">/etc/containers/registries.conf.d/lab.conf"
    )
    host.check_output("systemctl restart docker-registry")
    yield lambda image, tag: host.check_output(f"podman push --quiet {image} {REGISTRY}/shop/sample:{tag}")
    host.check_output("systemctl disable --quiet --now docker-registry && rm /etc/containers/registries.conf.d/lab.conf")


@under_load
def test_a_tag_that_stands_for_another_image(fault, registry):
    """An image is pulled, and its tag comes to stand for another one: the next release is of that one; without such a change, there is none."""
    host, settings = fault.site.host, {"app_image": f"{REGISTRY}/shop/sample:1"}
    image = host.check_output("podman container inspect --format '{{.ImageName}}' $(podman ps --quiet --filter name=sample-web)")
    registry(image, "1")
    run = fault.site.release(fault.source, **settings)
    assert run.ok and fault.site.live() != fault.before, run.output
    pulled = fault.site.live()
    assert fault.site.release(fault.source, **settings).changed == 0
    assert fault.release_good().ok
    registry(host.check_output("podman image ls --format '{{.Repository}}:{{.Tag}}' --sort created | head -n 1"), "1")
    run = fault.site.release(fault.source, **settings)
    assert run.ok and fault.site.live() not in (pulled, fault.before), run.output


@under_load
def test_from_a_venv_and_back(fault):
    """An app that ran from a venv runs in a container from the next release on, and goes back to the venv: no request fails."""
    run = fault.site.play("deploy.yml", **fault.change(), app_runtime="venv")
    assert run.ok, run.output
    venv = fault.site.live()
    assert fault.release_good().ok
    run = fault.site.play("playbooks/rollback.yml")
    assert run.ok and fault.site.live() == venv, run.output
    assert fault.site.host.check_output("podman ps --quiet --filter name=sample-web | wc -l") == "0"
    fault.before = ""


def test_an_intruder(fault):
    """Somebody gets hold of the app: it is no root, has no capability, and can write to its data and to /tmp alone."""
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
    assert run.ok and run.tells("can write to /run /var/lib/sample /tmp"), run.output
    assert not host.file("/run/x").exists, "the container's /run is its own"


@under_load
def test_processes_of_a_container(fault):
    """A release has further processes and a schedule, and the host reboots: they run in the same image, and come back."""
    fault.append("Procfile", 'tick: while sleep 0.5; do echo "$APP_RELEASE" >>"$STATE_DIRECTORY/ticks"; done\n')
    schedule = [{"name": "tock", "command": 'echo "$APP_RELEASE" >>"$STATE_DIRECTORY/tocks"', "at": "*-*-* *:*:0/2"}]
    settings = {"app_processes": {"tick": 2}, "app_schedule": schedule}
    run = fault.site.play("deploy.yml", app_source=str(fault.source), **settings)
    assert run.ok, run.output
    assert fault.site.play("deploy.yml", app_source=str(fault.source), **settings).changed == 0
    host, live = fault.site.host, fault.site.live()
    assert host.check_output("podman ps --format '{{.Names}}' | grep tick | sort").split() == [f"sample-tick.{n}-{live}" for n in (1, 2)]
    host.check_output(
        "rm -f /var/lib/sample/t?cks; for i in $(seq 50); do cat /var/lib/sample/t?cks 2>/dev/null | wc -l | grep -qx 6 && exit; sleep 0.2; done"
    )
    assert set(host.check_output("cat /var/lib/sample/ticks /var/lib/sample/tocks").split()) == {live}


def test_images_that_were_removed(fault):
    """Somebody removed images that only kept releases need: going back says that there is nothing to go back to, and the next deploy of such a
    release brings its image anew."""
    assert fault.release_good().ok
    live = fault.site.live()
    fault.site.host.check_output("podman image prune --all --force")
    run = fault.site.play("playbooks/rollback.yml")
    assert not run.ok and run.tells("There is no former release to go back to"), run.output
    assert fault.site.live() == live and fault.site.get("/healthz")[0] == 200
    assert fault.release_good().ok
