"""A secret is in one file of the release, which only root reads; a run tells nothing of it, however loudly it is asked to tell."""

import os
import subprocess

import pytest
from conftest import PROJECT, READ_APP, run_playbook

MARKER = "planted-secret-7d41f0b2"


@pytest.fixture(scope="module")
def app():
    """An app whose users this machine has for the while."""
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
    """The steps in which a release gets its secrets, on this machine, at -vvv."""
    folder = tmp_path_factory.mktemp("secrets")
    root = folder / "srv"
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
        # the venv is another's concern
        {"ansible.builtin.file": {"path": f"{root}/venvs/{{{{ release_venv }}}}", "state": "directory", "mode": "0755"}},
        {"ansible.builtin.copy": {"dest": f"{root}/venvs/{{{{ release_venv }}}}/complete", "content": "", "mode": "0644"}},
        {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.release", "tasks_from": "build"}},
    ]
    # as on a host whose logins are set up like that
    return run_playbook(folder, tasks, {"shop": settings}, "-vvv", "--diff", good=None, umask=0o027).output, root


@pytest.mark.skipif(os.geteuid() != 0, reason="sets owners, as on a host")
def test_it_is_in_one_file_that_only_root_reads(run):
    output, root = run
    found = [path for path in root.rglob("*") if path.is_file() and MARKER.encode() in path.read_bytes()]
    assert [path.name for path in found] == ["env"], output
    assert oct(found[0].stat().st_mode)[-3:] == "600" and found[0].stat().st_uid == 0
    assert f'SECRET_KEY="{MARKER}"' in found[0].read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="sets owners, as on a host")
def test_nginx_reaches_the_static_files_whatever_the_umask_of_logins(run):
    _output, root = run
    (public,) = root.glob("releases/*/public")
    assert oct(public.stat().st_mode)[-3:] == "755"
    assert (public / "static/style.css").stat().st_mode & 0o004


def test_a_run_at_its_loudest_tells_nothing_of_it(run):
    output, _root = run
    assert "Lay out the release" in output and "release_id" in output
    assert MARKER not in output
