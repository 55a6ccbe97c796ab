"""All playbooks use the same settings, and the rendered files fit each distribution."""

import json
import os
import re
import subprocess

import pytest
import yaml
from conftest import LOCAL, PROJECT, evaluate, role_settings, run_playbook

DISTRIBUTIONS = [("Ubuntu", "22.04"), ("Ubuntu", "24.04"), ("Ubuntu", "26.04"), ("Debian", "12"), ("Debian", "13")]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The settings that a play sees at the top of the project, and in playbooks/."""
    directory = tmp_path_factory.mktemp("settings")
    shown = "{{ hostvars[inventory_hostname] | dict2items | selectattr('key', 'match', '(app|ufw|nginx|base|tls)_') | items2dict }}"
    seen = []
    for location in (PROJECT, PROJECT / "playbooks"):
        task = {"ansible.builtin.copy": {"content": shown, "dest": f"{directory}/{location.name}", "mode": "0600"}}
        book = location / ".test-of-settings.yml"
        book.write_text(json.dumps([{"hosts": "all", "connection": "local", "gather_facts": False, "tasks": [task]}]))
        try:
            run_playbook(PROJECT, book, "inventories/staging")
        finally:
            book.unlink()
        seen.append(json.loads((directory / location.name).read_text()))
    return seen


def test_every_playbook_sees_the_same_settings(settings):
    at_the_top, below = settings
    assert at_the_top == below
    assert at_the_top["app_domains"] == ["YOUR_DOMAIN"]


def test_a_stage_s_settings_override_group_vars_all(settings):
    for seen in settings:
        assert seen["app_env"] == {"APP_STAGE": "staging"}


def test_every_playbook_passes_the_syntax_check():
    run_playbook(PROJECT, "deploy.yml", "inventories/staging", *sorted(PROJECT.glob("playbooks/*.yml")), "--syntax-check")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The nginx configuration and the certificate's units for every distribution, with the defaults and with all TLS features (-tls)."""
    directory = tmp_path_factory.mktemp("rendered")
    variants = {
        "": {},
        "-tls": {"tls_source": "letsencrypt", "nginx_tls_profile": "modern", "nginx_http3": True, "nginx_ocsp_stapling": True},
    }
    hosts = {
        f"{name}{version}{variant}": {
            "facts": {
                "distribution": name,
                "distribution_version": version,
                "distribution_major_version": version.split(".")[0],
                "dns": {"nameservers": ["127.0.0.53", "2001:db8::53", "fe80::1%eth0"]},
            },
            **changed,
        }
        for name, version in DISTRIBUTIONS
        for variant, changed in variants.items()
    }
    settings = role_settings("app", "tls", "nginx", "ufw") | {
        **LOCAL,
        "app_name": "shop",
        "app_domains": ["shop.example", "www.shop.example"],
        "app_root": "/srv/shop",
        "app_health_path": "/healthz",
        "app_static": {"/assets/": "shop/assets"},
    }
    templates = ["nginx/templates/nginx.conf", "nginx/templates/site.conf"]
    templates += ["tls/templates/certificate.service", "tls/templates/certificate.timer"]
    texts = {path.rpartition("/")[2]: f"{{{{ lookup('ansible.builtin.template', '{PROJECT}/roles/{path}.j2') }}}}" for path in templates}
    (directory / "templates").symlink_to(PROJECT / "templates")
    found = evaluate(directory, [{"ansible.builtin.set_fact": {"ansible_facts": "{{ facts }}"}}], texts, hosts, settings=settings)
    return lambda host, name: found[host][name]


@pytest.mark.parametrize("host", [f"{name}{version}" for name, version in DISTRIBUTIONS])
def test_nginx_gets_only_directives_that_its_version_supports(rendered, host):
    old = host == "Ubuntu22.04"  # nginx 1.18
    general, site = rendered(host, "nginx.conf"), rendered(host, "site.conf")
    assert ("ssl_reject_handshake" in general) is not old
    assert ("ssl-cert-snakeoil" in general) is old
    # the upstream's keepalive_time came with 1.19.10, `http2 on` with 1.25.1
    assert ("keepalive_time " in site) is not old
    assert ("http2 on;" in site) is (host in ("Ubuntu26.04", "Debian13"))
    assert ("listen 443 ssl http2;" in site) is (host not in ("Ubuntu26.04", "Debian13"))
    for text in general, site:
        assert text.count("{") == text.count("}")


@pytest.mark.parametrize("host", [f"{name}{version}" for name, version in DISTRIBUTIONS])
def test_tls_follows_mozilla_s_recommendations(rendered, host):
    """The settings apply to all sites, because nginx uses the protocols of the default server."""
    hybrid = host in ("Debian13", "Ubuntu26.04")  # OpenSSL 3.5
    for variant, protocols in ("", "TLSv1.2 TLSv1.3"), ("-tls", "TLSv1.3"):
        general, site = rendered(host + variant, "nginx.conf"), rendered(host + variant, "site.conf")
        assert f"ssl_protocols {protocols};" in general and "ssl_protocols" not in site
        assert f"ssl_ecdh_curve {'?X25519MLKEM768:' if hybrid else ''}X25519:prime256v1:secp384r1;" in general
        ciphers = re.search(r"ssl_ciphers (\S+);", general)[1].split(":")
        assert len(ciphers) == 6 and all(
            re.fullmatch(r"ECDHE-(ECDSA|RSA)-(AES\d+-GCM-SHA\d+|CHACHA20-POLY1305)", cipher) for cipher in ciphers
        )


@pytest.mark.parametrize("host", [f"{name}{version}" for name, version in DISTRIBUTIONS])
def test_http3_is_enabled_if_it_is_set_and_nginx_supports_it(rendered, host):
    supported = host in ("Debian13", "Ubuntu26.04")
    for variant, enabled in ("", False), ("-tls", supported):
        general, site = rendered(host + variant, "nginx.conf"), rendered(host + variant, "site.conf")
        assert (general.count(" quic reuseport default_server;"), site.count(" quic;")) == ((2, 2) if enabled else (0, 0))
        assert ("Alt-Svc" in site) is enabled
    # keeps idle connections open during a reload
    assert ("keepalive_min_timeout" in general) is (host == "Ubuntu26.04")


def test_hsts_stapling_and_challenges_are_configured_for_letsencrypt_only(rendered):
    plain, real = rendered("Debian13", "site.conf"), rendered("Debian13-tls", "site.conf")
    for line in (
        'https "max-age=63072000";',
        "add_header Strict-Transport-Security $shop_hsts always;",
        "ssl_stapling on;",
        "resolver 127.0.0.53 [2001:db8::53];",
        "root /run/flaskhost-acme/shop;",
    ):
        assert line in real and line not in plain
    challenge = r"location \^~ /.well-known/acme-challenge/ {[^}]*\b(root|return 404)\b[^}]*}"
    assert re.findall(challenge, real) == ["root"] and re.findall(challenge, plain) == ["return 404"]
    # one server for http and https, which redirects all requests by http but those for challenges
    assert real.count("\nserver {") == 1 and r'"~^http (?!/\.well-known/acme-challenge/)" 1;' in real
    assert re.search(r"if \(\$shop_redirect\) \{\s+return 301 https://\$host\$request_uri;", real)
    assert real.count("/etc/ssl/flaskhost/shop/certificate.pem;") == 2


def test_the_certificate_s_units(rendered):
    service, timer = rendered("Debian13-tls", "certificate.service"), rendered("Debian13-tls", "certificate.timer")
    assert "ExecStart=/usr/local/sbin/shop-certificate --timer /etc/ssl/flaskhost/shop\n" in service
    # root's program may write to the key's directory and to its runtime directories only; the client runs in a separate unit
    assert "ReadWritePaths=/etc/ssl/flaskhost/shop\n" in service and "RuntimeDirectory=flaskhost flaskhost-acme\n" in service
    assert "CapabilityBoundingSet=CAP_CHOWN\n" in service
    assert "OnCalendar=hourly" in timer and "WantedBy=timers.target" in timer


def test_the_site_has_its_names_static_files_and_upstream(rendered):
    site = rendered("Debian13", "site.conf")
    assert site.count("server_name shop.example www.shop.example;") == 1
    assert "location ^~ /assets/ {" in site
    assert "server unix:/srv/shop/live/wsgi.sock max_fails=0;" in site


def names_in(role):
    """The names in a role's files that start with __."""
    for path in (PROJECT / "roles" / role).rglob("*"):
        if path.is_file() and path.suffix in (".yml", ".j2", ".py", ".md"):
            yield from ((path, name) for name in re.findall(r"\b__([a-z][a-z0-9_]*)\b", path.read_text()))


def test_no_role_uses_a_private_variable_of_another():
    roles = [path.name for path in (PROJECT / "roles").iterdir()]
    wrong = {
        f"{path.relative_to(PROJECT)}: __{name}"
        for role in roles
        for path, name in names_in(role)
        for other in roles
        if other != role and name.startswith(f"{other}_") and not name.startswith(f"{role}_")
    }
    assert not wrong


def test_no_role_reads_a_file_of_another():
    files = [path for path in (PROJECT / "roles").rglob("*") if path.is_file() and path.suffix in (".yml", ".j2")]
    # two directories above a role is the collection
    above = re.compile(r"role_path ?(?:~ ?'|\}\})/\.\./(?!\.\./)")
    assert not [str(path.relative_to(PROJECT)) for path in files if above.search(path.read_text())]


# -- where a clone is, and from where it is used -----------------------------------------------------------------------


def preflight_from(directory, *arguments, playbook=PROJECT / "deploy.yml", hosts=PROJECT / "inventories/staging", **environment):
    return run_playbook(directory, playbook, hosts, *arguments, cwd=directory, succeeds=False, environment=environment).text


def test_a_clone_is_used_from_another_directory(tmp_path):
    """One line says what to set (B17)"""
    ignored = "- ansible.cfg of this clone is not in use, so its group_vars/ would override your inventory."
    text = preflight_from(tmp_path)
    assert "YOUR_SERVER_ADDRESS is a placeholder" in text and "was not found" not in text
    assert f"{ignored}" in text and f"Run: export ANSIBLE_CONFIG={PROJECT}/ansible.cfg" in text
    text = preflight_from(tmp_path, ANSIBLE_CONFIG=str(PROJECT / "ansible.cfg"))
    assert "YOUR_SERVER_ADDRESS is a placeholder" in text and ignored not in text
    text = preflight_from(PROJECT)
    assert "YOUR_SERVER_ADDRESS is a placeholder" in text and ignored not in text


def test_a_clone_in_a_world_writable_directory_is_used(tmp_path):
    """Such as /mnt/c in WSL, in which Ansible ignores ansible.cfg (B17)"""
    for path in PROJECT.glob("[!.]*"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "ansible.cfg").unlink()
    (tmp_path / "ansible.cfg").write_text((PROJECT / "ansible.cfg").read_text())
    tmp_path.chmod(0o777)
    text = preflight_from(tmp_path, playbook="deploy.yml", hosts="inventories/staging")
    assert "- ansible.cfg of this clone is not in use" in text and "No host was touched" in text
    text = preflight_from(tmp_path, playbook="deploy.yml", hosts="inventories/staging", ANSIBLE_CONFIG=str(tmp_path / "ansible.cfg"))
    assert "ansible.cfg of this clone" not in text and "No host was touched" in text


def test_make_names_the_configuration():
    """(B17)"""
    show = "include Makefile\nshow:\n\t@echo $$ANSIBLE_CONFIG\n"
    for environment, expected in ({}, f"{PROJECT}/ansible.cfg"), ({"ANSIBLE_CONFIG": "/etc/own.cfg"}, "/etc/own.cfg"):
        done = subprocess.run(
            ["make", "-f", "-", "show"],
            input=show,
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"], **environment},
            text=True,
            capture_output=True,
        )
        assert done.stdout.strip() == expected, done.stderr


def test_a_run_without_hosts_fails(tmp_path):
    """Otherwise, Ansible skips all plays and succeeds (B17)"""
    (tmp_path / "hosts.yml").write_text("all:\n  hosts:\n    somewhere:\n")
    message = "the inventory has no host in the group app_servers. Pass the inventory, such as -i inventories/production."
    assert message in preflight_from(tmp_path, hosts=tmp_path / "hosts.yml")


def test_no_debug_task_runs_once_before_the_facts_are_gathered():
    """`debug` returns empty facts. With `run_once`, Ansible 2.21 stores the same object for all hosts, and then each host has the facts of all.

    The summary is shown only after a release, for which the facts were gathered.
    """
    files = [*PROJECT.glob("roles/*/tasks/*.yml"), *PROJECT.glob("playbooks/**/*.yml")]
    tasks = [task for file in files for task in find_tasks(yaml.safe_load(file.read_text()))]
    once = [task["name"] for task in tasks if "ansible.builtin.debug" in task and "run_once" in task]
    assert len(tasks) > 200 and once == ["Show the summary"]


def find_tasks(value):
    if isinstance(value, dict):
        yield from [value] if any("." in key for key in value if isinstance(key, str)) else []
        yield from (task for inner in value.values() for task in find_tasks(inner))
    elif isinstance(value, list):
        yield from (task for inner in value for task in find_tasks(inner))
