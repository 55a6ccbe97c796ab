"""Development, staging, production: where a stage's secrets come from, and what is said of a version that skips one."""

import json
import os
import subprocess

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from conftest import PROJECT, plugin, run_playbook

dotenv, stage_before = plugin("lookup/dotenv"), plugin("action/stage_before")


def values(path):
    return dotenv.LookupModule(loader=DataLoader()).run([str(path)])[0]


def test_a_dotenv_file_is_read_as_flask_reads_it(tmp_path):
    (tmp_path / ".env").write_text(
        "# secrets\nA=1\nexport B=\"two 'words'\" # c\nC='it {{ is }} $5'\nEMPTY=\nNOTHING\nURL=postgres://u:p@h/d?x=1\n"
    )
    wanted = {"A": "1", "B": "two 'words'", "C": "it {{ is }} $5", "EMPTY": "", "URL": "postgres://u:p@h/d?x=1"}
    assert values(tmp_path / ".env") == wanted


def test_an_encrypted_dotenv_file_is_read_too(tmp_path):
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


def test_a_dotenv_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AnsibleError, match=r"\.env does not exist. Write it, with one NAME=value on each line"):
        values(tmp_path / ".env")


# -- a version that staging never had --------------------------------------------------------------------------------------


LOCAL = {"ansible_connection": "local", "ansible_become": False}


@pytest.fixture
def staging(tmp_path):
    """An inventory whose host is this machine, and had two versions."""
    folder = tmp_path / "inventories/staging"
    folder.mkdir(parents=True)
    hosts = {"staging": {**LOCAL, "app_root": str(tmp_path)}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": hosts}}))
    lines = [{"id": "3f2a91c0de-7b1d22aa", "by": "ann@laptop"}, {"id": "5e5e5e5e5e-00000000", "by": "ci"}]
    (tmp_path / "history").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setattr(stage_before.constants, "CONFIG_FILE", str(PROJECT / "ansible.cfg"))
    monkeypatch.chdir(PROJECT)


def test_nothing_is_said_of_a_version_that_staging_had(staging):
    assert stage_before.say("staging", "3f2a91c0de", str(staging)) == ""


def test_a_word_is_said_of_one_that_it_never_had(staging):
    """The same settings of another version are another version; the start of its name is not its name."""
    for version in "7b1d22aa00", "3f2a91c0d":
        said = stage_before.say("staging", version, str(staging))
        assert said == f"staging never had version {version}: nobody has tried it there. To try it first, deploy to staging."


def test_the_history_is_asked_for_where_the_app_is(staging, tmp_path, monkeypatch):
    """No inventory names app_root: its default is the role app's."""
    (staging / "hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": {"staging": {**LOCAL, "app_name": "shop"}}}}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tail").write_text(f"#!/bin/sh\n[ $3 = /srv/shop/history ] && exec cat {tmp_path}/history\n")
    (tmp_path / "bin/tail").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert stage_before.say("staging", "3f2a91c0de", str(staging)) == ""


def test_a_stage_whose_secrets_have_a_password_of_their_own_is_asked(staging, tmp_path, monkeypatch):
    for stage in "staging", "production":
        (tmp_path / f"vault-{stage}").write_text(stage)
    (tmp_path / "plain").write_text("vault_app_secrets: {}\n")
    vault = ["ansible-vault", "encrypt", "--vault-password-file", tmp_path / "vault-staging", "--output"]
    (staging / "group_vars").mkdir()
    subprocess.run([*vault, staging / "group_vars/all.yml", tmp_path / "plain"], check=True, capture_output=True, cwd=PROJECT)
    monkeypatch.setattr(stage_before.constants, "DEFAULT_VAULT_PASSWORD_FILE", str(tmp_path / "vault-production"))
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(tmp_path / "vault-production"))
    assert stage_before.say("staging", "3f2a91c0de", str(staging)) == ""


def test_a_stage_that_can_not_be_asked_is_no_reason_to_fail(staging, tmp_path):
    hosts = {"staging": {"ansible_host": "127.0.0.1", "ansible_port": 9, "app_root": "/srv/x"}}
    (staging / "hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": hosts}}))
    said = stage_before.say("staging", "3f2a91c0de", str(staging))
    assert "Whether staging ever had version 3f2a91c0de can't be told: " in said and "Connection refused" in said
    assert "there is no inventory" in stage_before.say("stageing", "3f2a91c0de", str(tmp_path / "stageing"))


def test_a_stage_where_nothing_was_ever_live_never_had_any(staging, tmp_path):
    (tmp_path / "history").unlink()
    assert "staging never had version" in stage_before.say("staging", "3f2a91c0de", str(staging))


def test_a_stage_that_nobody_has_set_up_is_not_asked(staging, monkeypatch):
    (staging / "hosts.yml").write_text("app_servers: {hosts: {staging: {ansible_host: YOUR_SERVER_ADDRESS}}}\n")
    monkeypatch.setattr(stage_before, "ask", lambda *_: pytest.fail("it was asked"))
    assert stage_before.say("staging", "3f2a91c0de", str(staging)) == ""


@pytest.mark.parametrize("answer", ["exec setsid sleep 7653", "exec yes x7653", "ulimit -v >limit; exec sleep 7653"])
def test_an_answer_that_never_comes_or_never_ends_is_not_waited_for(staging, tmp_path, monkeypatch, answer):
    """Nothing of Ansible's goes on: its workers are in sessions of their own. What they may have in memory is bounded."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tail").write_text(f"#!/bin/sh\ncd {tmp_path}\n{answer}\n")
    (tmp_path / "bin/tail").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(stage_before, "SECONDS", 5)
    said = stage_before.say("staging", "3f2a91c0de", str(staging))
    assert said.startswith("Whether staging ever had version 3f2a91c0de can't be told: ")
    running = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    assert "7653" not in running and str(staging) not in running
    if "limit" in answer:
        assert "it gave no answer within 5 seconds" in said and int((tmp_path / "limit").read_text()) == stage_before.MEMORY_KB


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
def test_a_history_may_hold_anything(staging, tmp_path, known):
    lines = [*ANYTHING, b'{"id": "3f2a91c0de-7b1d22aa"}'] if known else ANYTHING
    (tmp_path / "history").write_bytes(b"\n".join(lines))
    said = stage_before.say("staging", "3f2a91c0de", str(staging))
    assert said == ("" if known else "staging never had version 3f2a91c0de: nobody has tried it there. To try it first, deploy to staging.")


@pytest.mark.parametrize("line", ANYTHING)
def test_an_answer_may_be_anything(staging, tmp_path, monkeypatch, line):
    answer = ["sh", "-c", f"cat {tmp_path}/answer; printf '\\377\\033[2J https://ann:hunter2@host' >&2; exit 4"]
    (tmp_path / "answer").write_bytes(line)
    real = stage_before.command.run
    monkeypatch.setattr(stage_before.command, "run", lambda _argv, **options: real(answer, **options))
    said = stage_before.say("staging", "3f2a91c0de", str(staging))
    assert said.isprintable() and len(said) < 400 and "hunter2" not in said


# -- the inventories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["development", "staging", "production"])
def test_each_stage_tells_the_app_which_it_is(stage):
    command = ["ansible-inventory", "-i", f"inventories/{stage}", "--playbook-dir", "playbooks", "--host", stage]
    found = json.loads(subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=True).stdout)
    assert found["app_env"]["APP_STAGE"] == stage
    assert found.get("release_after_stage", "") == ("staging" if stage == "production" else "")


def test_a_laptop_is_never_provisioned():
    said = run_playbook(PROJECT, "deploy.yml", "inventories/development", "--list-hosts").stdout
    assert "hosts (0)" in said and "hosts (1)" not in said


def test_the_app_starts_on_a_laptop_with_its_stage_s_environment(tmp_path):
    """With whatever the source says it depends on; its release command first."""
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
    words = ["--extra-vars", json.dumps(variables)]
    run = run_playbook(PROJECT, "playbooks/develop.yml", "inventories/development", *words, environment=environment)
    assert "it's $5" not in run.stdout, run.output
    script = tmp_path / ".cache/flaskhost/develop"
    assert script.stat().st_mode & 0o777 == 0o700
    said = subprocess.run([script], text=True, capture_output=True, check=True, env=environment).stdout.splitlines()
    rest = f"in {source}, development, it's $5, {tmp_path}/.local/share/flaskhost/sample"
    assert said[0] == "with --no-project --with-requirements requirements.txt --with click<9 bash -c flask db upgrade"
    assert said[1] == f"flask db upgrade {rest}"
    assert said[3] == f'flask --app shop:create_app("x") run --debug {rest}'
    said = subprocess.run([script], text=True, capture_output=True, check=True, env={**environment, "FLASKHOST_RUN": "flask routes"}).stdout
    assert said.splitlines()[1] == f"flask routes {rest}"


def test_in_a_fresh_clone_nothing_is_developed_and_what_is_missing_is_named(tmp_path):
    environment = {"HOME": str(tmp_path)}
    said = run_playbook(PROJECT, "playbooks/develop.yml", "inventories/development", good=False, environment=environment).stdout
    assert "settings need your attention. No host was touched." in said, said
    for name in "app_name", "app_source", "app_module":
        assert f"- {name} is not set: " in said
    assert not (tmp_path / ".cache/flaskhost/develop").exists()
