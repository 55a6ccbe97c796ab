"""uv installs another Python than the distribution's once for all apps, and removes it when no venv uses it."""

import os
import shutil
import subprocess

import pytest
from conftest import run_playbook

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes the host's lock, as root does on a host")
# stands in for uv: PATCH is the newest patch version that this version of uv knows
UV = """#!/bin/sh -e
directory="$UV_PYTHON_INSTALL_DIR/cpython-3.14.PATCH-linux"
case "$1 $2" in
"python install") mkdir -p "$directory/bin"; echo '#!/bin/sh' >"$directory/bin/python3.14"; chmod +x "$directory/bin/python3.14" ;;
"python find") touch "$UV_PYTHON_INSTALL_DIR/.lock"; chmod 666 "$UV_PYTHON_INSTALL_DIR/.lock"; echo "$directory/bin/python3.14" ;;
esac
echo "$*" >>"$UV_PYTHON_INSTALL_DIR/calls"
"""


@pytest.fixture
def provide(tmp_path):
    def provide(app, patch):
        uv = tmp_path / f"uv/0.{patch}.0/bin/uv"
        uv.parent.mkdir(parents=True, exist_ok=True)
        uv.write_text(UV.replace("PATCH", str(patch)))
        uv.chmod(0o755)
        variables = {
            "python_venv_uv_root": str(tmp_path / "uv"),
            "python_venv_uv_version": f"0.{patch}.0",
            "python_venv_wanted": {"python": "3.14", "root": str(tmp_path / app), "key": f"key{patch}"},
        }
        # the file itself, because the entry point venv also builds
        role = {"name": "flaskhost.flaskhost.python_venv", "tasks_from": "python", "rolespec_validate": False}
        run_playbook(tmp_path, [{"ansible.builtin.include_role": role}], {"h": {}}, variables=variables, umask=0o027)
        venv = tmp_path / app / f"venvs/key{patch}"
        venv.mkdir(parents=True, exist_ok=True)
        return (tmp_path / f"uv/0.{patch}.0/python3.14").resolve(), venv

    return provide


def versions(tmp_path):
    return sorted(path.name for path in (tmp_path / "uv/python").glob("cpython-*-linux"))


def test_all_apps_share_a_python_that_only_root_can_write(provide, tmp_path):
    """The second app installs nothing. Both see it with any umask. (A17)"""
    first, _venv = provide("one", 1)
    second, _venv = provide("two", 1)
    assert first == second == tmp_path / "uv/python/cpython-3.14.1-linux/bin/python3.14"
    assert (tmp_path / "uv/python/calls").read_text().count("python install") == 1
    assert not (tmp_path / "uv/python/.lock").exists(), "another user could hold this lock"
    for path in first, first.parent, first.parent.parent, tmp_path / "uv/python":
        assert path.stat().st_mode & 0o777 == 0o755 and path.stat().st_uid == 0


def test_a_newer_uv_brings_the_security_fixes(provide, tmp_path):
    """The venvs of the releases before keep their Python until they are pruned. (A17)"""
    _old, old_venv = provide("one", 1)
    new, _venv = provide("one", 2)
    assert "cpython-3.14.2-linux" in str(new) and versions(tmp_path) == ["cpython-3.14.1-linux", "cpython-3.14.2-linux"]
    shutil.rmtree(old_venv)
    (link,) = (tmp_path / "uv/python/cpython-3.14.1-linux.users").iterdir()
    provide("two", 2)
    assert versions(tmp_path) == ["cpython-3.14.1-linux", "cpython-3.14.2-linux"], "a venv may be in the making"
    subprocess.run(["touch", "--no-dereference", "--date=2 days ago", link], check=True)
    provide("three", 2)
    assert versions(tmp_path) == ["cpython-3.14.2-linux"]
