"""Invalid settings are reported clearly, before any host is touched."""

import ast
import shutil

import pytest
from ansible.errors import AnsibleError
from conftest import PROJECT, plugin, run_playbook, with_modules

check, rules = plugin("action/settings_check"), plugin("plugin_utils/rules")
ROLES = rules.read_roles()
GOOD = {
    "app_name": "mysite",
    "app_domains": ["example.com", "www.example.com"],
    "app_source": "../mysite",
    "app_version": "",
    "app_module": "mysite:create_app()",
    "app_server": "gunicorn",
    "app_env": {"APP_STAGE": "production"},
    "app_secrets": {"SECRET_KEY": "5f3c9a"},
    "app_health_path": "/healthz",
    "app_release_command": "",
    "app_static": {"/static/": "mysite/static"},
    "app_root": "/srv/mysite",
}
SOURCE = {"files": ["mysite/__init__.py", "mysite/static/style.css", "uv.lock"], "links": {}, "dependencies": {"problems": []}}


def problems(source=SOURCE, without=(), **changes):
    settings = {name: value for name, value in {**GOOD, **changes}.items() if name not in without}
    sources = check.Sources(
        {"inventory_dir": str(PROJECT / "inventories/production"), "inventory_hostname": "production", "group_names": ["app_servers"]}
    )
    return [problem.text(sources) for problem in check.check(settings, ROLES, {"app_source_found": source})]


def test_valid_settings_are_accepted():
    assert problems() == []


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"app_name": "My-Site"}, ["app_name is 'My-Site'", "lower-case letters"]),
        ({"app_name": "x" * 26}, ["app_name", "at most 25"]),
        (
            {"container_options": ['--env=A" --user=0']},
            ["container_options", "contains a character that is special in a systemd unit"],
        ),
        ({"container_options": ["--label=100%"]}, ["container_options", "contains a character"]),
        ({"systemd_writable": ["/mnt/a b"]}, ["systemd_writable", "'/mnt/a b' is not a plain absolute path"]),
        ({"systemd_writable": ["/mnt/../etc"]}, ["systemd_writable", "is not a plain absolute path"]),
        (
            {"app_runtime": "container", "app_image": "ghcr.io/you/mysite:1", "app_env": {"LD_PRELOAD": "/x"}},
            ["'LD_PRELOAD' would change how podman itself runs"],
        ),
        ({"app_runtime": "container", "app_image": "-v/x:/y/z"}, ["app_image"]),
        ({"app_domains": []}, ["app_domains", "it must list the site's domains"]),
        ({"app_domains": ["203.0.113.7"]}, ["is an IP address", "203-0-113-7.sslip.io"]),
        ({"app_domains": ["2001:db8::7"]}, ["is an IP address", "2001-db8--7.sslip.io"]),
        ({"app_domains": ["https://example.com/"]}, ["is not a domain name", "without https://"]),
        ({"app_domains": ["example.com", "müller.test"]}, ["'müller.test' has letters", "Write it as xn--mller-kva.test."]),
        ({"app_domains": ["ma_ñana.test"]}, ["'ma_ñana.test' is not a domain name"]),
        ({"app_domains": ["exa_mple.com"]}, ["is not a domain name"]),
        ({"app_domains": "example.com"}, ["app_domains is 'example.com'", "must be a list in which each item is a string"]),
        ({"app_domains": {"a": 1}}, ["app_domains", "must be a list"]),
        ({"app_module": "mysite"}, ["app_module is 'mysite'", "module:object or module:factory()"]),
        ({"app_module": "my-site:app"}, ["app_module", "module:object"]),
        ({"app_module": "mysit:app"}, ["no module 'mysit'", "Did you mean mysite?"]),
        ({"app_server": "gunicron"}, ["app_server is 'gunicron'", "gunicorn"]),
        ({"app_name": "postgres"}, ["app_name is 'postgres'", "a user or service of the distribution has this name"]),
        ({"app_processes": ["worker"]}, ["app_processes", "a dictionary"]),
        ({"app_processes": {"worker": 1}}, ["the source has no Procfile at its top"]),
        ({"app_processes": {"web": 2}}, ["'web' is not a worker process: app_server runs it"]),
        ({"app_processes": {"web": {"command": "python x.py", "count": 2}}}, ["'web' is not a worker process", "write only a command"]),
        ({"app_processes": {"web": {"command": "python x.py"}}, "app_server": "gunicorn"}, ["the command of 'web' replaces app_server"]),
        ({"app_processes": {"a b": 2}}, ["'a b' is not a valid process type"]),
        ({"app_processes": {"worker": "two"}}, ["the number of 'worker' processes must be a whole number from 0 to 64"]),
        (
            {"app_processes": {"worker": "celery -A app worker"}},
            ["If 'celery -A app worker' is the command, write worker: { command: celery -A app worker }."],
        ),
        ({"app_processes": {"worker": {"cmd": "x"}}}, ["'worker' must have a command, a count or both, such as worker: { command: celery"]),
        ({"app_processes": {"worker": {}}}, ["'worker' must have a command, a count or both"]),
        ({"app_processes": {"worker": {"command": ""}}}, ["the command of 'worker' must be one line"]),
        ({"app_processes": {"worker": {"command": "a\nb"}}}, ["the command of 'worker' must be one line"]),
        ({"app_processes": {"worker": {"command": "echo 'a"}}}, ["the command of 'worker' is not valid shell syntax"]),
        ({"app_processes": {"worker": {"command": True}}}, ["worker: YAML reads 'command' as true or false"]),
        ({"app_processes": {"worker": {"command": "x", "count": 65}}}, ["the number of 'worker' processes must be a whole number"]),
        ({"app_processes": {"worker": {"count": 2}}}, ["the source has no Procfile at its top", "worker: { command: COMMAND, count: 1 }"]),
        ({"app_processes": {True: 1}}, ["'True' is not a valid process type"]),
        (
            {"app_schedule": [{"name": "tidy", "command": "true", "at": "daily", "on_each_host": "yes"}]},
            ["on_each_host of the job 'tidy' must be true or false"],
        ),
        ({"app_schedule": [{"name": "tidy", "command": "true"}]}, ["each job must have a name, a command and at"]),
        ({"app_schedule": [{"name": "Tidy up", "command": "true", "at": "daily"}]}, ["'Tidy up' is not a valid name"]),
        ({"app_schedule": [{"name": "tidy", "command": "true", "at": "daily"}] * 2}, ["two jobs have the name 'tidy'"]),
        ({"app_schedule": [{"name": "tidy", "command": "echo 'a", "at": "daily"}]}, ["is not valid shell syntax"]),
        ({"app_shared": ["/var/data"]}, ["app_shared", "'/var/data' must be a directory or file within the source"]),
        ({"app_shared": ["../data"]}, ["'../data' must be a directory or file within the source"]),
        (
            {"app_shared": ["mysite/static"]},
            ["app_static is {", "nginx cannot read", "'mysite/static' overlaps with 'mysite/static' in app_shared"],
        ),
        ({"app_shared": ["mysite"]}, ["app_static is {", "'mysite/static' overlaps with 'mysite' in app_shared"]),
        ({"app_shared": ["mysite/static/up"]}, ["app_static is {", "'mysite/static' overlaps with 'mysite/static/up' in app_shared"]),
        ({"app_static": {"/static/": "./mysite//static/"}, "app_shared": ["mysite/static"]}, ["'./mysite//static/' overlaps"]),
        ({"release_shared": ["mysite/static"]}, ["app_static is {", "overlaps with 'mysite/static' in app_shared"]),
        ({"release_static": {"/s/": "../x"}}, ["release_static is {", "'../x' must be a directory within the source"]),
        ({"app_shared": ["var", "var/data"]}, ["app_shared is ['var', 'var/data']", "'var/data' and 'var' overlap"]),
        ({"app_shared": ["mysite/__init__.py"]}, ["app_shared is [", "is code of the source"]),
        ({"app_static": {"/lock/": "uv.lock"}}, ["app_static is '/lock/: uv.lock'", "has no directory 'uv.lock' that contains files"]),
        ({"app_files": {"settings.py": "DEBUG = False", "config/x.ini": ""}}, []),
        (
            {"app_files": {"../settings.py": "hunter2"}},
            ["app_files is invalid: '../settings.py' must be the path of a file within the source"],
        ),
        ({"app_files": {"/etc/x": "hunter2"}}, ["app_files is invalid: '/etc/x' must be the path of a file"]),
        ({"app_files": {"a//b": "", "c": ""}}, ["'a//b' must be the path of a file"]),
        ({"app_files": {"config/": ""}}, ["'config/' must be the path of a file"]),
        ({"app_files": {"a": "", "a/b": ""}}, ["'a' can't be a file and the directory of 'a/b'"]),
        ({"app_files": {"x.json": {"a": "hunter2"}}}, ["app_files is invalid: YAML reads 'x.json' as a dictionary"]),
        (
            {"app_files": {"mysite/__init__.py": "hunter2"}},
            ["the source has the file 'mysite/__init__.py' itself. Remove it from the source"],
        ),
        ({"app_files": {"mysite": ""}, "app_static": {}}, ["'mysite' is a directory of the source"]),
        ({"app_files": {"uv.lock/x": ""}}, ["'uv.lock/x' is below 'uv.lock', which is a file or a link"]),
        ({"app_files": {"data/x": ""}, "app_shared": ["data"]}, ["app_files is invalid: 'data/x' overlaps with 'data' in app_shared"]),
        (
            {"app_files": {"mysite/static/x": ""}},
            ["'mysite/static/x' overlaps with 'mysite/static' in app_static, so visitors could read it"],
        ),
        ({"app_files": {"x": ""}, "app_runtime": "container", "app_image": "a.example/b:1"}, ["an image has its own files"]),
        ({"app_static": {"/static/": "."}}, ["app_static is {", "'.' must be a directory within the source"]),
        ({"app_static": {"/../etc/": "mysite/static"}}, ["'/../etc/' is not the URL of a directory"]),
        ({"app_static": {"/a//b/": "mysite/static"}}, ["'/a//b/' is not the URL of a directory"]),
        (
            {"app_services": ["mysql"]},
            ["app_services", "'mysql' is not a service. Choose from backup, mariadb, memcached, postgresql, redis."],
        ),
        ({"app_services": ["postgresql"], "app_env": {"DATABASE_URL": "sqlite:///x.db"}}, ["postgresql sets DATABASE_URL for the app"]),
        (
            {"app_services": ["redis"], "app_secrets": {"REDIS_URL": "redis://x"}},
            ["redis sets REDIS_URL for the app", "Remove one of the two, or set redis_url, which redis passes to the app."],
        ),
        (
            {"app_services": ["memcached"], "app_env": {"MEMCACHED_SOCKET": "x"}},
            ["app_env or app_secrets sets it too. Remove one of the two."],
        ),
        (
            {"app_services": ["postgresql", "redis", "mariadb"]},
            ["postgresql and mariadb both set DATABASE_URL for the app. Choose one of the two."],
        ),
        (
            {"app_services": ["mariadb"], "app_env": {"DATABASE_URL": "sqlite:///x"}},
            ["or set mariadb_url, which mariadb passes to the app."],
        ),
        ({"mariadb_settings": {"general_log": False}}, ["YAML reads 'general_log' as true or false"]),
        ({"app_name": "mysql"}, ["a user or service of the distribution has this name"]),
        ({"redis_port": 6380}, ["redis_port is 6380: it also requires redis_password"]),
        ({"redis_port": 80, "redis_password": "x"}, ["it must be a port from 1024 to 65535, or 0"]),
        (
            {"app_services": ["backup"], "app_env": {"DATABASE_URL": "mssql://a:b@h/d"}},
            ["backup supports PostgreSQL, MariaDB, MySQL and SQLite, not mssql."],
        ),
        ({"app_env": {"DATABASE_URL": "localhost/shop"}}, ["app_env", "DATABASE_URL is invalid: it is not a URL. Write postgresql://USER"]),
        ({"app_env": {"DATABASE_URL": "postgress://h/d"}}, ["it begins with postgress://. Did you mean postgresql://?"]),
        ({"app_env": {"DATABASE_URL": "postgres://u:p@h"}}, ["it has no database name"]),
        ({"app_env": {"DATABASE_URL": "postgres:///shop"}}, ["it has no host"]),
        ({"backup_directory": ""}, ["backup_directory is ''", "backups need a destination"]),
        ({"backup_keep_days": 0}, ["it must be at least 1"]),
        ({"backup_s3_url": "my-bucket"}, ["the URL of a bucket"]),
        ({"backup_s3_url": "https://s3.example/b/f"}, ["it also needs backup_s3_access_key."]),
        (
            {"backup_s3_url": "https://s3.example/b/f", "backup_s3_access_key": "a", "backup_s3_secret_key": "b"},
            ["it also needs backup_password, because a password that the host generated would be lost with the host."],
        ),
        ({"postgresql_clients": ["everyone"]}, ["'everyone' is not an address, a network"]),
        ({"postgresql_listen": ["10.0.0.5"]}, ["it also requires postgresql_clients"]),
        ({"app_server": "procfile"}, ["app_server is 'procfile'", "the source has no Procfile at its top"]),
        ({"app_release_command": "procfile"}, ["app_release_command is 'procfile'", "the source has no Procfile"]),
        ({"app_env": {"BAD-NAME": "1"}}, ["'BAD-NAME' is not a valid environment variable name"]),
        ({"app_env": "A=1"}, ["app_env", "a dictionary"]),
        ({"app_health_path": "healthz"}, ["app_health_path", "begins with /"]),
        ({"app_static": {"/static": "nowhere"}}, ["'/static' is not the URL of a directory"]),
        ({"app_static": {"/static/": "../elsewhere"}}, ["must be a directory within the source"]),
        ({"app_static": {"/static/": "mysite/nowhere"}}, ["no directory 'mysite/nowhere'"]),
        ({"app_root": "srv"}, ["app_root", "absolute path"]),
        ({"ssh_port": 70000}, ["ssh_port is 70000", "1 to 65535"]),
        ({"ssh_port": "ssh"}, ["ssh_port is 'ssh'", "whole number"]),
        ({"ufw_blocked": ["300.1.1.1"]}, ["'300.1.1.1' is not an address, a network"]),
        ({"ufw_allowed": ["blocked-by-nobody.txt"]}, ["'blocked-by-nobody.txt' is not an address, a network, or an existing file"]),
        ({"nginx_trusted_proxies": ["10.0.0.0/33"]}, ["'10.0.0.0/33' is not an address, a network"]),
        ({"ufw_ssh_from": "allowed"}, ["ufw_ssh_from is 'allowed'", "ufw_allowed is empty"]),
        ({"ufw_web_from": "proxies", "ufw_allowed": ["10.0.0.1"]}, ["ufw_web_from is 'proxies'", "nginx_trusted_proxies is empty"]),
        ({"ufw_web_from": "friends"}, ["one of everyone, proxies, allowed"]),
        ({"base_reboot_time": "4:30"}, ["base_reboot_time is '4:30'", "a time of the day"]),
        ({"base_reboot_time": 16200}, ["base_reboot_time", "in quotes"]),
        ({"hardening_off": ["sysctl"]}, ["hardening_off is ['sysctl']", "network, kernel"]),
        ({"ssh_option": {"UsePAM": "no"}}, ["ssh_option: no such setting exists. Did you mean ssh_options?"]),
        ({"ufw_rules": [{"port": 5432, "form": "10.0.0.0/8"}]}, ["ufw_rules", "is not a valid rule"]),
        ({"ufw_rules": [{"port": 99999}]}, ["must be a port (1 to 65535) or a range"]),
        ({"tls_source": "letsencript"}, ["tls_source is 'letsencript'", "one of self_signed, letsencrypt, provided"]),
        (
            {"tls_source": "letsencrypt", "app_domains": ["*.example.com"]},
            ["tls_source", "can't validate the wildcard '*.example.com'", "List each name"],
        ),
        ({"tls_source": "letsencrypt", "app_domains": ["localhost"]}, ["'localhost' is not a public domain name", "self_signed"]),
        ({"tls_source": "letsencrypt", "app_domains": ["shop.test"]}, ["'shop.test' is not a public domain name"]),
        ({"tls_acme_directory": "acme.example/dir"}, ["tls_acme_directory is 'acme.example/dir'", "https:// URL"]),
        ({"tls_acme_ca_file": "nowhere.pem"}, ["tls_acme_ca_file is 'nowhere.pem'", "a file on this controller"]),
        ({"tls_acme_email": "mailto:you@example.com"}, ["tls_acme_email", "one address"]),
        ({"tls_acme_eab_id": "kid"}, ["tls_acme_eab_id is 'kid'", "set both tls_acme_eab_id and tls_acme_eab_secret"]),
        ({"nginx_hsts": "63072000"}, ["nginx_hsts is '63072000'", "max-age=63072000; includeSubDomains"]),
        ({"nginx_tls_profile": "old"}, ["nginx_tls_profile is 'old'", "one of intermediate, modern"]),
        ({"tls_source": "provided", "tls_key_file": "nowhere.key"}, ["tls_key_file is 'nowhere.key'", "must be a file on this controller"]),
        ({"gunicorn_threads": "many"}, ["gunicorn_threads is 'many'", "whole number"]),
        ({"app_domain": ["example.com"]}, ["app_domain: no such setting exists. Did you mean app_domains?"]),
        ({"app_runtime": "docker"}, ["app_runtime is 'docker'", "one of venv, container"]),
        ({"app_image": "ghcr.io/you/mysite:1"}, ["app_image is 'ghcr.io/you/mysite:1'", "app_runtime must be container"]),
        ({"app_runtime": "container", "app_image": "mysite"}, ["app_image is 'mysite'", "it must be REGISTRY/NAME:TAG"]),
        ({"app_runtime": "container", "container_file": "Nofile"}, ["app_runtime is 'container'", "the source has no Nofile to build"]),
        (
            {"app_runtime": "container", "app_image": "a/b:1", "app_build_command": "npm ci"},
            ["app_build_command is 'npm ci'", "as a RUN line"],
        ),
        ({"app_server": "container"}, ["app_server is 'container'", "the role of a server: granian, gunicorn"]),
        ({"app_directory": "../elsewhere"}, ["app_directory is '../elsewhere'", "a directory within the source"]),
        ({"app_colour": "red"}, ["app_colour: no such setting exists. docs/variables.md lists"]),
        ({"app_folder": "backend"}, ["app_folder: this setting was renamed to app_directory.", "It is set in"]),
        ({"tls_folder": "/etc/tls"}, ["tls_folder: this setting was renamed to tls_directory."]),
        ({"gunicorn_treads": 4}, ["gunicorn_treads: no such setting exists. Did you mean gunicorn_threads?"]),
        ({"ansible_host": "YOUR_SERVER_ADDRESS"}, ["ansible_host", "is a placeholder", "inventories/production/hosts.yml, line"]),
    ],
)
def test_a_bad_setting_is_reported_with_its_value_and_fix(changes, messages):
    found = problems(**changes)
    assert len(found) == bool(messages), found
    assert "hunter2" not in "".join(found)
    if not messages:
        return
    for message in messages:
        assert message in found[0]
    assert "Set it in " in found[0] or "It is set in " in found[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("müller.test", "xn--mller-kva.test"),
        ("MÜLLER.test", "xn--mller-kva.test"),
        ("mu\u0308ller.test", "xn--mller-kva.test"),
        ("*.müller.test", "*.xn--mller-kva.test"),
        ("www.例え.テスト", "www.xn--r8jz45g.xn--zckzah"),
        ("faß.de", "xn--fa-hia.de"),
        ("\uff45xample\uff0ecom", "example.com"),
    ],
)
def test_the_ascii_form_of_an_internationalized_domain_is_offered(name, expected):
    """The operator pastes it; ß is not ss, and the name can have any form that a keyboard makes. (B26)"""
    (found,) = problems(app_domains=[name])
    assert f"'{name}' has letters" in found and f"Write it as {expected}." in found
    assert not problems(app_domains=[expected])


def test_another_ca_may_issue_certificates_for_internal_names():
    settings = {"tls_source": "letsencrypt", "app_domains": ["shop.internal"], "tls_acme_directory": "https://ca.internal/acme/directory"}
    assert problems(**settings) == []


def test_the_secret_of_an_acme_account_is_never_shown():
    (found,) = problems(tls_acme_eab_secret="hunter2")
    assert "tls_acme_eab_secret is invalid" in found and "hunter2" not in found


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (
            "web: x\nworker: y",
            {"app_processes": {"wroker": 1}},
            "app_processes is {'wroker': 1}: the source's Procfile has no process type",
        ),
        ("worker y", {"app_processes": {"worker": 1}}, "app_source is '../mysite': line 1 of its Procfile, 'worker y', is not valid"),
        ("worker: y", {"app_processes": {"worker": 2}, "app_schedule": [{"name": "a", "command": "b", "at": "c"}]}, ""),
    ],
)
def test_a_procfile_is_checked_before_any_host_is_touched(text, changes, message):
    found = problems(source={**SOURCE, "procfile": text}, **changes)
    assert len(found) == bool(message) and message in "".join(found)


def test_variables_of_other_software_are_ignored():
    assert problems(nginx_exporter_port=9113, systemd_oomd=True, mine_app_name="x") == []


def test_a_missing_setting_is_reported_with_its_description():
    (found,) = problems(without=["app_source"])
    assert "app_source is not set: Git URL of the app's source" in found


def test_app_module_is_optional_only_with_a_procfile_or_an_image():
    (found,) = problems(without=["app_module"])
    assert "app_module is not set: it must be module:object or module:factory()" in found
    (found,) = problems(app_module="")
    assert "app_module is ''" in found
    by_procfile = {"source": {**SOURCE, "procfile": "web: x"}, "app_server": "procfile"}
    by_image = {"app_runtime": "container", "app_image": "a/b:1"}
    for changes in by_procfile, by_image:
        assert problems(without=["app_module"], **changes) == problems(app_module="", **changes) == []


def test_all_problems_are_reported_at_once():
    assert len(problems(app_name="X", app_domains=["-"], app_server="x", ssh_port=-1)) == 4


def test_a_secret_is_never_shown():
    found = problems(app_secrets={"BAD-NAME": "hunter2", "SECRET_KEY": "YOUR_SECRET_KEY and hunter2"})
    assert found and "hunter2" not in "".join(found)


def test_an_invalid_database_url_is_reported_without_its_password():
    (found,) = problems(app_secrets={"DATABASE_URL": "postgresql://ann:hun/ter2@db.example:5432/shop"})
    assert "DATABASE_URL is invalid: the port in the URL is not a number. In a password, write / as %2F" in found
    assert "ter2" not in found
    (found,) = problems(app_env={"DATABASE_URL": "postgresql://ann:hunter2@db.example"})
    assert "it has no database name" in found and "://…@db.example" in found and "hunter2" not in found
    (found,) = problems(app_env={"DATABASE_URL": "postgresql://ann:hunt/er2@db.example/shop"})
    assert "%2F" in found and "hunt" not in found and "er2" not in found


def test_a_missing_source_is_reported():
    (found,) = problems(
        source={
            "failed": False,
            "failed_when_result": False,
            "msg": "app_source: it is neither a git URL nor a directory on this controller (looked for /x).",
        }
    )
    assert "app_source is '../mysite': it is neither a git URL nor a directory" in found


@pytest.mark.parametrize(
    ("links", "changes", "messages"),
    [
        ({"data": "mysite"}, {"app_shared": ["data/x"]}, ["app_shared is ['data/x']", "contains the symbolic link 'data' of the source"]),
        (
            {"pub": "mysite/static"},
            {"app_static": {"/s/": "pub"}, "app_shared": ["mysite/static"]},
            ["app_static is '/s/: pub'", "overlaps"],
        ),
        (
            {"pub": "mysite/none"},
            {"app_static": {"/s/": "pub"}},
            ["app_static is '/s/: pub'", "has no directory 'pub' that contains files"],
        ),
    ],
)
def test_a_link_of_the_source_is_resolved_before_any_host_is_touched(links, changes, messages):
    (found,) = problems(source={**SOURCE, "links": links}, **changes)
    for message in messages:
        assert message in found


def test_a_file_below_a_link_of_the_source_is_rejected():
    """The link may lead to a directory that nginx serves. (A9)"""
    (found,) = problems(source={**SOURCE, "links": {"config": "mysite/static"}}, app_files={"config/settings.py": "hunter2"})
    assert "'config/settings.py' is below 'config', which is a file or a link of the source" in found and "hunter2" not in found


def test_a_link_to_a_directory_of_the_source_can_be_served():
    assert not problems(source={**SOURCE, "links": {"pub": "mysite/static"}}, app_static={"/s/": "pub"})


@pytest.mark.parametrize("setting", ["app_build_command", "release_build_command"])
def test_a_static_directory_can_come_from_the_build(setting):
    """release_layout checks it after the build (A7)"""
    changes = {"app_static": {"/static/": "mysite/built"}}
    (found,) = problems(**changes)
    assert "the source has no directory 'mysite/built' that contains files. If a build creates it, set app_build_command." in found
    assert not problems(**changes, **{setting: "npm run build"})
    assert problems(**changes, **{setting: ""})


@pytest.mark.parametrize("stage", ["staging", "production"])
def test_an_inventory_with_placeholders_is_rejected_before_any_host_is_touched(stage):
    output = run_playbook(PROJECT, "deploy.yml", f"inventories/{stage}", succeeds=False).output
    for message in (
        "settings need your attention. No host was touched.",
        f"Set it in inventories/{stage}/hosts.yml",
        "YOUR_DOMAIN is a placeholder",
        "app_source is not set: Git URL of the app's source",
    ):
        assert message in output
    assert "unreachable=0" in output and "Traceback" not in output


def test_an_unsupported_distribution_is_rejected(tmp_path):
    tasks = [
        {
            "ansible.builtin.set_fact": {
                "ansible_facts": {"distribution": "Fedora", "distribution_version": "43", "distribution_major_version": "43"}
            }
        },
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.preflight", "tasks_from": "host"}},
    ]
    text = run_playbook(tmp_path, tasks, {"here": {}}, succeeds=False).text
    supported = "Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04, Ubuntu 26.04"
    assert f"here runs Fedora 43, which Flaskhost does not support. Use a host with one of {supported}. Nothing was changed." in text


def test_building_an_image_requires_podman_on_the_controller(monkeypatch):
    source = {**SOURCE, "files": [*SOURCE["files"], "Dockerfile"]}
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert not problems(source=source, app_runtime="container")
    monkeypatch.setattr("shutil.which", lambda name: None)
    (found,) = problems(source=source, app_runtime="container")
    assert "app_runtime is 'container': podman, which builds the image, is not installed on this controller" in found
    assert not problems(source=source, app_runtime="container", app_image="ghcr.io/you/mysite:1")


# -- each role has its own rules ----------------------------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path):
    """A copy of the collection's roles directory, to which a test can add roles."""
    collections = with_modules(tmp_path)
    roles = collections / "ansible_collections/flaskhost/flaskhost/roles"
    roles.unlink()
    roles.mkdir()
    for role in (PROJECT / "roles").iterdir():
        (roles / role.name).symlink_to(role)
    return roles


def preflight(directory, succeeds=True, **settings):
    """The output of preflight for one host, run in a directory without an ansible.cfg."""
    settings = {**GOOD, "app_source": str(PROJECT / "sample_app"), "app_module": "sample_app:create_app()", "app_static": {}, **settings}
    task = {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.preflight"}}
    environment = {"HOME": str(directory), "ANSIBLE_COLLECTIONS_PATH": str(directory / "collections")}
    run = run_playbook(directory, [task], {"h": settings}, settings={}, succeeds=succeeds, cwd=directory, environment=environment)
    return run.output.replace("\\n", "\n")


def test_a_new_server_needs_only_a_new_role_directory(tmp_path, collection):
    """The check knows the role's name, settings, types and rules, wherever the collection is installed."""
    shutil.copytree(PROJECT / "roles/gunicorn", collection / "hypercorn")
    for path in collection.glob("hypercorn/**/*.*"):
        path.write_text(path.read_text().replace("gunicorn", "hypercorn"))
    with open(collection / "hypercorn/meta/rules.py", "a") as handle:
        handle.write("\ndef hypercorn_workers(value, _settings):\n    return None if value < 9 else 'eight workers are enough.'\n")
    preflight(tmp_path, app_server="hypercorn", hypercorn_workers=8, hypercorn_threads=4)
    wrong = {"app_server": "apache", "hypercorn_workers": 9, "hypercorn_threads": "many", "hypercorn_timeout_secs": 1}
    output = preflight(tmp_path, succeeds=False, **wrong)
    assert "4 settings need your attention. No host was touched." in output
    for message in (
        "- app_server is 'apache': it must be the role of a server: granian, gunicorn, hypercorn, mod_wsgi",
        "- hypercorn_workers is 9: eight workers are enough.",
        "- hypercorn_threads is 'many': it must be a whole number.",
        "- hypercorn_timeout_secs: no such setting exists. Did you mean hypercorn_timeout_seconds?",
    ):
        assert message in output


def test_a_rule_without_a_setting_is_an_error(tmp_path, collection):
    """A misspelled rule would never be called."""
    (collection / "ssh").unlink()
    shutil.copytree(PROJECT / "roles/ssh", collection / "ssh")
    (collection / "ssh/meta/rules.py").write_text("def ssh_prot(value, _settings):\n    return 'no'\n")
    output = preflight(tmp_path, succeeds=False)
    assert "roles/ssh/meta/rules.py: ssh_prot is not a setting of this role" in " ".join(output.split())


def test_functions_with_an_underscore_are_helpers_and_not_rules():
    class module:
        def _helper():
            pass

        def ssh_port(value, _settings):
            pass

    assert list(rules.Role("ssh", {"ssh_port": {}}, module).rules) == ["ssh_port"]
    with pytest.raises(AnsibleError, match="ssh_port is not a setting of this role"):
        rules.Role("ssh", {}, module)


@pytest.mark.parametrize("path", ["action/settings_check", "plugin_utils/problems", "plugin_utils/rules", "plugin_utils/spec"])
def test_the_check_does_not_contain_names_of_roles_or_settings(path):
    tree = ast.parse((PROJECT / f"plugins/{path}.py").read_text())
    docstrings = {
        ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    }
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)} - docstrings
    known = {name for role in ROLES for name in (role.name, *role.options)}
    assert [name for name in known for text in texts if name in text.replace("/", " ").split()] == []


def test_an_invalid_setting_is_not_also_checked_against_the_source():
    (found,) = problems(app_module="mysit")
    assert "module:object" in found
    (found,) = problems(app_shared=["/mysite/__init__.py"])
    assert "must be a directory or file within the source" in found


def test_an_inventory_next_to_links_to_its_own_directory_is_read_once(tmp_path):
    """E.g. a hosts.yml at the top of a clone, next to `collections/…/flaskhost`, which is a link to the clone."""
    (tmp_path / "a").mkdir()
    for name in "bcd":
        (tmp_path / f"a/{name}").symlink_to(tmp_path)
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all/app.yml").write_text("---\napp_name: x\n")
    sources = check.Sources({"inventory_dir": str(tmp_path)})
    assert sources.of("app_name").endswith("group_vars/all/app.yml, line 2")
    assert plugin("plugin_utils/origins").inventory_files(str(tmp_path)) == []
