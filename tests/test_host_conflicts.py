"""What is in the way of an app on a host is found before anything is changed, and named with its remedy."""

import grp
import os
import pwd
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import LOCAL, READ_APP, plugin, run_module, run_playbook

conflicts, listeners, sites = plugin("modules/host_conflicts"), plugin("module_utils/listeners"), plugin("module_utils/nginx_sites")
has_ss = pytest.mark.skipif(
    not any(os.access(f"{path}/ss", os.X_OK) for path in ("/usr/bin", "/bin", "/usr/sbin")), reason="needs iproute2"
)

# -- ports ------------------------------------------------------------------------------------------------------------


@has_ss
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_program_on_a_port_of_the_site_is_named(family, address):
    """On every address: nginx listens on all of them (B5)."""
    script = (
        f"import socket; s = socket.create_server(({address!r}, 0), family={int(family)}); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline())
        found = run_module("host_conflicts", app="shop", root="/nowhere/shop", names=["shop.test"], ports=[f"{port}/tcp"])["problems"]
        process.communicate("\n")
    (text,) = [text for text in found if text.startswith("port ")]
    assert re.match(rf"port {port}: python\S* \(process {process.pid}[,)]", text) and f":{port}, which nginx needs. " in text
    assert f"Stop process {process.pid}" in text or "systemctl disable --now" in text or "container" in text


PROGRAMS = {
    "Apache": ("apache2", 812, "/system.slice/apache2.service", "Stop it with `systemctl disable --now apache2`"),
    "Caddy": ("caddy", 813, "/system.slice/caddy.service", "`systemctl disable --now caddy`"),
    "Docker": ("docker-proxy", 814, "/system.slice/docker.service", "A container uses this port (`docker ps`, `podman ps`)"),
    "rootless podman": ("rootlessport", 815, "/user.slice/user-1000.slice/user@1000.service/x.scope", "A container uses this port"),
    "nginx in a container": ("nginx", 816, "/system.slice/docker-0a1b.scope", "A container uses this port"),
    "a socket of systemd": ("systemd", 1, "/init.scope", "`systemctl list-sockets`"),
    "nginx by hand": ("nginx", 817, "/user.slice/user-0.slice/session-3.scope", "Stop process 817"),
    "nginx of its unit": ("nginx", 818, "/system.slice/nginx.service", None),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_remedy_depends_on_the_program(tmp_path, name):
    """(B5)"""
    program, pid, cgroup, fix = PROGRAMS[name]
    (tmp_path / str(pid)).mkdir()
    (tmp_path / str(pid) / "cgroup").write_text(f"0::{cgroup}\n")
    table = f'tcp   LISTEN 0   511   *:443   *:*   users:(("{program}",pid={pid},fd=6),("{program}",pid=9,fd=6))\n'
    found = listeners.occupants(table, ["80/tcp", "443/tcp"], proc=str(tmp_path))
    assert [fix in listeners.problem(entry)["fix"] for entry in found] == ([True] if fix else [])


def test_a_port_of_the_kernel_or_of_a_container_s_rule_is_reported():
    """Such a rule gets the packets before nginx (B5)."""
    (entry,) = listeners.occupants("udp   UNCONN 0   0   0.0.0.0:443   0.0.0.0:*\n", ["443/udp"])
    assert "a program that ss does not name listens on 0.0.0.0:443" in listeners.problem(entry)["found"]


RULES = {
    "iptables-save": """
        -A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT --to-destination 172.17.0.2:8443
        -A DOCKER -d 127.0.0.1/32 ! -i docker0 -p tcp -m tcp --dport 6379 -j DNAT --to-destination 172.17.0.3:6379
        -A NETAVARK-DN -p tcp -m multiport --dports 5432,5433 -j DNAT --to-destination 10.88.0.2:5432
    """,
    "nft": """
        ip daddr 127.0.0.1 tcp dport 6380 dnat ip to 10.88.0.4:6379
        tcp dport { 80, 9000 } counter packets 0 bytes 0 dnat to 10.88.0.3:80
    """,
}


def test_ports_of_containers_are_reported():
    """Their packets bypass ufw (B5, C3)."""

    def output(*command):
        return textwrap.dedent(RULES.get(command[0], ""))

    found = list(conflicts.ports(output, ["80/tcp", "443/tcp"]))
    assert [text.partition(",")[0] for text in found] == [
        "port 443: a firewall rule sends it to 172.17.0.2:8443",
        "port 80: a firewall rule sends it to 10.88.0.3:80",
    ]
    (warning,) = conflicts.containers(output, ["80/tcp", "443/tcp"])
    assert "5432/tcp, 5433/tcp, 9000/tcp" in warning and "bypass ufw" in warning and "637" not in warning and "6380" not in warning


# -- nginx sites --------------------------------------------------------------------------------------------------------


@pytest.fixture
def etc(tmp_path):
    for directory in ("sites-enabled", "conf.d"):
        (tmp_path / directory).mkdir()

    def write(**files):
        for name, text in files.items():
            directory = "conf.d" if name.startswith("conf_") else "sites-enabled"
            (tmp_path / directory / f"{name}.conf").write_text(text)
        return sites.conflicts("shop", ["shop.test", "www.Shop.test"], str(tmp_path))

    return write


OTHERS = {
    "made by hand": "server { listen 443 ssl; server_name shop.test; }",
    "on the default port": "server {\n  # shop\n  server_name\n    x.test\n    'SHOP.test';\n}",
    "second block": "upstream a { server unix:/x; }\nserver { listen 80; server_name a.test; location / { return 200 '}'; } }\nserver { server_name www.shop.test; }",
    "with a leading dot": 'server { listen [::]:443 ssl; server_name ".shop.test"; }',
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_site_with_the_same_name_is_reported(etc, name):
    """nginx only warns about it, and sends the requests to the site that it read first (B4)."""
    (text,) = etc(mine=OTHERS[name])
    assert "/sites-enabled/mine.conf has the same server_name" in text and "Remove the name there" in text
    (text,) = etc(mine="# Managed by Flaskhost (nginx_*).\n" + OTHERS[name])
    assert "the site of the app 'mine'" in text


def test_sites_that_do_not_conflict_are_not_reported(etc):
    """Its own file, other names and ports, wildcards and patterns, which have a lower rank, comments and text (B4)."""
    assert not etc(
        shop="server { listen 443 ssl; server_name shop.test www.shop.test; }",
        other="server { listen 443 ssl; server_name other.test *.test ~^shop ''; }",
        port="server { listen 8080; listen unix:/run/x; server_name shop.test; }",
        text="# server { server_name shop.test; }\nmap $host $x { server_name shop.test; }\nserver { location / { return 200 'server { server_name shop.test; }'; } }",
        broken="server { server_name shop.test ; location } } {",
    )[1:]


def test_a_site_that_gets_all_requests_of_an_address_or_a_second_default_server_is_reported(etc):
    """(B4)"""
    found = etc(conf_a="server { listen 192.0.2.1:443 ssl; server_name other.test; }", b="server { listen 80 default_server; }")
    assert len(found) == 2 and "listens on 192.0.2.1:443, so no other site gets the requests to this address" in found[1]
    assert "is a default server of port 80" in found[0] and "there can be only one" in found[0]


# -- users ------------------------------------------------------------------------------------------------------------


def test_a_group_of_the_system_is_not_taken_over(tmp_path):
    """The app would be in group shadow, which can read /etc/shadow (B18)."""
    name = next(entry.gr_name for entry in grp.getgrall() if entry.gr_name in ("shadow", "adm", "tty"))
    (text,) = run_module("host_conflicts", app=name, root=str(tmp_path / "none"), names=["a.test"], ports=[])["problems"]
    assert f"app_name: the group '{name}' (gid " in text and f"Choose another app_name, such as {name}_app." in text


@pytest.fixture
def accounts(monkeypatch, tmp_path):
    def check(users=(), groups=(), root=None):
        monkeypatch.setattr(pwd, "getpwall", lambda: [SimpleNamespace(pw_name=name, pw_uid=1, pw_gecos=gecos) for name, gecos in users])
        monkeypatch.setattr(grp, "getgrall", lambda: [SimpleNamespace(gr_name=name, gr_gid=1) for name in groups])
        return list(conflicts.users("shop", str(root or tmp_path / "none")))

    return check


def test_users_and_directories_that_flaskhost_did_not_create_are_reported(accounts, tmp_path):
    """Also APP-build, APP-web and the directory of a project (B18)."""
    assert "the user 'shop' (uid 1, Ann) exists" in accounts([("shop", "Ann")], ["shop"])[0]
    assert "the user 'shop-build' (uid 1, no comment) exists" in accounts([("shop-build", "")])[0]
    assert "the group 'shop-web' (gid 1) exists" in accounts((), ["shop-web"])[0]
    (tmp_path / "project").mkdir()
    assert accounts(root=tmp_path / "project") == []
    (tmp_path / "project/manage.py").touch()
    assert f"app_root: {tmp_path}/project exists, and Flaskhost did not create it." in accounts(root=tmp_path / "project")[0]


def test_a_cache_of_the_distribution_is_not_taken_over(tmp_path):
    """systemd would change the owner of /var/cache/debconf, which has passwords, to the app's user (B18)."""
    caches = [path for path in Path("/var/cache").iterdir() if path.is_dir() and any(path.iterdir())]
    name = next((path.name for path in caches if re.fullmatch("[a-z]+", path.name) and not Path("/var/lib", path.name).exists()), None)
    if not name:
        pytest.skip("this machine has no such directory")
    found = run_module("host_conflicts", app=name, root=str(tmp_path / "none"), names=["a.test"], ports=[])["problems"]
    assert any(f"app_name: /var/cache/{name} exists, and Flaskhost did not create it." in text for text in found), found


def test_users_and_directories_of_an_earlier_run_are_accepted(accounts, tmp_path):
    """Also those of a run that died before it created a release (B18)."""
    ours = [("shop", "shop, released by Flaskhost"), ("shop-build", "builds of shop")]
    assert accounts(ours, ["shop", "shop-web", "shop-build"]) == []
    assert accounts(ours[:1], ["shop", "shop-web"]) == []
    (tmp_path / "srv/releases").mkdir(parents=True)
    assert accounts([("shop", "renamed by an operator")], ["shop"], tmp_path / "srv") == []


# -- the rest -----------------------------------------------------------------------------------------------------------


def test_a_small_or_noexec_tmp_is_reported(monkeypatch):
    """A build unpacks packages and runs programs there."""
    small = SimpleNamespace(f_bavail=10, f_frsize=2**20, f_flag=os.ST_NOEXEC)
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    (problem,), (warning,) = conflicts.temporary("/tmp"), conflicts.noexec("/tmp")
    assert "/tmp has 10 MB free, but a build needs at least 100 MB there." in problem and "remount,size=1G" in problem
    assert "mounted with noexec" in warning and "mount -o remount,exec /tmp" in warning


def test_another_firewall_is_reported():
    """(B5)"""
    (text,) = conflicts.firewalls(lambda *command: "active\n" if command[-1] == "firewalld" else "inactive\n")
    assert "firewalld is active" in text and "systemctl disable --now firewalld" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes root, as on a host")
def test_preflight_reports_all_conflicts_of_a_host_before_it_is_changed(tmp_path):
    """Also a domain of another app in the inventory (B4, B5, B18)."""
    distribution = {"distribution": "Debian", "distribution_version": "13", "distribution_major_version": "13"}
    tasks = [
        READ_APP,
        {"ansible.builtin.set_fact": {"ansible_facts": {**distribution, "env": {"USER": "root"}, "mounts": []}}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.preflight", "tasks_from": "host", "rolespec_validate": False}},
    ]
    apps = {
        "one": {"app_name": "tty", "app_domains": ["a.test", "Both.test"]},
        "two": {"app_name": "shop", "app_domains": ["both.test"]},
        "three": {"app_name": "blog", "app_domains": ["both.test"], "ansible_host": "192.0.2.3"},
    }
    common = {**LOCAL, "app_root": f"{tmp_path}/{{{{ app_name }}}}", "ansible_host": "192.0.2.1", "app_source": "x", "ufw_blocked": []}
    run = run_playbook(tmp_path, tasks, apps, "--limit", "one,two", settings=common, succeeds=False)
    assert set(run.failures) == {"one", "two"}, run.output
    first, second = run.failures["one"], run.failures["two"]
    assert "one can't serve the app yet. Nothing was changed." in first and "the group 'tty' (gid" in first
    assert "the app of the host two of the inventory, on the same machine, has both.test, too." in first
    assert "the app of the host one of the inventory" in second and "blog" not in second


def test_names_of_directories_that_flaskhost_needs_are_rejected():
    """/var/lib/private belongs to systemd, /var/lib/flaskhost to the backups of all apps (B18)."""
    rules = plugin("plugin_utils/rules").read_roles()
    (rule,) = [role.rules["app_name"] for role in rules if "app_name" in role.rules]
    assert all("Choose another name" in rule(name, {}) for name in ("private", "flaskhost", "ufw", "containers")) and not rule("shop", {})
