"""The services of an app: the packages, firewall rules, settings and files of their roles."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse

import jinja2
import pytest
import yaml
from conftest import LOCAL, PROJECT, READ_APP, evaluate, mariadb_server, plugin, run_playbook

SETTINGS = {
    "app_name": "shop",
    "app_root": "/srv/shop",
    "app_env": {},
    "app_secrets": {},
    **LOCAL,
    "hardening_packages": [],
    "ufw_packages": ["ufw"],
    "systemd_packages": [],
    "tls_packages": [],
    "nginx_packages": ["nginx"],
    "python_venv_packages": ["python3"],
    "python_venv_extra_packages": [],
    "memory": 2000,
    # a variable of the role systemd
    "systemd_sandbox": [],
}
HOSTS = {
    "none": {},
    "everything": {"app_services": ["postgresql", "redis", "memcached", "backup"], "app_secrets": {"KEY": "x"}},
    "small": {
        "app_services": ["postgresql", "redis"],
        "memory": 460,
        "redis_settings": {"timeout": 7},
        "redis_own": {"stdout": "Redis server v=6.0.16 sha=00000000:0"},
    },
    "shared": {
        "app_services": ["postgresql"],
        "postgresql_listen": ["10.0.0.5", "::1"],
        "postgresql_clients": ["10.0.0.0/24", "10.1.0.0/24"],
        "postgresql_password": "x",
        "postgresql_settings": {"log_min_duration_statement": "1s", "search_path": "it's"},
    },
    "beside": {"ansible_host": "shared", "app_name": "blog"},
    "elsewhere": {
        "app_services": ["backup"],
        "app_secrets": {"DATABASE_URL": "postgresql://u:hunter2@db.example/shop"},
        "backup_s3_url": "https://s3.example/bucket/shop",
        "backup_s3_access_key": "a",
        "backup_s3_secret_key": "b",
        "backup_password": "c",
    },
    "mariadb": {"app_services": ["mariadb"], "app_name": "my_shop", "mariadb_settings": {"max_allowed_packet": "64M"}, "memory": 3000},
    "tcp": {"app_services": ["redis"], "redis_port": 26379, "redis_password": "p/w #1:@"},
    "celery": {"app_services": ["redis"], "redis_url": "redis+socket:///run/redis-shop/redis.sock"},
    "mysql-elsewhere": {"app_services": ["backup"], "app_secrets": {"DATABASE_URL": "mysql+pymysql://u:p@db.example/shop"}},
    "sqlite": {"app_services": ["backup"], "backup_directory": "", "backup_s3_url": "https://s3.example/bucket/shop"},
}
WRITTEN = {
    "redis": ["redis.conf", "unit.conf"],
    "memcached": ["unit.service"],
    "postgresql": ["postgresql.conf", "pg_hba.conf"],
    "mariadb": ["mariadb.cnf", "create.sql"],
    "backup": ["backup.service", "backup.timer"],
}


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory):
    """The packages and firewall rules that provision.yml derives from each host's settings, and the files that the roles render."""
    directory = tmp_path_factory.mktemp("services")
    provision = yaml.safe_load((PROJECT / "playbooks/provision.yml").read_text())[0]
    collect = next(task for task in provision["pre_tasks"] if task.get("ansible.builtin.include_role", {}).get("tasks_from") == "spec")
    for role, names in WRITTEN.items():
        probe = directory / "roles" / f"probe_{role}"
        (probe / "tasks").mkdir(parents=True)
        for part in ("defaults", "templates", "vars"):
            if (PROJECT / "roles" / role / part).exists():
                (probe / part).symlink_to(PROJECT / "roles" / role / part)
        content = {name: f"{{{{ lookup('ansible.builtin.template', '{name}.j2') }}}}" for name in names}
        if role == "backup":
            content["settings"] = "{{ __backup_settings }}"
        task = {"ansible.builtin.set_fact": {"written": "{{ written | default({}) | combine(content) }}"}, "vars": {"content": content}}
        (probe / "tasks/main.yml").write_text(yaml.safe_dump([task]))
    tasks = [
        READ_APP,
        {"ansible.builtin.set_fact": {"ansible_facts": {"processor_vcpus": 2, "memtotal_mb": "{{ memory | int }}"}}},
        collect,
        {"ansible.builtin.include_role": {"name": "probe_{{ item }}"}, "loop": "{{ app_services | default([]) }}"},
    ]
    specs = "'redis': redis_service | default({}), 'mariadb': mariadb_service | default({})"
    shown = (
        "{{ {'packages': preinstalled_packages, 'firewall': ufw_rules_of_other_roles, 'written': written | default({}), " + specs + "} }}"
    )
    variables, environment = provision["vars"] | {"gunicorn_server": {}}, {"ANSIBLE_ROLES_PATH": f"{PROJECT}/roles:{directory}/roles"}
    return evaluate(directory, tasks, shown, HOSTS, settings=SETTINGS, variables=variables, environment=environment)


def test_the_packages_of_all_services_are_installed_together(provisioned):
    plain = ["ufw", "nginx", "python3"]
    assert provisioned["none"]["packages"] == plain
    assert {*provisioned["everything"]["packages"]} == {
        *plain,
        "postgresql",
        "python3-psycopg2",
        "acl",
        "redis-server",
        "memcached",
        "restic",
    }
    # the client is needed to dump an external database
    assert provisioned["elsewhere"]["packages"] == [*plain, "restic", "postgresql-client"]
    assert provisioned["mysql-elsewhere"]["packages"] == [*plain, "restic", "mariadb-client"]
    assert provisioned["sqlite"]["packages"] == [*plain, "restic"]


def test_the_firewall_is_opened_only_for_postgresql_clients(provisioned):
    assert [provisioned[host]["firewall"] for host in ("none", "everything", "elsewhere")] == [[], [], []]
    # another app on the same machine keeps the rules
    assert provisioned["beside"]["firewall"] == provisioned["shared"]["firewall"]
    assert provisioned["shared"]["firewall"] == [{"from": "10.0.0.0/24", "port": 5432}, {"from": "10.1.0.0/24", "port": 5432}]


def settings(text):
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)


def test_postgresql_listens_only_on_its_socket_with_peer_authentication(provisioned):
    written = provisioned["everything"]["written"]
    assert settings(written["postgresql.conf"])["listen_addresses"] == "''"
    rules = [line.split() for line in written["pg_hba.conf"].splitlines() if not line.startswith("#")]
    assert rules == [["local", "all", "postgres", "peer"], ["local", "sameuser", "all", "peer"]]


def test_postgresql_accepts_the_listed_clients(provisioned):
    written = provisioned["shared"]["written"]
    assert settings(written["postgresql.conf"])["listen_addresses"] == "'10.0.0.5, ::1'"
    assert settings(written["postgresql.conf"])["search_path"] == "'it''s'"
    rules = [line.split() for line in written["pg_hba.conf"].splitlines() if line.startswith("host")]
    assert rules == [["hostssl", "sameuser", "all", f"10.{n}.0.0/24", "scram-sha-256"] for n in (0, 1)]


def test_postgresql_is_tuned_to_the_host_s_memory(provisioned):
    large, small = (
        settings(provisioned["everything"]["written"]["postgresql.conf"]),
        settings(provisioned["small"]["written"]["postgresql.conf"]),
    )
    assert (large["shared_buffers"], large["effective_cache_size"], large["work_mem"]) == ("250MB", "750MB", "4MB")
    assert (small["shared_buffers"], small["effective_cache_size"], small["maintenance_work_mem"]) == ("57MB", "172MB", "16MB")


@pytest.mark.skipif(
    not shutil.which("pg_lsclusters") or os.geteuid(), reason="this machine has no PostgreSQL, or the test does not run as root"
)
@pytest.mark.parametrize("host", ["everything", "small", "shared"])
def test_postgresql_accepts_its_configuration(provisioned, host):
    version = max(os.listdir("/usr/lib/postgresql"), key=int)
    # not tmp_path, which only root can access
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        config = pathlib.Path(directory, "postgresql.conf")
        files = "".join(f"{name} = '{directory}'\n" for name in ("data_directory", "hba_file", "ident_file"))
        config.write_text(provisioned[host]["written"]["postgresql.conf"] + files)
        command = ["runuser", "-u", "postgres", "--", f"/usr/lib/postgresql/{version}/bin/postgres", f"--config-file={config}"]
        done = subprocess.run([*command, "-C", "work_mem"], text=True, capture_output=True, cwd="/")
    assert done.returncode == 0, done.stderr


def test_mariadb_has_a_socket_and_a_user_for_the_app(provisioned):
    """The kernel authenticates the app, which can open only its own database, with a limited number of connections. (A14)"""
    host = provisioned["mariadb"]
    assert host["packages"] == ["ufw", "nginx", "python3", "mariadb-server"] and host["firewall"] == []
    spec = host["mariadb"]
    assert spec["environment"]["DATABASE_URL"] == "mysql+pymysql://my_shop@/my_shop?unix_socket=/run/mysqld/mysqld.sock&charset=utf8mb4"
    assert (spec["unit"], spec["directory"]) == ("mariadb.service", "/run/mysqld")
    assert plugin("module_utils/urls").database_problem(spec["environment"]["DATABASE_URL"]) == ""
    assert plugin("module_utils/urls").database_address(spec["environment"]["DATABASE_URL"]) == {}
    lines = host["written"]["mariadb.cnf"].splitlines()
    assert {"skip-networking", "max_connections = 100", "innodb_buffer_pool_size = 750M", "max_allowed_packet = 64M"} <= {*lines}
    statements = host["written"]["create.sql"]
    assert "CREATE USER IF NOT EXISTS `my_shop`@localhost IDENTIFIED VIA unix_socket;" in statements
    assert "WITH MAX_USER_CONNECTIONS 80;" in statements
    # _ is a wildcard in the name of a database: the app must not get the database myxshop
    assert "GRANT ALL PRIVILEGES ON `my\\_shop`.* TO `my_shop`@localhost;" in statements


def test_mariadb_accepts_its_configuration_and_isolates_apps(provisioned):
    """A real server: the app's user logs in by the socket and sees only its own database, and another user is rejected. (A14)"""
    written = provisioned["mariadb"]["written"]
    task = yaml.safe_load((PROJECT / "roles/mariadb/tasks/main.yml").read_text())[-1]
    state = yaml.safe_load((PROJECT / "roles/mariadb/vars/main.yml").read_text())["__mariadb_state"]
    script = task["ansible.builtin.shell"]["cmd"].replace("{{ __mariadb_state }}", state)
    with mariadb_server(written["mariadb.cnf"]) as (sql, path):
        # an app needs a user of the operating system; here it is one that every Debian has
        app = written["create.sql"].replace("my\\_shop", "games").replace("my_shop", "games").replace("CONNECTIONS 80", "CONNECTIONS 2")
        script = script.replace("{{ mariadb_app }}", "games").replace("/run/mysqld/mysqld.sock", path)
        for expected in "changed\n", "":
            done = subprocess.run(["sh", "-c", script], input=app, text=True, capture_output=True, cwd="/")
            assert (done.returncode, done.stdout) == (0, expected), done.stderr
        more = subprocess.run(
            ["sh", "-c", script], input=app.replace("CONNECTIONS 2", "CONNECTIONS 3"), text=True, capture_output=True, cwd="/"
        )
        assert (more.returncode, more.stdout) == (0, "changed\n")
        assert sql("CREATE DATABASE other; CREATE TABLE other.t (a int)").returncode == 0
        assert sql("SHOW DATABASES", "games").stdout.split() == ["games", "information_schema"]
        assert sql("CREATE TABLE t (a text); INSERT INTO t VALUES ('ü'); SELECT a FROM t", "games", "games").stdout == "ü\n"
        for statement in (
            "SELECT * FROM other.t",
            "CREATE DATABASE gamesx",
            "SELECT LOAD_FILE('/etc/hostname') IS NOT NULL",
            "SHOW GRANTS FOR root@localhost",
        ):
            done = sql(statement, "games")
            assert done.returncode or done.stdout == "0\n", statement
        assert "Access denied" in sql("SELECT 1", "lp").stderr
        wrong = script.replace("--user=root", "--user=lp")
        assert subprocess.run(["sh", "-c", wrong], input=app, text=True, capture_output=True, cwd="/").returncode


def test_redis_has_no_port_and_persists_its_data(provisioned):
    lines = provisioned["everything"]["written"]["redis.conf"].splitlines()
    assert {"port 0", "maxmemory 200mb", "maxmemory-policy noeviction", "appendonly yes", "dir /var/lib/redis/shop"} <= {*lines}
    assert "unixsocket /run/redis-shop/redis.sock" in lines
    assert {"maxmemory 46mb", "timeout 7"} <= {*provisioned["small"]["written"]["redis.conf"].splitlines()}


def test_redis_s_socket_belongs_to_the_app_s_group(provisioned):
    unit = provisioned["everything"]["written"]["unit.conf"]
    assert "RuntimeDirectoryMode=2750" in unit and "ExecStartPost=+/bin/chgrp --recursive shop /run/redis-shop" in unit


def test_redis_has_an_acl_that_its_version_supports(provisioned):
    newer, older = (provisioned[host]["written"]["redis.conf"] for host in ("everything", "small"))
    assert "\nuser default on nopass ~* &* +@all -@admin -@dangerous +client|getname +" in newer
    assert "\nuser default on nopass ~* +@all -@admin -@dangerous +client|getname +" in older


def test_redis_cannot_see_other_apps_data_and_has_a_memory_limit(provisioned):
    unit = provisioned["small"]["written"]["unit.conf"].splitlines()
    assert {"ReadWritePaths=", "TemporaryFileSystem=/var/lib/redis:ro /run:ro", "BindPaths=/var/lib/redis/shop /run/redis-shop"} <= {*unit}
    assert {"MemoryMax=156M", "TasksMax=64"} <= {*unit}


def test_redis_can_have_one_url_for_redis_py_and_celery(provisioned):
    """A port on the loopback with a password, or a URL of the operator's choice. By default, there is only the socket. (A11)"""
    urls = {host: provisioned[host]["redis"]["environment"]["REDIS_URL"] for host in ("everything", "tcp", "celery")}
    assert urls["everything"] == "unix:///run/redis-shop/redis.sock"
    assert urls["celery"] == "redis+socket:///run/redis-shop/redis.sock"
    parts = urllib.parse.urlsplit(urls["tcp"])
    assert (parts.scheme, parts.hostname, parts.port, parts.path) == ("redis", "127.0.0.1", 26379, "/0")
    assert urllib.parse.unquote(parts.password) == "p/w #1:@"
    config = provisioned["tcp"]["written"]["redis.conf"]
    assert "\nport 26379\nbind 127.0.0.1\n" in config and "p/w" not in config
    assert "nopass" not in config and "nopass" in provisioned["celery"]["written"]["redis.conf"]


@pytest.mark.skipif(not shutil.which("redis-server"), reason="this machine has no Redis")
def test_redis_s_port_requires_the_password(provisioned, tmp_path):
    """Every user of the host can connect to it. (A11)"""
    text = provisioned["tcp"]["written"]["redis.conf"].replace("/var/lib/redis/shop", str(tmp_path))
    (tmp_path / "redis.conf").write_text(text.replace("/run/redis-shop", str(tmp_path)))
    with subprocess.Popen(["redis-server", tmp_path / "redis.conf"], stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 20
            while not (tmp_path / "redis.sock").exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            with socket.create_connection(("127.0.0.1", 26379)) as client:
                responses = client.makefile("rb")
                for command, expected in (
                    (b"PING", b"-NOAUTH"),
                    (b"AUTH wrong", b"-WRONGPASS"),
                    (b'AUTH "p/w #1:@"', b"+OK"),
                    (b"SET a 1", b"+OK"),
                    (b"CONFIG GET dir", b"-NOPERM"),
                ):
                    client.sendall(command + b"\r\n")
                    assert responses.readline().startswith(expected), command
        finally:
            process.terminate()


# Answers of a distribution's instance to the role's query: fresh, with a client, with data, and with a password.
DISTRIBUTION = {
    "redis": {
        "total_connections_received:1\r\ntotal_commands_processed:0\r\n": True,
        "total_connections_received:2\r\ntotal_commands_processed:9\r\n": False,
        "total_connections_received:1\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n": False,
        "NOAUTH Authentication required.\r\n": False,
    },
    "memcached": {
        "".join(f"STAT {name} 0\r\n" for name in ("cmd_get", "cmd_set", "cmd_touch", "cmd_meta", "total_items")): True,
        "".join(f"STAT {name} {name == 'cmd_get':d}\r\n" for name in ("cmd_get", "cmd_set", "cmd_touch", "cmd_meta", "total_items")): False,
        "ERROR\r\n": False,
    },
}


@pytest.mark.parametrize("role", DISTRIBUTION)
def test_the_distribution_s_own_instance_keeps_running_if_it_is_in_use(tmp_path, role):
    """Another app on the host may use it. An instance that the package has just started is disabled. (A11)"""
    tasks = yaml.safe_load((PROJECT / f"roles/{role}/tasks/main.yml").read_text())
    task = next(task for task in tasks if task["name"].startswith("Disable the distribution's instance"))
    shell = task["ansible.builtin.shell"].get("executable", "/bin/sh")
    environment = jinja2.Environment()
    environment.filters["flaskhost.flaskhost.shell_lock"] = lambda _name: ":"
    script = environment.from_string(task["ansible.builtin.shell"]["cmd"]).render()
    for name, text in {
        "systemctl": f'[ "$1" = is-active ] || echo "$@" >>{tmp_path}/called',
        "redis-server": "echo Redis server v=7.0.15",
        "redis-cli": f"cat {tmp_path}/answer",
        # bash opens the connection
        "bash": f"cat {tmp_path}/answer",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for answer, disabled in DISTRIBUTION[role].items():
        (tmp_path / "answer").write_text(answer, newline="")
        (tmp_path / "called").unlink(missing_ok=True)
        done = subprocess.run([shell, "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "called").exists() is done.stdout.endswith("off\n") is disabled, (answer, done.stdout)


# commands that affect more than the app's own data; in scripts, Redis itself rejects CONFIG and SHUTDOWN
REJECTED = (
    "config set dir /tmp",
    "config get dir",
    "replicaof 127.0.0.1 1",
    "shutdown nosave",
    "save",
    "acl list",
    "module list",
    "debug sleep 0",
)
REJECTED += (
    "client kill type normal",
    "migrate 127.0.0.1 1 key 0 1",
    "eval \"return redis.call('migrate','127.0.0.1','1','key','0','1')\" 0",
    "monitor",
    "slaveof no one",
)
# commands that rq, celery, arq, Flask-Caching, Flask-Session, huey and redis-py use
ALLOWED = (
    "client setname it",
    "client list",
    "info server",
    "keys *",
    "flushdb",
    "script load return",
    "eval \"return redis.call('keys','*')\" 0",
)
ALLOWED += ("set key value px 1000 nx", "scan 0", "publish channel it", "subscribe channel")


@pytest.mark.skipif(not shutil.which("redis-server"), reason="this machine has no Redis")
@pytest.mark.parametrize("host", ["everything", "small"])
def test_redis_accepts_its_configuration(provisioned, host, tmp_path):
    text = (
        provisioned[host]["written"]["redis.conf"].replace("/var/lib/redis/shop", str(tmp_path)).replace("/run/redis-shop", str(tmp_path))
    )
    (tmp_path / "redis.conf").write_text(text)
    with subprocess.Popen(["redis-server", tmp_path / "redis.conf"], stdout=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 20
            while not (tmp_path / "redis.sock").exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            assert process.poll() is None, process.stdout.read()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "redis.sock"))
                client.sendall(b"PING\r\n")
                assert client.recv(16) == b"+PONG\r\n"
                responses = client.makefile("rb")
                for command in REJECTED:
                    client.sendall(f"{command}\r\n".encode())
                    response = responses.readline()
                    assert response.startswith(b"-") and re.search(b"NOPERM|can't run|ACL failure|not allowed", response), (
                        command,
                        response,
                    )
            for command in ALLOWED:
                if host == "small" and "channel" in command:
                    continue  # this host's ACL is for Redis 6.0, which has no channel permissions
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(tmp_path / "redis.sock"))
                    client.sendall(f"{command}\r\n".encode())
                    response = client.recv(1000)
                    assert response and not response.startswith(b"-"), (command, response)
        finally:
            process.terminate()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_systemd_accepts_memcached_s_unit(provisioned, tmp_path):
    unit = provisioned["everything"]["written"]["unit.service"]
    assert "--memory-limit=100 " in unit and "MemoryMax=228M" in unit
    # memcached itself is not installed here
    (tmp_path / "memcached-shop.service").write_text(unit.replace("/usr/bin/memcached", "/bin/true"))
    errors = subprocess.run(["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()], text=True, capture_output=True).stderr
    assert not [line for line in errors.splitlines() if "memcached-shop" in line], errors


def test_a_backup_has_the_places_and_keys_of_the_settings(provisioned):
    local, both, remote = (provisioned[host]["written"]["settings"] for host in ("everything", "elsewhere", "sqlite"))
    assert local["places"] == {"host": "/var/backups/shop"} and local["environment"] == {}
    assert local["database"] == "postgresql://shop@/shop?host=/run/postgresql"
    assert both["places"] == {"host": "/var/backups/shop", "s3": "s3:https://s3.example/bucket/shop"}
    assert both["environment"] == {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert both["database"] == "postgresql://u:hunter2@db.example/shop" and both["password"] == "c"
    assert remote["places"] == {"s3": "s3:https://s3.example/bucket/shop"} and remote["database"] == ""
    for host in "everything", "elsewhere", "sqlite":
        assert not {"hunter2", "AWS_"} & {*provisioned[host]["written"]["backup.service"].split()}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_systemd_accepts_the_backup_s_units(provisioned, tmp_path):
    for host in "everything", "sqlite":
        for kind in "service", "timer":
            (tmp_path / f"shop-backup.{kind}").write_text(provisioned[host]["written"][f"backup.{kind}"])
        errors = subprocess.run(["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()], text=True, capture_output=True).stderr
        assert not [line for line in errors.splitlines() if line.startswith(str(tmp_path))], errors


# -- preflight on the host ----------------------------------------------------------------------------------------------


def preflight(directory, hosts, succeeds=False):
    """Run preflight's check of the host on this machine."""
    facts = {"distribution": "Debian", "distribution_version": "13", "distribution_major_version": "13"}
    tasks = [
        READ_APP,
        {"ansible.builtin.set_fact": {"ansible_facts": facts}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.preflight", "tasks_from": "host"}},
    ]
    apps = {name: {"app_source": "shop", "app_domains": [f"{name}.example"], **settings} for name, settings in hosts.items()}
    # this output shows which hosts run the included tasks
    return run_playbook(directory, tasks, apps, succeeds=succeeds, environment={"ANSIBLE_STDOUT_CALLBACK": "default"})


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"postgresql://u:hunter2@127.0.0.1:{closed.getsockname()[1]}/d"
    good, bad = {"name": "good", "command": "true", "at": "Mon *-*-* 04:00"}, {"name": "tidy", "command": "true", "at": "every day"}
    hosts = {"plain": {}, "database": {"app_secrets": {"DATABASE_URL": url}}, "good": {"app_schedule": [good]}}
    return preflight(tmp_path_factory.mktemp("preflight"), {**hosts, "bad": {"app_schedule": [good, bad]}})


def test_an_unreachable_database_is_reported_before_anything_is_changed(checked):
    assert "hunter2" not in checked.output
    assert re.search(
        r"DATABASE_URL: database can't reach the database at 127.0.0.1:\d+: connection refused. Check its host name and port.*Nothing was changed.",
        checked.failures["database"].replace("''", "'"),
    )


def test_an_app_without_external_dependencies_needs_no_check(checked):
    (included,) = re.findall(r"^included: \S+/external.yml for (.*)$", checked.stdout, re.MULTILINE)
    assert "Check the external dependencies" in checked.text and "plain" not in {*included.split(", "), *checked.failures}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_an_invalid_schedule_is_reported_before_anything_is_changed(checked):
    assert "good" not in checked.failures
    message = "app_schedule: systemd on bad rejects 'every day', the schedule of 'tidy'. Write it as"
    assert message in checked.failures["bad"].replace("''", "'")
