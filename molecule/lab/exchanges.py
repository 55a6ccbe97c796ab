"""Requests that every server and `flask run` must answer alike, and the comparison of their answers.

The app in molecule/servers/app describes the request that it got, so an answer shows what the app saw and what the client got.
"""

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from typing import NamedTuple

SECONDS = 30
# set by the server or by nginx, with a value of its own
UNCOMPARED = {"connection", "date", "expires", "keep-alive", "server", "transfer-encoding", "vary"}
# the headers that nginx adds unless the app sends them
ADDED = {"content-security-policy", "referrer-policy", "x-content-type-options", "x-frame-options", "strict-transport-security"}


class Request(NamedTuple):
    """A request as it is sent, in which HOST stands for the site's name and PORT for its port."""

    method: str
    path: str
    headers: tuple = ()
    body: bytes = b""
    host: str = "HOST:PORT"
    version: str = "1.1"

    def data(self, target):
        lines = [
            f"{self.method} {self.path} HTTP/{self.version}",
            f"Host: {self.host}",
            *self.headers,
            *(() if "Connection: Upgrade" in self.headers else ("Connection: close",)),
        ]
        if self.body and "Transfer-Encoding: chunked" not in self.headers:
            lines.append(f"Content-Length: {len(self.body)}")
        text = "\r\n".join([*lines, "", ""]).replace("HOST", target.domain).replace("PORT", str(target.port))
        return text.encode("latin-1") + self.body

    def __str__(self):
        return "\n".join(
            [f"{self.method} {self.path} HTTP/{self.version}", f"Host: {self.host}", *self.headers, f"[{len(self.body)} bytes]"]
        )


class Target(NamedTuple):
    """A server: its name, where it listens, the name of its site, and the client address that the app must see."""

    name: str
    port: int
    domain: str
    visitor: str


class Answer(NamedTuple):
    status: int
    headers: dict
    body: object

    def __str__(self):
        return "\n".join([str(self.status), *(f"{name}: {value}" for name, value in self.headers.items()), shorten(self.body)])


def chunked(*parts):
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def shorten(body, size=3000):
    text = json.dumps(body, indent=1, sort_keys=True) if isinstance(body, dict) else repr(body)
    return text if len(text) <= size else f"{text[:size]}… ({len(text)} characters)"


FORM = ("Content-Type: application/x-www-form-urlencoded",)
MULTIPART = b"\r\n".join(
    [
        *(b"--edge", b'Content-Disposition: form-data; name="title"', b"", "Grüße".encode()),
        *(b"--edge", b'Content-Disposition: form-data; name="file"; filename="a.bin"', b"", bytes(range(256)), b"--edge--", b""),
    ]
)
REQUESTS = {
    "GET": Request("GET", "/echo/page"),
    "HEAD": Request("HEAD", "/text/10"),
    "OPTIONS": Request("OPTIONS", "/echo/page"),
    "PUT": Request("PUT", "/echo/page", ("Content-Type: application/json",), b'{"a": 1}'),
    "PATCH": Request("PATCH", "/echo/page", (), b"x"),
    "DELETE": Request("DELETE", "/echo/page"),
    "another method": Request("PROPFIND", "/echo/page", ("Depth: 1",)),
    "a method that the page has not": Request("DELETE", "/file"),
    "an unknown page": Request("GET", "/nowhere"),
    "percent-encoded path": Request("GET", "/echo/a%20b%2Bc+d%25;e=f,g:h@i"),
    "encoded slash": Request("GET", "/echo/a%2Fb/"),
    "double slash": Request("GET", "/echo/a//b"),
    "encoded dots": Request("GET", "/echo/a/%2e%2e/b"),
    "UTF-8 in path and query": Request("GET", "/echo/%C3%A9%E2%82%AC?q=%C3%A9+%F0%9F%98%80"),
    "bytes that are not UTF-8": Request("GET", "/echo/%FF%FE?q=%FF"),
    "empty and repeated parameters": Request("GET", "/echo/?a=1&a=2&b=&c&=d&e=%26%3D&a=3"),
    "empty query": Request("GET", "/echo/page?"),
    "form": Request("POST", "/echo/form", FORM, b"a=1&a=2&b=&c=%C3%BC+x"),
    "multipart form": Request("POST", "/echo/form", ("Content-Type: multipart/form-data; boundary=edge",), MULTIPART),
    "empty body": Request("POST", "/echo/form", ("Content-Length: 0",)),
    "binary body of 12 MB": Request("POST", "/echo/body", (), bytes(range(256)) * 4096 * 12),
    "binary body of 1 MB": Request("POST", "/echo/body", (), bytes(range(256)) * 4096),
    "chunked body": Request("POST", "/echo/body", ("Transfer-Encoding: chunked",), chunked(b"one", b"two" * 9000, b"three")),
    "Expect: 100-continue": Request("POST", "/echo/body", ("Expect: 100-continue",), b"x" * 20_000),
    "answer while reading": Request("POST", "/upper", (), b"upper " * 20_000),
    "large cookies of the client": Request("GET", "/echo/page", (f"Cookie: a={'x' * 3900}; b={'y' * 3900}",)),
    "cookie of 4 KB (A3)": Request("GET", "/cookie/1/4000"),
    "six cookies of 4 KB (A3)": Request("GET", "/cookie/6/4000"),
    "header of almost 8 KB": Request("GET", "/echo/page", (f"X-Long: {'x' * 8100}",)),
    "headers of 24 KB": Request("GET", "/echo/page", tuple(f"X-Header-{number}: {'x' * 8000}" for number in range(3))),
    "80 headers": Request("GET", "/echo/page", tuple(f"X-Header-{number}: {number}" for number in range(80))),
    "URL of 4.2 KB (B21)": Request("GET", "/echo/page?q=" + "x" * 4200),
    "URL of almost 8 KB (B21)": Request("GET", "/echo/page?q=" + "%C3%A9" * 1340),
    "Host without port": Request("GET", "/echo/page", host="HOST"),
    "Host with another port (B24)": Request("GET", "/echo/page", host="HOST:8443"),
    "external redirect (B28)": Request("GET", "/redirect/external"),
    "relative redirect": Request("GET", "/redirect/relative"),
    "whole file": Request("GET", "/file"),
    "part of a file": Request("GET", "/file", ("Range: bytes=100-299",)),
    "range beyond the end": Request("GET", "/file", ("Range: bytes=9000-",)),
    "If-None-Match": Request("GET", "/file", ('If-None-Match: "version-1"',)),
    "If-Modified-Since": Request("GET", "/file", ("If-Modified-Since: Fri, 02 Jan 2026 00:00:00 GMT",)),
    "HEAD of a file": Request("HEAD", "/file"),
    "streamed answer": Request("GET", "/stream"),
    "long text": Request("GET", "/text/20000"),
    "204": Request("POST", "/empty", (), b"x"),
    "refused": Request("GET", "/refuse/401"),
    "503 of the app": Request("GET", "/refuse/503"),
    "error in the app": Request("GET", "/fails"),
    "HTTP/1.0": Request("GET", "/echo/page", version="1.0"),
    "static file": Request("GET", "/static/file.txt"),
    "missing static file": Request("GET", "/static/nowhere.txt"),
    "Upgrade: h2c (S17)": Request(
        "GET", "/refuse/200", ("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    ),
}


def exchange(target, request, body=True):
    """Send the request over TLS on a new connection and return the answer as it is. Without `body`, the connection may stay open."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", target.port), SECONDS) as tcp,
        context.wrap_socket(tcp, server_hostname=target.domain) as connection,
    ):
        # a server may answer and close the connection before it has read the whole body
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(request.data(target))
        response = http.client.HTTPResponse(connection, method=request.method)
        try:
            response.begin()
            return Answer(response.status, headers_of(response, target), response.read() if body else b"")
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, {}, f"no answer: {error!r}".encode())


def send(target, request):
    """Return the answer, with what the app saw as a dictionary, and without what differs from server to server."""
    answer = exchange(target, request)
    text = answer.body.decode("utf-8", errors="backslashreplace")
    # the names of the sites differ in their length
    headers = {name: value for name, value in answer.headers.items() if name != "content-length" or target.domain not in text}
    with contextlib.suppress(ValueError):
        text = json.loads(text)
    body = neutral(text, target)
    if isinstance(body, dict) and "forwarded" in body:
        # from nginx, for apps with ProxyFix
        body["forwarded"] = {name: value for name, value in body["forwarded"].items() if value != "VISITOR"}
    return answer._replace(headers=headers, body=body)


def headers_of(response, target):
    found = {}
    for name, value in response.getheaders():
        if name.lower() not in UNCOMPARED | ADDED:
            # nginx marks the cookies as secure
            found.setdefault(name.lower(), []).append(neutral(value.replace("; Secure", ""), target))
    # Flask lists the methods in no fixed order
    found["allow"] = sorted(", ".join(found.get("allow", [])).split(", "))
    return {name: ", ".join(values) for name, values in found.items() if values != [""]}


def neutral(value, target):
    """Replace what differs from server to server: the site's name, its port and the visitor's address."""
    if isinstance(value, dict):
        return {name: neutral(item, target) for name, item in value.items()}
    if isinstance(value, list):
        return [neutral(item, target) for item in value]
    if not isinstance(value, str):
        return value
    if value == target.visitor:
        return "VISITOR"
    return value.replace(target.domain, "HOST").replace(f":{target.port}", ":PORT")


def differences(expected, found):
    """Return the parts of an answer that differ: status, header:NAME, body, or body:FIELD of what the app saw."""
    parts = ["status"] if expected.status != found.status else []
    parts += [
        f"header:{name}" for name in sorted({*expected.headers, *found.headers}) if expected.headers.get(name) != found.headers.get(name)
    ]
    if isinstance(expected.body, dict) and isinstance(found.body, dict):
        parts += [f"body:{key}" for key in sorted({*expected.body, *found.body}) if expected.body.get(key) != found.body.get(key)]
    elif expected.body != found.body:
        parts.append("body")
    return parts


def report(target, request, expected, found, different):
    """Return the request, the server and both answers, for a failed test."""
    return f"{target.name} differs in {', '.join(different)}\n--- request\n{request}\n--- expected\n{expected}\n--- answer\n{found}"


@contextlib.contextmanager
def flask_run(source, port, directory):
    """Serve the app with `flask run` over TLS, with no server and no nginx."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=bare.test"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    command = [sys.executable, "-m", "flask", "--app", 'web:create_app("factory")', "run", "--port", str(port)]
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen([*command, "--cert", certificate, "--key", key], cwd=source, stdout=log, stderr=log) as process,
    ):
        try:
            end = time.monotonic() + SECONDS
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None and time.monotonic() < end, (directory / "log").read_text()
                time.sleep(0.1)
            yield Target("flask run", port, "bare.test", "127.0.0.1")
        finally:
            process.kill()
