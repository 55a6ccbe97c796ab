"""An app gets each request as the visitor sent it, and the visitor gets the app's own answer, behind nginx and each server."""

import contextlib
import http.client
import os
import re
import runpy
import shutil
import socket
import ssl
import subprocess
import sys
import time
import types

import pytest
from conftest import LOCAL, PROJECT, READ_APP, evaluate, plugin, role_settings

HOSTS = [("Ubuntu", "22.04"), ("Ubuntu", "24.04"), ("Ubuntu", "26.04"), ("Debian", "12"), ("Debian", "13")]
APP = {
    "app_name": "shop",
    "app_module": "web:make('the shop')",
    "app_domains": ["shop.test", "www.shop.test"],
    "app_health_path": "/healthz",
    "app_static": {"/static/": "static"},
    "app_root": "{{ root }}",
    "nginx_certificate_directory": "{{ root }}",
    "nginx_app_timeout_seconds": 2,
    "nginx_server_template": "",
    "nginx_error_page_template": "",
}
PROXIES = ["127.0.0.0/30"]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """nginx's configuration and the file from which servers load the app, on each distribution, without IPv6 (-ipv4) and behind a
    balancer (-proxied)."""
    directory = tmp_path_factory.mktemp("requests")
    hosts = {}
    for name, version in HOSTS:
        facts = {"distribution": name, "distribution_version": version, "distribution_major_version": version.split(".")[0]}
        base = {"facts": facts, "root": f"{directory}/srv"}
        hosts[f"{name}{version}"] = base
        hosts[f"{name}{version}-ipv4"] = base | {"facts": facts | {"host_has_ipv6": False}, "nginx_http3": True}
        hosts[f"{name}{version}-proxied"] = base | {"nginx_trusted_proxies": PROXIES, "nginx_hsts": "max-age=100"}
    settings = role_settings("app", "nginx") | LOCAL | APP
    files = {
        "nginx": "nginx/templates/nginx.conf.j2",
        "site": "nginx/templates/site.conf.j2",
        "app": "release/templates/flaskhost_app.py.j2",
    }
    contents = {name: f"{{{{ lookup('ansible.builtin.template', '{PROJECT}/roles/{path}') }}}}" for name, path in files.items()}
    tasks = [READ_APP, {"ansible.builtin.set_fact": {"ansible_facts": "{{ facts }}"}}]
    return evaluate(directory, tasks, contents, hosts, settings=settings) | {"root": f"{directory}/srv"}


# -- the app ----------------------------------------------------------------------------------------------------------

WEB = """
import io
import time

slow = []

def make(name):
    def app(environ, start_response):
        path = environ["PATH_INFO"]
        if path.startswith("/refuse"):
            start_response("401 Unauthorized", [("Content-Length", "7")])
            return [b"refused"]
        if path == "/cookies":
            start_response("200 OK", [("Set-Cookie", f"cart{number}=" + "x" * 4000) for number in range(6)])
            return []
        if path == "/slow":
            slow.append(path)
            time.sleep(4)
        if path == "/count":
            start_response("200 OK", [])
            return [str(len(slow)).encode()]
        if path == "/upper":
            start_response("200 OK", [])
            return (part.upper() for part in iter(lambda: environ["wsgi.input"].read(1000), b""))
        names = ["REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "PATH_INFO", "REMOTE_PORT"]
        names += ["HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_FOR", "HTTP_UPGRADE"]
        text = repr({name: environ.get(name) for name in names}).encode()
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return environ["wsgi.file_wrapper"](io.BytesIO(text)) if path == "/file" else [text]
    return app

async def asgi(scope, receive, send):
    pass

class Asgi:
    async def __call__(self, scope, receive, send):
        pass

class Asgi2:
    def __init__(self, scope):
        pass
"""
# Like gunicorn and granian, it closes the connection after the response, even if the app has not read the request.
SERVER = """
import io, os, socket, sys, wsgiref.handlers, wsgiref.simple_server
import socketserver
sys.path.insert(0, os.environ["RELEASE"])
from flaskhost_app import application

class Body(io.RawIOBase):
    def __init__(self, stream, left):
        self.stream, self.left = stream, left

    def read(self, size=-1):
        data = self.stream.read(min(size, self.left) if size >= 0 else self.left)
        self.left -= len(data)
        return data

class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def address_string(self):
        return ""

    def log_message(self, *_):
        pass

    def parse_request(self):
        self.client_address = ("",)
        parsed = super().parse_request()
        self.rfile = Body(self.rfile, int(self.headers.get("Content-Length", 0)))
        return parsed

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    base_environ = {"SERVER_NAME": os.environ["SOCKET"], "SERVER_PORT": "", "GATEWAY_INTERFACE": "", "SCRIPT_NAME": ""}
    daemon_threads = True

    def get_app(self):
        return application

    server_name = ""

Server(os.environ["SOCKET"], Handler).serve_forever()
"""


@pytest.fixture
def app(rendered, tmp_path):
    """The app in the file that the role release writes, in a server on a Unix socket. Returns the answer to a request."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app/web.py").write_text(WEB)
    (tmp_path / "flaskhost_app.py").write_text(rendered["Debian13"]["app"])
    environment = {"RELEASE": str(tmp_path), "SOCKET": str(tmp_path / "wsgi.sock"), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=tmp_path / "app", env=environment)

    def request(data):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(environment["SOCKET"])
            connection.sendall(data)
            return connection.makefile("rb").read()

    request.socket = environment["SOCKET"]
    wait_until(lambda: os.path.exists(request.socket), process)
    yield request
    process.kill()
    process.wait()


def wait_until(condition, process):
    end = time.monotonic() + 10
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def seen(answer):
    """What the app saw of the request."""
    return eval(answer.partition(b"\r\n\r\n")[2])


FROM_NGINX = {
    "Host": "shop.test:8443",
    "X-Real-IP": "192.0.2.7",
    "X-Forwarded-For": "192.0.2.7",
    "X-Forwarded-Host": "shop.test:8443",
    "X-Forwarded-Port": "8443",
    "X-Forwarded-Proto": "https",
}


def raw(method, path, headers=FROM_NGINX, body=b""):
    lines = [f"{method} {path} HTTP/1.0", *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_an_app_without_proxyfix_sees_the_visitor_s_address(app):
    """Also with IPv6, and on each server's own idea of the client of a Unix socket (A10)."""
    assert seen(app(raw("GET", "/")))["REMOTE_ADDR"] == "192.0.2.7"
    assert seen(app(raw("GET", "/", FROM_NGINX | {"X-Real-IP": "2001:db8::7"})))["REMOTE_ADDR"] == "2001:db8::7"
    # as in a health check over the socket, or if nginx_app_headers removes X-Real-IP
    assert seen(app(raw("GET", "/", {"Host": "shop.test", "X-Forwarded-For": "192.0.2.8, 192.0.2.7"})))["REMOTE_ADDR"] == "192.0.2.7"
    found = seen(app(raw("GET", "/", {"Host": "shop.test"})))
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("", "http"), "without nginx, nothing is made up"


def test_an_app_with_its_own_proxyfix_sees_the_same(tmp_path, rendered, monkeypatch):
    """The wrapper leaves the headers that ProxyFix reads, and a wrong number of proxies changes nothing (A10)."""
    middleware = pytest.importorskip("werkzeug.middleware.proxy_fix")
    (tmp_path / "web.py").write_text(WEB)
    path = tmp_path / "flaskhost_app.py"
    path.write_text(rendered["Debian13"]["app"].replace("make('the shop')", "app"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    for proxies in (1, 2):
        answered = []

        def app(environ, _start, answered=answered):
            answered.append(dict(environ))
            return []

        web = types.ModuleType("web")
        web.app = middleware.ProxyFix(app, x_for=proxies, x_proto=proxies, x_host=proxies, x_port=proxies)
        monkeypatch.setitem(sys.modules, "web", web)
        application = runpy.run_path(str(path))["application"]
        headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in FROM_NGINX.items()}
        environ = {"REMOTE_ADDR": "", "wsgi.url_scheme": "http", "SERVER_NAME": "x", "SERVER_PORT": "0", **headers}
        application(environ, None)
        (found,) = answered
        assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"], found["HTTP_HOST"]) == ("192.0.2.7", "https", "shop.test:8443")
        assert (found["SERVER_NAME"], found["SERVER_PORT"]) == ("shop.test", "8443")


def test_the_scheme_and_the_port_are_the_visitor_s(app):
    """So that url_for(_external=True) is right with every server (B28)."""
    found = seen(app(raw("GET", "/a")))
    assert (found["wsgi.url_scheme"], found["SERVER_NAME"], found["SERVER_PORT"]) == ("https", "shop.test", "8443")
    found = seen(app(raw("GET", "/a", FROM_NGINX | {"X-Forwarded-Proto": "gopher"})))
    assert found["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize("size", [1000, 150_000, 5_000_000])
def test_an_upload_that_the_app_refuses_gets_the_app_s_answer(app, size):
    """The app does not read the body, and the server closes the connection. If the body were not read, the client would get a reset while it
    sends (B2)."""
    for _attempt in range(5):
        assert app(raw("POST", "/refuse", body=b"x" * size)).endswith(b"\r\n\r\nrefused")


def test_an_app_reads_the_request_while_it_sends_the_response(app):
    """The rest of the body is read only after the response (B2)."""
    assert app(raw("POST", "/upper", body=b"body" * 5000)).endswith(b"\r\n\r\n" + b"BODY" * 5000)
    # a response without a request body is passed unchanged: servers send files more efficiently
    assert seen(app(raw("GET", "/file")))["PATH_INFO"] == "/file"


@pytest.mark.parametrize("name", ["asgi", "Asgi()", "Asgi2"])
def test_an_asgi_app_is_not_wrapped(tmp_path, rendered, name):
    """uvicorn calls it with three arguments; it knows the forwarded headers itself (A10)."""
    (tmp_path / "web.py").write_text(WEB)
    (tmp_path / "flaskhost_app.py").write_text(rendered["Debian13"]["app"].replace("make('the shop')", name))
    script = "import flaskhost_app as f; print(f.application is f.source.__dict__.get('asgi'), type(f.application).__name__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == [str(name == "asgi"), {"asgi": "function", "Asgi()": "Asgi", "Asgi2": "type"}[name]], done.stderr


# -- nginx's configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [name + version for name, version in HOSTS])
def test_nginx_leaves_room_for_the_cookies_of_an_app(rendered, host):
    """A browser accepts 4 KB for each cookie (A3)."""
    site = rendered[host]["site"]
    size, count, each = (int(number) for number in re.search(r"proxy_buffer_size (\d+)k;\s+proxy_buffers (\d+) (\d+)k;", site).groups())
    assert size >= 6 * 4 + 4
    # nginx refuses to start otherwise: the default of proxy_busy_buffers_size is twice the larger one
    assert 2 * max(size, each) < (count - 1) * each


@pytest.mark.parametrize("host", [name + version for name, version in HOSTS])
def test_a_request_that_takes_too_long_is_not_repeated(rendered, host):
    """Neither by the upstream's other server, which is the previous release (B25)."""
    assert re.findall(r"proxy_next_upstream (.*);", rendered[host]["site"]) == ["error"]


@pytest.mark.parametrize("host", [name + version for name, version in HOSTS])
def test_without_ipv6_nginx_listens_on_ipv4_only(rendered, host):
    """With ipv6.disable=1, nginx does not start if it has to listen on [::] (B6)."""
    with_ipv6, without = rendered[host], rendered[f"{host}-ipv4"]
    for name, count in (("site", 2), ("nginx", 2)):
        assert len(re.findall(r"listen \[::\]:(?:80|443)(?: ssl)?(?: http2)?(?: default_server backlog=4096)?;", with_ipv6[name])) == count
        assert "[::]" not in without[name] and re.search(r"listen 443 ssl", without[name])


@pytest.mark.parametrize("host", [name + version for name, version in HOSTS])
def test_static_files_of_the_releases_before_and_after_the_live_one_are_served(rendered, host):
    assert "try_files /previous/public$uri /next/public$uri @app;" in rendered[host]["site"]


NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
with_nginx = pytest.mark.skipif(not NGINX, reason="this machine has no nginx")


@pytest.fixture(params=["Debian12", "Debian12-proxied"])
def nginx(request, rendered, app, tmp_path):
    """nginx with the roles' configuration in front of the app. Returns the answer to a request."""
    root, plain, secure = tmp_path / "srv", free_port(), free_port()
    for directory in ("releases/r1/public/static", "sites-enabled", "conf.d", "modules-enabled", "www/shop"):
        (root / directory).mkdir(parents=True)
    (root / "releases/r1/wsgi.sock").symlink_to(app.socket)
    (root / "releases/r1/public/static/.env").write_text("secret")
    (root / "releases/r1/public/static/a.css").write_text("a {}")
    (root / "live").symlink_to("releases/r1")
    (root / "www/shop/50x.html").touch()
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=shop.test"]
    subprocess.run([*command, "-keyout", root / "key", "-out", root / "chain"], check=True, capture_output=True)
    (root / "certificate.pem").write_text((root / "key").read_text() + (root / "chain").read_text())
    # a second site of the same nginx
    other = f"server {{ listen 127.0.0.1:{secure} ssl; server_name other.test; ssl_certificate {root}/certificate.pem; ssl_certificate_key {root}/certificate.pem; location / {{ return 200 other; }} }}"
    (root / "sites-enabled/other.conf").write_text(other)
    for name in ("nginx", "site"):
        text = re.sub(r" *listen \[::\].*\n", "", rendered[request.param][name])
        text = re.sub(r"listen 80\b", f"listen 127.0.0.1:{plain}", text)
        text = re.sub(r"listen 443\b", f"listen 127.0.0.1:{secure}", text).replace(rendered["root"], str(root))
        for old, new in (
            ("/etc/nginx/mime.types", "/dev/null"),
            ("/etc/nginx/", f"{root}/"),
            ("/run/nginx.pid", f"{root}/pid"),
            ("/var/log/nginx/", f"{root}/"),
            ("/var/www/", f"{root}/www/"),
        ):
            text = text.replace(old, new)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        text = text.replace("http {\n", "http {\n" + "".join(f"{kind}_temp_path {root}/{kind};\n" for kind in kinds))
        text = re.sub(r"(?m)^(user|worker_rlimit_nofile) .*\n|^ *brotli_static on;\n", "", text)
        (root / ("nginx.conf" if name == "nginx" else "sites-enabled/shop.conf")).write_text(text)
    process = subprocess.Popen(
        [NGINX, "-c", root / "nginx.conf", "-p", root, "-g", "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"]
    )
    wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", secure)), process)

    def get(path="/", method="GET", tls=True, source="127.0.0.9", **headers):
        """Send the request from this address: 127.0.0.0 to 127.0.0.3 are trusted in the configuration -proxied."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = socket.create_connection(("127.0.0.1", secure if tls else plain), 10, source_address=(source, 0))
        with context.wrap_socket(connection, server_hostname="shop.test") if tls else connection as stream:
            lines = [f"{name.replace('_', '-')}: {value}" for name, value in ({"Host": f"shop.test:{secure}"} | headers).items()]
            stream.sendall("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "Connection: close", "", ""]).encode())
            answer = http.client.HTTPResponse(stream, method=method)
            answer.begin()
            answer.text = answer.read()
            with contextlib.suppress(Exception):
                answer.seen = eval(answer.text)
            return answer

    get.port, get.root, get.proxied = secure, root, request.param.endswith("-proxied")
    yield get
    process.terminate()
    process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@with_nginx
def test_the_app_gets_the_port_of_the_host_header_but_not_a_name_of_another_site(nginx):
    """(B24)"""
    found = nginx(Host="shop.test:8443").seen
    assert found["HTTP_HOST"] == found["HTTP_X_FORWARDED_HOST"] == "shop.test:8443" and found["HTTP_X_FORWARDED_PORT"] == "8443"
    assert nginx(Host="WWW.Shop.test:8443").seen["HTTP_HOST"] == "www.shop.test:8443"
    assert (nginx(Host="shop.test").seen["HTTP_HOST"], nginx(Host="shop.test").seen["HTTP_X_FORWARDED_PORT"]) == ("shop.test", "443")
    # RFC 9112, section 3.2.2: a name in the request line outranks the header
    assert nginx("https://shop.test/", Host="evil.test:99").seen["HTTP_HOST"] == "shop.test"
    assert nginx("https://shop.test/", Host="evil.test\tshop.test:99").status in (200, 400)
    for value in ("shop.test:x", "shop.test:8443:1", "shop.test:", "shop.test:999999"):
        answer = nginx(Host=value)
        assert answer.status == 400 or answer.seen["HTTP_HOST"] == "shop.test", value


@with_nginx
def test_large_cookies_and_long_urls_reach_the_visitor_and_the_app(nginx):
    """Browsers accept cookies of 4 KB (A3, B21)."""
    answer = nginx("/cookies")
    assert (answer.status, len(answer.headers.get_all("Set-Cookie"))) == (200, 6)
    assert nginx("/x?q=" + "x" * 4200).seen["PATH_INFO"] == "/x" and nginx("/x?q=" + "x" * 9000).status == 414


@with_nginx
def test_a_slow_response_is_504_and_the_previous_release_gets_no_request(nginx):
    """Both links lead to the same app here, so a second attempt would be counted (B25)."""
    (nginx.root / "previous").symlink_to("releases/r1")
    assert (nginx("/slow").status, nginx("/count").text) == (504, b"1")


@with_nginx
def test_the_scheme_of_a_balancer_counts_only_if_it_is_trusted(nginx):
    """(B23)"""
    for value, trusted in (
        ("https", True),
        ("HTTPS", True),
        ("http, https", True),
        ("https, http", False),
        ("http", False),
        ("xhttps", False),
    ):
        for source in ("127.0.0.2", "127.0.0.9"):
            answer = nginx("/x?y=1", tls=False, source=source, X_Forwarded_Proto=value, X_Forwarded_For="192.0.2.1")
            if trusted and nginx.proxied and source == "127.0.0.2":
                assert (answer.status, answer.seen["wsgi.url_scheme"], answer.seen["REMOTE_ADDR"]) == (200, "https", "192.0.2.1"), value
                assert answer.getheader("Strict-Transport-Security") == "max-age=100"
            else:
                assert (answer.status, answer.getheader("Location")) == (301, "https://shop.test/x?y=1"), (value, source)
                assert answer.getheader("Strict-Transport-Security") is None
    found = nginx(source="127.0.0.9", X_Forwarded_Proto="http", X_Forwarded_For="192.0.2.1").seen
    assert (found["wsgi.url_scheme"], found["REMOTE_ADDR"]) == ("https", "127.0.0.9")
    assert nginx("/.well-known/acme-challenge/x", tls=False).status == 404


@with_nginx
def test_the_release_proves_its_identity_to_this_host_only(nginx):
    """(B4)"""
    check = {"X_Flaskhost_Check": "release"}
    release = os.path.realpath(nginx.root / "releases/r1")
    assert nginx("/healthz", source="127.0.0.1", **check).getheader("X-Flaskhost-Release") == release
    for answer in (
        nginx("/healthz", **check),
        nginx("/healthz", source="127.0.0.1"),
        nginx("/healthz", source="127.0.0.1", Host="other.test", **check),
    ):
        assert answer.getheader("X-Flaskhost-Release") is None
    health = plugin("module_utils/health")
    params = {"app": "shop", "path": "/healthz", "host": "shop.test", "port": nginx.port, "answer_seconds": 5}
    assert health.Page(params, release=str(nginx.root / "live")).probe() == ""
    stranger = health.Page(params | {"host": "other.test"}, release=str(nginx.root / "live")).probe()
    assert "is not answered by this release, but by another site or program (Server: nginx" in stranger
    (nginx.root / "previous").symlink_to("releases/r0")
    assert "the site in " in health.Page(params, release=str(nginx.root / "previous")).probe()


@with_nginx
def test_only_websockets_are_upgraded_and_hidden_files_stay_hidden(nginx):
    """(B15, S17, S21, S22)"""
    assert nginx(Upgrade="h2c").seen["HTTP_UPGRADE"] is None
    assert [nginx(f"/static/{name}").status for name in ("a.css", ".env", "x/.git/config")] == [200, 404, 404]
    assert nginx("/tag/.net").seen["PATH_INFO"] == "/tag/.net"
    assert nginx(X_Forwarded_Host="evil.test", X_Forwarded_Port="1").seen["HTTP_X_FORWARDED_PORT"] == str(nginx.port)
