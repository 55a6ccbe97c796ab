"""Health checks of a hostile app: with any response, a check ends in time and uses little memory."""

import resource
import socket
import ssl
import subprocess
import threading
import time

import pytest
from conftest import plugin

health, layout, release = plugin("module_utils/health"), plugin("module_utils/layout"), plugin("module_utils/release")
OK = b"HTTP/1.1 200 OK\r\n"
SECONDS = 1
# A probe must end by then, also on a busy machine. The endless responses of these tests would last longer.
LATER = SECONDS + 3


def drip(start, piece=b"x"):
    def answer(connection):
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(0.05)

    return answer


def flood(start, piece):
    def answer(connection):
        connection.sendall(start)
        while True:
            connection.sendall(piece * (65536 // len(piece)))

    return answer


def send(text):
    return lambda connection: connection.sendall(text)


def serve(listener, answer, wrap=lambda connection: connection):
    def accept():
        while True:
            try:
                connection = wrap(listener.accept()[0])
            except OSError:
                return
            try:
                connection.recv(4096)
                answer(connection)
            except OSError:
                pass
            finally:
                connection.close()

    threading.Thread(target=accept, daemon=True).start()


@pytest.fixture
def check_app(tmp_path):
    """Checks an app with this response. Returns the problem, the status and the duration."""
    listener = socket.socket(socket.AF_UNIX)

    def check(answer, name="/health"):
        path = str(tmp_path / "wsgi.sock")
        listener.bind(path)
        listener.listen()
        serve(listener, answer)
        page = check.page = health.Page({"path": name, "answer_seconds": SECONDS, "host": "shop.example", "port": 0}, path)
        started = time.monotonic()
        return page.probe(), page.status, time.monotonic() - started

    yield check
    listener.close()


GOOD = {
    "with a length": send(OK + b"Content-Length: 2\r\n\r\nok"),
    "in chunks": send(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "until it closes": send(OK + b"\r\nok"),
    "a redirect": send(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"),
    "100 first": send(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"),
    "a long page": send(OK + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000),
    "a long page in chunks": send(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n0\r\n\r\n"),
    # the status counts, and only the beginning of the body is read
    "a body without an end": flood(OK + b"\r\n", b"x"),
    "chunks without an end": flood(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nxxxx\r\n"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_valid_response_is_accepted(check_app, name):
    found, status, duration = check_app(GOOD[name])
    assert (found, status in (200, 302)) == ("", True) and duration < SECONDS


SLOW = {
    "nothing": lambda connection: time.sleep(5),
    "a byte of the status line": drip(b""),
    "a byte of a header": drip(OK),
    "a header": drip(OK, b"A: b\r\n"),
    "a byte of the body": drip(OK + b"Content-Length: 9000\r\n\r\n"),
    "a byte of a body without a length": drip(OK + b"\r\n"),
    "a chunk": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a byte of a chunk's size": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "100 Continue": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_response_has_the_same_time_limit_as_no_response(check_app, name):
    found, _status, duration = check_app(SLOW[name])
    assert found in (f"/health did not respond within {SECONDS} seconds", "the request to /health failed (got more than 100 headers)")
    assert duration < LATER


ENDLESS = {
    "a status line": flood(b"HTTP/1.1 200 ", b"x"),
    "a header": flood(OK + b"A: ", b"x"),
    "headers": flood(OK, b"A: b\r\n"),
    "100 Continue": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers of 100 Continue": flood(b"HTTP/1.1 100 Continue\r\n", b"A: b\r\n"),
    "no line": flood(b"", b"\0"),
    "a chunk's size": flood(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": flood(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
    "no HTTP": send(b"\x1b[2J\x1b]0;title\x07\xff\n\n"),
    "no status": send(b"HTTP/1.1 \x1b[31mred 200\r\n\r\n"),
    "a chunk of a negative size": send(OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nxxx"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_or_invalid_response_is_not_read_further(check_app, name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, status, duration = check_app(ENDLESS[name])
    assert found.startswith("the request to /health failed (") or status == 200
    assert len(found) < 300 and found.isprintable()
    assert duration < SECONDS and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.fixture
def nginx(tmp_path):
    """A TLS server with this response. Returns the settings of its health check."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=a"]
    subprocess.run([*command, "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serving(answer):
            serve(listener, answer, lambda connection: context.wrap_socket(connection, server_side=True))
            return {"app": "shop", "path": "/", "answer_seconds": SECONDS, "host": "shop.example", "port": listener.getsockname()[1]}

        yield serving


@pytest.mark.parametrize(
    ("answer", "message"),
    [(drip(OK), "did not respond within"), (send(OK + b"Content-Length: 2\r\n\r\nok"), ""), (drip(OK + b"\r\n"), "did not respond within")],
)
def test_the_time_limit_also_applies_through_nginx(nginx, answer, message):
    page = health.Page(nginx(answer))
    started = time.monotonic()
    found = page.probe()
    assert message in found and bool(message) == bool(found) and time.monotonic() - started < LATER


def answer_of(release, status=b"200 OK", more=b""):
    """nginx's answer, in which a release identifies itself."""
    mark = b"X-Flaskhost-Release: %b\r\n" % release.encode() if release else b""
    return send(b"HTTP/1.1 %b\r\n%b%bContent-Length: 0\r\n\r\n" % (status, mark, more))


@pytest.mark.parametrize(
    ("release_id", "status", "more", "why"),
    [
        ("{}/releases/r2", b"200 OK", b"", ""),
        ("{}/releases/r2", b"500 Internal Server Error", b"", "/ returned 500"),
        # nginx's own error page
        ("/var/www/shop", b"502 Bad Gateway", b"", "/ returned 502"),
        ("{}/releases/r1", b"200 OK", b"", "/ is not answered by this release, but by the site in {}/releases/r1."),
        ("/srv/other/releases/r9", b"200 OK", b"", "but by the site in /srv/other/releases/r9."),
        ("/var/www/other", b"502 Bad Gateway", b"", "but by the site in /var/www/other."),
        ("", b"200 OK", b"Server: Apache/2.4\r\n", "but by another site or program (Server: Apache/2.4)."),
        ("", b"404 Not Found", b"Server: Caddy\r\n", "but by another site or program (Server: Caddy)."),
        ("", b"302 Found", b"Location: /\r\nServer: \x1b[2J\r\n", "but by another site or program (Server: "),
        ("", b"200 OK", b"", "but by another site or program (Server: without a name). On the host, `nginx -T` shows"),
    ],
)
def test_only_the_new_release_passes_for_healthy(nginx, tmp_path, release_id, status, more, why):
    """Another app, a site made by hand, Apache or a container can have the name or the port (B4)."""
    (tmp_path / "releases/r2").mkdir(parents=True)
    (tmp_path / "live").symlink_to("releases/r2")
    page = release.site_page(nginx(answer_of(release_id.format(tmp_path), status, more)), layout.Layout(str(tmp_path), "shop"))
    page.params["answer_seconds"] = 10
    found = page.probe()
    assert why.format(tmp_path) in found and bool(found) == bool(why) and found.isprintable()


WARNED = {
    "/login?next=%2F": "a login or setup page",
    "/auth/sign-in": "a login or setup page",
    "https://shop.example/setup": "a login or setup page",
    "install.php": "a login or setup page",
    "/users/LOGIN/": "a login or setup page",
    "https://sso.example/authorize": "another site",
    "//evil.example/": "another site",
    "http://[": "another site",
    "/": "itself",
    "https://shop.example/": "itself",
    "/en/": "",
    "/blog/logins": "",
    "/dashboard": "",
}


@pytest.mark.parametrize("location", WARNED)
def test_a_redirect_to_a_login_or_setup_page_is_healthy_with_a_warning(check_app, location):
    """(A15)"""
    found, status, _duration = check_app(send(b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location.encode()), "/")
    assert (found, status) == ("", 302)
    warning = check_app.page.warning()
    assert bool(warning) == bool(WARNED[location])
    if warning:
        assert f"/ returned 302, a redirect to {WARNED[location]} ({location}). It counts as healthy" in warning
        assert "Set app_health_path to a page that returns 200 without a login." in warning


def test_a_page_that_is_not_redirected_has_no_warning(check_app):
    """A status from 200 to 399 is healthy (A15)."""
    assert check_app(send(OK + b"Location: /login\r\nContent-Length: 0\r\n\r\n"))[0] == "" and check_app.page.warning() == ""


def limited(release):
    return answer_of(release, b"429 Too Many Requests")


@pytest.mark.parametrize(("status", "why"), [(b"200 OK", ""), (b"500 Internal Server Error", "/ returned 500")])
def test_the_live_release_is_checked_directly_if_another_app_has_exhausted_the_rate_limit(nginx, tmp_path, status, why):
    (tmp_path / "live").mkdir()
    page = release.site_page(nginx(limited(str(tmp_path / "live"))), layout.Layout(str(tmp_path), "shop"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "live/wsgi.sock"))
        listener.listen()
        serve(listener, send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"))
        assert page.probe() == why


def test_an_incomplete_tls_handshake_times_out():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serve(listener, drip(b"\x16\x03\x03\x40\x00", b"\0"))
        page = health.Page({"path": "/", "answer_seconds": SECONDS, "host": "shop.example", "port": listener.getsockname()[1]})
        started = time.monotonic()
        assert page.probe() == f"/ did not respond within {SECONDS} seconds" and time.monotonic() - started < LATER


def test_a_missing_socket_and_one_without_a_listener_are_reported(tmp_path):
    page = health.Page({"path": "/", "answer_seconds": SECONDS, "host": "a", "port": 0}, str(tmp_path / "none"))
    assert page.probe() == "the server has not opened its socket"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "none"))
    assert page.probe() == "the request to / failed: the server refused the connection"
