"""The hardening files as rendered for every distribution, and the checks that keep an operator from locking themselves out."""

import re

import pytest
import yaml
from conftest import LOCAL, PROJECT, evaluate, role_settings, run_playbook

DISTRIBUTIONS = [("Ubuntu", "22.04"), ("Ubuntu", "24.04"), ("Ubuntu", "26.04"), ("Debian", "12"), ("Debian", "13")]
HOSTS = [f"{name}{version}" for name, version in DISTRIBUTIONS]
APP = {
    "app_name": "shop",
    "app_domains": ["shop.example"],
    "app_root": "/srv/shop",
    "app_health_path": "/healthz",
    "app_static": {"/assets/": "shop/assets"},
    # renders the unit of the server, not of a worker
    "process": "",
}
# custom settings, in contrast to the defaults
OWN = {
    "ufw_blocked": ["203.0.113.7", "2001:db8:bad::/48"],
    "ufw_allowed": ["192.0.2.0/24", "2001:db8::7"],
    "ufw_web_from": "proxies",
    "nginx_trusted_proxies": ["198.51.100.0/24"],
    "nginx_headers": {"Referrer-Policy": "", "X-Frame-Options": "DENY", "X-Own": 'a "b"'},
    "nginx_requests_per_second": 0,
    "nginx_connections": 0,
    "ssh_options": {"AllowTcpForwarding": "no", "LogLevel": "", "UsePAM": "yes", "DenyGroups": "guests"},
    "ssh_post_quantum_only": True,
    "nginx_app_headers": {"X-Forwarded-User": "$http_x_forwarded_user", "X-Real-IP": ""},
    "hardening_off": ["sudo", "core_dumps"],
    "hardening_sysctl": {"net.ipv4.tcp_rfc1337": "", "vm.swappiness": 10},
    "systemd_apparmor": "enforce",
    "systemd_writable": ["/data/shop"],
    "base_reboot_time": "04:30",
}
FILES = {
    "nginx": ["site.conf", "nginx.conf"],
    "ufw": ["flaskhost.nft"],
    "ssh": ["sshd.conf"],
    "base": ["apt.conf"],
    "systemd": ["app.service", "apparmor"],
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Every file, rendered for every distribution with the defaults, with custom settings (HOST-own) and with Let's Encrypt (HOST-acme)."""
    directory = tmp_path_factory.mktemp("hardening")
    (directory / "templates").symlink_to(PROJECT / "templates")
    hosts = {}
    for name, version in DISTRIBUTIONS:
        facts = {"distribution": name, "distribution_version": version, "distribution_major_version": version.split(".")[0]}
        facts["env"] = {"SSH_CONNECTION": "192.0.2.9 40000 10.0.0.5 22"}
        hosts[f"{name}{version}"] = {"facts": facts}
        hosts[f"{name}{version}-own"] = {"facts": facts, **OWN}
        hosts[f"{name}{version}-acme"] = {"facts": facts, "tls_source": "letsencrypt"}
    hosts["Debian13-balanced"] = {"facts": hosts["Debian13"]["facts"], "nginx_trusted_proxies": ["198.51.100.0/24"]}
    settings = role_settings("app", "hardening", *FILES) | LOCAL | APP
    contents = {
        name: f"{{{{ lookup('ansible.builtin.template', '{PROJECT}/roles/{role}/templates/{name}.j2') }}}}"
        for role, names in FILES.items()
        for name in names
    }
    contents["hardening"] = "{{ {'files': __hardening_files, 'sysctl': __hardening_sysctl} }}"
    found = evaluate(directory, [{"ansible.builtin.set_fact": {"ansible_facts": "{{ facts }}"}}], contents, hosts, settings=settings)
    return lambda host, name: found[host][name]


# -- nginx --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_every_security_header_is_added_unless_the_app_sends_it(rendered, host):
    site = rendered(host, "site.conf")
    sent = dict(re.findall(r"add_header (\S+) (\S+) always;", site))
    assert {"Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Retry-After"} <= set(sent)
    for header in set(sent) - {"Retry-After", "X-Flaskhost-Release"}:
        key = header.lower().replace("-", "_")
        # if the app sends the header, nginx adds an empty one, i.e. none
        assert re.search(rf"map \$upstream_http_{key} \$shop_{key} {{\n    default '';\n    '' \".+\";\n}}", site), header
    # the default policy does not restrict scripts and styles, so that existing apps keep working
    assert not re.search(r"(default|script|style)-src", re.search(r"\$shop_content_security_policy {.*?}", site, re.DOTALL)[0])


def test_custom_headers_replace_the_role_s(rendered):
    site = rendered("Debian13-own", "site.conf")
    assert "Referrer-Policy" not in site
    assert "'' \"DENY\";" in site and r"'' " r'"a \"b\"";' in site and "add_header X-Own $shop_x_own always;" in site


@pytest.mark.parametrize("host", HOSTS)
def test_request_limits_apply_to_the_app_and_not_to_static_files(rendered, host):
    site = rendered(host, "site.conf")
    assert "limit_req_zone $shop_visitor zone=shop_requests:10m rate=50r/s;" in site
    assert site.count("limit_req zone=shop_requests burst=500 nodelay;") == 2
    assert "limit_req" not in re.search(r"location \^~ /assets/ {.*?}", site, re.DOTALL)[0]
    # loopback addresses are limited too, because the host's other apps can use them
    assert "127." not in re.search(r"geo \$shop_limited {.*?}", site, re.DOTALL)[0]
    assert "limit_req_status 429;" in rendered(host, "nginx.conf")
    assert ("proxy_cookie_flags ~ secure;" in site) is (host != "Ubuntu22.04")


@pytest.mark.parametrize("host", HOSTS)
def test_the_health_page_has_a_separate_limit(rendered, host):
    """With a shared limit, a monitoring service would report the site as down while visitors from the same address browse it. (S16)"""
    site = rendered(host, "site.conf")
    health = re.search(r"location = /healthz {.*?}", site, re.DOTALL)[0]
    assert "limit_req zone=shop_health burst=50 nodelay;" in health
    assert "limit_req_zone $shop_checker zone=shop_health:1m rate=50r/s;" in site
    # addresses exempt from the other limit are exempt from this one, too
    assert re.search(r"map \$shop_proxy \$shop_checker {\n    default \$shop_visitor;\n    1 '';\n}", site)


def test_health_checks_by_a_trusted_proxy_are_not_limited(rendered):
    site = rendered("Debian13-balanced", "site.conf")
    assert "geo $shop_proxy {\n    default 0;\n    198.51.100.0/24 1;\n}" in site
    assert "1 '';" not in re.search(r"map \$shop_limited .*?}", site, re.DOTALL)[0], "visitors behind the proxy are limited for other pages"


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_can_upgrade_to_websocket_only(rendered, host):
    """(S17)"""
    general, site = rendered(host, "nginx.conf"), rendered(host, "site.conf")
    (pattern,) = re.findall(r'"~\*(.*)" websocket;', general)
    for accepted in "HTTP/1.1 GET websocket", "HTTP/1.1 GET WebSocket":
        assert re.search(pattern, accepted, re.IGNORECASE)
    for other in (
        *("HTTP/1.1 GET h2c", "HTTP/1.1 GET TLS/1.0", "HTTP/1.1 GET websocket, h2c", "HTTP/1.1 GET h2c, websocket", "HTTP/1.1 GET "),
        *("HTTP/1.1 POST websocket", "HTTP/1.0 GET websocket", "HTTP/2.0 GET websocket", "HTTP/1x1 GET websocket"),
    ):
        assert not re.search(pattern, other, re.IGNORECASE), other
    assert {"Upgrade": '"$app_upgrade"', "Connection": '"$connection_upgrade"'}.items() <= app_headers(site).items()
    assert "$http_upgrade" not in site and "$http_connection" not in site


def app_headers(site):
    """The headers of each request to the app, by name. They are set at server level, which all locations inherit."""
    found = re.findall(r"^ *proxy_set_header (\S+) (.*);$", site, re.MULTILINE)
    assert len(found) == len({name.lower() for name, _ in found}), "a header is set twice"
    assert all(line.startswith("    proxy_set_header") for line in site.splitlines() if line.strip().startswith("proxy_set_header"))
    return dict(found)


# headers that Werkzeug, gunicorn, waitress, mod_wsgi and others trust if they come from a proxy
TRUSTED_HEADERS = """Forwarded X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Port X-Forwarded-Prefix X-Forwarded-By X-Forwarded-Server
X-Forwarded-SSL X-Forwarded-Scheme X-Forwarded-Protocol X-Forwarded-HTTPS X-Forwarded-Path X-Forwarded-URI X-Forwarded-Method
X-Forwarded-Script-Name X-Script-Name Script-Name Path-Info X-Original-URL X-Original-URI X-Rewrite-URL X-Original-Host X-Original-Method X-Host
X-Scheme X-URL-Scheme X-HTTPS Front-End-Https X-Real-IP True-Client-IP CF-Connecting-IP CF-Visitor X-Client-IP Client-IP X-Cluster-Client-IP
Fastly-Client-IP X-Remote-IP X-Remote-Addr Remote-Addr X-Originating-IP Forwarded-For X-Forwarded Proxy Remote-User X-Remote-User
X-Forwarded-User X-Forwarded-Email X-Forwarded-Groups X-Auth-Request-User X-WebAuth-User X-Forwarded-Client-Cert SSL-Client-Verify
X-SSL-Client-Cert X-Sendfile-Type X-Accel-Mapping TE Trailer Keep-Alive Expect HTTP2-Settings Proxy-Connection Proxy-Authorization"""


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_cannot_send_proxy_headers_to_the_app(rendered, host):
    """(S22)"""
    headers = app_headers(rendered(host, "site.conf"))
    # RFC 9110: names are the same in any case
    assert {*TRUSTED_HEADERS.lower().split()} <= {name.lower() for name in headers}
    known = {name: value for name, value in headers.items() if value != '""'}
    assert known.keys() == {
        "Host",
        "Connection",
        "Upgrade",
        "X-Real-IP",
        *(f"X-Forwarded-{suffix}" for suffix in ("For", "Host", "Port", "Proto")),
    }
    assert not [value for value in known.values() if "$http_" in value or "$proxy_add" in value], "headers are replaced, not appended to"
    # to WSGI, X_Real_IP is the same header as X-Real-IP, so nginx drops names with underscores
    assert "underscores_in_headers off;" in rendered(host, "nginx.conf")


def test_nginx_app_headers_passes_a_proxy_s_headers_to_the_app(rendered):
    headers = app_headers(rendered("Debian13-own", "site.conf"))
    assert headers["X-Forwarded-User"] == '"$http_x_forwarded_user"' and headers["X-Real-IP"] == headers["Remote-User"] == '""'


@pytest.mark.parametrize("host", HOSTS)
def test_hidden_files_are_not_served_and_the_app_s_routes_are(rendered, host):
    """(S21)"""
    site = rendered(host, "site.conf")
    static = re.search(r"location \^~ /assets/ {.*?\n    }\n", site, re.DOTALL)[0]
    ((pattern, within),) = re.findall(r"location ~ (\S.*) {\n(.*?)\n        }", static, re.DOTALL)
    # without a fallback to the previous release or the app
    assert "return 404;" in within and "error_page" in within and "@previous" not in within
    for hidden in "/assets/.env", "/assets/.git/config", "/assets/a/.b/c", "/assets/.well-known/x", "/assets/..a", "/assets/a\nb/.c":
        assert re.search(pattern, hidden), hidden
    for other in "/assets/a.css", "/assets/a./b", "/assets/", "/assetsX.env", "/tag/.net", "/x/assets/.env":
        assert not re.search(pattern, other), other
    ((pattern, within),) = re.findall(r"\n    location ~ (\S.*?) {\n(.*?)\n    }", site, re.DOTALL)
    assert within.strip() == "return 404;"
    for hidden in "/.env", "/.git/config", "/.well-knownx":
        assert re.search(pattern, hidden), hidden
    for route in "/tag/.net", "/.well-known/security.txt", "/.well-known", "/a/.git/config", "/":
        assert not re.search(pattern, route), route


@pytest.mark.parametrize("host", HOSTS)
def test_nginx_does_not_follow_links_of_the_acme_client(rendered, host):
    site = rendered(f"{host}-acme", "site.conf")
    found = re.findall(r"location \^~ /.well-known/acme-challenge/ {(.*?)}", site, re.DOTALL)
    assert len(found) == 1 and "disable_symlinks on from=$document_root;" in found[0]


def test_limits_can_be_disabled_and_only_listed_proxies_are_trusted(rendered):
    plain, own = rendered("Debian13", "site.conf"), rendered("Debian13-own", "site.conf")
    assert "limit_" not in own
    assert "real_ip" not in plain
    assert "set_real_ip_from 198.51.100.0/24;" in own and "real_ip_header X-Forwarded-For;" in own


@pytest.mark.parametrize("host", HOSTS)
def test_slow_clients_time_out_in_the_general_configuration(rendered, host):
    general = rendered(host, "nginx.conf").partition("server {")[0]
    assert "client_header_timeout 10s;" in general and "server_tokens off;" in general
    # long enough for a variable made of a site name of 28 letters and the longest header name
    assert "variables_hash_bucket_size 128;" in general


# -- the firewall -------------------------------------------------------------------------------------------------------


def test_address_lists_become_nftables_sets_with_a_digest(rendered):
    plain, own = rendered("Debian13", "flaskhost.nft"), rendered("Debian13-own", "flaskhost.nft")
    assert "elements" not in plain
    for name, entry in {
        "blocked4": "203.0.113.7",
        "blocked6": "2001:db8:bad::/48",
        "allowed4": "192.0.2.0/24",
        "proxies4": "198.51.100.0/24",
    }.items():
        assert re.search(rf"set {name} {{[^}}]*elements = {{\s+{re.escape(entry)},\s", own), name
    marks = [re.findall(r"chain (is_\w+) ", text) for text in (plain, own)]
    assert [len(found) for found in marks] == [1, 1] and marks[0] != marks[1]


def test_allowed_addresses_are_accepted_before_any_rule_that_drops(rendered):
    own = rendered("Debian13-own", "flaskhost.nft")
    order = [own.index(rule) for rule in ("@allowed4 accept", "@blocked4 counter drop", "!= @proxies4 counter drop", "jump knock")]
    assert order == sorted(order)
    assert "dport { 22 }" in own and "dport { 80, 443 }" in own
    assert "@proxies4 counter" not in rendered("Debian13", "flaskhost.nft")


SESSIONS = {
    "without-lists": ({}, ""),
    "blocked": ({"ufw_blocked": ["198.51.100.0/24"]}, "ufw_blocked contains 198.51.100.0/24. Remove that entry."),
    "blocked-and-allowed": ({"ufw_blocked": ["198.51.100.0/24"], "ufw_allowed": ["198.51.100.9"]}, ""),
    "not-allowed": (
        {"ufw_ssh_from": "allowed", "ufw_allowed": ["192.0.2.1"]},
        "ufw_allowed, which does not contain this address. Add it to ufw_allowed.",
    ),
    "allowed": ({"ufw_ssh_from": "allowed", "ufw_allowed": ["198.51.100.0/28"]}, ""),
}


CONNECTION = "198.51.100.9 40000 10.0.0.5 22"


@pytest.mark.parametrize(
    ("facts", "environment"),
    [({"env": {"SSH_CONNECTION": CONNECTION}}, {}), ({}, {"SSH_CONNECTION": CONNECTION})],
    ids=["from-facts", "from-processes"],
)
def test_lists_that_would_lock_out_the_operator_s_session_are_rejected(tmp_path, facts, environment):
    """Also when sudo removed the session from the facts (C3)."""
    # without facts, the role's own module must find the session, which set_fact would hide
    tasks = [{"ansible.builtin.set_fact": {"ansible_facts": facts}}] if facts else []
    tasks += [{"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.ufw", "tasks_from": "guard"}}]
    run = run_playbook(
        tmp_path, tasks, {name: settings for name, (settings, _error) in SESSIONS.items()}, succeeds=False, environment=environment
    )
    failures = run.failures
    assert set(failures) == {name for name, (_settings, error) in SESSIONS.items() if error}, run.output
    for name, message in failures.items():
        assert "You connect from 198.51.100.9" in message and SESSIONS[name][1] in message
        assert f"These settings would lock you out of {name}." in message and "Nothing was changed." in message


def test_lists_are_rejected_if_the_operator_s_address_is_unknown(tmp_path):
    """(C3)"""
    facts = {"distribution": "Debian", "distribution_major_version": "13", "ssh_session": {"address": "", "port": 0}}
    tasks = [
        {"ansible.builtin.set_fact": {"ansible_facts": facts}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.ufw", "tasks_from": "guard"}},
    ]
    hosts = {
        "lists": {"ufw_blocked": ["192.0.2.0/24"], "ansible_connection": "ssh"},
        "allowed-only": {"ufw_ssh_from": "allowed", "ansible_connection": "ansible.builtin.ssh"},
        "no-lists": {"ansible_connection": "ssh"},
        "no-ssh": {"ufw_blocked": ["192.0.2.0/24"], "ansible_connection": "local"},
    }
    text = run_playbook(tmp_path, tasks, hosts, succeeds=False).text
    assert {name for name in hosts if f"The address from which you connect to {name} can't be determined" in text} == {
        "lists",
        "allowed-only",
    }, text


# -- ssh ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_sshd_gets_only_options_that_its_version_supports(rendered, host):
    settings = [line.split(maxsplit=1) for line in rendered(f"{host}-own", "sshd.conf").splitlines() if not line.startswith("#")]
    names, values = [name for name, _ in settings], dict(settings)
    new = host in ("Ubuntu26.04", "Debian13")
    assert ("mlkem768x25519-sha256" in values["KexAlgorithms"]) is new
    assert ("PerSourcePenaltyExemptList" in names) is new
    assert "sntrup761x25519-sha512@openssh.com" in values["KexAlgorithms"]
    # only these options accumulate; of all others, sshd uses the first
    assert sorted(name for name in names if names.count(name) > 1) == ["DenyGroups"] * 2 + ["HostKey"] * 2


def test_custom_sshd_options_come_first_and_an_empty_one_restores_sshd_s_default(rendered):
    plain, own = rendered("Debian13", "sshd.conf"), rendered("Debian13-own", "sshd.conf")
    settings = [line for line in own.splitlines() if line[0] != "#"]
    assert settings[0] == "DenyGroups flaskhost"
    assert set(settings[1:4]) == {"AllowTcpForwarding no", "UsePAM yes", "DenyGroups guests"}
    assert own.count("AllowTcpForwarding") == 1 and "LogLevel" not in own and "LogLevel VERBOSE" in plain
    assert "PerSourcePenaltyExemptList 192.0.2.0/24,2001:db8::7" in own and "PerSourcePenaltyExemptList" not in plain


@pytest.mark.parametrize("host", [*HOSTS, *(f"{host}-own" for host in HOSTS)])
def test_app_users_cannot_log_in(rendered, host):
    lines = rendered(host, "sshd.conf").splitlines()
    assert "DenyGroups flaskhost" in lines and not any(line.lower().startswith("match") for line in lines)


@pytest.mark.parametrize("host", HOSTS)
def test_older_clients_can_exchange_keys_unless_ssh_post_quantum_only_is_set(rendered, host):
    plain, own = (
        re.search(r"^KexAlgorithms (.*)", rendered(name, "sshd.conf"), re.MULTILINE)[1].split(",") for name in (host, f"{host}-own")
    )
    assert plain == [*own, "curve25519-sha256", "curve25519-sha256@libssh.org"]
    assert not [name for name in own if name.startswith("curve")]


# -- the host -----------------------------------------------------------------------------------------------------------


def hardening(role="hardening"):
    return yaml.safe_load((PROJECT / f"roles/{role}/vars/main.yml").read_text())


def test_every_measure_names_its_purpose_and_its_source():
    measures = hardening()["__hardening_measures"]
    for name, measure in measures.items():
        assert measure["what"].endswith(".") and re.search(r"CIS \d", measure["source"]), name
        assert set(measure) <= {"what", "source", "sysctl", "files"} and (measure.get("sysctl") or measure.get("files"))
    spec = yaml.safe_load((PROJECT / "roles/hardening/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert spec["hardening_off"]["choices"] == list(measures)
    assert all(option["source"] for option in hardening("ssh")["__ssh_options"])


@pytest.mark.parametrize("host", HOSTS)
def test_each_measure_can_be_disabled_which_removes_its_files(rendered, host):
    plain, own = [rendered(name, "hardening") for name in (host, f"{host}-own")]
    states = [{file["path"]: file.get("state", "file") for file in found["files"]} for found in (plain, own)]
    assert states[0]["/etc/sudoers.d/flaskhost"] == "file" and states[1]["/etc/sudoers.d/flaskhost"] == "absent"
    assert states[1]["/etc/cron.d"] == "existing"
    apport = "/etc/systemd/system/apport.service.d/flaskhost.conf"
    assert states[0][apport] == "file" and states[1][apport] == "absent"
    assert plain["sysctl"]["fs.suid_dumpable"] == 0 and "fs.suid_dumpable" not in own["sysctl"]
    assert "net.ipv4.tcp_rfc1337" not in own["sysctl"] and own["sysctl"]["vm.swappiness"] == 10


def test_the_app_s_unit_and_its_apparmor_profile_are_consistent(rendered):
    unit, profile = rendered("Debian13-own", "app.service"), rendered("Debian13-own", "apparmor")
    assert "LimitCORE=0" in unit and "AppArmorProfile=-flaskhost-shop" in unit and "ReadWritePaths=/data/shop" in unit
    assert "profile flaskhost-shop flags=(attach_disconnected, mediate_deleted) {" in profile and "/data/shop/** rwkl," in profile
    assert "mediate_deleted, complain)" in rendered("Debian13", "apparmor")
    assert profile.count("{\n") == profile.count("}\n")


def test_a_host_reboots_automatically_only_if_base_reboot_time_is_set(rendered):
    assert 'Automatic-Reboot "false";' in rendered("Debian13", "apt.conf")
    own = rendered("Debian13-own", "apt.conf")
    assert 'Automatic-Reboot "true";' in own and 'Automatic-Reboot-Time "04:30";' in own


def test_an_upgrade_does_not_restart_releases_and_running_jobs():
    """needrestart(1) matches unit names. The test checks the names of all units that the roles install or start for an app."""
    tasks = "".join(path.read_text() for path in PROJECT.glob("roles/*/tasks/*.yml"))
    units = re.findall(r"/etc/systemd/system/{{ \w+ }}(-[\w-]+\.service)", tasks)
    units += [f"-{name}.service" for name in re.findall(r"release_job:\n(?: {4}.*\n)*? {4}name: (\S+)", tasks)]
    assert {"-backup.service", "-certificate.service", "-release-command.service", "-build-command.service"} <= {*units}
    units += ["@1a2b-3c4d.service", "-worker.1@1a2b-3c4d.service", "-schedule-clean_up.service"]
    units += ["-fetch-venv.service", "-build-venv.service", "-backup-database.service", "-certificate-client.service"]
    config = (PROJECT / "roles/base/templates/needrestart.conf.j2").read_text()
    patterns = re.findall(r"override_rc}{qr\((.+)\)} = 0;", config)
    excluded = [*(f"my_shop2{unit}" for unit in units), "run-u12.service", "run-r0a1b.service"]
    assert [name for name in excluded if not any(re.search(pattern, name) for pattern in patterns)] == []
    restarted = ["nginx.service", "postgresql@17-main.service", "redis-server@shop.service", "memcached-shop.service", "ssh.service"]
    assert [name for name in restarted if any(re.search(pattern, name) for pattern in patterns)] == []
