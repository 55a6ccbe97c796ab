"""dev-sec's nginx baseline, one test per control. molecule/audit/tests/controls.yml explains the controls that have no test."""

import re

import pytest


@pytest.fixture(scope="module")
def config(host):
    """nginx's complete configuration."""
    return host.check_output("nginx -T 2>/dev/null")


@pytest.fixture(scope="module")
def headers(site):
    return site.get("/", "--head")[1].lower()


def test_nginx_01(host, config):
    assert "\nuser www-data;" in config
    assert set(host.check_output("ps --format user=,args= -C nginx | grep 'worker process' | cut -d' ' -f1").split()) == {"www-data"}


def test_nginx_02(host):
    for path in "/etc/nginx/nginx.conf", "/etc/nginx/sites-enabled/sample.conf":
        found = host.file(path)
        assert (found.user, found.group, found.mode) == ("root", "root", 0o640)


def test_nginx_03(host):
    assert not host.file("/etc/nginx/conf.d/default.conf").exists
    assert not host.file("/etc/nginx/sites-enabled/default").exists


def test_nginx_04(host):
    assert host.check_output("ps --format args= -C nginx | grep --count 'nginx: master'") == "1"


def test_nginx_05(config, headers, site):
    assert re.findall(r"server_tokens (\w+);", config) == ["off"]
    assert "server: nginx\n" in headers
    assert "nginx/" not in site.get("/static/nowhere/.hidden")[1]


def test_nginx_07(config):
    """Limited by address. The limit is high enough for HTTP/2, where each request in progress counts as a connection."""
    assert re.search(r"limit_conn_zone \$sample_visitor zone=sample_connections:10m;", config)
    assert re.search(r"limit_conn sample_connections \d+;", config) and re.search(r"limit_req zone=sample_requests ", config)


def test_nginx_08(headers):
    assert "x-frame-options: sameorigin" in headers and "frame-ancestors 'none'" in headers


def test_nginx_10(headers):
    assert "x-content-type-options: nosniff" in headers


def test_nginx_12(config):
    """As Mozilla recommends, the client chooses the cipher. There is no finite-field Diffie-Hellman exchange, so no DH parameters are
    needed."""
    assert set(re.findall(r"ssl_protocols ([^;]+);", config)) <= {"TLSv1.2 TLSv1.3", "TLSv1.3"}
    assert "ssl_session_tickets off;" in config
    ciphers = re.search(r"ssl_ciphers ([^;]+);", config)[1].split(":")
    assert all(re.match(r"ECDHE-(ECDSA|RSA)-(AES\d+-GCM-SHA\d+|CHACHA20-POLY1305)$", cipher) for cipher in ciphers)


def test_nginx_13(headers):
    assert int(re.search(r"strict-transport-security: max-age=(\d+)", headers)[1]) >= 15768000


def test_nginx_14(site):
    """nginx rejects TRACE; the app decides on the other methods."""
    assert site.get("/", "--request", "TRACE")[0] == 405


def test_nginx_15(headers):
    policy = re.search(r"content-security-policy: (.*)", headers)[1]
    assert "script-src 'self'" in policy and "default-src 'none'" in policy and "unsafe" not in policy


def test_nginx_16(config):
    """nginx marks all cookies as Secure. HttpOnly is up to the app (Flask sets it for its session cookie)."""
    assert "proxy_cookie_flags ~ secure;" in config


def test_nginx_17(config):
    """keepalive_timeout is longer than the control asks for, so that browsers can reuse connections."""
    for name in "client_header_timeout", "client_body_timeout", "send_timeout":
        assert set(re.findall(rf"\b{name} (\w+);", config)) == {"10s"}, name
