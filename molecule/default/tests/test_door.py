"""Who comes in, by which door, and who doesn't."""

import re

import pytest
from sites import DOMAIN

ASK = "curl --silent --show-error --insecure --max-time 5 --output /dev/null --write-out '%{{http_code}} %{{redirect_url}}' "


def curl(client, site, url, name=DOMAIN, options=""):
    done = client.run(f"{ASK.format()} {options} --resolve {name}:80:{site.address} --resolve {name}:443:{site.address} {url}")
    return done.stdout.split() if done.rc == 0 else f"curl exit {done.rc}"


@pytest.fixture(scope="module", autouse=True)
def tools(client):
    # the tests of the other host may install it at the same time
    install = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq curl"
    client.check_output(f"flock /run/tools sh -c 'command -v curl || ({install})'")


def test_the_site_answers_over_https(site, client):
    assert curl(client, site, f"https://{DOMAIN}/") == ["200"]


def test_http_leads_to_https(site, client):
    assert curl(client, site, f"http://{DOMAIN}/path?x=1") == ["301", f"https://{DOMAIN}/path?x=1"]


def test_an_unknown_name_gets_nothing(site, client):
    # 52, 56 and, over HTTP/2, 92: closed without an answer; 35: no TLS handshake, which Ubuntu 22.04's nginx can't refuse
    assert curl(client, site, "http://other.test/", name="other.test") in ("curl exit 52", "curl exit 56")
    refused = "curl exit 92" if "1.18." in site.host.run("nginx -v").stderr else "curl exit 35"
    assert curl(client, site, "https://other.test/", name="other.test") == refused


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


@pytest.fixture
def as_before(site):
    """A test that sets the host up otherwise must not spoil the next."""
    yield
    run = site.play("playbooks/provision.yml")
    assert run.ok, run.output


def lists(site):
    return site.host.check_output("nft --stateless list table inet flaskhost")


def test_lists_that_were_flushed_by_hand_are_back_after_the_next_run(site):
    before = lists(site)
    for network in "10.207.0.66", "198.51.100.0/24", "2001:db8:bad::/48":
        assert network in before
    site.host.check_output("nft delete table inet flaskhost")
    assert site.play("playbooks/doctor.yml").tells("its lists are not loaded: nobody is blocked")
    run = site.play("playbooks/provision.yml")
    assert run.ok and run.changed == 1, run.output
    assert "198.51.100.0/24" in lists(site)


def test_hundreds_of_addresses_are_blocked_in_seconds_and_a_rerun_changes_nothing(site, as_before, tmp_path):
    file = tmp_path / "blocked.txt"
    file.write_text("".join(f"198.18.{n}.0/25\n2001:db8:{n:x}::/64 # and v6\n" for n in range(250)))
    run = site.play("playbooks/provision.yml", ufw_blocked=[str(file)])
    again = site.play("playbooks/provision.yml", ufw_blocked=[str(file)])
    assert run.ok and again.ok and (run.changed, again.changed) == (2, 0), run.output
    assert run.seconds < again.seconds + 10
    assert "198.18.249.0/25" in lists(site) and "2001:db8:f9::/64" in lists(site)


@pytest.mark.parametrize(
    ("playbook", "settings", "words"),
    [
        ("deploy.yml", {"ufw_blocked": ["10.207.0.0/24"], "ufw_allowed": []}, "ufw_blocked has 10.207.0.0/24. Take it out"),
        (
            "playbooks/provision.yml",
            {"ufw_ssh_from": "allowed", "ufw_allowed": ["192.0.2.1"]},
            "ufw_allowed, which has no such address. Add it there",
        ),
    ],
)
def test_nobody_locks_himself_out(site, playbook, settings, words):
    before = lists(site)
    run = site.play(playbook, **settings)
    assert not run.ok and run.tells("You come from 10.207.0.1", words, "Nothing was changed."), run.output
    assert lists(site) == before


def test_behind_a_cdn_only_the_cdn_comes_in_and_says_for_whom(site, client, as_before):
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
        # the tests' own address is allowed, but no proxy: what it says of others is not believed
        assert "10.207.0.1<" in site.get("/", "--header", "X-Forwarded-For: 192.0.2.1")[1]
        assert site.play("playbooks/provision.yml", **settings).changed == 0
    finally:
        client.run("ip address del 10.207.0.77/24 dev eth0")


def test_who_asks_too_much_is_told_to_wait_and_others_are_not(site, client, as_before):
    run = site.play("playbooks/provision.yml", nginx_requests_per_second=2, nginx_requests_burst=10)
    assert run.ok, run.output
    many = f"curl --silent --insecure --resolve {DOMAIN}:443:{site.address} --write-out '%{{http_code}}\\n' --output /dev/null"
    statuses = client.check_output(f"{many} 'https://{DOMAIN}/?[1-60]'").split()
    assert set(statuses) == {"200", "429"} and statuses[:11] == ["200"] * 11, statuses
    headers = client.check_output(f"{many} --dump-header - 'https://{DOMAIN}/?[1-20]'").lower()
    assert "retry-after: 1" in headers
    # files that nginx serves itself don't count, nor do the owner's own requests
    static = client.check_output(f"{many} 'https://{DOMAIN}/static/style.css?[1-60]'").split()
    assert set(static) == {"200"}
    assert [site.get("/")[0] for _ in range(20)] == [200] * 20
    # the health page has a count of its own, which the owner's checks are free of, too
    checks = client.check_output(f"{many} 'https://{DOMAIN}/healthz?[1-60]'").split()
    assert set(checks) == {"200", "429"} and checks.count("429") > 40, checks
    assert [site.get("/healthz")[0] for _ in range(20)] == [200] * 20


def test_who_knocks_at_ssh_again_and_again_waits(site, client):
    knock = f"""
import socket
done = 0
for _ in range(45):
    with socket.socket() as attempt:
        attempt.settimeout(0.3)
        done += attempt.connect_ex(("{site.address}", 22)) == 0
print(done)
"""
    assert 30 <= int(client.check_output("python3 -c %s", knock)) <= 40
    assert site.play("playbooks/status.yml").ok


def test_passwords_open_nothing(site):
    settings = site.host.check_output("sshd -T")
    assert "passwordauthentication no" in settings
    # its name for that changed with OpenSSH 10.1
    assert re.search(r"^permitrootlogin (without|prohibit)-password$", settings, re.MULTILINE)


def test_every_answer_has_the_headers_that_keep_browsers_safe(site):
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
    # a name that begins so is an app's to answer elsewhere: its own headers come with its 404
    assert "content-security-policy: default-src 'none'" in site.get("/tag/.net", "--head")[1].lower()


def test_static_files_come_from_nginx_and_may_be_kept(site):
    status, headers = site.get("/static/style.css", "--head")
    assert status == 200
    assert "cache-control: max-age=3600" in headers
    assert "etag:" in headers


def test_text_is_compressed(site):
    assert "content-encoding: gzip" in site.get("/static/style.css", "--head", "--header", "Accept-Encoding: gzip")[1]
    # Ubuntu 22.04 has no module for it
    best = "br" if site.host.package("libnginx-mod-http-brotli-static").is_installed else "gzip"
    assert f"content-encoding: {best}" in site.get("/static/style.css", "--head", "--header", "Accept-Encoding: gzip, br")[1]


def test_the_app_sees_the_real_address_and_no_forged_one(site):
    page = site.get("/", "--header", "X-Forwarded-For: 192.0.2.1")[1]
    assert "10.207.0.1<" in page
    assert "192.0.2.1" not in page


def test_a_body_over_the_limit_is_refused(site, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(b"x" * (17 * 2**20))
    assert site.get("/entries", "--header", "Expect:", "--form", f"text=@{big}")[0] == 413
