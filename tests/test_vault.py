"""A stage's secrets are written once, encrypted, and opened by that stage's own password alone."""

import json
import os
import shutil
import subprocess

import pytest
from conftest import PROJECT


@pytest.fixture
def make(tmp_path):
    """The project's own commands, on a copy of what they change, for a person whose editor changes nothing."""
    for name in ("inventories", "group_vars"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    for name in ("Makefile", "ansible.cfg", "pyproject.toml", "uv.lock", ".python-version"):
        shutil.copy2(PROJECT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(PROJECT / ".venv")
    # as typed in a shell, though `make unit` may have called this test
    not_ours = ("ANSIBLE_VAULT_PASSWORD_FILE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in not_ours}
    environment |= {"HOME": str(tmp_path / "home"), "EDITOR": "true"}

    def make(*words, good=True):
        command = ["make", "--assume-old=.venv/ready", "--assume-old=.uv/bin/uv", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
        assert (done.returncode == 0) is good, done.stdout + done.stderr
        return done.stdout + done.stderr

    return make


def secrets_of(folder, stage, password=None):
    """As a play would see them."""
    environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    if password:
        environment["ANSIBLE_VAULT_PASSWORD_FILE"] = str(folder / f"home/.config/flaskhost/vault-{password}")
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
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    return json.loads(done.stdout.partition("=> ")[2])["app_secrets"] if done.returncode == 0 else {}


def test_each_stage_has_secrets_and_a_password_of_its_own(make, tmp_path):
    for stage in ("staging", "production"):
        said = make("secrets", f"STAGE={stage}")
        assert "Keep a copy: without it they are lost." in said
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


def test_without_them_the_placeholder_is_there_to_be_told():
    assert secrets_of(PROJECT, "staging") == {"SECRET_KEY": "YOUR_SECRET_KEY"}


def test_a_stage_that_has_no_secrets_to_begin_with_is_told(make, tmp_path):
    said = make("secrets", "STAGE=demo", good=False)
    assert "STAGE is demo, which has no secrets to begin with: write inventories/demo/group_vars/all/vault.yml.example" in said
    assert not (tmp_path / "home/.config/flaskhost/vault-demo").exists() and not list((tmp_path / "inventories/demo").rglob("vault.yml"))
