"""Who comes in, by which door, and who doesn't."""

import pytest
from sites import DOMAIN

ASK = "curl --silent --show-error --insecure --max-time 5 --output /dev/null --write-out '%{{http_code}} %{{redirect_url}}' "


def curl(client, site, url, name=DOMAIN, options=""):
    done = client.run(f"{ASK.format()} {options} --resolve {name}:80:{site.address} --resolve {name}:443:{site.address} {url}")
    return done.stdout.split() if done.rc == 0 else f"curl exit {done.rc}"


@pytest.fixture(scope="module", autouse=True)
def tools(client):
    if not client.exists("curl"):
        client.check_output("apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq curl")


def test_the_site_answers_over_https(site, client):
    assert curl(client, site, f"https://{DOMAIN}/") == ["200"]


def test_http_leads_to_https(site, client):
    assert curl(client, site, f"http://{DOMAIN}/path?x=1") == ["301", f"https://{DOMAIN}/path?x=1"]


def test_an_unknown_name_gets_nothing(site, client):
    # 52: closed without an answer; 35: no TLS handshake
    assert curl(client, site, "http://other.test/", name="other.test") == "curl exit 52"
    assert curl(client, site, "https://other.test/", name="other.test") == "curl exit 35"


@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_a_known_name_does_not_open_another(site, client, version):
    # the connection is closed without an answer; over HTTP/2, nginx 1.26 says that this is the wrong door
    answer = curl(client, site, f"https://{DOMAIN}/", options=f"{version} -H 'Host: other.test'")
    assert answer in ("curl exit 52", "curl exit 56", "curl exit 92", ["421"])


def test_only_ssh_and_the_web_can_be_reached(site, client):
    # a service that listens on all addresses, as an owner might start one
    site.host.check_output("systemd-run --unit=stray-listener --collect python3 -m http.server 9000")
    try:
        site.host.check_output("for i in $(seq 50); do ss -Hltn 'sport = :9000' | grep -q . && exit 0; sleep 0.1; done; exit 1")
        scan = f"""
import concurrent.futures, socket
def reach(port):
    with socket.socket() as attempt:
        attempt.settimeout(0.5)
        return port if attempt.connect_ex(("{site.address}", port)) == 0 else None
with concurrent.futures.ThreadPoolExecutor(128) as pool:
    print(*filter(None, pool.map(reach, [*range(1, 1025), 3306, 5000, 5432, 6379, 8000, 8080, 9000])))
"""
        assert client.check_output("python3 -c %s", scan).split() == ["22", "80", "443"]
    finally:
        site.host.run("systemctl stop stray-listener")


def test_a_blocked_address_is_shut_out(site, client):
    client.run("ip address add 10.207.0.66/24 dev eth0")
    try:
        assert curl(client, site, f"https://{DOMAIN}/", options="--interface 10.207.0.66") == "curl exit 28"
        assert curl(client, site, f"https://{DOMAIN}/", options="--interface 10.207.0.99") == ["200"]
    finally:
        client.run("ip address del 10.207.0.66/24 dev eth0")


def test_blocked_networks_come_before_all_else(site):
    for path, block in ("user.rules", "198.51.100.0/24"), ("user6.rules", "2001:db8:bad::/48"):
        rules = site.host.check_output(f"grep '^### tuple' /etc/ufw/{path}")
        assert rules.index(block) < rules.index(" allow ")


def test_passwords_open_nothing(site):
    settings = site.host.check_output("sshd -T")
    assert "passwordauthentication no" in settings
    assert "permitrootlogin without-password" in settings


def test_hidden_files_are_not_served(site):
    assert site.get("/.env")[0] == 404
    assert site.get("/static/.hidden")[0] == 404


def test_static_files_come_from_nginx_and_may_be_kept(site):
    status, headers = site.get("/static/style.css", "--head")
    assert status == 200
    assert "cache-control: max-age=3600" in headers
    assert "etag:" in headers


def test_text_is_compressed(site):
    assert "content-encoding: gzip" in site.get("/static/style.css", "--head", "--header", "Accept-Encoding: gzip")[1]
    assert "content-encoding: br" in site.get("/static/style.css", "--head", "--header", "Accept-Encoding: gzip, br")[1]


def test_the_app_sees_the_real_address_and_no_forged_one(site):
    page = site.get("/", "--header", "X-Forwarded-For: 192.0.2.1")[1]
    assert "10.207.0.1<" in page
    assert "192.0.2.1" not in page


def test_a_body_over_the_limit_is_refused(site, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(b"x" * (17 * 2**20))
    assert site.get("/entries", "--header", "Expect:", "--form", f"text=@{big}")[0] == 413
