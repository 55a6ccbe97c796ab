"""Which connections and requests the host accepts, and which it rejects."""

import re

import pytest
from sites import DOMAIN

CURL = "curl --silent --show-error --insecure --max-time 5 --output /dev/null --write-out '%{{http_code}} %{{redirect_url}}' "


def curl(client, site, url, name=DOMAIN, options=""):
    result = client.run(f"{CURL.format()} {options} --resolve {name}:80:{site.address} --resolve {name}:443:{site.address} {url}")
    return result.stdout.split() if result.rc == 0 else f"curl exit {result.rc}"


@pytest.fixture(scope="module", autouse=True)
def tools(client):
    # the tests of the other host run in parallel and also install curl
    install = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq curl"
    client.check_output(f"flock /run/tools sh -c 'command -v curl || ({install})'")


def test_the_site_answers_over_https(site, client):
    assert curl(client, site, f"https://{DOMAIN}/") == ["200"]


def test_http_redirects_to_https(site, client):
    assert curl(client, site, f"http://{DOMAIN}/path?x=1") == ["301", f"https://{DOMAIN}/path?x=1"]


def test_an_unknown_name_gets_no_response(site, client):
    # 52, 56 and, over HTTP/2, 92: nginx closes the connection without a response; 35: nginx rejects the TLS handshake, which the nginx of
    # Ubuntu 22.04 can't do
    assert curl(client, site, "http://other.test/", name="other.test") in ("curl exit 52", "curl exit 56")
    rejected = "curl exit 92" if "1.18." in site.host.run("nginx -v").stderr else "curl exit 35"
    assert curl(client, site, "https://other.test/", name="other.test") == rejected


@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_a_host_header_that_differs_from_the_tls_name_is_rejected(site, client, version):
    # nginx closes the connection without a response; over HTTP/2, nginx 1.26 responds with 421 (Misdirected Request)
    answer = curl(client, site, f"https://{DOMAIN}/", options=f"{version} -H 'Host: other.test'")
    assert answer in ("curl exit 52", "curl exit 56", "curl exit 92", ["421"])


def test_only_the_ports_of_ssh_and_the_web_are_open(site, client):
    # an operator might start such a service, which listens on all addresses
    site.host.check_output("systemd-run --unit=stray-listener --collect python3 -m http.server 9000")
    try:
        site.host.check_output("for i in $(seq 50); do ss -Hltn 'sport = :9000' | grep -q . && exit 0; sleep 0.1; done; exit 1")
        scan = f"""
import concurrent.futures, socket
def probe(port):
    with socket.socket() as attempt:
        attempt.settimeout(0.5)
        return port if attempt.connect_ex(("{site.address}", port)) == 0 else None
with concurrent.futures.ThreadPoolExecutor(128) as pool:
    print(*filter(None, pool.map(probe, [*range(1, 1025), 3306, 5000, 5432, 6379, 8000, 8080, 9000])))
"""
        assert client.check_output("python3 -c %s", scan).split() == ["22", "80", "443"]
    finally:
        site.host.run("systemctl stop stray-listener")


def test_a_blocked_address_can_not_connect(site, client):
    client.run("ip address add 10.207.0.66/24 dev eth0")
    try:
        assert curl(client, site, f"https://{DOMAIN}/", options="--interface 10.207.0.66") == "curl exit 28"
        assert curl(client, site, f"https://{DOMAIN}/", options="--interface 10.207.0.99") == ["200"]
    finally:
        client.run("ip address del 10.207.0.66/24 dev eth0")


@pytest.fixture
def restored_afterwards(site):
    """Restore the host's settings for the next test."""
    yield
    run = site.play("playbooks/provision.yml")
    assert run.ok, run.output


def blocked_addresses(site):
    return site.host.check_output("nft --stateless list table inet flaskhost")


def test_the_next_run_restores_lists_that_were_flushed(site):
    before = blocked_addresses(site)
    for network in "10.207.0.66", "198.51.100.0/24", "2001:db8:bad::/48":
        assert network in before
    site.host.check_output("nft delete table inet flaskhost")
    assert site.play("playbooks/doctor.yml").reports("its address lists are not loaded: no address is blocked")
    run = site.play("playbooks/provision.yml")
    assert run.ok and run.changed == 1, run.output
    assert "198.51.100.0/24" in blocked_addresses(site)


def test_hundreds_of_addresses_are_blocked_in_seconds_and_a_rerun_changes_nothing(site, restored_afterwards, tmp_path):
    file = tmp_path / "blocked.txt"
    file.write_text("".join(f"198.18.{n}.0/25\n2001:db8:{n:x}::/64 # and v6\n" for n in range(250)))
    run = site.play("playbooks/provision.yml", ufw_blocked=[str(file)])
    again = site.play("playbooks/provision.yml", ufw_blocked=[str(file)])
    assert run.ok and again.ok and (run.changed, again.changed) == (2, 0), run.output
    assert run.seconds < again.seconds + 10
    assert "198.18.249.0/25" in blocked_addresses(site) and "2001:db8:f9::/64" in blocked_addresses(site)


@pytest.mark.parametrize(
    ("playbook", "settings", "message"),
    [
        ("deploy.yml", {"ufw_blocked": ["10.207.0.0/24"], "ufw_allowed": []}, "ufw_blocked contains 10.207.0.0/24. Remove that entry."),
        (
            "playbooks/provision.yml",
            {"ufw_ssh_from": "allowed", "ufw_allowed": ["192.0.2.1"]},
            "ufw_allowed, which does not contain this address. Add it to ufw_allowed.",
        ),
    ],
)
def test_settings_that_would_lock_the_operator_out_are_rejected(site, playbook, settings, message):
    before = blocked_addresses(site)
    run = site.play(playbook, **settings)
    assert not run.ok and run.reports("You connect from 10.207.0.1", message, "Nothing was changed."), run.output
    assert blocked_addresses(site) == before


def test_behind_a_cdn_only_the_cdn_can_connect_and_set_the_client_address(site, client, restored_afterwards):
    settings = {"ufw_web_from": "proxies", "nginx_trusted_proxies": ["10.207.0.77"]}
    client.run("ip address add 10.207.0.77/24 dev eth0")
    try:
        run = site.play("playbooks/provision.yml", **settings)
        assert run.ok, run.output
        assert curl(client, site, f"https://{DOMAIN}/", options="--interface 10.207.0.99") == "curl exit 28"
        assert curl(client, site, f"https://{DOMAIN}/", options="--interface 10.207.0.77") == ["200"]
        page = (
            f"curl --silent --insecure --interface 10.207.0.77 --header 'X-Forwarded-For: 192.0.2.1' --resolve {DOMAIN}:443:{site.address}"
        )
        assert "192.0.2.1<" in client.check_output(f"{page} https://{DOMAIN}/")
        # the tests' own address is allowed but is not a trusted proxy, so nginx ignores its X-Forwarded-For
        assert "10.207.0.1<" in site.get("/", "--header", "X-Forwarded-For: 192.0.2.1")[1]
        assert site.play("playbooks/provision.yml", **settings).changed == 0
    finally:
        client.run("ip address del 10.207.0.77/24 dev eth0")


def test_requests_over_the_limit_get_429_and_other_clients_are_not_limited(site, client, restored_afterwards):
    run = site.play("playbooks/provision.yml", nginx_requests_per_second=2, nginx_requests_burst=10)
    assert run.ok, run.output
    many = f"curl --silent --insecure --resolve {DOMAIN}:443:{site.address} --write-out '%{{http_code}}\\n' --output /dev/null"
    statuses = client.check_output(f"{many} 'https://{DOMAIN}/?[1-60]'").split()
    assert set(statuses) == {"200", "429"} and statuses[:11] == ["200"] * 11, statuses
    headers = client.check_output(f"{many} --dump-header - 'https://{DOMAIN}/?[1-20]'").lower()
    assert "retry-after: 1" in headers
    # the limit applies neither to static files nor to allowed addresses
    static = client.check_output(f"{many} 'https://{DOMAIN}/static/style.css?[1-60]'").split()
    assert set(static) == {"200"}
    assert [site.get("/")[0] for _ in range(20)] == [200] * 20
    # the health page has its own limit, which doesn't apply to allowed addresses either
    checks = client.check_output(f"{many} 'https://{DOMAIN}/healthz?[1-60]'").split()
    assert set(checks) == {"200", "429"} and checks.count("429") > 40, checks
    assert [site.get("/healthz")[0] for _ in range(20)] == [200] * 20


def test_ssh_connections_are_rate_limited(site, client):
    connect_often = f"""
import socket
done = 0
for _ in range(45):
    with socket.socket() as attempt:
        attempt.settimeout(0.3)
        done += attempt.connect_ex(("{site.address}", 22)) == 0
print(done)
"""
    assert 30 <= int(client.check_output("python3 -c %s", connect_often)) <= 40
    assert site.play("playbooks/status.yml").ok


def test_logins_with_a_password_are_disabled(site):
    settings = site.host.check_output("sshd -T")
    assert "passwordauthentication no" in settings
    # OpenSSH 10.1 renamed this value
    assert re.search(r"^permitrootlogin (without|prohibit)-password$", settings, re.MULTILINE)


def test_every_response_has_the_security_headers(site):
    for path in "/", "/static/style.css", "/nowhere":
        headers = site.get(path, "--head")[1].lower()
        policy = (
            "content-security-policy: base-uri 'self'" if path.startswith("/static/") else "content-security-policy: default-src 'none'"
        )
        for header in policy, "x-content-type-options: nosniff", "x-frame-options: sameorigin":
            assert header in headers, (path, header)
        assert "server: nginx\n" in headers and "x-powered-by" not in headers


def test_hidden_files_are_not_served(site):
    assert site.get("/.env")[0] == 404
    assert site.get("/static/.hidden")[0] == 404
    # outside of the static files, nginx passes such names to the app, whose 404 has the app's own headers
    assert "content-security-policy: default-src 'none'" in site.get("/tag/.net", "--head")[1].lower()


def test_nginx_serves_static_files_and_allows_caching(site):
    status, headers = site.get("/static/style.css", "--head")
    assert status == 200
    assert "cache-control: max-age=3600" in headers
    assert "etag:" in headers


def test_text_is_compressed(site):
    assert "content-encoding: gzip" in site.get("/static/style.css", "--head", "--header", "Accept-Encoding: gzip")[1]
    # Ubuntu 22.04 does not package the brotli module
    best = "br" if site.host.package("libnginx-mod-http-brotli-static").is_installed else "gzip"
    assert f"content-encoding: {best}" in site.get("/static/style.css", "--head", "--header", "Accept-Encoding: gzip, br")[1]


def test_the_app_gets_the_real_client_address_and_no_forged_one(site):
    page = site.get("/", "--header", "X-Forwarded-For: 192.0.2.1")[1]
    assert "10.207.0.1<" in page
    assert "192.0.2.1" not in page


def test_a_body_over_the_limit_is_rejected(site, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(b"x" * (17 * 2**20))
    assert site.get("/entries", "--header", "Expect:", "--form", f"text=@{big}")[0] == 413
