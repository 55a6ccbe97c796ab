"""A small app for every server. It shows what it saw of a request, and knows nothing of the proxy in front of it."""

import hashlib
import io
import os
import time
from datetime import datetime, timezone

from flask import Flask, Response, redirect, request, send_file, stream_with_context, url_for

# seen by the tests, if they are set; nginx sets or removes all others that say something about the connection
HEADERS = ["Accept", "Content-Type", "Cookie", "Host", "If-None-Match", "Range", "User-Agent", "X-Long"]
FORWARDED = [
    "Forwarded",
    "X-Forwarded-Prefix",
    "X-Original-URL",
    "X-Script-Name",
    "HTTP2-Settings",
    "Upgrade",
    "X-Real-IP",
    "X-Forwarded-For",
]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"]
slow_requests = []


def create_app(greeting="hello"):
    app = Flask(__name__)
    app.json.ensure_ascii = False

    @app.get("/")
    def index():
        return f"{greeting} from {os.environ['APP_RELEASE']}\n"

    @app.get("/framed")
    def framed():
        return "framed\n", {"Content-Security-Policy": "frame-ancestors *", "X-Powered-By": "web/1.0"}

    @app.get("/healthz")
    def healthz():
        return "healthy\n"

    @app.get("/log/<text>")
    def log(text):
        app.logger.warning(text)
        return "logged\n"

    @app.get("/slow/<float:seconds>")
    def slow(seconds):
        # a worker process has its own list, so the file of the data directory counts for all
        with open(os.path.join(os.environ.get("STATE_DIRECTORY", "/tmp"), "slow"), "a") as counted:
            counted.write("x")
        time.sleep(seconds)
        return "done\n"

    @app.get("/slow/count")
    def slow_count():
        with open(os.path.join(os.environ.get("STATE_DIRECTORY", "/tmp"), "slow")) as counted:
            return {"requests": len(counted.read())}

    @app.post("/length")
    def length():
        return f"{len(request.get_data())} from {request.remote_addr} by {request.scheme}\n"

    @app.route("/echo/", defaults={"path": ""}, methods=METHODS)
    @app.route("/echo/<path:path>", methods=METHODS, merge_slashes=False)
    def echo(path):
        body = request.get_data()
        return {
            "method": request.method,
            "path": request.path,
            "query": request.query_string.decode("latin-1"),
            "arguments": request.args.to_dict(flat=False),
            "scheme": request.scheme,
            "host": request.host,
            "url": request.url,
            "root": request.root_path,
            "address": request.remote_addr,
            "content_length": request.content_length,
            "body": hashlib.sha256(body).hexdigest() if body else "",
            "form": request.form.to_dict(flat=False),
            "headers": {name: request.headers[name] for name in HEADERS if name in request.headers},
            "forwarded": {name: request.headers[name] for name in FORWARDED if name in request.headers},
        }

    @app.get("/cookie/<int:count>/<int:size>")
    def cookie(count, size):
        response = Response("cookies\n")
        for number in range(count):
            response.set_cookie(f"cart{number}", "x" * size)
        return response

    @app.get("/redirect/<kind>")
    def go(kind):
        return redirect(url_for("index", _external=True) if kind == "external" else "/echo/there")

    @app.get("/file")
    def file():
        changed = datetime(2026, 1, 2, tzinfo=timezone.utc)
        content = io.BytesIO(bytes(range(256)) * 8)
        return send_file(content, "application/octet-stream", etag="version-1", last_modified=changed, conditional=True, max_age=60)

    @app.get("/text/<int:size>")
    def text(size):
        return "lorem ipsum " * size

    @app.get("/stream")
    def stream():
        return Response((f"part {number}\n" for number in range(5)), mimetype="text/plain")

    @app.post("/upper")
    def upper():
        """Streams its answer while it still reads the request."""

        def parts():
            while part := request.stream.read(10_000):
                yield part.upper()

        return Response(stream_with_context(parts()), mimetype="text/plain")

    @app.route("/refuse/<int:code>", methods=["GET", *METHODS])
    def refuse(code):
        return f"refused with {code}\n", code

    @app.post("/limited")
    def limited():
        request.max_content_length = 1000
        return str(len(request.get_data()))

    @app.route("/empty", methods=METHODS)
    def empty():
        return "", 204

    @app.get("/fails")
    def fails():
        return {}["missing"]

    return app
