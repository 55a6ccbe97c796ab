"""Secrets are stored in one file of the release, which only root can read, and appear in no output, not even with -vvv."""

import os
import subprocess

import pytest
from conftest import PROJECT, READ_APP, run_playbook

MARKER = "planted-secret-7d41f0b2"


@pytest.fixture(scope="module")
def app():
    """An app whose users exist on this machine during the test."""
    if os.geteuid():
        yield "root"
        return
    name = f"unit_{os.getpid()}"
    subprocess.run(["groupadd", "--system", name], check=True)
    subprocess.run(["useradd", "--system", "--no-create-home", "--gid", name, f"{name}-build"], check=True)
    yield name
    subprocess.run(["userdel", f"{name}-build"], check=True)
    subprocess.run(["groupdel", name], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def run(app, tmp_path_factory):
    """The output of the steps that handle secrets, run on this machine with -vvv, and the app's root."""
    directory = tmp_path_factory.mktemp("secrets")
    root = directory / "srv"
    (root / "releases").mkdir(parents=True)
    settings = {
        "app_name": "sample",
        "app_module": "sample_app:create_app()",
        "app_static": {"/static/": "sample_app/static"},
        "app_domains": ["shop.example"],
        "app_root": str(root),
        "app_source": str(PROJECT / "sample_app"),
        "app_secrets": {"SECRET_KEY": MARKER, "API_TOKEN": f'"{MARKER}" $HOME'},
        "release_app": app,
    }
    nothing = {"built": [], "releases": {}, "running": [], "enabled": [], "live": ""}
    facts = {"processor_vcpus": 2, "memtotal_mb": 2000, "python": {"version": {"major": 3, "minor": 13}}}
    tasks = [
        READ_APP,
        {"ansible.builtin.set_fact": {"release_host": nothing, "ansible_facts": facts, "release_plan": {}}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.release", "tasks_from": "identify"}},
        # stands in for the venv
        {"ansible.builtin.file": {"path": f"{root}/venvs/{{{{ release_venv }}}}", "state": "directory", "mode": "0755"}},
        {"ansible.builtin.copy": {"dest": f"{root}/venvs/{{{{ release_venv }}}}/complete", "content": "", "mode": "0644"}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.release", "tasks_from": "build"}},
    ]
    # umask 027, as on a host with hardened logins
    return run_playbook(directory, tasks, {"shop": settings}, "-vvv", "--diff", succeeds=None, umask=0o027).output, root


@pytest.mark.skipif(os.geteuid() != 0, reason="sets owners, as on a host")
def test_a_secret_is_in_one_file_that_only_root_can_read(run):
    output, root = run
    found = [path for path in root.rglob("*") if path.is_file() and MARKER.encode() in path.read_bytes()]
    assert [path.name for path in found] == ["env"], output
    assert oct(found[0].stat().st_mode)[-3:] == "600" and found[0].stat().st_uid == 0
    assert f'SECRET_KEY="{MARKER}"' in found[0].read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="sets owners, as on a host")
def test_nginx_can_read_the_static_files_with_any_umask(run):
    _output, root = run
    (public,) = root.glob("releases/*/public")
    assert oct(public.stat().st_mode)[-3:] == "755"
    assert (public / "static/style.css").stat().st_mode & 0o004


def test_a_secret_is_not_in_the_output_of_a_verbose_run(run):
    output, _root = run
    assert "Lay out the release" in output and "release_id" in output
    assert MARKER not in output
