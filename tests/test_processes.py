"""A release's worker processes, scheduled jobs and one-off commands: the files rendered for them, and what these files do."""

import re
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from conftest import LOCAL, PROJECT, READ_APP, evaluate, plugin

procfile = plugin("plugin_utils/procfile")
PROCFILE = """# a Procfile as on other platforms
web: gunicorn "shop:create_app()"
release: flask db upgrade
worker: rq worker --url "$REDIS_URL" && true

send-mail: GREETING='it''s' python mail.py
"""
SETTINGS = {
    "app_name": "shop",
    "app_root": "/srv/shop",
    "app_domains": ["shop.test"],
    "app_source": "source",
    "app_version": "",
    "app_module": "shop:create_app()",
    "app_server": "gunicorn",
    "app_env": {"GREETING": "hello"},
    "app_secrets": {"SECRET_KEY": "5f3c9a"},
    "app_health_path": "/healthz",
    "app_release_command": "",
    "app_static": {},
}
ALL_KINDS = {
    "app_release_command": "procfile",
    "app_processes": {"worker": 2, "send-mail": 1, "sleeper": 0},
    "app_schedule": [{"name": "tidy", "command": "flask tidy 'a b'; echo $HOME", "at": "*-*-* 04:00"}],
    "app_services": ["postgresql", "redis", "backup"],
}
HOSTS = {
    "plain": {},
    "plain-with-names": {"app_processes": {}, "app_schedule": [], "app_services": []},
    "full": ALL_KINDS,
    "three": {**ALL_KINDS, "app_processes": {"worker": 3}},
    "later": {**ALL_KINDS, "app_schedule": [{"name": "tidy", "command": "true", "at": "*-*-* 05:00", "on_each_host": True}]},
    "less": {**ALL_KINDS, "app_services": ["redis"]},
    "procfile": {"app_server": "procfile"},
    # a type that the Procfile lacks, one whose command is replaced, one from the Procfile, and one that doesn't run
    "own": {
        "app_processes": {
            "beat": {"command": "rq beat --name 'a b' \"$GREETING\""},
            "worker": {"command": "rq other", "count": 2},
            "send-mail": {"count": 1},
            "sleeper": {"command": "sleep 9", "count": 0},
        }
    },
    "files": {"app_files": {"settings.py": "KEY = 'hunter2'"}},
    "other-files": {"app_files": {"settings.py": "KEY = 'hunter3'"}},
    "own-without-a-procfile": {"app_source": "bare", "app_processes": {"worker": {"command": "rq worker", "count": 2}}},
    "own-server": {
        "app_source": "bare",
        "app_server": "procfile",
        "app_processes": {"web": {"command": "python server.py -p $PORT"}, "worker": {"command": "rq worker"}},
    },
    "container": {**ALL_KINDS, "app_runtime": "container", "app_shared": ["instance"], "container_options": ["--dns=none"]},
    "shared": {**ALL_KINDS, "app_shared": ["instance", "app.db", "uploads"]},
    "container-of-another-file": {**ALL_KINDS, "app_runtime": "container", "container_file": "Containerfile"},
}


@pytest.fixture(scope="session")
def identified(tmp_path_factory):
    """The id, the files and the environment of each host's release."""
    directory = tmp_path_factory.mktemp("processes")
    (directory / "source").mkdir()
    (directory / "source/Procfile").write_text(PROCFILE)
    (directory / "source/requirements.txt").write_text("Flask\n")
    (directory / "bare").mkdir()
    (directory / "bare/requirements.txt").write_text("Flask\n")
    # a role that exposes the variables of the role `release`
    probe = directory / "roles/probe"
    (probe / "tasks").mkdir(parents=True)
    for name in ("defaults", "files", "templates", "vars"):
        (probe / name).symlink_to(PROJECT / "roles/release" / name)
    nothing = {"live": "", "built": [], "running": [], "enabled": [], "missing": {}}
    tasks = [
        {"ansible.builtin.set_fact": {"release_host": nothing, "ansible_facts": FACTS}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.release", "tasks_from": "identify"}},
        {"ansible.builtin.set_fact": {"seen": "{{ {'id': release_id, 'files': __release_files, 'env': __release_secret_files.env} }}"}},
    ]
    (probe / "tasks/main.yml").write_text(yaml.safe_dump(tasks))
    settings = {**SETTINGS, **LOCAL, "app_source": str(directory / "source")}
    for host in "own-without-a-procfile", "own-server":
        HOSTS[host]["app_source"] = str(directory / "bare")
    return evaluate(directory, [READ_APP, {"ansible.builtin.include_role": {"name": "probe"}}], "{{ seen }}", HOSTS, settings=settings)


FACTS = {"processor_vcpus": 2, "memtotal_mb": 2000, "apparmor": {"status": "enabled"}, "python": {"version": {"major": 3, "minor": 11}}}


# -- the Procfile ------------------------------------------------------------------------------------------------------


def test_a_procfile_is_parsed_as_on_other_platforms():
    assert list(procfile.commands(PROCFILE)) == ["web", "release", "worker", "send-mail"]
    assert procfile.commands("a:b\n  c :  d: e \n")["c"] == "d: e"


@pytest.mark.parametrize(
    ("text", "settings", "name", "message"),
    [
        (
            None,
            {"app_processes": {"worker": 1, "beat": {"count": 1}, "own": {"command": "x"}}},
            "app_processes",
            (
                "the source has no Procfile at its top, which must define worker, beat. Write the command into app_processes, such as "
                "worker: { command: COMMAND, count: 1 }, or into a Procfile, as worker: COMMAND."
            ),
        ),
        (
            None,
            {"app_server": "procfile"},
            "app_server",
            "which must define web. Choose another app_server, set app_processes: { web: { command: COMMAND } }, or add the line",
        ),
        ("web: x", {"app_processes": {"worker": 1}}, "app_processes", "no process type 'worker'. It has web."),
        (PROCFILE, {"app_processes": {"wroker": 1}}, "app_processes", "no process type 'wroker'. Did you mean worker?"),
        ("", {"app_server": "procfile"}, "app_server", "no process type 'web'. It has no process types."),
        ("web: x", {"app_release_command": "procfile"}, "app_release_command", "no process type 'release'"),
        ("worker rq worker", {"app_processes": {"worker": 1}}, "app_source", "line 1 of its Procfile, 'worker rq worker', is not valid"),
        ("worker:", {"app_processes": {"worker": 1}}, "app_source", "line 1 of its Procfile, 'worker:', is not valid"),
        ("a: b\na: c", {"app_processes": {"a": 1}}, "app_source", "line 2 of its Procfile defines 'a' a second time"),
        ("a: echo 'b", {"app_processes": {"a": 1}}, "app_source", "the command of 'a' in its Procfile is not a valid shell command: "),
    ],
)
def test_a_problem_of_a_procfile_is_reported(text, settings, name, message):
    ((setting, problem),) = procfile.problems(text, settings)
    assert setting == name and message in problem


def test_an_unused_procfile_is_not_checked():
    assert not list(procfile.problems("no Procfile, but prose", {"app_processes": {"worker": 0}, "app_server": "gunicorn"}))
    assert not list(procfile.problems(None, {"app_processes": {}, "app_release_command": ""}))
    assert not list(procfile.problems("no Procfile, but prose", {"app_processes": {"worker": {"command": "rq worker"}}}))


# -- the files of a release ------------------------------------------------------------------------------------------------


def test_an_app_without_workers_and_jobs_has_no_extra_files(identified):
    assert set(identified["plain"]["files"]) == {"gunicorn.conf.py", "unit", "start", "flaskhost_app.py", "release-command"}
    assert identified["plain"]["id"] == identified["plain-with-names"]["id"]


def test_a_changed_file_of_the_operator_is_another_release(identified):
    """The ID depends on the content of app_files, and neither it nor a file of the release shows the content. (A9)"""
    assert len({identified[host]["id"] for host in ("plain", "files", "other-files")}) == 3
    assert identified["files"]["files"] == identified["plain"]["files"] and "hunter" not in str(identified["files"])


def test_each_process_has_a_unit(identified):
    files = identified["full"]["files"]
    assert {"worker.1.service", "worker.2.service", "send-mail.1.service"} == {name for name in files if re.search(r"\.\d\.", name)}
    assert files["release-command"].splitlines()[-1] == "flask db upgrade"
    names = [identified[host]["id"] for host in ("plain", "full", "three", "later", "less")]
    assert len({*names}) == 5, "the release's id depends on the number of workers and the schedule"


def test_a_worker_s_command_can_be_a_setting(identified):
    """It needs no Procfile, and takes precedence over the Procfile's line. (A8)"""
    files = identified["own"]["files"]
    units = {name for name in files if re.search(r"\.\d\.", name)}
    assert units == {"beat.1.service", "worker.1.service", "worker.2.service", "send-mail.1.service"}
    assert "worker) set -- 'rq other' ;;" in files["process"] and "sleep 9" not in files["process"]
    assert "rq worker" in identified["full"]["files"]["process"] and "mail.py" in files["process"]
    bare = identified["own-without-a-procfile"]["files"]
    assert "worker) set -- 'rq worker' ;;" in bare["process"] and "worker.2.service" in bare


def test_the_server_s_command_can_be_a_setting(identified):
    """The source has no Procfile. Detection sets app_server (test_detection.py). (A8)"""
    files = identified["own-server"]["files"]
    assert "bash -c 'python server.py -p $PORT' &" in files["web.sh"] and "web.sh" in files["start"]
    assert {name for name in files if re.search(r"\.\d\.", name)} == {"worker.1.service"} and "python server.py" not in files["process"]


def test_a_worker_has_the_sandbox_of_the_server(identified):
    """Its unit has the same settings, except for starting and stopping."""

    def lines(name):
        return {line for line in identified["full"]["files"][name].splitlines() if re.match(r"[A-Z]\w+=", line)}

    own = r"(Description|ConditionPathExists|RequiresMountsFor|Type|ExecStart|WorkingDirectory|Environment\w*|Restart\w*|StartLimit\w+|RuntimeDirectory\w*|TimeoutStopSec|WantedBy)="
    for name in "worker.1.service", "schedule-tidy.service":
        assert not [line for line in lines("unit") ^ lines(name) if not re.match(own, line)]
    assert "StateDirectory=shop" in lines("worker.1.service")
    # systemd removes this directory when the unit stops, and the server's socket is in it
    assert "RuntimeDirectory" not in identified["full"]["files"]["worker.1.service"]
    assert "TimeoutStopSec=300" in lines("worker.1.service")


def test_caches_are_neither_data_nor_in_a_backup(identified):
    """npm and programs that follow the XDG standard use /var/cache/APP, which systemd creates, in a container too. (A13)"""
    container = identified["container"]["files"]["unit"]
    for name in "unit", "worker.1.service", "schedule-tidy.service":
        lines = identified["full"]["files"][name].splitlines()
        assert {"CacheDirectory=shop", "CacheDirectoryMode=0700"} <= {*lines}
        assert "Environment=XDG_CACHE_HOME=/var/cache/shop npm_config_cache=/var/cache/shop/npm" in lines
    for option in (
        "--env=XDG_CACHE_HOME=/var/cache/shop",
        "--env=npm_config_cache=/var/cache/shop/npm",
        "--volume=/var/cache/shop:/var/cache/shop",
    ):
        assert f'PodmanArgs="{option}"' in container
    assert "install -d -o shop -g shop-web -m 0700 /var/lib/shop /var/cache/shop\n" in container
    assert "install -d -o shop -g shop-web -m 0700 /var/lib/shop /var/cache/shop\n" in identified["container"]["files"]["in-image"]


def test_the_caches_of_a_build_command_are_discarded(build_sandbox):
    """npm's cache lands in the build's own /tmp, and the app's data is out of reach. (A13)"""
    assert "Environment=HOME=/tmp STATE_DIRECTORY=/tmp" in build_sandbox and "PrivateTmp=yes" in build_sandbox
    assert not [line for line in build_sandbox if re.match(r"(State|Cache)Directory|Environment=.*(/var/lib|XDG)", line)]


@pytest.fixture(scope="session")
def build_sandbox(tmp_path_factory):
    tasks = [READ_APP, {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.systemd", "tasks_from": "sandbox"}}]
    return evaluate(tmp_path_factory.mktemp("sandbox"), tasks, "{{ systemd_build_sandbox }}", {"h": {}}, settings={**SETTINGS, **LOCAL})[
        "h"
    ]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_systemd_accepts_the_units(identified, tmp_path):
    for name, text in identified["full"]["files"].items():
        if name == "unit":
            (tmp_path / "shop@r1.service").write_text(text)
        elif name.endswith((".service", ".timer")):
            (tmp_path / (name if name.startswith("schedule") else name.replace(".service", "@r1.service"))).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())]
    errors = subprocess.run(command, text=True, capture_output=True).stderr
    assert not [line for line in errors.splitlines() if line.startswith(str(tmp_path))], errors
    assert len(list(tmp_path.iterdir())) == 6


def test_one_of_several_hosts_runs_a_scheduled_job(identified):
    elsewhere = "ConditionPathExists=!/srv/shop/schedule-elsewhere\n"
    assert elsewhere in identified["full"]["files"]["schedule-tidy.service"]
    assert elsewhere not in identified["later"]["files"]["schedule-tidy.service"]
    assert elsewhere not in identified["full"]["files"]["worker.1.service"] + identified["full"]["files"]["unit"]


def test_a_scheduled_job_runs_in_the_live_release(identified):
    files = identified["full"]["files"]
    assert "ExecStart=/srv/shop/live/process schedule:tidy" in files["schedule-tidy.service"]
    assert "%i" not in files["schedule-tidy.service"] and "[Install]" not in files["schedule-tidy.service"]
    assert "OnCalendar=*-*-* 04:00\n" in files["schedule-tidy.timer"]


def test_the_app_s_services_are_in_its_environment_and_start_before_it(identified):
    full, less, plain = identified["full"], identified["less"], identified["plain"]
    assert 'DATABASE_URL="postgresql://shop@/shop?host=/run/postgresql"' in full["env"]
    assert 'REDIS_URL="unix:///run/redis-shop/redis.sock"' in full["env"] and 'GREETING="hello"' in full["env"]
    assert "DATABASE_URL" not in less["env"] and "REDIS_URL" not in plain["env"]
    # so that a worker's last job can still use the database when the host shuts down
    after = "After=network-online.target postgresql.service redis-server@shop.service\n"
    assert after in full["files"]["unit"] and after in full["files"]["worker.1.service"]
    assert "After=network-online.target\n" in plain["files"]["unit"]


# -- in a container ----------------------------------------------------------------------------------------------------


def test_a_container_has_quadlet_files_instead_of_units(identified):
    files = identified["container"]["files"]
    assert {name for name in files if "\n[Container]\n" in files[name]} == {
        *("unit", "worker.1.service", "worker.2.service", "send-mail.1.service", "schedule-tidy.service")
    }
    assert {"serve.py", "in-image", "start", "process", "release-command"} <= {*files}
    assert "ContainerName=shop-web-%i\n" in files["unit"]
    assert "ContainerName=shop-worker.${number}-%i\n" in files["worker.2.service"]
    # podman sets up the sandbox; systemd's would apply to podman itself
    assert "ProtectSystem" not in files["unit"] and "\nUser=" not in files["unit"] and "StateDirectory=" not in files["unit"]
    assert 'exec "$(command -v bash || echo sh)" -c "$1"' in files["process"] and ".venv" not in files["process"]


def test_what_the_app_shares_is_created_before_each_of_its_processes(identified):
    """By the app's user, in a container too, from the files of the same release (A6)"""
    command = 'python3 -ISB "${0%/*}/share.py" "${0%/*}/seed" /var/lib/shop instance app.db uploads || exit\n'
    for name in "start", "process", "release-command":
        assert command in identified["shared"]["files"][name]
        assert command.replace(" app.db uploads", "") in identified["container"]["files"][name]
        assert "share.py" not in identified["full"]["files"].get(name, "")
    assert {"share.py"} <= {*identified["shared"]["files"]} & {*identified["container"]["files"]}
    assert "share.py" not in identified["full"]["files"]


def test_a_container_runs_with_the_apparmor_profile_of_its_app(identified):
    """podman's own profile, stacked by crun, would keep the processes of a container from sending each other signals."""
    files = identified["container"]["files"]
    assert 'apparmor_profile = "flaskhost-shop"' in files["containers.conf"]
    for name in [name for name in files if name == "unit" or name.endswith(".service")]:
        directory = "/srv/shop/live" if name.startswith("schedule-") else "/srv/shop/releases/%i"
        assert f"\nEnvironment=CONTAINERS_CONF_OVERRIDE={directory}/containers.conf\n" in files[name], name
    assert 'export CONTAINERS_CONF_OVERRIDE="$release/containers.conf"' in files["in-image"]
    assert "containers.conf" not in identified["plain"]["files"]


def test_all_containers_of_a_release_have_the_same_sandbox(identified):
    files = identified["container"]["files"]

    def options(name):
        return set(re.findall(r'^PodmanArgs="(.*)"$', files[name], re.MULTILINE))

    units = [name for name in files if name == "unit" or name.endswith(".service")]
    assert len(units) == 5 and all(options(name) == options("unit") for name in units)
    assert {"--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--user=${user}", "--dns=none"} <= options("unit")
    assert set(re.findall(r'^    "(.*)" \\$', files["in-image"], re.MULTILINE)) == options("unit")


def test_all_processes_of_an_app_log_to_its_own_journal(identified):
    for host in "full", "container":
        units = {name: text for name, text in identified[host]["files"].items() if name == "unit" or name.endswith(".service")}
        assert units and all("\nLogNamespace=shop\n" in text for text in units.values())


def test_a_container_gets_its_services_and_no_secret_is_in_its_unit(identified):
    unit = identified["container"]["files"]["unit"]
    for name in "GREETING", "SECRET_KEY", "DATABASE_URL", "REDIS_URL":
        assert f'PodmanArgs="--env={name}"' in unit
    for directory in "/run/postgresql", "/run/redis-shop", "/var/lib/shop":
        assert f'PodmanArgs="--volume={directory}:{directory}"' in unit
    # no path from the image, and none that the app could replace with a link that root then follows
    assert "${workdir}" not in unit and "/var/lib/shop/instance:" not in unit
    assert "5f3c9a" not in unit and "EnvironmentFile=/srv/shop/releases/%i/env" in unit


def test_another_dockerfile_results_in_another_release(identified):
    image = re.search(r"^Image=localhost/flaskhost/shop:(\w{12})$", identified["container"]["files"]["unit"], re.MULTILINE)
    assert image and image[0] not in identified["container-of-another-file"]["files"]["unit"]


# -- running the rendered files --------------------------------------------------------------------------------------------


@pytest.fixture
def release(identified, tmp_path):
    """A live release on disk, whose programs print their environment and arguments."""
    directory = tmp_path / "releases/r1"
    (directory / "app").mkdir(parents=True)
    (directory / ".venv/bin").mkdir(parents=True)
    (tmp_path / "live").symlink_to("releases/r1")
    for name in "flask", "rq", "python":
        program = directory / f".venv/bin/{name}"
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$$" "$APP_RELEASE" "$PWD" "$GREETING" "$@"\n')
        program.chmod(0o755)
    (directory / "process").write_text(identified["full"]["files"]["process"])
    (directory / "process").chmod(0o755)
    return tmp_path


def start(release, name, **environment):
    environment = {"REDIS_URL": "unix:///a b", "HOME": "/h", **environment}
    process = subprocess.Popen([release / "live/process", name], env=environment, text=True, stdout=subprocess.PIPE)
    output = process.communicate(timeout=20)[0].splitlines()
    return process, output


def test_a_process_replaces_its_shell(release):
    """systemd's signal must reach the worker itself, so that it can finish its job."""
    process, (pid, name, directory, greeting, *arguments) = start(release, "send-mail")
    assert (process.returncode, int(pid)) == (0, process.pid)
    assert (name, directory, greeting, arguments) == ("r1", str(release / "releases/r1/app"), "its", ["mail.py"])


def test_a_command_is_run_by_a_shell(release):
    assert start(release, "worker")[1][4:] == ["worker", "--url", "unix:///a b"]
    assert start(release, "schedule:tidy")[1][4:] == ["tidy", "a b", "/h"]


def test_a_worker_s_command_from_a_setting_is_run_by_a_shell(identified, release):
    """With its quotes and variables, as a line of a Procfile. (A8)"""
    (release / "releases/r1/process").write_text(identified["own"]["files"]["process"])
    assert start(release, "beat", GREETING="hi there")[1][4:] == ["beat", "--name", "a b", "hi there"]


def test_an_unknown_command_fails(release):
    process, _output = start(release, "schedule:other")
    assert process.returncode == 64


def test_a_one_off_command_has_the_sandbox_of_the_live_release(identified, tmp_path):
    """systemd-run gets the settings of the live release's unit, in the same order."""
    directory = tmp_path / "releases/r1"
    directory.mkdir(parents=True)
    (tmp_path / "live").symlink_to("releases/r1")
    unit = identified["plain"]["files"]["unit"]
    (directory / "unit").write_text(unit)
    script = (PROJECT / "roles/systemd/templates/run.sh.j2").read_text()
    (tmp_path / "run").write_text(script.replace("{{ systemd_app_root }}", str(tmp_path)).replace("{{ systemd_app }}", "shop"))
    (tmp_path / "systemd-run").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    (tmp_path / "id").write_text("#!/bin/sh\necho 0\n")
    for name in "systemd-run", "id":
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["sh", str(tmp_path / "run"), "flask", "--app", "a b"]
    arguments = subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout.split("\0")
    assert arguments[-6:-1] == ["--", "/usr/bin/env", "flask", "--app", "a b"] and "--pipe" in arguments
    properties = [word.removeprefix("--property=") for word in arguments if word.startswith("--property=")]
    service = unit.replace("%i", "r1").partition("[Service]")[2].partition("[Install]")[0].splitlines()
    omitted = r"(Type|ExecStart|Restart\w*|KillMode|RuntimeDirectory\w*)="
    assert properties == [line for line in service if re.match(r"[A-Z]\w+=", line) and not re.match(omitted, line)]
    assert "User=shop" in properties and "EnvironmentFile=/srv/shop/releases/r1/env" in properties
    # in a container, the image's programs run
    (directory / "in-image").touch()
    arguments = subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout.split("\0")
    assert arguments[-6:-1] == ["--", str(directory / "in-image"), "flask", "--app", "a b"]


def test_the_procfile_s_web_process_gets_a_port_and_a_graceful_stop(identified, tmp_path):
    """It receives SIGTERM itself, and the proxy stops only after it has exited."""
    files = identified["procfile"]["files"]
    (tmp_path / "web.sh").write_text(files["web.sh"])
    (tmp_path / "open.py").touch()
    server = "trap 'sleep 0.5; echo finished; exit' TERM; echo serves $PORT; while :; do sleep 0.05; done"
    (tmp_path / "gunicorn").write_text(f"#!/bin/bash\n{server}\n")
    proxy = 'import sys, time\nif sys.argv[1].endswith("/flaskhost_port.py"): print(12345)\nelse: time.sleep(30)'
    (tmp_path / "python").write_text(f"#!{sys.executable}\n{proxy}\n")
    for name in "gunicorn", "python":
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["timeout", "--foreground", "20", "sh", str(tmp_path / "web.sh")]
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "serves 12345\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "finished\n"
        assert process.wait(10) is not None
