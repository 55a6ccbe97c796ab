"""With every server, an app is served, sandboxed, drained and restarted in the same way."""

import re
import subprocess
import time

import pytest
from conftest import app_of
from report import parse_hey
from sites import wait_until


def unit(site):
    return f"{site.app}@{site.live()}.service"


def pids(site):
    group = site.host.check_output(f"systemctl show --value --property=ControlGroup {unit(site)}")
    return site.host.check_output(f"cat /sys/fs/cgroup{group}/cgroup.procs").split()


def test_it_serves(site):
    assert site.get("/") == (200, f"{'hello' if site.app == 'uvicorn' else 'factory'} from {site.live()}\n")
    assert site.get("/", "--head")[0] == 200
    assert site.get("/nowhere")[0] == 404


def test_large_and_chunked_bodies_arrive_complete(site, tmp_path):
    body = tmp_path / "body"
    body.write_bytes(b"x" * 300_000)
    answer = f"300000 from {site.address.rpartition('.')[0]}.1 by https\n"
    assert site.get("/length", "--data-binary", f"@{body}") == (200, answer)
    assert site.get("/length", "--header", "Transfer-Encoding: chunked", "--http1.1", "--data-binary", f"@{body}") == (200, answer)


def test_the_apps_headers_take_precedence_and_versions_are_hidden(site):
    headers = site.get("/framed", "--dump-header", "-")[1].lower()
    assert headers.count("content-security-policy:") == 1 and "content-security-policy: frame-ancestors *" in headers
    assert "object-src 'none'" in site.get("/", "--dump-header", "-")[1].lower()
    assert "server: nginx\n" in headers and "x-powered-by" not in headers


def test_many_simultaneous_requests(site):
    """Two rounds, each with more connections than the server has threads: the server may still be closing the first ones when the second
    round begins."""
    for _round in range(2):
        command = ["hey", "-z", "2s", "-c", "200", "-host", site.domain, f"https://127.0.0.1:{site.port}/"]
        output = subprocess.run(command, text=True, capture_output=True).stdout
        found = parse_hey(output)
        assert found["rate"] and not found["failed"], output


def test_no_process_runs_as_root(site):
    users = set(site.host.check_output(f"ps --format user= --pid {','.join(pids(site))}").split())
    assert users == {site.app}


def test_its_unit_is_hardened(site):
    report = site.host.check_output(f"systemd-analyze security --no-pager {unit(site)} | tail -n 1")
    assert float(report.split("service: ")[1].split()[0]) <= 1.5, report


def test_it_starts_without_a_warning(site):
    show = f"systemctl show --timestamp=unix --value {unit(site)} --property="
    invocation, started = (site.host.check_output(show + name) for name in ("InvocationID", "ActiveEnterTimestamp"))
    # later lines are about requests of other tests
    until = f"@{int(started.lstrip('@')) + 15}"
    # some servers print nothing when they start, but the second field finds systemd's line about the start
    fields = f"_SYSTEMD_INVOCATION_ID={invocation} + INVOCATION_ID={invocation}"
    lines = site.host.check_output(f"journalctl --namespace=+{site.app} {fields} --until={until} --no-pager --output=cat").splitlines()
    assert any(line.startswith("Started ") for line in lines)
    # mod_wsgi-express prints its settings in these lines
    messages = [line for line in lines if not line.startswith(("Error Log File ", "AH00094: Command line: "))]
    assert not [line for line in messages if re.search(r"warn|error|deprecat|traceback", line, re.IGNORECASE)], lines


def test_log_lines_of_the_app_are_in_the_journal(site):
    text = f"text-{time.time_ns()}"
    site.get(f"/log/{text}")
    assert (
        site.host.run(
            f"for i in $(seq 25); do journalctl --namespace=+{site.app} -t {site.app} --since -1min | grep -q {text} && exit 0; sleep 0.2; done; exit 1"
        ).rc
        == 0
    )


def test_another_app_can_not_read_its_files_or_connect_to_it(site):
    other = "waitress" if site.app == "gunicorn" else "gunicorn"
    socket = site.socket()
    for command in (
        f"cat {site.root}/live/env",
        f"cat {site.root}/live/start",
        f"cat {site.root}/live/app/web.py",
        f"ls {site.root}/live/",
        f"ls {site.root}/live/app",
        f"ls /var/lib/{site.app}",
    ):
        assert site.host.run(f"runuser -u {other} -- {command}").rc != 0, command
    assert site.host.run(f"runuser -u {other} -- curl --silent --unix-socket {socket} http://x/").rc != 0


def test_a_release_finishes_requests_in_progress_and_affects_no_other_app(site, source):
    """The release replaces the app factory with an app object."""
    others = "systemctl list-units --plain --no-legend --state=active '*@*-*.service' | cut -d' ' -f1 | grep -v {0}@ | xargs -n 1 systemctl show --value --property=MainPID"
    before = site.host.check_output(others.format(site.app))
    url = f"https://{site.domain}:{site.port}/slow/10.0"
    command = ["curl", "--silent", "--insecure", "--resolve", f"{site.domain}:{site.port}:127.0.0.1", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as visitor:
        time.sleep(0.5)
        previous = site.live()
        run = site.release(source, app_module="asgi:app" if site.app == "uvicorn" else "wsgi:app")
        assert run.ok, run.output
        assert site.live() != previous
        assert visitor.communicate()[0] == "done\n"
    assert site.get("/")[1] == f"hello from {site.live()}\n"
    assert site.host.check_output(others.format(site.app)) == before
    wait_until(lambda: site.instances() == [unit(site)])
    assert "timed out" not in site.host.check_output(
        f"journalctl --namespace=+{site.app} --unit {site.app}@{previous}.service --no-pager --output=cat"
    )


def test_stopping_the_unit_finishes_requests_in_progress(site):
    """A reboot stops the unit in the same way."""
    url = f"https://{site.domain}:{site.port}/slow/3.0"
    command = ["curl", "--silent", "--insecure", "--resolve", f"{site.domain}:{site.port}:127.0.0.1", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as visitor:
        time.sleep(1)
        site.host.check_output(f"systemctl stop {unit(site)}")
        answer = visitor.communicate()[0]
    state = site.host.run(f"systemctl is-failed {unit(site)}").stdout.strip()
    site.host.check_output(f"systemctl start {unit(site)}")
    wait_until(site.is_healthy)
    assert (answer, state) == ("done\n", "inactive")


def test_it_is_restarted_after_a_crash(site):
    before = site.main_process()
    site.host.check_output(f"kill -9 {before}")
    wait_until(lambda: site.main_process() not in (before, "0") and site.is_healthy())


@pytest.mark.parametrize("name", ["gunicorn-older", pytest.param("gunicorn-newer", marks=pytest.mark.sample)])
def test_each_gunicorn_worker_is_pinned_to_a_core(name):
    site = app_of(name)
    main = site.main_process()
    cores = f"for pid in $(pgrep --parent {main}); do taskset --cpu-list --pid $pid; done | sed 's/.*: //' | sort -n | xargs"
    all_cores = site.host.check_output("python3 -c 'import os; print(*sorted(os.sched_getaffinity(0)))'")
    assert site.host.check_output(cores) == all_cores
    site.host.check_output(f"kill -9 $(pgrep --parent {main} | head -n 1)")
    wait_until(lambda: site.host.check_output(cores) == all_cores)


def test_an_app_that_can_not_be_imported_is_rejected(site, source):
    (source / "web.py").write_text("import nothing_of_this_name\n")
    live = site.live()
    run = site.release(source, app_module="asgi:app" if site.app == "uvicorn" else "web:create_app()", release_health_timeout_seconds=8)
    assert not run.ok and site.live() == live
    assert run.reports("No module named 'nothing_of_this_name'", f"Release {live} keeps serving"), run.output
