"""A stage's secrets are created once, encrypted with the stage's own password."""

import json
import os
import shutil
import subprocess

import pytest
from conftest import PROJECT


@pytest.fixture
def make(tmp_path):
    """Runs make on a copy of the files that it changes, with an editor that makes no changes."""
    for name in ("inventories", "group_vars"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    for name in ("Makefile", "ansible.cfg", "pyproject.toml", "uv.lock", ".python-version"):
        shutil.copy2(PROJECT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(PROJECT / ".venv")
    # as in a plain shell, even if `make unit` runs this test
    excluded = ("ANSIBLE_VAULT_PASSWORD_FILE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in excluded}
    environment |= {"HOME": str(tmp_path / "home"), "EDITOR": "true"}

    def make(*arguments, succeeds=True):
        command = ["make", "--assume-old=.venv/ready", "--assume-old=.uv/bin/uv", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
        assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
        return done.stdout + done.stderr

    return make


def secrets_of(directory, stage, password=None):
    """The secrets that a play sees, or {} if they can't be decrypted."""
    environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    if password:
        environment["ANSIBLE_VAULT_PASSWORD_FILE"] = str(directory / f"home/.config/flaskhost/vault-{password}")
    command = [
        "ansible",
        "-i",
        f"inventories/{stage}",
        stage,
        "--connection",
        "local",
        "--module-name",
        "debug",
        "--args",
        "var=app_secrets",
    ]
    done = subprocess.run(command, cwd=directory, env=environment, text=True, capture_output=True)
    return json.loads(done.stdout.partition("=> ")[2])["app_secrets"] if done.returncode == 0 else {}


def test_each_stage_has_its_own_secrets_and_password(make, tmp_path):
    for stage in ("staging", "production"):
        output = make("secrets", f"STAGE={stage}")
        assert "Keep a copy: without it, the secrets are lost." in output
        password = tmp_path / f"home/.config/flaskhost/vault-{stage}"
        assert oct(password.stat().st_mode)[-3:] == "600"
        vault = tmp_path / f"inventories/{stage}/group_vars/all/vault.yml"
        assert vault.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
        before = vault.read_text(), password.read_text()
        assert make("secrets", f"STAGE={stage}") == ""
        assert (vault.read_text(), password.read_text()) == before
    keys = [secrets_of(tmp_path, stage, stage)["SECRET_KEY"] for stage in ("staging", "production")]
    assert [len(key) for key in keys] == [64, 64] and keys[0] != keys[1]
    assert secrets_of(tmp_path, "staging", "production") == {}


def test_a_stage_needs_no_secrets():
    command = ["ansible-inventory", "-i", "inventories/staging", "--host", "staging"]
    found = json.loads(subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=True).stdout)
    assert "app_secrets" in found and secrets_of(PROJECT, "staging") == {}


def test_a_stage_without_an_example_vault_is_reported(make, tmp_path):
    output = make("secrets", "STAGE=demo", succeeds=False)
    assert "STAGE is demo, but inventories/demo/group_vars/all/vault.yml.example is missing." in output
    assert not (tmp_path / "home/.config/flaskhost/vault-demo").exists() and not list((tmp_path / "inventories/demo").rglob("vault.yml"))
