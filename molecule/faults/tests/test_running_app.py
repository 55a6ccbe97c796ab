"""Faults of a running app: systemd, gunicorn and nginx recover from them, and visitors notice little or nothing."""

import re
import subprocess
import time

import pytest
from sites import DOMAIN, Load, wait_until

IN_FLIGHT = 12  # the number of simultaneous requests of the load


@pytest.fixture
def few_failures(site):
    """Load that may lose the requests that were in progress, and no others."""
    load = Load(site, seconds=120)
    time.sleep(1)
    yield
    time.sleep(1)
    answers, errors = load.stop()
    failed = sum(count for status, count in answers.items() if status not in (200, 303)) + len(errors)
    print(f"\n{sum(answers.values())} requests: {answers}, errors {errors}")
    assert failed <= IN_FLIGHT and sum(answers.values()) > 100, (answers, errors)


@pytest.mark.venv
@pytest.mark.sample
def test_killed_workers(site, few_failures):
    """All workers are killed: they are replaced at once, and only requests in progress are lost."""
    before = site.workers()
    site.host.check_output(f"kill -9 {' '.join(before)}")
    wait_until(lambda: len(site.workers() - before) == len(before) and site.is_healthy())


def test_a_killed_main_process(site):
    """The server's main process is killed: systemd restarts it within two seconds; until then nginx shows its error page."""
    before = site.main_process()
    site.host.check_output(f"kill -9 {before}")
    wait_until(lambda: site.main_process() not in (before, "0") and site.is_healthy())
    assert site.play("playbooks/doctor.yml").reports("systemd restarted it")


@pytest.mark.sample
def test_a_killed_nginx(site):
    """nginx is killed: systemd restarts it within a second (the distribution's unit would not)."""
    before = site.main_process("nginx")
    site.host.check_output(f"kill -9 {before}")
    wait_until(lambda: site.main_process("nginx") not in (before, "0") and site.is_healthy())


@pytest.mark.venv
def test_a_worker_that_leaks_memory(fault, load):
    """A worker's memory grows: gunicorn_max_requests replaces the worker regularly, and no request is lost."""
    fault.edit("sample_app/pages.py", "def index():\n", "def index():\n    LEAK.append(bytearray(100_000))\n")
    fault.append("sample_app/pages.py", "\nLEAK = []\n")
    run = fault.site.release(fault.source, gunicorn_max_requests=150)
    assert run.ok, run.output
    before = fault.site.workers()
    wait_until(lambda: len(fault.site.workers() - before) == len(before))


@pytest.mark.venv
def test_a_worker_that_hangs(fault):
    """A worker hangs: it is replaced after gunicorn_timeout_seconds, and until then the others serve."""
    run = fault.site.release(fault.source, gunicorn_timeout_seconds=3, gunicorn_workers=3)
    assert run.ok, run.output
    stuck = min(fault.site.workers())
    fault.site.host.check_output(f"kill -STOP {stuck}")
    assert [fault.site.get("/", "--max-time", "2")[0] for _ in range(10)] == [200] * 10
    wait_until(lambda: stuck not in fault.site.workers() and len(fault.site.workers()) == 3, 20)


def test_a_page_that_hangs(fault):
    """A page of the app never answers: other visitors are served, and the next release doesn't wait for it forever."""
    fault.append("sample_app/pages.py", '\n\n@pages.get("/hang")\ndef hang():\n    import time\n\n    time.sleep(3600)\n')
    assert fault.site.release(fault.source).ok
    assert [fault.site.get("/hang", "--max-time", "1")[0] for _ in range(4)] == [0] * 4
    assert fault.site.get("/", "--max-time", "2")[0] == 200
    run = fault.site.play("playbooks/release.yml", **fault.change(), release_drain_seconds=2)
    assert run.ok, run.output
    wait_until(lambda: len(fault.site.instances()) == 1)


@pytest.mark.sample
def test_static_files_of_the_previous_release(fault, load):
    """A visitor still has a page of the previous release open: its static files are served, even those that the live release doesn't have.
    A file that both have comes from the live release."""
    static = fault.source / "sample_app/static"
    (static / "only-in-this-release.txt").write_text("here")
    (static / "in-both.txt").write_text("previous")
    assert fault.site.release(fault.source).ok
    assert fault.site.get("/static/in-both.txt") == (200, "previous")
    (static / "only-in-this-release.txt").unlink()
    (static / "in-both.txt").write_text("live")
    assert fault.site.release(fault.source).ok
    assert fault.site.get("/static/in-both.txt") == (200, "live")
    assert fault.site.get("/static/only-in-this-release.txt") == (200, "here")
    assert fault.site.get("/static/never-there.txt")[0] == 404


def test_hundreds_of_slow_clients(site, load):
    """Hundreds of clients send their requests a few bytes at a time (slowhttptest): other visitors are served as usual."""
    site.host.check_output("apt-get install --quiet --quiet --assume-yes slowhttptest >/dev/null")
    for kind in ("-H", "-B"):
        attack = f"timeout 60 slowhttptest -c 400 -r 200 -i 5 -l 15 -p 3 {kind} -u https://localhost/entries"
        with subprocess.Popen(["podman", "exec", "flaskhost-target", *attack.split()], stdout=subprocess.PIPE, text=True) as process:
            time.sleep(5)
            answers = [site.get("/", "--max-time", "2")[0] for _ in range(20)]
            report = process.communicate()[0]
        assert answers == [200] * 20
        assert re.search(r"service available: +YES", re.sub(r"\x1b\[[0-9;]*m", "", report)), report


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--header", "Expect:", "--data-binary", "@BODY"], 413),
        (["--header", f"X-Big: {'x' * 40_000}"], 400),
        (["--header", "X-One: 1"] + [word for n in range(200) for word in ("--header", f"X-{n}: {'x' * 300}")], 400),
    ],
)
def test_bodies_and_headers_that_are_too_large(site, load, tmp_path, options, status):
    """A body or a header is larger than allowed: nginx rejects it, and the app never sees it."""
    big = tmp_path / "big"
    big.write_bytes(b"x" * (17 * 2**20))
    options = [option.replace("BODY", str(big)) for option in options]
    assert site.get("/entries", "--http1.1", *options)[0] == status


def test_a_url_that_is_too_long(site, load):
    """A URL is longer than allowed: nginx rejects it."""
    command = ["curl", "--silent", "--insecure", "--http1.1", "--resolve", f"{DOMAIN}:{site.port}:127.0.0.1"]
    done = subprocess.run(
        [*command, "--write-out", "%{http_code}", "--output", "/dev/null", f"https://{DOMAIN}:{site.port}/{'x' * 10_000}"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "414"
