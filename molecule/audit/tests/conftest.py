"""The audited host, the audit tools, and their results, which `make audit` publishes in docs/security.md."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import testinfra
from sites import PROJECT, Site

DIRECTORY = Path(os.environ["FLASKHOST_LAB"]) / "audit"
RESULTS = {}


@pytest.fixture(scope="session")
def site():
    return Site("audited")


@pytest.fixture(scope="session")
def host(site):
    return site.host


@pytest.fixture(scope="session")
def client():
    """A client on the same network, with the audit tools that the distribution packages."""
    client = testinfra.get_host("podman://flaskhost-audit-client")
    install(client, "ca-certificates curl nmap nodejs npm slowhttptest testssl.sh")
    return client


def install(host, packages):
    host.check_output(
        f"apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends {packages} >/dev/null"
    )


def run_tool(package, *command, **options):
    """Run an audit tool from PyPI in its own environment; return its exit code and its output."""
    uv = shutil.which("uv") or str(PROJECT / ".uv/bin/uv")
    environment = {**os.environ, "UV_SYSTEM_CERTS": "1", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        [uv, "tool", "run", "--quiet", "--from", package, *command], capture_output=True, text=True, env=environment, **options
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def record(host):
    """Record the result of an audit tool in the report, whether it passes or not."""
    release = host.check_output(". /etc/os-release && echo $PRETTY_NAME")
    versions = host.check_output("dpkg-query --show --showformat='${Package} ${Version}, ' nginx openssh-server openssl")

    def record(tool, required, result):
        RESULTS[tool] = {"asked": required, "said": result}
        report = {"of": release, "with": versions.rstrip(", "), "on": time.strftime("%Y-%m-%d"), "said": RESULTS}
        (DIRECTORY / "report.json").write_text(json.dumps(report, indent=2) + "\n")

    return record
