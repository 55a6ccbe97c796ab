"""A release's commands in their transient units: what the app's shell gets, and what the operator sees."""

import json
import os
import sys

import pytest
from ansible.module_utils.testing import patch_module_args
from conftest import PROJECT, READ_APP, plugin, run_playbook

release_job = plugin("modules/release_job")

# systemd replaces variables in the arguments of a unit's command (systemd.service, "Command lines")
SYSTEMD_RUN = f"""#!{sys.executable}
import os, re, sys
environment = {{"PATH": os.environ["PATH"], "HOME": "/var/lib/shop", "USER": "shop"}}
argv = []
for word in sys.argv[sys.argv.index("--") + 1 :]:
    if re.fullmatch(r"\\$\\w+", word):
        argv += environment.get(word[1:], "").split()
    else:
        argv.append(re.sub(r"\\$\\$|\\$\\{{(\\w+)\\}}", lambda found: environment.get(found[1], "") if found[1] else "$", word))
os.execvpe(argv[0], argv, environment)
"""
COMMAND = 'for i in a b; do printf "%s " "${i}" "$i"; done; echo "$HOME ${USER}" "$0 $#" "${NONE:-none}" $(( $$ > 0 ))'
PRINTED = "a a b b /var/lib/shop shop bash 0 none 1"


@pytest.fixture
def unit(tmp_path, monkeypatch):
    """Stand-ins for systemd-run, which runs the command with the app's environment, and systemctl."""
    (tmp_path / "bin").mkdir()
    for name, script in {"systemd-run": SYSTEMD_RUN, "systemctl": "#!/bin/sh\necho inactive\n"}.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(release_job, "acquire", lambda *_: None)


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_s_output_is_returned_without_credentials(unit, capsys, code):
    script = f"echo postgresql://ann:hunter2@db/shop; echo 'no https://ann:hunter2@index.example' >&2; exit {code}"
    arguments = {"app": "shop", "name": "release-command", "command": ["sh", "-c", script], "sandbox": [], "seconds": 60}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        release_job.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["rc"], found["stdout"], found["stderr"]) == (code, "postgresql://…@db/shop\n", "no https://…@index.example\n")


def test_variables_of_a_build_command_are_the_app_s(unit, capsys):
    """Neither Ansible nor systemd replaces them, but the shell that runs in the app's sandbox. (A4)"""
    arguments = {"app": "shop", "name": "build-command", "command": ["bash", "-c", COMMAND], "sandbox": [], "seconds": 60}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        release_job.main()
    assert json.loads(capsys.readouterr().out)["stdout"] == f"{PRINTED}\n"


def test_variables_of_a_one_off_command_are_the_app_s(unit, tmp_path):
    """`make run CMD='echo $$HOME'` passes the command in this environment variable. (A4)"""
    release = tmp_path / "releases/r1"
    release.mkdir(parents=True)
    (release / "unit").write_text("[Service]\nExecStart=/start\n")
    (tmp_path / "live").symlink_to("releases/r1")
    script = (PROJECT / "roles/systemd/templates/run.sh.j2").read_text()
    (tmp_path / "run").write_text(script.replace("{{ systemd_app_root }}", str(tmp_path)).replace("{{ systemd_app }}", "shop"))
    (tmp_path / "run").chmod(0o755)
    settings = {"ansible_connection": "local", "app_name": "shop", "app_domains": ["shop.test"], "app_root": str(tmp_path)}
    tasks = [READ_APP, {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.release", "tasks_from": "run"}}]
    environment = {"FLASKHOST_RUN": COMMAND}
    run = run_playbook(tmp_path, tasks, {"h": {}}, settings=settings, variables={"release_host": {}}, environment=environment)
    assert f"\n  {PRINTED}\n" in run.stdout, run.output
