"""The make targets: they work on macOS and Linux, and the tests are isolated from the operator's environment."""

import os
import re
import shutil
import subprocess

import pytest
from conftest import PROJECT

DEPLOY = {
    "deploy": "deploy.yml",
    "release": "playbooks/release.yml",
    "rollback": "playbooks/rollback.yml",
    "certificate": "playbooks/certificate.yml",
    "run": "playbooks/run.yml",
    "backup": "playbooks/backup.yml",
    "restore": "playbooks/restore.yml",
    "bucket": "playbooks/s3_bucket.yml",
    "status": "playbooks/status.yml",
    "doctor": "playbooks/doctor.yml",
}
MAKEFILE = (PROJECT / "Makefile").read_text()
LAB = [
    verb
    for verb in re.findall(r"^([a-z-]+):.* ## ", MAKEFILE, re.MULTILINE)
    if re.fullmatch(r"test(-\w+)?|molecule|demo|bench|audit", verb)
]
# tools that `make` installs; make 3.81 does not find them by name alone
TOOLS = sorted(path.name for path in (PROJECT / ".venv/bin").iterdir() if path.is_file() and os.access(path, os.X_OK))


@pytest.fixture
def mac(tmp_path):
    """A clone on a Mac: a stand-in for `uname`, and an ansible-playbook that prints its arguments and environment."""
    project, programs = tmp_path / "flaskhost", tmp_path / "programs"
    (project / ".venv/bin").mkdir(parents=True)
    programs.mkdir()
    for name in ("Makefile", "pyproject.toml", "uv.lock", ".python-version"):
        shutil.copy2(PROJECT / name, project / name)
    program(programs / "uname", "echo Darwin")
    program(project / ".venv/bin/ansible-playbook", 'echo "$@"; env; echo "vault: ${ANSIBLE_VAULT_PASSWORD_FILE:-none}"')

    def make(*arguments, succeeds=True, **environment):
        environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)} | environment
        command = ["make", "--assume-old=.venv/ready", "--assume-old=.uv/bin/uv", *arguments]
        done = subprocess.run(command, cwd=project, env=environment, text=True, capture_output=True)
        assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
        return done.stdout + done.stderr

    return make


def program(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("verb", "playbook"), DEPLOY.items())
def test_deploy_targets_work_on_a_mac(mac, verb, playbook):
    assert mac(verb, "STAGE=staging", "ARGS=--check").startswith(f"-i inventories/staging {playbook} --check\n")


@pytest.mark.parametrize(("verb", "name", "variable"), [("run", "CMD", "FLASKHOST_RUN"), ("restore", "NAME", "FLASKHOST_RESTORE")])
def test_cmd_and_name_are_taken_from_the_command_line_only(mac, verb, name, variable):
    """The environment may contain NAME or CMD, e.g. on WSL."""
    assert f"{variable}=\n" in mac(verb, **{name: "of-this-machine"})
    assert f'{variable}=echo $HOME "it\'s"\n' in mac(verb, f'{name}=echo $HOME "it\'s"')


@pytest.mark.parametrize("verb", LAB)
def test_lab_targets_report_on_a_mac_that_they_need_linux(mac, verb):
    first, last = mac(verb, succeeds=False).splitlines()
    assert (
        first == f"make {verb} starts hosts in containers, which needs Linux. Run it on Debian or Ubuntu, or in a VM. Nothing was changed."
    )
    assert last.startswith("make: *** ")


def test_every_target_that_uses_the_lab_requires_linux():
    assert {"demo", "molecule", "bench", "audit", "test", "test-faults", "test-kills"} <= set(LAB)
    for recipe in re.findall(r"^([a-z-]+):([^=\n]*)\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE):
        verb, prerequisites, commands = recipe
        assert "$(LAB) " not in commands or verb == "clean" or prerequisites.split()[0] == "linux", verb


def test_no_recipe_starts_an_installed_tool_by_name_alone():
    """make 3.81 starts a simple command without a shell, and searches the PATH with which make was started."""
    for line in re.findall(r"^\t@?-?(.*)$", MAKEFILE, re.MULTILINE):
        for command in re.split(r"\|\||&&|;|\||\{", line):
            arguments = [word for word in command.split() if not re.match(r"\w+=", word)]
            assert not arguments or arguments[0] not in TOOLS, line


def test_recipes_do_not_need_bash():
    assert "SHELL" not in MAKEFILE
    for line in re.findall(r"^\t(.*)$", MAKEFILE, re.MULTILINE):
        assert "[[" not in line and "pipefail" not in line and "<(" not in line


def test_each_stage_uses_its_own_vault_password(mac, tmp_path):
    assert mac("status", "STAGE=staging").endswith("vault: none\n")
    password = tmp_path / ".config/flaskhost/vault-staging"
    password.parent.mkdir(parents=True)
    password.write_text("secret\n")
    assert mac("status", "STAGE=staging").endswith(f"vault: {password}\n")
    assert mac("status", "STAGE=production").endswith("vault: none\n")
    assert mac("status", "STAGE=production", ANSIBLE_VAULT_PASSWORD_FILE=str(password)).endswith(f"vault: {password}\n")


def test_unit_tests_do_not_see_the_operator_s_environment(tmp_path):
    """The operator has run `make secrets` for production, and has settings for Ansible, git, ssh and a cloud."""
    home = tmp_path / "home"
    (home / ".config/flaskhost").mkdir(parents=True)
    (home / ".config/flaskhost/vault-production").write_text("planted\n")
    (home / ".ansible.cfg").write_text("[defaults]\nvault_password_file = ~/.config/flaskhost/vault-production\n")
    (home / ".gitconfig").write_text("[user]\nname = planted\n")
    operator_environment = {
        "HOME": str(home),
        "ANSIBLE_VAULT_PASSWORD_FILE": str(home / ".config/flaskhost/vault-production"),
        "ANSIBLE_CONFIG": str(home / ".ansible.cfg"),
        "AWS_SECRET_ACCESS_KEY": "planted",
        "SSH_AUTH_SOCK": "/planted",
        "GIT_DIR": "/planted",
        "SECRET_KEY": "planted",
        "XDG_CONFIG_HOME": str(home / ".config"),
    }
    test = tmp_path / "test_environment.py"
    test.write_text(
        "import json, os, pathlib\ndef test_it():\n    pathlib.Path(os.environ['PYTEST_SEEN']).write_text(json.dumps(dict(os.environ)))\n"
    )
    shutil.copy2(PROJECT / "tests/conftest.py", tmp_path / "conftest.py")
    (tmp_path / "collections").symlink_to(PROJECT / "collections")
    (tmp_path / "pyproject.toml").write_text("")
    recipe = subprocess.run(
        ["make", "--assume-old=.venv/ready", "--assume-old=.uv/bin/uv", "--dry-run", "unit"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **operator_environment},
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    first = next(line for line in recipe.splitlines() if "pytest" in line)
    assert "VAULT" not in first
    seen = tmp_path / "seen.json"
    command = [str(PROJECT / ".venv/bin/pytest"), "-q", "-p", "no:cacheprovider", str(test)]
    subprocess.run(
        command,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTEST_SEEN": str(seen), **operator_environment},
        check=True,
        capture_output=True,
    )
    text = seen.read_text()
    assert "planted" not in text and "vault-production" not in text and "ANSIBLE" not in text
    assert f'"HOME": "{home}"' not in text
