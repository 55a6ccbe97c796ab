"""The host that is judged, the judges, and what they say: docs/security.md is made of it (`make audit`)."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import testinfra
from sites import PROJECT, Site

FOLDER = Path(os.environ["FLASKHOST_LAB"]) / "audit"
SAID = {}


@pytest.fixture(scope="session")
def site():
    return Site("judged")


@pytest.fixture(scope="session")
def host(site):
    return site.host


@pytest.fixture(scope="session")
def client():
    """A machine elsewhere on the network, with the judges that the distribution has."""
    client = testinfra.get_host("podman://flaskhost-audit-client")
    install(client, "ca-certificates curl nmap nodejs npm slowhttptest testssl.sh")
    return client


def install(host, packages):
    host.check_output(
        f"apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends {packages} >/dev/null"
    )


def judge(package, *command, **options):
    """A judge from PyPI, in an environment of its own; gives its exit code and what it says."""
    uv = shutil.which("uv") or str(PROJECT / ".uv/bin/uv")
    environment = {**os.environ, "UV_SYSTEM_CERTS": "1", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        [uv, "tool", "run", "--quiet", "--from", package, *command], capture_output=True, text=True, env=environment, **options
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def note(host):
    """Write down what a judge says, whether it is good enough or not."""
    release = host.check_output(". /etc/os-release && echo $PRETTY_NAME")
    versions = host.check_output("dpkg-query --show --showformat='${Package} ${Version}, ' nginx openssh-server openssl")

    def note(judge, asked, said):
        SAID[judge] = {"asked": asked, "said": said}
        report = {"of": release, "with": versions.rstrip(", "), "on": time.strftime("%Y-%m-%d"), "said": SAID}
        (FOLDER / "report.json").write_text(json.dumps(report, indent=2) + "\n")

    return note
