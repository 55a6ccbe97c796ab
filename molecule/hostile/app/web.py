"""An app that an attacker controls: it runs any code that it gets."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
from flask import Flask, request

app = Flask(__name__)
STATE = Path(os.environ["STATE_DIRECTORY"])


@app.get("/")
def index():
    return f"{os.environ['APP_RELEASE']} of {os.environ['SECRET_KEY']}\n"


@app.post("/run")
def run():
    """Run Python or a bash script. With `background`, don't wait for it; it continues after the request."""
    form = request.form
    command = [sys.executable, "-c", form["code"]] if form["language"] == "python" else ["bash", "-c", form["code"]]
    if form.get("background"):
        with open(STATE / "background.log", "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        return {"code": 0, "out": str(process.pid)}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=28)
    except subprocess.TimeoutExpired as expired:
        return {"code": -1, "out": (expired.stdout or b"").decode(errors="replace")}
    return {"code": done.returncode, "out": done.stdout.decode(errors="replace")}


@app.route("/echo", methods=["GET", "POST"])
def echo():
    """The request as nginx passed it on."""
    return {"headers": {name.lower(): value for name, value in request.headers}, "body": len(request.get_data())}


app.add_url_rule("/socket", "socket", echo, websocket=True)


@app.get("/tag/<path:name>")
def tag(name):
    return f"tag {name}\n"


@app.get("/.well-known/<path:name>")
def well_known(name):
    return f"well-known/{name}\n"


@app.get("/rows")
def rows():
    with psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=5) as database:
        return {"rows": database.execute("SELECT count(*) FROM releases").fetchone()[0]}


@app.post("/log")
def log():
    print(request.form["text"], file=sys.stderr, flush=True)
    return "logged\n"


@app.get("/healthz")
def healthz():
    """Healthy, unless the attacker has written another behavior to a file."""
    try:
        behavior = (STATE / "health").read_text().strip()
    except OSError:
        behavior = "healthy"
    answers = {"healthy": lambda: "healthy\n", "slow": slow, "endless": endless, "big": big, "unhealthy": lambda: ("unhealthy\n", 500)}
    return answers[behavior]()


def slow():
    """A byte every half second, for ten minutes. No single read takes long."""

    def body():
        for _byte in range(1200):
            yield b"x"
            time.sleep(0.5)

    return app.response_class(body(), mimetype="text/plain")


def endless():
    def body():
        while True:
            yield b"x" * 65536

    return app.response_class(body(), mimetype="text/plain")


def big():
    return app.response_class((b"x" * 65536 for _ in range(6400)), mimetype="text/plain")
