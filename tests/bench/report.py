#!/usr/bin/env python3
"""What the benchmark's tools print, as figures; and the figures as docs/benchmarks.md and docs/benchmarks.svg.

Run alone, it writes those two anew from docs/benchmarks.json.
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
    "beside": "Hello, 8 clients beside 8 that wait",
    "static": "A static file of 100 KB",
    "idle": "Hello, beside 1,000 idle clients",
    "handshakes": "HTTPS, a full handshake for each request",
    "https": "HTTPS, connections kept",
}

# -- what the tools print ---------------------------------------------------------------------------------------------


def parse_wrk(text):
    count, seconds = re.search(r"(\d+) requests in (\S+),", text).groups()
    bad = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    lost = sum(int(number) for errors in re.findall(r"Socket errors: (.*)", text) for number in re.findall(r"\d+", errors))
    delay = dict(re.findall(r"^ +(\d\d)% +(\S+) *$", text, re.MULTILINE))
    rate = (int(count) - bad) / milliseconds(seconds) * 1000
    return {"rate": rate, "p50_ms": milliseconds(delay["50"]), "p99_ms": milliseconds(delay["99"]), "failed": bad + lost}


def milliseconds(text):
    value, unit = re.fullmatch(r"([\d.]+)(\D+)", text).groups()
    return float(value) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[unit]


def parse_hey(text):
    answers = {status: int(count) for status, count in re.findall(r"\[(\d{3})\]\t(\d+) responses", text)}
    errors = sum(int(count) for count in re.findall(r"^ +\[(\d+)\]\t(?!\d+ responses)", text, re.MULTILINE))
    delay = {percent: float(value) * 1000 for percent, value in re.findall(r"(\d\d)%+ in ([\d.]+) secs", text)}
    good = answers.pop("200", 0)
    rate = good / float(re.search(r"Total:\t([\d.]+) secs", text)[1])
    return {"rate": rate, "p50_ms": delay.get("50", 0), "p99_ms": delay.get("99", 0), "failed": sum(answers.values()) + errors}


def parse_tasks(text):
    """Seconds by task, in the order of the run, from profile_tasks."""
    tasks = Counter()
    for name, seconds in re.findall(r"^(.*?) -+ ([\d.]+)s$", text.partition("TASKS RECAP")[2], re.MULTILINE):
        tasks[name] += float(seconds)
    return dict(tasks)


# -- what they mean ---------------------------------------------------------------------------------------------------


def values(rows, key, **wanted):
    """By round."""
    return {row["round"]: row[key] for row in rows if all(row[name] == value for name, value in wanted.items())}


def ratios(some, others):
    """Of what was measured in the same round."""
    return [value / others[turn] for turn, value in some.items() if others.get(turn)]


def spread(numbers, form):
    """The least, the median, the most."""
    return " / ".join(format(number, form) for number in (min(numbers), median(numbers), max(numbers))) if numbers else ""


def names(rows, key="contender"):
    return list(dict.fromkeys(row[key] for row in rows))


# -- the page ---------------------------------------------------------------------------------------------------------


def write(found, folder):
    (folder / "benchmarks.md").write_text(page(found))
    if found.get("serving"):
        picture(found["serving"], folder / "benchmarks.svg")


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
        took = (median(values(rows, key, contender=name).values()) for key in ("app_us", "nginx_us"))
        cpu = " + ".join(f"{each:,.0f}" for each in took)
        lines.append([name, f"{median(rate.values()):,.0f}", of_tutorial, bare, f"{p50:.1f}", f"{p99:.1f}", cpu, f"{failed:,}"])
    head = ["", "requests/s", "times the tutorial's", "of bare", "p50 ms", "p99 ms", "CPU µs: app + nginx", "failed"]
    return f"\n### {TITLES[workload]}\n\n{table(*head, rows=lines)}"


def memory_table(rows):
    rows = [row for row in rows if row["workload"] == "memory"]
    lines = [[name, spread(values(rows, "memory_mb", contender=name).values(), ".0f")] for name in names(rows)]
    return f"\n### Memory of the app's processes after all that\n\n{table('', 'MB', rows=lines)}"


def deploying_table(rows):
    counts, lines = names(rows, "hosts"), []
    for what in names(rows, "what"):
        seconds = [values(rows, "seconds", what=what, hosts=count) for count in counts]
        growth = [median(some.values()) / median(seconds[0].values()) for some in seconds]
        cells = [f"{spread(some.values(), '.1f')} ({times:.1f} x)" for some, times in zip(seconds, growth, strict=True)]
        lines.append([what, *cells])
    return "\n" + table("seconds", *(f"{count} host{'s'[: count > 1]}" for count in counts), rows=lines)


def steps_table(rows):
    """Where the time goes, with the fewest hosts that were measured."""
    rows, lines = [row for row in rows if row["hosts"] == rows[0]["hosts"]], []
    for what in names(rows, "what"):
        runs = [row["tasks"] for row in rows if row["what"] == what]
        seconds = {task: median(run.get(task, 0) for run in runs) for task in runs[0]}
        slowest = sorted(seconds, key=seconds.get, reverse=True)[:6]
        lines.append([what, str(len(seconds)), "<br>".join(f"{seconds[task]:.1f} {task}" for task in slowest)])
    return "\n" + table("", "tasks", "the slowest, in seconds", rows=lines)


def picture(rows, path):
    import matplotlib

    matplotlib.use("svg")
    # the same figures give the same file
    matplotlib.rcParams.update({"svg.hashsalt": "flaskhost", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(12, 6), layout="constrained")
    for workload, axis in zip(TITLES, axes.flat, strict=False):
        of_workload = [row for row in rows if row["workload"] == workload]
        shown = [name for name in names(of_workload) if not name.endswith(", bare")][::-1]
        for place, name in enumerate(shown):
            rates = values(of_workload, "rate", contender=name).values()
            middle = median(rates)
            colour = {"tutorial": "#b0b0b0", "nginx alone": "#d8d8d8"}.get(name, "#2a7f9e")
            axis.barh(place, middle, color=colour, xerr=[[middle - min(rates)], [max(rates) - middle]], error_kw={"lw": 0.8})
        axis.set_yticks(range(len(shown)), shown)
        axis.set_title(TITLES[workload], fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Requests per second: median, and from least to most")
    figure.savefig(path, metadata={"Date": None})


INTRODUCTION = """# Benchmarks

<!-- written by `make bench` from benchmarks.json, which has every figure -->
"""
SERVING = """
## Serving
The same app on the same host, one contender at a time: **tutorial** is what the usual one builds (three sync workers of gunicorn,
the distribution's nginx as it comes); the others are this project's defaults for each server, and *bare* is such a server asked on
its own socket, without nginx.

![Requests per second by workload](benchmarks.svg)
"""
DEPLOYING = """
## Deploying
From a bare host, whose packages are yet to be downloaded, to a rollback. Least / median / most, and the median as a multiple of the
first column's. The hosts are containers, and share the cores of one machine with ansible: of several, each waits for the others'
work, as hosts of their own wouldn't.
"""
METHOD = """
## How it was measured
- `make bench` makes the lab's host, deploys `tests/bench/app` to it once with each server, and once as the tutorial has it
  (`tests/bench/tutorial.yml`), with the same TLS certificate. In each round, for each load, every contender has its turn, in the
  order there and back, while the others are idle.
- The load comes from the host itself, over its loopback, and shares its cores with what it measures: wrk with one thread and 32
  clients if not said otherwise, and hey with 16 for full handshakes, since wrk takes up TLS sessions again.
- Ratios are of the same round. A request has failed if its answer is not 2xx or 3xx, does not come within 2 s or not at all; so has
  an idle client whose connection was closed. Only good answers count for requests per second. wrk's times begin when a request is
  sent, hey's when its connection is opened.
- The static file comes from nginx in ours, from the app in the tutorial's; *nginx alone* is the distribution's own site.
- CPU is what the processes of the app and of nginx took of all cores for one request: on few cores, nginx's part is what lies
  between a server and the same bare. With 1,000 idle clients, theirs is in it.
- Memory is the proportional set size of all processes of the app's unit.
"""


if __name__ == "__main__":
    docs = Path(__file__).resolve().parents[2] / "docs"
    write(json.loads((docs / "benchmarks.json").read_text()), docs)
