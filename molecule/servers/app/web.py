"""A small app for every server."""

import os
import time

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix


def create_app(greeting="hello"):
    app = Flask(__name__)
    app.wsgi_app = ProxyFix(app.wsgi_app)

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
        time.sleep(seconds)
        return "done\n"

    @app.post("/length")
    def length():
        return f"{len(request.get_data())} from {request.remote_addr} by {request.scheme}\n"

    return app
