"""The same app on a platform: what app.json and the Procfile say is enough to run it, as a dyno does."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1]
PROCFILE = dict(re.findall(r"^(\w+): (.+)$", (SOURCE / "Procfile").read_text(), re.MULTILINE))


@pytest.fixture
def dyno(tmp_path):
    """Its command line, folder and environment: what a platform gives, and nothing else."""
    folder = shutil.copytree(SOURCE, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__", "instance", "tests"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    said = {name: entry["value"] if isinstance(entry, dict) and "value" in entry else entry for name, entry in APP["env"].items()}
    given = {name: value for name, value in said.items() if isinstance(value, str)}
    secret = {name: "of the platform's making" for name, entry in APP["env"].items() if isinstance(entry, dict) and entry.get("generator")}
    environment = {"PATH": os.environ["PATH"], "PORT": str(port), "DATABASE_URL": f"sqlite:///{tmp_path}/addon.db", **given, **secret}

    def start(kind):
        return subprocess.Popen(["bash", "-c", PROCFILE[kind]], cwd=folder, env=environment, text=True, stderr=subprocess.PIPE)

    start.url = f"http://127.0.0.1:{port}"
    return start


APP = json.loads((SOURCE / "app.json").read_text())


def test_its_release_and_web_lines_serve_it(dyno):
    release = dyno("release")
    assert release.wait(30) == 0, release.stderr.read()
    with dyno("web") as web:
        try:
            assert answer(f"{dyno.url}/healthz") == 200
            assert answer(f"{dyno.url}/entries", b"text=from+a+dyno") == 200
        finally:
            web.send_signal(signal.SIGTERM)
        assert web.wait(35) == 0, "it ends by itself when the platform asks it to"


def test_all_that_it_forms_is_in_the_procfile():
    assert set(APP["formation"]) <= set(PROCFILE)


def answer(url, form=None):
    end = time.monotonic() + 15
    while True:
        try:
            request = urllib.request.Request(url, form, {"X-Forwarded-Proto": "https"})
            with urllib.request.urlopen(request, timeout=5) as found:
                return found.status
        except urllib.error.HTTPError as error:
            # what it redirects to is the site, by https
            return 200 if error.status in (301, 302, 303) else error.status
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
