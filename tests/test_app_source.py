"""The same source always has the same version, and only the app's own files are shipped."""

import os
import socket
import subprocess
import sys
import tarfile

import pytest
from conftest import plugin

app_source, source_git = plugin("action/app_source"), plugin("plugin_utils/source_git")


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "site"
    (directory / "pkg/static").mkdir(parents=True)
    (directory / "pkg/__init__.py").write_text("app = 1\n")
    (directory / "pkg/static/style.css").write_text("p {}\n")
    (directory / "requirements.txt").write_text("Flask\n")
    return directory


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "cache").mkdir()
    return str(tmp_path / "cache")


def find(source, cache, **args):
    args |= {"source": str(source)}
    found = app_source.find(args, cache)
    return found | app_source.read_archive(found, args)


def members(found):
    with tarfile.open(found["archive"]) as tar:
        return {member.name: member for member in tar.getmembers()}


def git(directory, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", "-C", directory, *identity, *arguments], check=True, capture_output=True, text=True).stdout


def test_the_version_depends_on_content_and_not_on_file_times(directory, cache):
    first = find(directory, cache)
    for path in directory.rglob("*"):
        os.utime(path, (1, 1))
    assert find(directory, cache)["version"] == first["version"]


@pytest.mark.parametrize(
    "change",
    [
        lambda directory: (directory / "pkg/__init__.py").write_text("app = 2\n"),
        lambda directory: (directory / "pkg/__init__.py").rename(directory / "pkg/main.py"),
        lambda directory: (directory / "pkg/new.txt").write_text(""),
        lambda directory: (directory / "pkg/__init__.py").chmod(0o755),
        lambda directory: (directory / "link").symlink_to("pkg"),
    ],
)
def test_any_change_results_in_another_version(directory, cache, change):
    first = find(directory, cache)["version"]
    change(directory)
    assert find(directory, cache)["version"] != first


def test_files_that_are_not_the_apps_are_not_shipped(directory, cache):
    for name in ("pkg/.git/config", ".venv/bin/python", "pkg/__pycache__/x.pyc", ".env", "node_modules/x/y.js"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not yours")
    assert sorted(members(find(directory, cache))) == ["pkg/__init__.py", "pkg/static/style.css", "requirements.txt"]


@pytest.mark.parametrize("with_git", [False, True])
def test_virtual_environments_sockets_and_caches_are_left_out_with_any_name(directory, cache, with_git, capsys):
    """The layout of the usual tutorial: a venv beside the code, and the socket of an earlier run (B11)"""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "myprojectenv"], check=True)
    junk = ["old/bin/activate_this.py", "old/lib/x.py", "conda/conda-meta/history", ".mypy_cache/CACHEDIR.TAG", ".mypy_cache/x.json"]
    for name in [*junk, ".DS_Store", "pkg/__pycache__/x.pyc", ".env", "node_modules/x/y.js", "lib/x.py", "bin/run"]:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (directory / "env").symlink_to(directory / "myprojectenv")
    if with_git:
        git(directory, "init", "-q")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "myproject.sock"))
        files = find(directory, cache)["files"]
    assert files == ["bin/run", "lib/x.py", "pkg/__init__.py", "pkg/static/style.css", "requirements.txt"]


def test_a_source_that_is_itself_a_virtual_environment_is_shipped_without_it(directory, cache):
    """An operator ran `python -m venv .` (B11)"""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    # since Python 3.13, a virtual environment has a .gitignore
    assert {*find(directory, cache)["files"]} - {".gitignore"} == {"pkg/__init__.py", "pkg/static/style.css", "requirements.txt"}


@pytest.mark.parametrize("kind", ["plain", "working copy", "url"])
def test_the_app_s_own_files_are_shipped_with_any_name(directory, cache, kind):
    """A package can be called instance or venv (A6)"""
    names = ["shop/instance/__init__.py", "shop/venv/__init__.py", "instance/shop.db", "lib/env/x.py", "bin/run"]
    # git's owner decides about these
    names += [] if kind == "plain" else [".env", "shop/.venv/x.py", "__pycache__/x.pyc", "node_modules/x.js", "env/pyvenv.cfg", "env/x.py"]
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    if kind != "plain":
        git(directory, "init", "-q")
        git(directory, "add", "--force", ".")
        git(directory, "commit", "-qm", "one")
    files = find(f"file://{directory}" if kind == "url" else directory, cache)["files"]
    assert files == sorted([*names, "pkg/__init__.py", "pkg/static/style.css", "requirements.txt"])


def test_a_directory_that_an_outer_repository_ignores_is_reported(directory, cache):
    """An operator keeps the home directory in git (B3)"""
    git(directory.parent, "init", "-q")
    (directory.parent / ".gitignore").write_text("*\n")
    with pytest.raises(
        app_source.SourceError, match=r"git lists no files in '.*site'\. It may be ignored by the repository that contains it"
    ):
        find(directory, cache)


def test_a_working_copy_without_a_commit_is_shipped(directory, cache):
    git(directory, "init", "-q")
    assert find(directory, cache)["files"] == ["pkg/__init__.py", "pkg/static/style.css", "requirements.txt"]


def test_a_sparse_or_shallow_working_copy_is_shipped_as_it_is(directory, cache):
    for message in "one", "two":
        (directory / f"{message}.txt").touch()
        git(directory, "init", "-q")
        git(directory, "add", ".")
        git(directory, "commit", "-qm", message)
    copy = directory.parent / "copy"
    git(directory.parent, "clone", "-q", "--depth=1", f"file://{directory}", copy)
    git(copy, "sparse-checkout", "set", "pkg")
    assert find(copy, cache)["files"] == ["one.txt", "pkg/__init__.py", "pkg/static/style.css", "requirements.txt", "two.txt"]


def test_ignored_files_are_not_shipped_and_untracked_files_are(directory, cache):
    git(directory, "init", "-q")
    (directory / ".gitignore").write_text("*.log\n")
    git(directory, "add", "-A")
    (directory / "debug.log").write_text("x")
    (directory / "pkg/new.py").write_text("x = 1\n")
    (directory / "pkg/__init__.py").unlink()
    assert sorted(members(find(directory, cache))) == [".gitignore", "pkg/new.py", "pkg/static/style.css", "requirements.txt"]


def test_an_unchanged_file_keeps_its_modification_time_across_releases(directory, cache):
    """nginx derives ETags from it, so browsers need not download unchanged files again."""
    first = members(find(directory, cache))["pkg/static/style.css"].mtime
    (directory / "pkg/__init__.py").write_text("app = 2\n")
    assert members(find(directory, cache))["pkg/static/style.css"].mtime == first


def test_an_executable_file_stays_executable(directory, cache):
    (directory / "run.sh").write_text("#!/bin/sh\n")
    (directory / "run.sh").chmod(0o700)
    assert members(find(directory, cache))["run.sh"].mode == 0o755


def test_a_missing_directory_is_reported_with_the_searched_paths(cache):
    with pytest.raises(app_source.SourceError, match=r"app_source: it is neither a git URL nor a directory .*/base/nowhere"):
        find("nowhere", cache, base=["/base"])


def test_the_version_of_a_git_url_is_its_commit(directory, cache):
    git(directory, "init", "-q")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "one")
    git(directory, "tag", "v1")
    commit = git(directory, "rev-parse", "HEAD").strip()
    found = find(f"file://{directory}", cache, version="v1")
    assert (found["commit"], found["version"]) == (commit, commit[:10])
    assert "pkg/__init__.py" in members(found) and "pkg/__init__.py" in found["files"]


def test_the_app_can_be_a_subdirectory_of_the_source(directory, cache):
    git(directory, "init")
    git(directory, "add", ".")
    git(directory, "commit", "-m", "first")
    (directory / "pkg/run.sh").write_text("")
    (directory / "pkg/run.sh").chmod(0o755)
    git(directory, "add", ".")
    git(directory, "commit", "-m", "second")
    url = find(f"file://{directory}", cache, directory="pkg")
    whole = find(f"file://{directory}", cache)
    assert sorted(url["files"]) == ["__init__.py", "run.sh", "static/style.css"] and "pkg/run.sh" in whole["files"]
    assert {"__init__.py", "run.sh", "static/style.css"} <= {*members(url)} and members(url)["run.sh"].mode & 0o100
    assert members(url)["run.sh"].mtime == members(whole)["pkg/run.sh"].mtime, "the commit's time, which is the same on all controllers"
    own = find(directory, cache, directory="pkg")
    assert own["files"] == sorted(url["files"]) and own["directory"] == str(directory / "pkg")


@pytest.mark.parametrize("kind", ["directory", "git"])
def test_a_missing_app_directory_is_reported(directory, cache, kind):
    git(directory, "init")
    git(directory, "add", ".")
    git(directory, "commit", "-m", "first")
    source = f"file://{directory}" if kind == "git" else str(directory)
    with pytest.raises(
        app_source.SourceError, match=rf"^app_directory: {source} has no directory 'nowhere'\. Use a path relative to its top\.$"
    ):
        find(source, cache, directory="nowhere")


def test_all_hosts_of_a_run_get_the_same_commit_even_if_the_branch_moves(directory, cache, monkeypatch):
    git(directory, "init", "-q")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "one")
    args = {"source": f"file://{directory}", "version": "main"}
    first = find(cache=cache, **args)["commit"]
    git(directory, "commit", "-q", "--allow-empty", "-m", "two")
    assert find(cache=cache, **args)["commit"] == first
    monkeypatch.setattr(source_git, "RUN", "the next run")
    assert find(cache=cache, **args)["commit"] != first


def test_a_missing_version_is_reported(directory, cache):
    git(directory, "init", "-q")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "one")
    with pytest.raises(app_source.SourceError, match=r"app_version: no such branch, tag or commit in file:.*leave it empty"):
        find(f"file://{directory}", cache, version="v9")


def test_an_unreachable_url_is_reported(tmp_path, cache):
    with pytest.raises(app_source.SourceError, match=r"app_source: git cannot read the source .*nowhere.* Check the path in the URL"):
        find(f"file://{tmp_path}/nowhere", cache, version="")
