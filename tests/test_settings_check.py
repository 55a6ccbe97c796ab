"""Bad input gets one clear message, before any host is reached."""

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
SOURCE = {"files": ["mysite/__init__.py", "mysite/static/style.css", "uv.lock"], "links": {}, "dependency_file": "uv.lock"}


def problems(source=SOURCE, without=(), **changes):
    settings = {name: value for name, value in {**GOOD, **changes}.items() if name not in without}
    sources = check.Sources({"inventory_dir": str(PROJECT / "inventories/production")})
    return [problem.text(sources) for problem in check.check(settings, ROLES, {"preflight_source": source})]


def test_good_settings_pass():
    assert problems() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"app_name": "My-Site"}, ["app_name is 'My-Site'", "lower-case letters"]),
        ({"app_name": "x" * 26}, ["app_name", "at most 25"]),
        (
            {"container_options": ['--env=A" --user=0']},
            ["container_options", "has a character that a unit of systemd reads in its own way"],
        ),
        ({"container_options": ["--label=100%"]}, ["container_options", "has a character"]),
        ({"systemd_writable": ["/mnt/a b"]}, ["systemd_writable", "'/mnt/a b' is not a plain absolute path"]),
        ({"systemd_writable": ["/mnt/../etc"]}, ["systemd_writable", "is not a plain absolute path"]),
        (
            {"app_runtime": "container", "app_image": "ghcr.io/you/mysite:1", "app_env": {"LD_PRELOAD": "/x"}},
            ["'LD_PRELOAD' would change how podman itself runs"],
        ),
        ({"app_runtime": "container", "app_image": "-v/x:/y/z"}, ["app_image"]),
        ({"app_domains": []}, ["app_domains", "name the site's domains"]),
        ({"app_domains": ["203.0.113.7"]}, ["is an address", "203-0-113-7.sslip.io"]),
        ({"app_domains": ["2001:db8::7"]}, ["is an address", "2001-db8--7.sslip.io"]),
        ({"app_domains": ["https://example.com/"]}, ["no domain name", "without https://"]),
        ({"app_domains": ["exa_mple.com"]}, ["no domain name"]),
        ({"app_domains": "example.com"}, ["app_domains is 'example.com'", "must be a list, each of it a text"]),
        ({"app_domains": {"a": 1}}, ["app_domains", "must be a list"]),
        ({"app_module": "mysite"}, ["app_module is 'mysite'", "module:object or module:factory()"]),
        ({"app_module": "my-site:app"}, ["app_module", "module:object"]),
        ({"app_module": "mysit:app"}, ["no module 'mysit'", "Did you mean mysite?"]),
        ({"app_server": "gunicron"}, ["app_server is 'gunicron'", "gunicorn"]),
        ({"app_name": "postgres"}, ["app_name is 'postgres'", "the host itself has a user or a service of this name"]),
        ({"app_processes": ["worker"]}, ["app_processes", "names with values"]),
        ({"app_processes": {"worker": 1}}, ["the source has no Procfile at its top"]),
        ({"app_processes": {"web": 2}}, ["'web' is not counted here: app_server runs it"]),
        ({"app_processes": {"a b": 2}}, ["'a b' is no type of process"]),
        ({"app_processes": {"worker": "two"}}, ["of 'worker', say how many run"]),
        ({"app_schedule": [{"name": "tidy", "command": "true"}]}, ["each needs a name, a command, and at"]),
        ({"app_schedule": [{"name": "Tidy up", "command": "true", "at": "daily"}]}, ["'Tidy up' can't be a name"]),
        ({"app_schedule": [{"name": "tidy", "command": "true", "at": "daily"}] * 2}, ["two have the name 'tidy'"]),
        ({"app_schedule": [{"name": "tidy", "command": "echo 'a", "at": "daily"}]}, ["none that a shell understands"]),
        ({"app_shared": ["/var/data"]}, ["app_shared", "'/var/data' must be a folder within the source"]),
        ({"app_shared": ["../data"]}, ["'../data' must be a folder within the source"]),
        (
            {"app_shared": ["mysite/static"]},
            ["app_static is {", "nginx can't read", "'mysite/static' overlaps 'mysite/static' of app_shared"],
        ),
        ({"app_shared": ["mysite"]}, ["app_static is {", "'mysite/static' overlaps 'mysite' of app_shared"]),
        ({"app_shared": ["mysite/static/up"]}, ["app_static is {", "'mysite/static' overlaps 'mysite/static/up' of app_shared"]),
        ({"app_static": {"/static/": "./mysite//static/"}, "app_shared": ["mysite/static"]}, ["'./mysite//static/' overlaps"]),
        ({"release_shared": ["mysite/static"]}, ["app_static is {", "overlaps 'mysite/static' of app_shared"]),
        ({"release_static": {"/s/": "../x"}}, ["release_static is {", "'../x' must be a folder within the source"]),
        ({"app_shared": ["var", "var/data"]}, ["app_shared is ['var', 'var/data']", "'var/data' and 'var' overlap"]),
        ({"app_shared": ["mysite/__init__.py"]}, ["app_shared is [", "is a file of the source"]),
        ({"app_static": {"/static/": "."}}, ["app_static is {", "'.' must be a folder within the source"]),
        ({"app_static": {"/../etc/": "mysite/static"}}, ["'/../etc/' is no URL of a folder"]),
        ({"app_static": {"/a//b/": "mysite/static"}}, ["'/a//b/' is no URL of a folder"]),
        ({"app_services": ["mysql"]}, ["app_services", "mysql is no role of a service; there are backup, memcached, postgresql, redis."]),
        ({"app_services": ["postgresql"], "app_env": {"DATABASE_URL": "sqlite:///x.db"}}, ["postgresql gives the app DATABASE_URL"]),
        ({"app_services": ["redis"], "app_secrets": {"REDIS_URL": "redis://x"}}, ["redis gives the app REDIS_URL"]),
        (
            {"app_services": ["backup"], "app_env": {"DATABASE_URL": "mysql://a:b@h/d"}},
            ["backup knows PostgreSQL and SQLite, and no mysql"],
        ),
        ({"app_env": {"DATABASE_URL": "localhost/shop"}}, ["app_env", "DATABASE_URL leads nowhere: it is no URL. Write postgresql://USER"]),
        ({"app_env": {"DATABASE_URL": "postgress://h/d"}}, ["it begins with postgress://. Did you mean postgresql://?"]),
        ({"app_env": {"DATABASE_URL": "postgres://u:p@h"}}, ["it names no database"]),
        ({"app_env": {"DATABASE_URL": "postgres:///shop"}}, ["it names no host"]),
        ({"backup_folder": ""}, ["backup_folder is ''", "backups need a place"]),
        ({"backup_keep_days": 0}, ["keep them for a day at least"]),
        ({"backup_s3_url": "my-bucket"}, ["the URL of a bucket"]),
        ({"backup_s3_url": "https://s3.example/b/f"}, ["it needs backup_s3_access_key too"]),
        (
            {"backup_s3_url": "https://s3.example/b/f", "backup_s3_access_key": "a", "backup_s3_secret_key": "b"},
            ["it needs backup_password too, for one that was made on the host would be lost with the host"],
        ),
        ({"postgresql_clients": ["everyone"]}, ["'everyone' is no address or network"]),
        ({"postgresql_listen": ["10.0.0.5"]}, ["beyond its socket it needs postgresql_clients"]),
        ({"app_server": "procfile"}, ["app_server is 'procfile'", "the source has no Procfile at its top"]),
        ({"app_release_command": "procfile"}, ["app_release_command is 'procfile'", "the source has no Procfile"]),
        ({"app_env": {"BAD-NAME": "1"}}, ["'BAD-NAME' can't be the name"]),
        ({"app_env": "A=1"}, ["app_env", "names with values"]),
        ({"app_health_path": "healthz"}, ["app_health_path", "begins with /"]),
        ({"app_static": {"/static": "nowhere"}}, ["'/static' is no URL of a folder"]),
        ({"app_static": {"/static/": "../elsewhere"}}, ["must be a folder within the source"]),
        ({"app_static": {"/static/": "mysite/nowhere"}}, ["no folder 'mysite/nowhere'"]),
        ({"app_root": "srv"}, ["app_root", "absolute path"]),
        ({"ssh_port": 70000}, ["ssh_port is 70000", "1 to 65535"]),
        ({"ssh_port": "ssh"}, ["ssh_port is 'ssh'", "whole number"]),
        ({"ufw_blocked": ["300.1.1.1"]}, ["'300.1.1.1' is no address or network"]),
        ({"ufw_allowed": ["blocked-by-nobody.txt"]}, ["'blocked-by-nobody.txt' is no address or network, and no file with such"]),
        ({"nginx_trusted_proxies": ["10.0.0.0/33"]}, ["'10.0.0.0/33' is no address or network"]),
        ({"ufw_ssh_from": "allowed"}, ["ufw_ssh_from is 'allowed'", "ufw_allowed has nobody in it"]),
        ({"ufw_web_from": "proxies", "ufw_allowed": ["10.0.0.1"]}, ["ufw_web_from is 'proxies'", "nginx_trusted_proxies has nobody in it"]),
        ({"ufw_web_from": "friends"}, ["one of everyone, proxies, allowed"]),
        ({"base_reboot_time": "4:30"}, ["base_reboot_time is '4:30'", "a time of the day"]),
        ({"base_reboot_time": 16200}, ["base_reboot_time", "in quotes"]),
        ({"hardening_off": ["sysctl"]}, ["hardening_off is ['sysctl']", "network, kernel"]),
        ({"ssh_option": {"UsePAM": "no"}}, ["ssh_option: there is no setting of this name. Did you mean ssh_options?"]),
        ({"ufw_rules": [{"port": 5432, "form": "10.0.0.0/8"}]}, ["ufw_rules", "is not a rule"]),
        ({"ufw_rules": [{"port": 99999}]}, ["neither a port (1 to 65535) nor a range"]),
        ({"tls_source": "letsencript"}, ["tls_source is 'letsencript'", "one of self_signed, letsencrypt, provided"]),
        ({"tls_source": "letsencrypt", "app_domains": ["*.example.com"]}, ["tls_source", "'*.example.com' can't have", "Name each"]),
        ({"tls_source": "letsencrypt", "app_domains": ["localhost"]}, ["'localhost' is no name of the internet", "self_signed"]),
        ({"tls_source": "letsencrypt", "app_domains": ["shop.test"]}, ["'shop.test' is no name of the internet"]),
        ({"tls_acme_directory": "acme.example/dir"}, ["tls_acme_directory is 'acme.example/dir'", "https:// URL"]),
        ({"tls_acme_ca_file": "nowhere.pem"}, ["tls_acme_ca_file is 'nowhere.pem'", "a file on this controller"]),
        ({"tls_acme_email": "mailto:you@example.com"}, ["tls_acme_email", "one address"]),
        ({"tls_acme_eab_id": "kid"}, ["tls_acme_eab_id is 'kid'", "go together"]),
        ({"nginx_hsts": "63072000"}, ["nginx_hsts is '63072000'", "max-age=63072000; includeSubDomains"]),
        ({"nginx_tls_profile": "old"}, ["nginx_tls_profile is 'old'", "one of intermediate, modern"]),
        ({"tls_source": "provided", "tls_key_file": "nowhere.key"}, ["tls_key_file is 'nowhere.key'", "must be a file on this controller"]),
        ({"gunicorn_threads": "many"}, ["gunicorn_threads is 'many'", "whole number"]),
        ({"app_domain": ["example.com"]}, ["app_domain: there is no setting of this name. Did you mean app_domains?"]),
        ({"app_runtime": "docker"}, ["app_runtime is 'docker'", "one of venv, container"]),
        ({"app_image": "ghcr.io/you/mysite:1"}, ["app_image is 'ghcr.io/you/mysite:1'", "goes with app_runtime: container"]),
        ({"app_runtime": "container", "app_image": "mysite"}, ["app_image is 'mysite'", "it is REGISTRY/NAME:TAG"]),
        ({"app_runtime": "container", "container_file": "Nofile"}, ["app_runtime is 'container'", "the source has no Nofile to build"]),
        (
            {"app_runtime": "container", "app_image": "a/b:1", "app_build_command": "npm ci"},
            ["app_build_command is 'npm ci'", "as a RUN line"],
        ),
        ({"app_server": "container"}, ["app_server is 'container'", "the role of a WSGI server: granian, gunicorn"]),
        ({"app_folder": "../elsewhere"}, ["app_folder is '../elsewhere'", "a folder within the source"]),
        ({"app_colour": "red"}, ["app_colour: there is no setting of this name. docs/variables.md"]),
        ({"gunicorn_treads": 4}, ["gunicorn_treads: there is no setting of this name. Did you mean gunicorn_threads?"]),
        ({"ansible_host": "YOUR_SERVER_ADDRESS"}, ["ansible_host", "is a placeholder", "inventories/production/hosts.yml, line"]),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_the_cure(changes, words):
    found = problems(**changes)
    assert len(found) == 1, found
    for word in words:
        assert word in found[0]
    assert "Set it in " in found[0] or "It is set in " in found[0]


def test_another_ca_may_know_names_of_your_own_network():
    settings = {"tls_source": "letsencrypt", "app_domains": ["shop.internal"], "tls_acme_directory": "https://ca.internal/acme/directory"}
    assert problems(**settings) == []


def test_the_secret_of_an_account_never_shows():
    (found,) = problems(tls_acme_eab_secret="hunter2")
    assert "tls_acme_eab_secret is wrong" in found and "hunter2" not in found


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("web: x\nworker: y", {"app_processes": {"wroker": 1}}, "app_processes is {'wroker': 1}: the source's Procfile has no type"),
        ("worker y", {"app_processes": {"worker": 1}}, "app_source is '../mysite': line 1 of its Procfile, 'worker y', is no process"),
        ("worker: y", {"app_processes": {"worker": 2}, "app_schedule": [{"name": "a", "command": "b", "at": "c"}]}, ""),
    ],
)
def test_a_procfile_is_judged_before_any_host_is_touched(text, changes, words):
    found = problems(source={**SOURCE, "procfile": text}, **changes)
    assert len(found) == bool(words) and words in "".join(found)


def test_names_of_other_peoples_variables_are_left_alone():
    assert problems(nginx_exporter_port=9113, systemd_oomd=True, mine_app_name="x") == []


def test_a_missing_setting_is_told_with_what_it_is_for():
    (found,) = problems(without=["app_name"])
    assert "app_name is not set: Names the app's user" in found


def test_only_a_procfile_or_an_image_does_without_a_module():
    (found,) = problems(without=["app_module"])
    assert "app_module is not set: it must be module:object or module:factory()" in found
    (found,) = problems(app_module="")
    assert "app_module is ''" in found
    by_procfile = {"source": {**SOURCE, "procfile": "web: x"}, "app_server": "procfile"}
    by_image = {"app_runtime": "container", "app_image": "a/b:1"}
    for changes in by_procfile, by_image:
        assert problems(without=["app_module"], **changes) == problems(app_module="", **changes) == []


def test_all_problems_are_told_at_once():
    assert len(problems(app_name="X", app_domains=["-"], app_server="x", ssh_port=-1)) == 4


def test_a_secret_never_shows():
    found = problems(app_secrets={"BAD-NAME": "hunter2", "SECRET_KEY": "YOUR_SECRET_KEY and hunter2"})
    assert found and "hunter2" not in "".join(found)


def test_a_wrong_database_url_is_told_without_its_password():
    (found,) = problems(app_secrets={"DATABASE_URL": "postgresql://ann:hun/ter2@db.example:5432/shop"})
    assert "DATABASE_URL leads nowhere: what stands for its port is none. In a password, write / as %2F" in found
    assert "ter2" not in found
    (found,) = problems(app_env={"DATABASE_URL": "postgresql://ann:hunter2@db.example"})
    assert "it names no database" in found and "://…@db.example" in found and "hunter2" not in found
    (found,) = problems(app_env={"DATABASE_URL": "postgresql://ann:hunt/er2@db.example/shop"})
    assert "%2F" in found and "hunt" not in found and "er2" not in found


def test_a_source_that_is_not_there_is_told():
    (found,) = problems(
        source={
            "failed": False,
            "failed_when_result": False,
            "msg": "app_source: it is neither a git URL nor a folder on this controller (looked for /x).",
        }
    )
    assert "app_source is '../mysite': it is neither a git URL nor a folder" in found


@pytest.mark.parametrize(
    ("links", "changes", "words"),
    [
        ({"data": "mysite"}, {"app_shared": ["data/x"]}, ["app_shared is ['data/x']", "goes through 'data', a link of the source"]),
        (
            {"pub": "mysite/static"},
            {"app_static": {"/s/": "pub"}, "app_shared": ["mysite/static"]},
            ["app_static is '/s/: pub'", "overlaps"],
        ),
        ({"pub": "mysite/none"}, {"app_static": {"/s/": "pub"}}, ["app_static is '/s/: pub'", "has no folder 'pub' with files in it"]),
    ],
)
def test_a_link_of_the_source_is_followed_before_any_host_is_touched(links, changes, words):
    (found,) = problems(source={**SOURCE, "links": links}, **changes)
    for word in words:
        assert word in found


def test_a_link_to_a_directory_of_the_source_may_be_served():
    assert not problems(source={**SOURCE, "links": {"pub": "mysite/static"}}, app_static={"/s/": "pub"})


def test_a_source_without_dependencies_is_told():
    (found,) = problems(source={**SOURCE, "dependency_file": ""})
    assert "Add a uv.lock, requirements.txt, pyproject.toml or setup.py" in found


@pytest.mark.parametrize("stage", ["staging", "production"])
def test_an_inventory_with_placeholders_is_refused_before_any_host_is_touched(stage):
    output = run_playbook(PROJECT, "deploy.yml", f"inventories/{stage}", good=False).output
    for word in (
        "settings need your attention. No host was touched.",
        f"Set it in inventories/{stage}/hosts.yml",
        "YOUR_DOMAIN is a placeholder",
        "YOUR_SECRET_KEY is a placeholder",
    ):
        assert word in output
    assert "unreachable=0" in output and "Traceback" not in output


def test_an_unsupported_distribution_is_refused(tmp_path):
    tasks = [
        {
            "ansible.builtin.set_fact": {
                "ansible_facts": {"distribution": "Fedora", "distribution_version": "43", "distribution_major_version": "43"}
            }
        },
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.preflight", "tasks_from": "host"}},
    ]
    text = run_playbook(tmp_path, tasks, {"here": {}}, good=False).text
    supported = "Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04, Ubuntu 26.04"
    assert f"here runs Fedora 43, which Flaskhost does not know. Supported are {supported}. Nothing was changed." in text


def test_an_image_can_only_be_built_where_there_is_podman(monkeypatch):
    source = {**SOURCE, "files": [*SOURCE["files"], "Dockerfile"]}
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert not problems(source=source, app_runtime="container")
    monkeypatch.setattr("shutil.which", lambda name: None)
    (found,) = problems(source=source, app_runtime="container")
    assert "app_runtime is 'container': podman, which builds the image, is not installed on this controller" in found
    assert not problems(source=source, app_runtime="container", app_image="ghcr.io/you/mysite:1")


# -- a role brings its own rules ----------------------------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path):
    """A copy of the collection, to which a test may add roles."""
    collections = with_modules(tmp_path)
    roles = collections / "ansible_collections/flaskhost/flaskhost/roles"
    roles.unlink()
    roles.mkdir()
    for role in (PROJECT / "roles").iterdir():
        (roles / role.name).symlink_to(role)
    return roles


def preflight(folder, good=True, **settings):
    """What preflight says of one host, in an empty directory that has no ansible.cfg."""
    settings = {**GOOD, "app_source": str(PROJECT / "sample_app"), "app_module": "sample_app:create_app()", "app_static": {}, **settings}
    task = {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.preflight"}}
    environment = {"HOME": str(folder), "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections")}
    run = run_playbook(folder, [task], {"h": settings}, settings={}, good=good, cwd=folder, environment=environment)
    return run.output.replace("\\n", "\n")


def test_a_new_server_is_one_new_directory(tmp_path, collection):
    """Its settings, types, rules and its name are known at once, wherever the collection is installed."""
    shutil.copytree(PROJECT / "roles/gunicorn", collection / "hypercorn")
    for path in collection.glob("hypercorn/**/*.*"):
        path.write_text(path.read_text().replace("gunicorn", "hypercorn"))
    with open(collection / "hypercorn/meta/rules.py", "a") as handle:
        handle.write("\ndef hypercorn_workers(value, _settings):\n    return None if value < 9 else 'eight workers are enough.'\n")
    preflight(tmp_path, app_server="hypercorn", hypercorn_workers=8, hypercorn_threads=4)
    wrong = {"app_server": "apache", "hypercorn_workers": 9, "hypercorn_threads": "many", "hypercorn_timeout_secs": 1}
    output = preflight(tmp_path, good=False, **wrong)
    assert "4 settings need your attention. No host was touched." in output
    for words in (
        "- app_server is 'apache': it must be the role of a WSGI server: granian, gunicorn, hypercorn, mod_wsgi",
        "- hypercorn_workers is 9: eight workers are enough.",
        "- hypercorn_threads is 'many': it must be a whole number.",
        "- hypercorn_timeout_secs: there is no setting of this name. Did you mean hypercorn_timeout_seconds?",
    ):
        assert words in output


def test_a_rule_that_no_setting_would_call_is_an_error(tmp_path, collection):
    """Misspelt, it would never reject anything."""
    (collection / "ssh").unlink()
    shutil.copytree(PROJECT / "roles/ssh", collection / "ssh")
    (collection / "ssh/meta/rules.py").write_text("def ssh_prot(value, _settings):\n    return 'no'\n")
    output = preflight(tmp_path, good=False)
    assert "roles/ssh/meta/rules.py: ssh_prot is no setting of this role" in " ".join(output.split())


def test_names_of_helpers_begin_with_an_underscore():
    class module:
        def _helper():
            pass

        def ssh_port(value, _settings):
            pass

    assert list(rules.Role("ssh", {"ssh_port": {}}, module).rules) == ["ssh_port"]
    with pytest.raises(AnsibleError, match="ssh_port is no setting of this role"):
        rules.Role("ssh", {}, module)


@pytest.mark.parametrize("path", ["action/settings_check", "plugin_utils/problems", "plugin_utils/rules", "plugin_utils/spec"])
def test_the_check_knows_no_role_and_no_setting_by_name(path):
    tree = ast.parse((PROJECT / f"plugins/{path}.py").read_text())
    docstrings = {
        ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    }
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)} - docstrings
    known = {name for role in ROLES for name in (role.name, *role.options)}
    assert [name for name in known for text in texts if name in text.replace("/", " ").split()] == []


def test_what_only_the_source_shows_is_not_reported_of_a_setting_that_is_wrong_by_itself():
    (found,) = problems(app_module="mysit")
    assert "module:object" in found
    (found,) = problems(app_shared=["/mysite/__init__.py"])
    assert "must be a folder within the source" in found


def test_an_inventory_beside_links_that_lead_back_is_read_at_once(tmp_path):
    """A hosts.yml at the top of a clone lies beside `collections/…/flaskhost`, which is the clone itself."""
    (tmp_path / "a").mkdir()
    for name in "bcd":
        (tmp_path / f"a/{name}").symlink_to(tmp_path)
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all/app.yml").write_text("---\napp_name: x\n")
    sources = check.Sources({"inventory_dir": str(tmp_path)})
    assert len([path for path in sources.files if path.startswith(str(tmp_path))]) == 1
    assert sources.of("app_name").endswith("group_vars/all/app.yml, line 2")
