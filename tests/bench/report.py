#!/usr/bin/env python3
"""Parses the output of the benchmark's tools, and renders the results as docs/benchmarks.md and docs/benchmarks.svg.

Run as a script, it renders both files from docs/benchmarks.json.
"""

import json
import re
from collections import Counter
from pathlib import Path
from statistics import median

TITLES = {
    "hello": "Hello, world",
    "json": "Twenty rows of SQLite as JSON",
    "wait": "A view that waits 50 ms, 64 clients",
    "beside": "Hello, 8 clients, with 8 others waiting",
    "static": "A static file of 100 KB",
    "idle": "Hello, with 1,000 idle clients",
    "handshakes": "HTTPS, a full handshake for each request",
    "https": "HTTPS, keep-alive connections",
}

# -- parsers of the tools' output -------------------------------------------------------------------------------------


def parse_wrk(text):
    count, seconds = re.search(r"(\d+) requests in (\S+),", text).groups()
    error_responses = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    lost = sum(int(number) for errors in re.findall(r"Socket errors: (.*)", text) for number in re.findall(r"\d+", errors))
    delay = dict(re.findall(r"^ +(\d\d)% +(\S+) *$", text, re.MULTILINE))
    rate = (int(count) - error_responses) / milliseconds(seconds) * 1000
    return {"rate": rate, "p50_ms": milliseconds(delay["50"]), "p99_ms": milliseconds(delay["99"]), "failed": error_responses + lost}


def milliseconds(text):
    value, unit = re.fullmatch(r"([\d.]+)(\D+)", text).groups()
    return float(value) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[unit]


def parse_hey(text):
    answers = {status: int(count) for status, count in re.findall(r"\[(\d{3})\]\t(\d+) responses", text)}
    errors = sum(int(count) for count in re.findall(r"^ +\[(\d+)\]\t(?!\d+ responses)", text, re.MULTILINE))
    delay = {percent: float(value) * 1000 for percent, value in re.findall(r"(\d\d)%+ in ([\d.]+) secs", text)}
    ok = answers.pop("200", 0)
    rate = ok / float(re.search(r"Total:\t([\d.]+) secs", text)[1])
    return {"rate": rate, "p50_ms": delay.get("50", 0), "p99_ms": delay.get("99", 0), "failed": sum(answers.values()) + errors}


def parse_tasks(text):
    """Seconds per task, in the order of the run, from the output of profile_tasks."""
    tasks = Counter()
    for name, seconds in re.findall(r"^(.*?) -+ ([\d.]+)s$", text.partition("TASKS RECAP")[2], re.MULTILINE):
        tasks[name] += float(seconds)
    return dict(tasks)


# -- statistics -------------------------------------------------------------------------------------------------------


def values(rows, key, **filters):
    """The values of `key` in the matching rows, by round."""
    return {row["round"]: row[key] for row in rows if all(row[name] == value for name, value in filters.items())}


def ratios(some, others):
    """The ratios of values from the same round."""
    return [value / others[turn] for turn, value in some.items() if others.get(turn)]


def spread(numbers, spec):
    """Minimum, median and maximum."""
    return " / ".join(format(number, spec) for number in (min(numbers), median(numbers), max(numbers))) if numbers else ""


def names(rows, key="contender"):
    return list(dict.fromkeys(row[key] for row in rows))


# -- the page ---------------------------------------------------------------------------------------------------------


def write(found, directory):
    (directory / "benchmarks.md").write_text(page(found))
    if found.get("serving"):
        picture(found["serving"], directory / "benchmarks.svg")


def page(found):
    text = INTRODUCTION
    if found.get("serving"):
        text += SERVING + "".join(serving_table(found["serving"], name) for name in TITLES) + memory_table(found["serving"])
    if found.get("deploying"):
        text += DEPLOYING + deploying_table(found["deploying"]) + steps_table(found["deploying"])
    return text + METHOD + "".join(f"- {name}: {value}\n" for name, value in found.get("machine", {}).items())


def table(*head, rows):
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def serving_table(rows, workload):
    rows = [row for row in rows if row["workload"] == workload]
    lines = []
    for name in names(rows):
        rate = values(rows, "rate", contender=name)
        p50, p99 = (median(values(rows, key, contender=name).values()) for key in ("p50_ms", "p99_ms"))
        failed = sum(values(rows, "failed", contender=name).values())
        of_tutorial = spread(ratios(rate, values(rows, "rate", contender="tutorial")), ".2f")
        of_bare = ratios(rate, values(rows, "rate", contender=f"{name}, bare"))
        bare = f"{median(of_bare):.0%}" if of_bare else ""
        cpu_times = (median(values(rows, key, contender=name).values()) for key in ("app_us", "nginx_us"))
        cpu = " + ".join(f"{each:,.0f}" for each in cpu_times)
        lines.append([name, f"{median(rate.values()):,.0f}", of_tutorial, bare, f"{p50:.1f}", f"{p99:.1f}", cpu, f"{failed:,}"])
    head = ["", "requests/s", "ratio to tutorial", "% of bare", "p50 ms", "p99 ms", "CPU µs: app + nginx", "failed"]
    return f"\n### {TITLES[workload]}\n\n{table(*head, rows=lines)}"


def memory_table(rows):
    rows = [row for row in rows if row["workload"] == "memory"]
    lines = [[name, spread(values(rows, "memory_mb", contender=name).values(), ".0f")] for name in names(rows)]
    return f"\n### Memory of the app's processes after these loads\n\n{table('', 'MB', rows=lines)}"


def deploying_table(rows):
    counts, lines = names(rows, "hosts"), []
    for what in names(rows, "what"):
        seconds = [values(rows, "seconds", what=what, hosts=count) for count in counts]
        growth = [median(some.values()) / median(seconds[0].values()) for some in seconds]
        cells = [f"{spread(some.values(), '.1f')} ({times:.1f} x)" for some, times in zip(seconds, growth, strict=True)]
        lines.append([what, *cells])
    return "\n" + table("seconds", *(f"{count} host{'s'[: count > 1]}" for count in counts), rows=lines)


def steps_table(rows):
    """The slowest tasks, from the runs with the fewest hosts."""
    rows, lines = [row for row in rows if row["hosts"] == rows[0]["hosts"]], []
    for what in names(rows, "what"):
        runs = [row["tasks"] for row in rows if row["what"] == what]
        seconds = {task: median(run.get(task, 0) for run in runs) for task in runs[0]}
        slowest = sorted(seconds, key=seconds.get, reverse=True)[:6]
        lines.append([what, str(len(seconds)), "<br>".join(f"{seconds[task]:.1f} {task}" for task in slowest)])
    return "\n" + table("", "tasks", "slowest tasks, in seconds", rows=lines)


def picture(rows, path):
    import matplotlib

    matplotlib.use("svg")
    # make the file reproducible
    matplotlib.rcParams.update({"svg.hashsalt": "flaskhost", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(12, 6), layout="constrained")
    for workload, axis in zip(TITLES, axes.flat, strict=False):
        of_workload = [row for row in rows if row["workload"] == workload]
        shown = [name for name in names(of_workload) if not name.endswith(", bare")][::-1]
        for position, name in enumerate(shown):
            rates = values(of_workload, "rate", contender=name).values()
            middle = median(rates)
            colour = {"tutorial": "#b0b0b0", "nginx alone": "#d8d8d8"}.get(name, "#2a7f9e")
            axis.barh(position, middle, color=colour, xerr=[[middle - min(rates)], [max(rates) - middle]], error_kw={"lw": 0.8})
        axis.set_yticks(range(len(shown)), shown)
        axis.set_title(TITLES[workload], fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Requests per second: median, minimum and maximum")
    figure.savefig(path, metadata={"Date": None})


INTRODUCTION = """# Benchmarks

<!-- generated by `make bench` from benchmarks.json, which contains all figures -->
"""
SERVING = """
## Serving
The same app on the same host, one contender at a time. **tutorial** is the setup of a typical tutorial: three sync workers of gunicorn
behind the distribution's nginx with its default configuration. The others are this project's defaults for each server. *bare* is the
same server without nginx: requests go directly to its socket. Ranges are minimum / median / maximum.

![Requests per second by workload](benchmarks.svg)
"""
DEPLOYING = """
## Deploying
From a bare host, including the package downloads, to a rollback: minimum / median / maximum, and the median as a multiple of the
first column's. The hosts are containers that share the cores of one machine with Ansible, so several hosts slow each other down.
Separate machines would not.
"""
METHOD = """
## How it was measured
- `make bench` creates a lab host and deploys `tests/bench/app` to it once with each server and once as in the tutorial
  (`tests/bench/tutorial.yml`), with the same TLS certificate. In each round, each load runs against every contender in turn while the
  others are idle. Every second round reverses the order.
- The load is generated on the host itself, over the loopback interface, and shares the cores with the contenders: wrk with one thread
  and 32 clients unless stated otherwise, and hey with 16 clients for full handshakes, since wrk resumes TLS sessions.
- Ratios compare values of the same round. A request fails if its status is not 2xx or 3xx, or if no response arrives within 2 s. An
  idle client fails if its connection is closed. Requests per second include successful responses only. wrk measures latency from
  sending the request, hey from opening the connection.
- nginx serves the static file in our setup, the app serves it in the tutorial's; *nginx alone* is the distribution's default site.
- CPU is the time on all cores that the processes of the app and of nginx spend per request. On few cores, nginx's share explains the
  difference between a server and the same server bare. With 1,000 idle clients, it includes the work for them.
- Memory is the proportional set size of all processes in the app's unit.
"""


if __name__ == "__main__":
    docs = Path(__file__).resolve().parents[2] / "docs"
    write(json.loads((docs / "benchmarks.json").read_text()), docs)
