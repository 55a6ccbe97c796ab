"""What an app uses on its host: what each role installs, lets in, hands over and writes."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time

import pytest
import yaml
from conftest import LOCAL, PROJECT, READ_APP, evaluate, run_playbook

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
    # what the role systemd says of it
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
    "sqlite": {"app_services": ["backup"], "backup_folder": "", "backup_s3_url": "https://s3.example/bucket/shop"},
}
WRITTEN = {
    "redis": ["redis.conf", "unit.conf"],
    "memcached": ["unit.service"],
    "postgresql": ["postgresql.conf", "pg_hba.conf"],
    "backup": ["backup.service", "backup.timer"],
}


@pytest.fixture(scope="session")
def told(tmp_path_factory):
    """What provision.yml makes of each host's settings, and the files that the roles would write."""
    folder = tmp_path_factory.mktemp("services")
    provision = yaml.safe_load((PROJECT / "playbooks/provision.yml").read_text())[0]
    ask = next(task for task in provision["pre_tasks"] if task.get("ansible.builtin.include_role", {}).get("tasks_from") == "spec")
    for role, names in WRITTEN.items():
        probe = folder / "roles" / f"probe_{role}"
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
        ask,
        {"ansible.builtin.include_role": {"name": "probe_{{ item }}"}, "loop": "{{ app_services | default([]) }}"},
    ]
    shown = "{{ {'packages': preinstalled_packages, 'firewall': ufw_rules_of_other_roles, 'written': written | default({})} }}"
    variables, environment = provision["vars"] | {"gunicorn_server": {}}, {"ANSIBLE_ROLES_PATH": f"{PROJECT}/roles:{folder}/roles"}
    return evaluate(folder, tasks, shown, HOSTS, settings=SETTINGS, variables=variables, environment=environment)


def test_what_they_need_is_installed_by_one_call_of_apt(told):
    plain = ["ufw", "nginx", "python3"]
    assert told["none"]["packages"] == plain
    assert {*told["everything"]["packages"]} == {*plain, "postgresql", "python3-psycopg2", "acl", "redis-server", "memcached", "restic"}
    # to dump a database that is elsewhere, its client
    assert told["elsewhere"]["packages"] == [*plain, "restic", "postgresql-client"]
    assert told["sqlite"]["packages"] == [*plain, "restic"]


def test_nobody_is_let_in_but_where_it_was_asked_for(told):
    assert [told[host]["firewall"] for host in ("none", "everything", "elsewhere")] == [[], [], []]
    # another app of the same machine leaves it open
    assert told["beside"]["firewall"] == told["shared"]["firewall"]
    assert told["shared"]["firewall"] == [{"from": "10.0.0.0/24", "port": 5432}, {"from": "10.1.0.0/24", "port": 5432}]


def settings(text):
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)


def test_postgresql_listens_on_its_socket_alone_and_knows_who_asks(told):
    written = told["everything"]["written"]
    assert settings(written["postgresql.conf"])["listen_addresses"] == "''"
    rules = [line.split() for line in written["pg_hba.conf"].splitlines() if not line.startswith("#")]
    assert rules == [["local", "all", "postgres", "peer"], ["local", "sameuser", "all", "peer"]]


def test_postgresql_is_open_to_whom_it_was_said(told):
    written = told["shared"]["written"]
    assert settings(written["postgresql.conf"])["listen_addresses"] == "'10.0.0.5, ::1'"
    assert settings(written["postgresql.conf"])["search_path"] == "'it''s'"
    rules = [line.split() for line in written["pg_hba.conf"].splitlines() if line.startswith("host")]
    assert rules == [["hostssl", "sameuser", "all", f"10.{n}.0.0/24", "scram-sha-256"] for n in (0, 1)]


def test_postgresql_is_tuned_to_the_host_s_memory(told):
    large, small = settings(told["everything"]["written"]["postgresql.conf"]), settings(told["small"]["written"]["postgresql.conf"])
    assert (large["shared_buffers"], large["effective_cache_size"], large["work_mem"]) == ("250MB", "750MB", "4MB")
    assert (small["shared_buffers"], small["effective_cache_size"], small["maintenance_work_mem"]) == ("57MB", "172MB", "16MB")


@pytest.mark.skipif(not shutil.which("pg_lsclusters") or os.geteuid(), reason="this machine has no PostgreSQL, or isn't root's here")
@pytest.mark.parametrize("host", ["everything", "small", "shared"])
def test_postgresql_understands_its_settings(told, host):
    version = max(os.listdir("/usr/lib/postgresql"), key=int)
    # not pytest's, into which none but root may look
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        config = pathlib.Path(folder, "postgresql.conf")
        files = "".join(f"{name} = '{folder}'\n" for name in ("data_directory", "hba_file", "ident_file"))
        config.write_text(told[host]["written"]["postgresql.conf"] + files)
        command = ["runuser", "-u", "postgres", "--", f"/usr/lib/postgresql/{version}/bin/postgres", f"--config-file={config}"]
        done = subprocess.run([*command, "-C", "work_mem"], text=True, capture_output=True, cwd="/")
    assert done.returncode == 0, done.stderr


def test_redis_has_no_port_and_forgets_nothing(told):
    lines = told["everything"]["written"]["redis.conf"].splitlines()
    assert {"port 0", "maxmemory 200mb", "maxmemory-policy noeviction", "appendonly yes", "dir /var/lib/redis/shop"} <= {*lines}
    assert "unixsocket /run/redis-shop/redis.sock" in lines
    assert {"maxmemory 46mb", "timeout 7"} <= {*told["small"]["written"]["redis.conf"].splitlines()}


def test_redis_s_socket_is_the_app_s_group_s(told):
    unit = told["everything"]["written"]["unit.conf"]
    assert "RuntimeDirectoryMode=2750" in unit and "ExecStartPost=+/bin/chgrp --recursive shop /run/redis-shop" in unit


def test_redis_has_an_acl_that_its_version_knows(told):
    newer, older = (told[host]["written"]["redis.conf"] for host in ("everything", "small"))
    assert "\nuser default on nopass ~* &* +@all -@admin -@dangerous +client|getname +" in newer
    assert "\nuser default on nopass ~* +@all -@admin -@dangerous +client|getname +" in older


def test_redis_sees_no_other_app_s_data_and_has_a_limit(told):
    unit = told["small"]["written"]["unit.conf"].splitlines()
    assert {"ReadWritePaths=", "TemporaryFileSystem=/var/lib/redis:ro /run:ro", "BindPaths=/var/lib/redis/shop /run/redis-shop"} <= {*unit}
    assert {"MemoryMax=156M", "TasksMax=64"} <= {*unit}


# what reaches beyond the app's own data; CONFIG and SHUTDOWN are refused in scripts by Redis itself
REFUSED = (
    "config set dir /tmp",
    "config get dir",
    "replicaof 127.0.0.1 1",
    "shutdown nosave",
    "save",
    "acl list",
    "module list",
    "debug sleep 0",
)
REFUSED += (
    "client kill type normal",
    "migrate 127.0.0.1 1 key 0 1",
    "eval \"return redis.call('migrate','127.0.0.1','1','key','0','1')\" 0",
    "monitor",
    "slaveof no one",
)
# what rq, celery, arq, Flask-Caching, Flask-Session, huey and redis-py call
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
def test_redis_understands_its_settings(told, host, tmp_path):
    text = told[host]["written"]["redis.conf"].replace("/var/lib/redis/shop", str(tmp_path)).replace("/run/redis-shop", str(tmp_path))
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
                answers = client.makefile("rb")
                for command in REFUSED:
                    client.sendall(f"{command}\r\n".encode())
                    answer = answers.readline()
                    assert answer.startswith(b"-") and re.search(b"NOPERM|can't run|ACL failure|not allowed", answer), (command, answer)
            for command in ALLOWED:
                if host == "small" and "channel" in command:
                    continue  # its ACL is that of Redis 6.0, which has none for channels
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(tmp_path / "redis.sock"))
                    client.sendall(f"{command}\r\n".encode())
                    answer = client.recv(1000)
                    assert answer and not answer.startswith(b"-"), (command, answer)
        finally:
            process.terminate()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_systemd_understands_memcached_s_unit(told, tmp_path):
    unit = told["everything"]["written"]["unit.service"]
    assert "--memory-limit=100 " in unit and "MemoryMax=228M" in unit
    # the program itself isn't here
    (tmp_path / "memcached-shop.service").write_text(unit.replace("/usr/bin/memcached", "/bin/true"))
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()], text=True, capture_output=True).stderr
    assert not [line for line in said.splitlines() if "memcached-shop" in line], said


def test_a_backup_goes_where_it_should_with_the_keys_it_needs(told):
    here, both, away = (told[host]["written"]["settings"] for host in ("everything", "elsewhere", "sqlite"))
    assert here["places"] == {"host": "/var/backups/shop"} and here["environment"] == {}
    assert here["database"] == "postgresql://shop@/shop?host=/run/postgresql"
    assert both["places"] == {"host": "/var/backups/shop", "s3": "s3:https://s3.example/bucket/shop"}
    assert both["environment"] == {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert both["database"] == "postgresql://u:hunter2@db.example/shop" and both["password"] == "c"
    assert away["places"] == {"s3": "s3:https://s3.example/bucket/shop"} and away["database"] == ""
    for host in "everything", "elsewhere", "sqlite":
        assert not {"hunter2", "AWS_"} & {*told[host]["written"]["backup.service"].split()}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_systemd_understands_the_backup_s_units(told, tmp_path):
    for host in "everything", "sqlite":
        for kind in "service", "timer":
            (tmp_path / f"shop-backup.{kind}").write_text(told[host]["written"][f"backup.{kind}"])
        said = subprocess.run(["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()], text=True, capture_output=True).stderr
        assert not [line for line in said.splitlines() if line.startswith(str(tmp_path))], said


# -- preflight, on the host ---------------------------------------------------------------------------------------------


def preflight(folder, hosts, good=False):
    """Check hosts that are this machine."""
    facts = {"distribution": "Debian", "distribution_version": "13", "distribution_major_version": "13"}
    tasks = [
        READ_APP,
        {"ansible.builtin.set_fact": {"ansible_facts": facts}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.preflight", "tasks_from": "host"}},
    ]
    return run_playbook(folder, tasks, hosts, good=good)


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"postgresql://u:hunter2@127.0.0.1:{closed.getsockname()[1]}/d"
    good, bad = {"name": "good", "command": "true", "at": "Mon *-*-* 04:00"}, {"name": "tidy", "command": "true", "at": "every day"}
    hosts = {"plain": {}, "database": {"app_secrets": {"DATABASE_URL": url}}, "good": {"app_schedule": [good]}}
    return preflight(tmp_path_factory.mktemp("preflight"), {**hosts, "bad": {"app_schedule": [good, bad]}})


def test_a_database_that_can_not_be_reached_is_told_before_anything_is_changed(checked):
    assert "hunter2" not in checked.output
    assert re.search(
        r"DATABASE_URL: database can't reach the database at 127.0.0.1:\d+: connection refused. See that its name.*Nothing was changed.",
        checked.failures["database"].replace("''", "'"),
    )


def test_an_app_with_nothing_beside_its_server_is_asked_nothing_more(checked):
    (included,) = re.findall(r"^included: \S+/world.yml for (.*)$", checked.stdout, re.MULTILINE)
    assert "Check what the app needs beside a server" in checked.text and "plain" not in {*included.split(", "), *checked.failures}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_a_time_that_is_none_is_told_before_anything_is_changed(checked):
    assert "good" not in checked.failures
    wanted = "app_schedule: 'tidy' is due at 'every day', which systemd on bad doesn't understand. Write times such as"
    assert wanted in checked.failures["bad"].replace("''", "'")
