"""A file changes whole or not at all, and what a check refuses never reaches the disk."""

import json
import os
import subprocess
import sys

import pytest
from conftest import PROJECT

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="sets owners, as on a host")


def run(check_mode=False, **arguments):
    """As Ansible runs it: arguments as JSON on the standard input."""
    arguments["_ansible_check_mode"] = check_mode
    arguments["_ansible_remote_tmp"] = "/tmp"
    done = subprocess.run(
        [sys.executable, PROJECT / "plugins/modules/managed_files.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


@root_only
def test_files_are_made_once(tmp_path):
    files = [{"path": f"{tmp_path}/a/x.conf", "content": "one\n", "mode": "0640"}, {"path": f"{tmp_path}/d", "state": "directory"}]
    first, second = run(files=files), run(files=files)
    assert first["changed"] and not second["changed"]
    assert (tmp_path / "a/x.conf").read_text() == "one\n"
    assert oct((tmp_path / "a/x.conf").stat().st_mode)[-3:] == "640"
    assert sorted(os.listdir(tmp_path / "a")) == ["x.conf"]


@root_only
def test_check_mode_tells_and_does_nothing(tmp_path):
    (tmp_path / "x").write_text("old\n")
    found = run(check_mode=True, files=[{"path": f"{tmp_path}/x", "content": "new\n"}])
    assert found["changed"] and (tmp_path / "x").read_text() == "old\n"
    assert (found["diff"][0]["before"], found["diff"][0]["after"]) == ("old\n", "new\n")


@root_only
@pytest.mark.parametrize("there", ["directory", "link", "wrong mode"])
def test_whatever_stands_in_its_place_is_put_right(tmp_path, there):
    path = tmp_path / "x"
    if there == "directory":
        (path / "sub").mkdir(parents=True)
    elif there == "link":
        path.symlink_to("/nowhere")
    else:
        path.write_text("text\n")
        path.chmod(0o777)
    assert run(files=[{"path": str(path), "content": "text\n"}])["changed"]
    assert path.read_text() == "text\n" and not path.is_symlink() and oct(path.stat().st_mode)[-3:] == "644"


@root_only
def test_what_should_not_be_there_goes(tmp_path):
    (tmp_path / "x").write_text("")
    assert run(files=[{"path": f"{tmp_path}/x", "state": "absent"}])["changed"]
    assert not run(files=[{"path": f"{tmp_path}/x", "state": "absent"}])["changed"]


@root_only
def test_what_the_check_refuses_never_reaches_the_disk(tmp_path):
    config = tmp_path / "etc"
    config.mkdir()
    (config / "a.conf").write_text("good\n")
    files = [{"path": f"{config}/a.conf", "content": "bad\n"}, {"path": f"{config}/b.conf", "content": "new\n"}]
    found = run(files=files, check=["sh", "-c", f"! grep bad {config}/a.conf"], check_in=str(config))
    assert found["failed"], found
    assert (config / "a.conf").read_text() == "good\n" and os.listdir(config) == ["a.conf"]


@root_only
def test_the_check_sees_all_files_together(tmp_path):
    config = tmp_path / "etc"
    config.mkdir()
    files = [{"path": f"{config}/{name}", "content": name} for name in ("a", "b")]
    found = run(files=files, check=["sh", "-c", f"test $(cat {config}/*) = ab"], check_in=str(config))
    assert found["changed"], found
    assert sorted(os.listdir(config)) == ["a", "b"]
