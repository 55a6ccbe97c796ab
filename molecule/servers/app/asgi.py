"""The same app for ASGI servers."""

from a2wsgi import WSGIMiddleware
from wsgi import app as flask_app

app = WSGIMiddleware(flask_app)
