"""A visitor attacks the app through nginx."""

import json
import subprocess

import pytest

HEADERS = {
    "Forwarded": "for=192.0.2.1;proto=http;host=evil.test",
    "X-Forwarded-For": "192.0.2.1",
    "X-Forwarded-Host": "evil.test",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Port": "4444",
    "X-Forwarded-Scheme": "gopher",
    "X-Forwarded-Ssl": "evil",
    "X-Forwarded-Protocol": "evil",
    "X-Forwarded-Server": "evil.test",
    "X-Forwarded-User": "evil",
    "X-Forwarded-Uri": "/evil",
    "X-Forwarded-Path": "/evil",
    "X-Forwarded": "evil",
    "X-Real-IP": "192.0.2.1",
    "X-Client-IP": "192.0.2.1",
    "X-Cluster-Client-IP": "192.0.2.1",
    "True-Client-IP": "192.0.2.1",
    "CF-Connecting-IP": "192.0.2.1",
    "X-Original-URL": "/evil",
    "X-Original-URI": "/evil",
    "X-Original-Host": "evil.test",
    "X-Rewrite-URL": "/evil",
    "X-Script-Name": "/evil",
    "X-Scheme": "gopher",
    "X-Url-Scheme": "gopher",
    "X-Host": "evil.test",
    "X-Remote-User": "evil",
    "Remote-User": "evil",
    "X-Sendfile": "/evil",
    "Front-End-Https": "evil",
    "Proxy": "http://evil.test",
}


@pytest.mark.sample
def test_forge_proxy_headers(attacker):
    """A visitor sends headers that proxies set, and that an app may trust: none of them reaches the app with the visitor's value. (S22)"""
    forged = {}
    for name, value in HEADERS.items():
        status, body = attacker.get("/echo", "--header", f"{name}: {value}")
        if status != 200 or json.loads(body)["headers"].get(name.lower()) == value:
            forged[name] = status
    assert not forged


def test_forge_proxy_headers_with_underscores(attacker):
    """A visitor sends such headers with underscores or more than once, which WSGI can't distinguish: none of them reaches the app."""
    options = ["--header", "X_Forwarded_Prefix: /evil", "--header", "X_Original_URL: /evil", "--header", "X_Real_IP: 192.0.2.1"]
    options += [
        "--header",
        "X-Forwarded_For: 192.0.2.1",
        "--header",
        "X-Forwarded-For: 192.0.2.1",
        "--header",
        "X-Forwarded-For: 192.0.2.2",
    ]
    body = attacker.get("/echo", *options)[1]
    assert "evil" not in body and "192.0.2." not in body


@pytest.mark.sample
def test_upgrade_to_h2c(attacker):
    """A visitor asks to upgrade the connection to h2c, which would bypass nginx's limits: the upgrade never reaches the app. (S17)"""
    for value in ("h2c", "HTTP/2.0", "TLS/1.0", "evil", "websocket, h2c", "h2c, websocket"):
        status, body = attacker.get(
            "/echo",
            "--http1.1",
            "--header",
            f"Upgrade: {value}",
            "--header",
            "Connection: Upgrade, HTTP2-Settings",
            "--header",
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        )
        headers = json.loads(body)["headers"] if status == 200 else {}
        assert "upgrade" not in headers and "upgrade" not in headers.get("connection", "").lower(), (value, headers)


def test_websockets_still_work(attacker):
    """A visitor's browser asks for a WebSocket: the upgrade reaches the app."""
    body = attacker.get("/socket", "--http1.1", "--header", "Upgrade: websocket", "--header", "Connection: Upgrade")[1]
    assert json.loads(body)["headers"]["upgrade"].lower() == "websocket"


@pytest.mark.sample
def test_read_hidden_static_files(attacker, source):
    """A visitor requests hidden files among the static ones (/static/.htpasswd, /static/.git/config, also encoded): nginx answers 404. (S21)"""
    build = "mkdir -p static/.git static/sub/.ssh && echo secret >static/.git/config && echo secret >static/.env && echo secret >static/sub/.ssh/id && echo fine >static/fine.txt"
    run = attacker.attempt(app_source=source, app_build_command=build)
    assert run.ok, run.output
    assert attacker.get("/static/fine.txt") == (200, "fine\n")
    paths = (
        "/.env",
        "/.htpasswd",
        "/.git/config",
        "/%2eenv",
        "/%2Egit/config",
        "/sub/.ssh/id",
        "/sub/../.env",
        "//.env",
        "/./.env",
        "/sub/%2e%2e/.env",
    )
    found = {path: attacker.get(f"/static{path}", "--path-as-is") for path in paths}
    assert {path: answer for path, answer in found.items() if answer[0] == 200 or "secret" in answer[1] or "marker" in answer[1]} == {}


@pytest.mark.parametrize("name", [".net", "a/.b", "..."])
def test_routes_with_a_dot_reach_the_app(attacker, name):
    """A visitor requests a page of the app whose name begins with a dot (/tag/.net): the app answers. (S21)"""
    assert attacker.get(f"/tag/{name}", "--path-as-is") == (200, f"tag {name}\n")


def test_read_hidden_files_of_the_app(attacker):
    """A visitor requests /.env, /.git/config and the app's code: nginx serves none of them, and the app has no such page."""
    for path in (
        "/.env",
        "/.git/config",
        "/web.py",
        "/static/../web.py",
        "/static/%2e%2e/web.py",
        "/static../app/web.py",
        "/static..%2fweb.py",
        "/app/web.py",
        "/live/env",
    ):
        assert attacker.get(path, "--path-as-is")[0] in (400, 404), path


def test_overload_the_app_with_its_health_page(attacker):
    """A visitor requests the health page 900 times in a second: requests above the limit get 429, as for other pages. (S16)"""
    command = ["hey", "-n", "900", "-c", "100", "-host", attacker.domain, f"https://127.0.0.1:{attacker.port}/healthz"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "[429]" in output, output


def test_the_host_itself_is_not_limited(attacker):
    """The host requests the health page many times, to check a release: it is not limited."""
    requests = "for n in $(seq 60); do curl --silent --insecure --output /dev/null --write-out '%{http_code}\\n' --resolve hostile.test:443:127.0.0.1 https://hostile.test/healthz; done"
    attacker.host.run("command -v curl >/dev/null || apt-get install --quiet --quiet --assume-yes curl >/dev/null")
    assert set(attacker.host.check_output(requests).split()) == {"200"}


def test_smuggle_a_request(attacker):
    """A visitor sends a request with two lengths, or with a chunked body and a length: it is rejected, or arrives as one request."""
    for options in (
        ["--header", "Content-Length: 5", "--header", "Transfer-Encoding: chunked"],
        ["--header", "Content-Length: 5", "--header", "Content-Length: 6"],
    ):
        status, body = attacker.get(
            "/echo", "--http1.1", "--request", "POST", "--data", "0\r\n\r\nGET /tag/evil HTTP/1.1\r\nHost: x\r\n\r\n", *options
        )
        assert status in (0, 200, 400) and "tag evil" not in body, (status, body)


def test_get_a_certificate_for_the_site(attacker):
    """The attacker asks a CA for a certificate with the site's names, and the app would answer the challenge: the challenge never reaches
    the app."""
    path = "/.well-known/acme-challenge/token"
    assert attacker.get(path)[0] == 404 and "tag" not in attacker.get(path)[1]
    request = "import http.client as h; c = h.HTTPConnection('127.0.0.1'); c.request('GET', path, headers={'Host': 'hostile.test'}); print(c.getresponse().status)"
    assert attacker.python(request, path=path) == "404"
    # the app does get other paths
    assert attacker.get("/.well-known/security.txt") == (200, "well-known/security.txt\n")
