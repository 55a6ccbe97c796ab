"""Development, staging and production: a stage's secrets, and the warning about a version that skips a stage."""

import json
import os
import subprocess

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from conftest import PROJECT, plugin, run_playbook, survivors

dotenv, previous_stage_check = plugin("lookup/dotenv"), plugin("action/previous_stage_check")


def values(path):
    return dotenv.LookupModule(loader=DataLoader()).run([str(path)])[0]


def test_a_dotenv_file_is_parsed_as_in_flask(tmp_path):
    (tmp_path / ".env").write_text(
        "# secrets\nA=1\nexport B=\"two 'words'\" # c\nC='it {{ is }} $5'\nEMPTY=\nNOTHING\nURL=postgres://u:p@h/d?x=1\n"
    )
    expected = {"A": "1", "B": "two 'words'", "C": "it {{ is }} $5", "EMPTY": "", "URL": "postgres://u:p@h/d?x=1"}
    assert values(tmp_path / ".env") == expected


def test_a_dotenv_file_does_not_read_the_controller_s_environment(tmp_path, monkeypatch):
    """${HOME} stays as it is, and ${NAME} refers to an earlier line of the file. (B29)"""
    monkeypatch.setenv("TOKEN", "the operator's")
    (tmp_path / ".env").write_text(
        'DATA=${HOME}/data\nQUOTED="${HOME:-/root}"\nLATER=${USER_NAME}\nPATH=${PATH}:/opt\nPLAIN=$HOME\nTOKEN=${TOKEN}\n'
        "USER_NAME=ann\nURL=postgresql://${USER_NAME}:a$$b@${HOST:-db}/${USER_NAME:-x}\nNONE\nEMPTY=\nBOTH='${EMPTY}${NONE}'\n"
    )
    assert values(tmp_path / ".env") == {
        "DATA": "${HOME}/data",
        "QUOTED": "${HOME:-/root}",
        "LATER": "${USER_NAME}",
        "PATH": "${PATH}:/opt",
        "PLAIN": "$HOME",
        "TOKEN": "${TOKEN}",
        "USER_NAME": "ann",
        "URL": "postgresql://ann:a$$b@${HOST:-db}/ann",
        "EMPTY": "",
        "BOTH": "${NONE}",
    }


def test_an_encrypted_dotenv_file_can_be_read(tmp_path):
    (tmp_path / "password").write_text("open sesame")
    (tmp_path / ".env").write_text("SECRET_KEY=5f3c9a\n")
    (tmp_path / "hosts.yml").write_text(
        yaml.safe_dump({"all": {"hosts": {"x": {"app_secrets": "{{ lookup('flaskhost.flaskhost.dotenv', inventory_dir ~ '/.env') }}"}}}})
    )
    vault = ["--vault-password-file", str(tmp_path / "password")]
    subprocess.run(["ansible-vault", "encrypt", *vault, tmp_path / ".env"], check=True, capture_output=True, cwd=PROJECT)
    assert "5f3c9a" not in (tmp_path / ".env").read_text()
    command = ["ansible", "x", "-i", str(tmp_path), *vault, "-m", "ansible.builtin.debug", "-a", "var=app_secrets.SECRET_KEY"]
    assert "5f3c9a" in subprocess.run(command, check=True, text=True, capture_output=True, cwd=PROJECT).stdout


def test_a_missing_dotenv_file_is_reported(tmp_path):
    with pytest.raises(AnsibleError, match=r"\.env does not exist. Create it with one NAME=value per line"):
        values(tmp_path / ".env")


# -- a version that staging never ran --------------------------------------------------------------------------------------


LOCAL = {"ansible_connection": "local", "ansible_become": False}


@pytest.fixture
def staging(tmp_path):
    """An inventory whose host is this machine, with two versions in its history."""
    directory = tmp_path / "inventories/staging"
    directory.mkdir(parents=True)
    hosts = {"staging": {**LOCAL, "app_root": str(tmp_path)}}
    (directory / "hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": hosts}}))
    lines = [{"id": "3f2a91c0de-7b1d22aa", "by": "ann@laptop"}, {"id": "5e5e5e5e5e-00000000", "by": "ci"}]
    (tmp_path / "history").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return directory


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setattr(previous_stage_check.constants, "CONFIG_FILE", str(PROJECT / "ansible.cfg"))
    monkeypatch.chdir(PROJECT)


def test_a_version_that_staging_ran_causes_no_warning(staging):
    assert previous_stage_check.warning_about("staging", "3f2a91c0de", str(staging)) == ""


def test_a_version_that_staging_never_ran_causes_a_warning(staging):
    """Neither another version with the same settings nor a prefix of the version counts."""
    for version in "7b1d22aa00", "3f2a91c0d":
        output = previous_stage_check.warning_about("staging", version, str(staging))
        assert output == f"staging never ran version {version}. To test the version first, deploy it to staging."


def test_the_history_is_read_from_the_default_app_root(staging, tmp_path, monkeypatch):
    """If the inventory does not set app_root, its default from the role app applies."""
    (staging / "hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": {"staging": {**LOCAL, "app_name": "shop"}}}}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tail").write_text(f"#!/bin/sh\n[ $3 = /srv/shop/history ] && exec cat {tmp_path}/history\n")
    (tmp_path / "bin/tail").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert previous_stage_check.warning_about("staging", "3f2a91c0de", str(staging)) == ""


def test_a_stage_with_its_own_vault_password_can_be_queried(staging, tmp_path, monkeypatch):
    for stage in "staging", "production":
        (tmp_path / f"vault-{stage}").write_text(stage)
    (tmp_path / "plain").write_text("vault_app_secrets: {}\n")
    vault = ["ansible-vault", "encrypt", "--vault-password-file", tmp_path / "vault-staging", "--output"]
    (staging / "group_vars").mkdir()
    subprocess.run([*vault, staging / "group_vars/all.yml", tmp_path / "plain"], check=True, capture_output=True, cwd=PROJECT)
    monkeypatch.setattr(previous_stage_check.constants, "DEFAULT_VAULT_PASSWORD_FILE", str(tmp_path / "vault-production"))
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(tmp_path / "vault-production"))
    assert previous_stage_check.warning_about("staging", "3f2a91c0de", str(staging)) == ""


def test_an_unreachable_stage_causes_a_warning_and_no_failure(staging, tmp_path):
    hosts = {"staging": {"ansible_host": "127.0.0.1", "ansible_port": 9, "app_root": "/srv/x"}}
    (staging / "hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": hosts}}))
    output = previous_stage_check.warning_about("staging", "3f2a91c0de", str(staging))
    assert "Cannot check whether staging ever ran version 3f2a91c0de: " in output and "Connection refused" in output
    assert "there is no inventory" in previous_stage_check.warning_about("stageing", "3f2a91c0de", str(tmp_path / "stageing"))


def test_a_stage_without_a_history_never_ran_a_version(staging, tmp_path):
    (tmp_path / "history").unlink()
    assert "staging never ran version" in previous_stage_check.warning_about("staging", "3f2a91c0de", str(staging))


def test_a_stage_with_placeholders_is_not_queried(staging, monkeypatch):
    (staging / "hosts.yml").write_text("app_servers: {hosts: {staging: {ansible_host: YOUR_SERVER_ADDRESS}}}\n")
    monkeypatch.setattr(previous_stage_check, "read_history", lambda *_: pytest.fail("the stage was queried"))
    assert previous_stage_check.warning_about("staging", "3f2a91c0de", str(staging)) == ""


@pytest.mark.parametrize("script", ["exec setsid sleep NUMBER", "exec yes xNUMBER", "ulimit -v >limit; exec sleep NUMBER"])
def test_a_query_that_hangs_or_never_ends_is_killed(staging, tmp_path, monkeypatch, script):
    """Ansible's worker processes, which run in separate sessions, are killed too, and their memory is limited."""
    # no other run of the tests has this number
    number = str(1_000_000 + os.getpid())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tail").write_text(f"#!/bin/sh\ncd {tmp_path}\n{script.replace('NUMBER', number)}\n")
    (tmp_path / "bin/tail").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    seconds = 15 if "limit" in script else 5  # Ansible must have started the query by then
    monkeypatch.setattr(previous_stage_check, "SECONDS", seconds)
    output = previous_stage_check.warning_about("staging", "3f2a91c0de", str(staging))
    assert output.startswith("Cannot check whether staging ever ran version 3f2a91c0de: ")
    assert not survivors(number) and not survivors(str(staging))
    if "limit" in script:
        assert "no response within 15 seconds" in output and int((tmp_path / "limit").read_text()) == previous_stage_check.MEMORY_KB


ANYTHING = [
    b'{"id": 1}',
    b'{"id": null}',
    b'{"id": ["3f2a91c0de-1"]}',
    b'{"id": {"id": 1}}',
    b'["id"]',
    b'"id"',
    b"null",
    b"7",
    b"NaN",
    b'{"id": "5e5',
    b"",
    b"\x00\xff\xfe",
    b'{"id": "caf\xe9"}',
    b"[" * 100_000,
    b'{"id": "' + b"x" * 500_000 + b'"}',
    b"9" * 10_000,
    b"\x1b[2J\r\x85\x0c",
]


@pytest.mark.parametrize("known", [True, False])
def test_an_invalid_history_does_not_break_the_check(staging, tmp_path, known):
    lines = [*ANYTHING, b'{"id": "3f2a91c0de-7b1d22aa"}'] if known else ANYTHING
    (tmp_path / "history").write_bytes(b"\n".join(lines))
    output = previous_stage_check.warning_about("staging", "3f2a91c0de", str(staging))
    assert output == ("" if known else "staging never ran version 3f2a91c0de. To test the version first, deploy it to staging.")


@pytest.mark.parametrize("line", ANYTHING)
def test_a_hostile_answer_is_reported_safely(staging, tmp_path, monkeypatch, line):
    command = ["sh", "-c", f"cat {tmp_path}/answer; printf '\\377\\033[2J https://ann:hunter2@host' >&2; exit 4"]
    (tmp_path / "answer").write_bytes(line)
    real = previous_stage_check.command.run
    monkeypatch.setattr(previous_stage_check.command, "run", lambda _argv, **options: real(command, **options))
    output = previous_stage_check.warning_about("staging", "3f2a91c0de", str(staging))
    assert output.isprintable() and len(output) < 400 and "hunter2" not in output


# -- the inventories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["development", "staging", "production"])
def test_each_stage_sets_app_stage(stage):
    command = ["ansible-inventory", "-i", f"inventories/{stage}", "--playbook-dir", "playbooks", "--host", stage]
    found = json.loads(subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=True).stdout)
    assert found["app_env"]["APP_STAGE"] == stage
    assert found.get("release_previous_stage", "") == ("staging" if stage == "production" else "")


def test_deploy_does_not_touch_the_development_stage():
    output = run_playbook(PROJECT, "deploy.yml", "inventories/development", "--list-hosts", succeeds=False).output
    assert "the inventory has no host in the group app_servers" in output and "hosts (1)" not in output


def test_develop_runs_the_app_with_its_stage_s_environment(tmp_path):
    """It installs the source's dependencies and runs the release command first."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "requirements.txt").write_text("Flask\n")
    (tmp_path / "uv").write_text('#!/bin/sh\nshift 2\necho "with $*"\nwhile [ "$1" != bash ]; do shift; done\nPATH=$BIN:$PATH exec "$@"\n')
    (tmp_path / "flask").write_text('#!/bin/sh\necho "flask $* in $PWD, $APP_STAGE, $KEY, $STATE_DIRECTORY"\n')
    for name in "uv", "flask":
        (tmp_path / name).chmod(0o755)
    variables = {
        "app_name": "sample",
        "app_source": str(source),
        "app_module": 'shop:create_app("x")',
        "app_release_command": "flask db upgrade",
        "app_extra_requirements": ["click<9"],
        "app_secrets": {"KEY": "it's $5"},
    }
    environment = {**os.environ, "HOME": str(tmp_path), "BIN": str(tmp_path), "UV": str(tmp_path / "uv"), "FLASKHOST_RUN": ""}
    arguments = ["--extra-vars", json.dumps(variables)]
    run = run_playbook(PROJECT, "playbooks/develop.yml", "inventories/development", *arguments, environment=environment)
    assert "it's $5" not in run.stdout, run.output
    script = tmp_path / ".cache/flaskhost/develop"
    assert script.stat().st_mode & 0o777 == 0o700
    output = subprocess.run([script], text=True, capture_output=True, check=True, env=environment).stdout.splitlines()
    rest = f"in {source}, development, it's $5, {tmp_path}/.local/share/flaskhost/sample"
    assert output[0] == "with --no-project --with-requirements requirements.txt --with click<9 bash -c flask db upgrade"
    assert output[1] == f"flask db upgrade {rest}"
    assert output[3] == f'flask --app shop:create_app("x") run --debug {rest}'
    output = subprocess.run(
        [script], text=True, capture_output=True, check=True, env={**environment, "FLASKHOST_RUN": "flask routes"}
    ).stdout
    assert output.splitlines()[1] == f"flask routes {rest}"


def test_develop_reports_missing_settings_in_a_fresh_clone(tmp_path):
    environment = {"HOME": str(tmp_path)}
    output = run_playbook(PROJECT, "playbooks/develop.yml", "inventories/development", succeeds=False, environment=environment).stdout
    assert "One setting needs your attention. No host was touched." in output, output
    assert "- app_source is not set: " in output
    assert not (tmp_path / ".cache/flaskhost/develop").exists()
