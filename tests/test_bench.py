"""The benchmark reports its tools' measurements completely, and counts failures as failures."""

import socket
import subprocess
import sys
import threading

import pytest
import report
from conftest import PROJECT

# real output of the tools (shortened; two latencies changed to other units)
WRK = """Running 1s test @ http://127.0.0.1/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     8.17ms    7.21ms  57.24ms   88.80%
    Req/Sec     4.67k     1.80k    7.79k    70.00%
  Latency Distribution
     50%  586.00us
     75%    6.85ms
     90%   16.65ms
     99%    1.03s\x20
  4651 requests in 1.00s, 713.24KB read
Requests/sec:   4635.80
Transfer/sec:    710.91KB
"""
WRK_BAD = "  4762 requests in 1.00s, 1.54MB read\n  Non-2xx or 3xx responses: 4762\n"
WRK_LOST = "  4651 requests in 1.00s, 0.00B read\n  Socket errors: connect 0, read 8373, write 0, timeout 2\n"
HEY = """
Summary:
  Total:	1.0031 secs
  Slowest:	0.0802 secs
  Requests/sec:	731.7301

Latency distribution:
  50% in 0.0085 secs
  99% in 0.0518 secs

Status code distribution:
  [200]	734 responses
"""
HEY_LOST = """
Summary:
  Total:	1.0008 secs
  Requests/sec:	6346.0942

Latency distribution:

Status code distribution:
  [502]	5 responses

Error distribution:
  [6351]	Get "http://127.0.0.1:18080/drop": EOF
"""
TASKS = """PLAY RECAP *********************************************************************
uwsgi                      : ok=3    changed=0    unreachable=0    failed=0    skipped=0    rescued=0    ignored=0

TASKS RECAP ********************************************************************
Saturday 21 November 2026  09:04:26 +0000 (0:00:02.294)       0:00:02.294 *****
===============================================================================
include_role : preflight ------------------------------------------------ 0.51s
preflight : Validating arguments against arg spec 'main' - Check the settings and the hosts, before anything is changed --- 0.64s
preflight : Check the settings ------------------------------------------ 0.36s
preflight : Check the settings ------------------------------------------ 0.14s
"""


def test_successful_responses_are_counted():
    assert report.parse_wrk(WRK) == {"rate": 4651, "p50_ms": pytest.approx(0.586), "p99_ms": 1030, "failed": 0}
    assert report.parse_hey(HEY) == {
        "rate": pytest.approx(731.7, abs=0.1),
        "p50_ms": pytest.approx(8.5),
        "p99_ms": pytest.approx(51.8),
        "failed": 0,
    }


def test_error_responses_and_lost_requests_are_failures():
    before = WRK.partition("  4651")[0]
    assert report.parse_wrk(before + WRK_BAD).items() >= {"rate": 0, "failed": 4762}.items()
    assert report.parse_wrk(before + WRK_LOST).items() >= {"rate": 4651, "failed": 8375}.items()
    assert report.parse_hey(HEY_LOST).items() >= {"rate": 0, "failed": 6356}.items()


def test_time_is_reported_per_task():
    tasks = report.parse_tasks(TASKS)
    assert next(iter(tasks)) == "include_role : preflight"
    assert tasks["preflight : Check the settings"] == pytest.approx(0.5)
    assert len(tasks) == 3


def test_closed_connections_of_idle_clients_are_counted():
    server = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve():
        for _ in range(3):
            client = server.accept()[0]
            client.recv(1000)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            held.append(client)
            if len(held) == 2:
                client.close()

    threading.Thread(target=serve, daemon=True).start()
    command = [sys.executable, str(PROJECT / "tests/bench/idle.py"), f"http://127.0.0.1:{server.getsockname()[1]}/", "3"]
    done = subprocess.run(command, input="done\n", text=True, capture_output=True, timeout=20)
    assert done.stdout.split() == ["ready", "1"]


# -- the page ---------------------------------------------------------------------------------------------------------


def serving_rows(contender, workload, *rates, failed=0):
    rest = {"p50_ms": 4.0, "p99_ms": 9.0, "failed": failed, "app_us": 250, "nginx_us": 60}
    return [{"round": turn, "contender": contender, "workload": workload, "rate": rate, **rest} for turn, rate in enumerate(rates)]


@pytest.fixture
def found():
    serving = [row for name in report.TITLES for row in serving_rows("tutorial", name, 1000, 2000, 500)]
    serving += serving_rows("granian", "hello", 2000, 6000, 500, failed=3) + serving_rows("granian, bare", "hello", 4000, 6000, 1000)
    serving += [{"round": 0, "contender": "granian", "workload": "memory", "memory_mb": 61.6}]
    deploying = [
        {"hosts": hosts, "round": turn, "what": "new code", "seconds": seconds * hosts, "changed": 4, "tasks": {"a": 1.0, "b": seconds}}
        for hosts in (1, 2)
        for turn, seconds in enumerate((4.0, 3.0, 5.0))
    ]
    return {"serving": serving, "deploying": deploying, "machine": {"cores": 2}}


def test_ratios_compare_values_of_the_same_round(found):
    page = report.page(found)
    assert "| granian | 2,000 | 1.00 / 2.00 / 3.00 | 50% | 4.0 | 9.0 | 250 + 60 | 9 |" in page
    assert "| granian | 62 / 62 / 62 |" in page
    assert "- cores: 2\n" in page


def test_deploy_times_are_shown_for_each_number_of_hosts(found):
    page = report.page(found)
    assert "| seconds | 1 host | 2 hosts |" in page
    assert "| new code | 3.0 / 4.0 / 5.0 (1.0 x) | 6.0 / 8.0 / 10.0 (2.0 x) |" in page
    assert "| new code | 2 | 4.0 b<br>1.0 a |" in page


def test_parts_without_measurements_are_omitted(found):
    assert "## Deploying" not in report.page({"serving": found["serving"]})
    assert "## Serving" not in report.page({"deploying": found["deploying"]})


def test_the_picture_is_reproducible(found, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        report.picture(found["serving"], tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "granian" in (tmp_path / "one.svg").read_text()
