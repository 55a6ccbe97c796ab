"""Two stages of one app: staging uses SQLite, production PostgreSQL. Both have a queue, workers, a schedule and backups."""

import json
import subprocess
import time

import pytest
from sites import SAMPLE, Site, copy_sample_app, wait_until

# on production's host
S3 = "http://10.207.7.13:5997"


def deployed(name):
    """Deploy to a bare host. `first` is this run, and `first_live` the release that it activated."""
    site = Site(name)
    # `molecule verify` may run again on the same hosts
    if not site.host.file("/srv/sample").exists:
        check = site.play("deploy.yml", "--check")
        assert check.ok, check.output
        assert not site.host.file("/srv/sample").exists, "check mode must change nothing"
    site.first = site.play("deploy.yml")
    assert site.first.ok, site.first.output
    site.first_live = site.live()
    again = site.play("deploy.yml")
    assert again.ok and again.changed == 0, again.output
    return site


@pytest.fixture(scope="session")
def staging():
    return deployed("staging")


@pytest.fixture(scope="session")
def production(request):
    if not SAMPLE:
        request.getfixturevalue("staging")
    return deployed("production")


@pytest.fixture
def s3(production):
    """An S3 server (moto), which does not survive a reboot."""
    production.host.check_output(
        "[ -x /opt/moto/bin/moto_server ] || { /opt/uv/*/bin/uv venv --quiet --python /usr/bin/python3 /opt/moto && "
        "UV_SYSTEM_CERTS=1 VIRTUAL_ENV=/opt/moto /opt/uv/*/bin/uv pip install --quiet 'moto[s3,server]'; }"
    )
    start_s3(production.host)
    return production.host


def start_s3(host):
    host.check_output(
        "systemctl is-active --quiet moto || systemd-run --unit=moto --collect /opt/moto/bin/moto_server --host 0.0.0.0 --port 5997"
    )
    wait_until(lambda: make_bucket("backups"))


def make_bucket(name):
    return subprocess.run(["curl", "--silent", "--fail", "--request", "PUT", f"{S3}/{name}"]).returncode == 0


@pytest.fixture(params=["staging", "production"])
def site(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def source(tmp_path):
    return copy_sample_app(tmp_path / "source")


def change(source):
    """Change the source, so that it makes a new release."""
    page = source / "sample_app/templates/index.html"
    page.write_text(page.read_text() + f"<!-- {time.time_ns()} -->\n")


def workers(site, states="active"):
    """The units of the worker processes."""
    command = f"systemctl list-units --plain --no-legend --state={states} 'sample-*@*' | cut -d' ' -f1"
    return site.host.check_output(command).split()


def python(site, code):
    """Run Python code in the live release, and return its output."""
    return site.host.check_output("/srv/sample/run python -c %s", code).strip()


def counts(site):
    """The number of entries, and how many of them a worker has processed."""
    found = json.loads(site.get("/entries.json")[1])
    return found["count"], found["counted"]
