"""Every server answers each request as `flask run` does, and the app sees the same request."""

import functools
import gzip
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import app_of
from exchanges import REQUESTS, Request, Target, differences, exchange, flask_run, report, send
from sites import PROJECT, SERVERS

AGES = ["older", pytest.param("newer", marks=pytest.mark.sample)]
PORT = 5443
# The differences that remain: (request or *, server or *) -> what differs. docs/compatibility.md gives the reasons.
KNOWN = {
    # nginx receives the whole body and sends it with its length
    ("chunked body", "*"): {"body:content_length"},
    # nginx serves the file itself
    ("static file", "*"): {
        "header:cache-control",
        "header:content-disposition",
        "header:content-type",
        "header:etag",
        "header:last-modified",
    },
    # Apache removes it
    ("204", "mod_wsgi"): {"header:content-type"},
}


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """The answer of the app under `flask run`, which serves it alone, to a request."""
    with flask_run(PROJECT / "molecule/servers/app", PORT, tmp_path_factory.mktemp("bare")) as target:
        yield functools.cache(lambda name: send(target, REQUESTS[name]))


def targets(age):
    found = {}
    for server in SERVERS:
        site = app_of(f"{server}-{age}")
        found[server] = Target(f"{server} on {age}", site.port, site.domain, f"{site.address.rpartition('.')[0]}.1")
    return found


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("name", REQUESTS)
def test_every_server_answers_like_flask_run(bare, age, name):
    """What the app saw and what the client got (A3, A10, B2, B21, B24, B28, S17, S22)."""
    expected, wrong = bare(name), []
    for server, target in targets(age).items():
        found = send(target, REQUESTS[name])
        known = KNOWN.get((name, "*"), set()) | KNOWN.get((name, server), set())
        if different := [part for part in differences(expected, found) if part not in known]:
            wrong.append(report(target, REQUESTS[name], expected, found, different))
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("size", [150_000, 1_000_000, 15_000_000])
@pytest.mark.parametrize(("path", "status"), [("/refuse/401", 401), ("/refuse/413", 413), ("/limited", 413), ("/empty", 204)])
def test_an_upload_that_the_app_refuses_gets_the_app_s_status(age, size, path, status):
    """The app doesn't read the body (B2)."""
    request, attempts = Request("POST", path, (), b"x" * size), 5 if size > 1_000_000 else 20
    found = {server: Counter(send(target, request).status for _attempt in range(attempts)) for server, target in targets(age).items()}
    assert found == {server: {status: attempts} for server in SERVERS}, f"{request}\n{found}"


@pytest.mark.parametrize("age", AGES)
def test_a_response_that_takes_too_long_is_504_and_the_app_gets_one_request(age):
    """nginx_app_timeout_seconds is 15 in this scenario (B25)."""
    sites = {server: app_of(f"{server}-{age}") for server in SERVERS}
    for site in sites.values():
        site.host.check_output(f"rm -f /var/lib/{site.app}/slow")
    started = time.monotonic()
    with ThreadPoolExecutor(len(SERVERS)) as pool:
        answers = list(pool.map(lambda target: send(target, Request("GET", "/slow/18.0")), targets(age).values()))
    assert {server: answer.status for server, answer in zip(SERVERS, answers, strict=True)} == dict.fromkeys(SERVERS, 504), answers
    assert 14 < time.monotonic() - started < 25
    # a second attempt would have reached the app by now
    time.sleep(3)
    counts = {server: send(target, Request("GET", "/slow/count")).body for server, target in targets(age).items()}
    assert counts == {server: {"requests": 1} for server in SERVERS}
    # the worker processes survive, too
    assert {server: send(target, Request("GET", "/healthz")).status for server, target in targets(age).items()} == dict.fromkeys(
        SERVERS, 200
    )


SPOOFED = (
    "X-Forwarded-For: 203.0.113.9",
    "X-Real-IP: 203.0.113.9",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Host: evil.test",
    "X-Forwarded-Port: 99",
    "X-Forwarded-Prefix: /evil",
    "X-Script-Name: /evil",
    "X-Original-URL: /evil",
    "Forwarded: for=203.0.113.9;host=evil.test;proto=http",
    "X_Real_IP: 203.0.113.9",
    "X_Forwarded_Proto: http",
)


@pytest.mark.parametrize("age", AGES)
def test_the_headers_of_a_visitor_don_t_change_what_the_app_sees(age):
    """(A10, B23, S22)"""
    plain, forged = Request("GET", "/echo/page"), Request("GET", "/echo/page", SPOOFED)
    wrong = []
    for target in targets(age).values():
        expected, found = send(target, plain), send(target, forged)
        if different := differences(expected, found):
            wrong.append(report(target, forged, expected, found, different))
        assert expected.body["address"] == "VISITOR" and expected.body["scheme"] == "https"
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("age", AGES)
def test_a_name_in_the_request_line_outranks_the_host_header(age):
    """RFC 9112, section 3.2.2. Otherwise, a visitor could give the app another site's name (B24)."""
    for server, target in targets(age).items():
        found = send(target, Request("GET", "https://HOST/echo/page", host="evil.test:99"))
        assert (found.status, found.body["host"]) == (200, "HOST"), (server, found)


@pytest.mark.parametrize("age", AGES)
def test_hidden_files_among_the_static_files_are_not_served(age):
    """`flask run` serves them (B15, S21)."""
    for path in ("/static/.hidden", "/static/%2ehidden", "/static/x/.git/config", "/.env"):
        assert {send(target, Request("GET", path)).status for target in targets(age).values()} == {404}, path


@pytest.mark.parametrize("age", AGES)
def test_every_server_s_text_is_compressed(age):
    """nginx compresses it."""
    for server, target in targets(age).items():
        plain = exchange(target, Request("GET", "/text/2000"))
        small = exchange(target, Request("GET", "/text/2000", ("Accept-Encoding: gzip",)))
        assert small.headers["content-encoding"] == "gzip" and gzip.decompress(small.body) == plain.body, (server, small.headers)
        assert len(small.body) < len(plain.body) / 10


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
def test_the_port_is_kept_with_every_protocol(age, option):
    """With HTTP/2, nginx gets the host from a pseudo-header (B24)."""
    for server in SERVERS:
        site = app_of(f"{server}-{age}")
        headers = site.get("/redirect/external", option, "--dump-header", "-")[1].lower()
        assert f"location: https://{site.domain}:{site.port}/\n" in headers, (server, headers)


HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


@pytest.mark.parametrize("age", AGES)
def test_websockets_are_opened_by_asgi_apps_only(age):
    """(S17)"""
    request = Request("GET", "/echo/page", HANDSHAKE)
    found = {server: exchange(target, request, body=False).status for server, target in targets(age).items()}
    # Flask answers a WebSocket's request to a page with 400
    assert found == dict.fromkeys(SERVERS, 400) | {"uvicorn": 101}


BALANCER = """
import http.client, sys
for proto in 'https', 'http':
    connection = http.client.HTTPConnection('127.0.0.1', 80)
    connection.request('GET', '/echo/page', headers={'Host': sys.argv[1], 'X-Forwarded-Proto': proto, 'X-Forwarded-For': '192.0.2.7'})
    answer = connection.getresponse()
    print(answer.status, answer.getheader('Location'), *answer.read().decode().split())
"""


@pytest.mark.parametrize("age", AGES)
def test_the_scheme_of_a_balancer_that_ends_tls(age):
    """The balancer is the host itself; it is trusted in the second round only (B23)."""
    site = app_of(f"waitress-{age}")

    def answers():
        return site.host.run("python3 -c %s %s", BALANCER, site.domain).stdout.splitlines()

    redirect = f"301 https://{site.domain}/echo/page"
    assert [line.startswith(redirect) for line in answers()] == [True, True]
    try:
        run = site.play("playbooks/provision.yml", "--tags", "nginx", nginx_trusted_proxies=["127.0.0.1"])
        assert run.ok, run.output
        first, second = answers()
        assert re.search(r'^200 None .*"address": ?"192.0.2.7".*"scheme": ?"https"', first), first
        assert second.startswith(redirect)
    finally:
        assert site.play("playbooks/provision.yml", "--tags", "nginx").ok


CONFLICT = "server {{ listen 443 ssl; server_name {domain}; ssl_certificate {certificate}; ssl_certificate_key {certificate}; return 200 'other site'; }}"


@pytest.mark.parametrize("age", AGES)
def test_another_site_with_the_same_name_does_not_pass_for_the_release(age, source):
    """nginx only warns about it. Preflight reports it, and a release that is made anyway is not reported as live (B4)."""
    site = app_of(f"waitress-{age}")
    path = "/etc/nginx/sites-enabled/000-by-hand.conf"
    text = CONFLICT.format(domain=site.domain, certificate=f"/etc/ssl/flaskhost/{site.app}/certificate.pem")
    live = site.live()
    try:
        site.host.run_expect([0], "printf %%s %s >%s && systemctl reload nginx && sleep 1", text, path)
        run = site.play("playbooks/preflight.yml")
        assert not run.ok and run.reports(f"the site {path} has the same server_name {site.domain}", "Nothing was changed."), run.output
        run = site.release(source)
        assert not run.ok and run.reports("is not answered by this release, but by another site or program (Server: nginx)"), run.output
        assert site.live() == live
    finally:
        site.host.run("rm -f %s; systemctl reload nginx", path)
    assert site.play("playbooks/preflight.yml").ok


@pytest.mark.parametrize("age", AGES)
def test_the_release_identifies_itself_to_this_host_only(age):
    """(B4)"""
    site = app_of(f"gunicorn-{age}")
    assert "x-flaskhost" not in site.get("/healthz", "--header", "X-Flaskhost-Check: release", "--dump-header", "-")[1].lower()


LISTEN = "systemd-run --unit=occupant --collect python3 -m http.server --bind 127.0.0.1 {port}"


@pytest.mark.parametrize("age", AGES)
def test_a_program_on_the_site_s_port_is_named(age):
    """A host on which another web server was installed first (B5)."""
    site = app_of(f"waitress-{age}")
    site.host.check_output("systemctl stop nginx && " + LISTEN.format(port=443))
    try:
        run = site.play("playbooks/preflight.yml")
        assert not run.ok and run.reports("(process", "occupant.service) listens on 127.0.0.1:443", "systemctl disable --now occupant"), (
            run.output
        )
        assert site.play("playbooks/doctor.yml").reports("occupant.service) listens on 127.0.0.1:443, which nginx needs")
    finally:
        site.host.run("systemctl stop occupant; systemctl start nginx")
