"""A release's command in its transient unit."""

import json
import os

import pytest
from ansible.module_utils.testing import patch_module_args
from conftest import plugin

release_job = plugin("modules/release_job")


@pytest.fixture
def unit(tmp_path, monkeypatch):
    """Stand-ins for systemd-run, which runs the command directly, and systemctl."""
    programs = {"systemd-run": 'while [ "$1" != -- ]; do shift; done\nshift\nexec "$@"', "systemctl": "echo inactive"}
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(release_job, "acquire", lambda *_: None)


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_s_output_is_returned_without_credentials(unit, capsys, code):
    script = f"echo postgresql://ann:hunter2@db/shop; echo 'no https://ann:hunter2@index.example' >&2; exit {code}"
    arguments = {"app": "shop", "name": "release-command", "command": ["sh", "-c", script], "sandbox": [], "seconds": 60}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        release_job.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["rc"], found["stdout"], found["stderr"]) == (code, "postgresql://…@db/shop\n", "no https://…@index.example\n")
