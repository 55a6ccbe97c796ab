"""The same source is the same version, and nothing that isn't the app's is shipped."""

import os
import subprocess
import tarfile

import pytest
from conftest import plugin

app_source, source_git = plugin("action/app_source"), plugin("plugin_utils/source_git")
dependencies = plugin("plugin_utils/dependencies")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "site"
    (folder / "pkg/static").mkdir(parents=True)
    (folder / "pkg/__init__.py").write_text("app = 1\n")
    (folder / "pkg/static/style.css").write_text("p {}\n")
    (folder / "requirements.txt").write_text("Flask\n")
    return folder


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


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


def test_same_content_is_the_same_version_whenever_it_was_written(folder, cache):
    first = find(folder, cache)
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    assert find(folder, cache)["version"] == first["version"]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "pkg/__init__.py").write_text("app = 2\n"),
        lambda folder: (folder / "pkg/__init__.py").rename(folder / "pkg/main.py"),
        lambda folder: (folder / "pkg/new.txt").write_text(""),
        lambda folder: (folder / "pkg/__init__.py").chmod(0o755),
        lambda folder: (folder / "link").symlink_to("pkg"),
    ],
)
def test_any_change_is_another_version(folder, cache, change):
    first = find(folder, cache)["version"]
    change(folder)
    assert find(folder, cache)["version"] != first


def test_what_is_not_the_apps_stays_at_home(folder, cache):
    for name in ("pkg/.git/config", ".venv/bin/python", "pkg/__pycache__/x.pyc", ".env", "instance/secret.db", "node_modules/x/y.js"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not yours")
    assert sorted(members(find(folder, cache))) == ["pkg/__init__.py", "pkg/static/style.css", "requirements.txt"]


def test_what_git_ignores_stays_at_home_and_what_is_new_comes_along(folder, cache):
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("*.log\n")
    git(folder, "add", "-A")
    (folder / "debug.log").write_text("x")
    (folder / "pkg/new.py").write_text("x = 1\n")
    (folder / "pkg/__init__.py").unlink()
    assert sorted(members(find(folder, cache))) == [".gitignore", "pkg/new.py", "pkg/static/style.css", "requirements.txt"]


def test_a_file_keeps_its_time_from_release_to_release(folder, cache):
    """nginx makes ETags of it: what hasn't changed need not be fetched again."""
    first = members(find(folder, cache))["pkg/static/style.css"].mtime
    (folder / "pkg/__init__.py").write_text("app = 2\n")
    assert members(find(folder, cache))["pkg/static/style.css"].mtime == first


def test_a_program_stays_one(folder, cache):
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o700)
    assert members(find(folder, cache))["run.sh"].mode == 0o755


def test_a_folder_that_is_not_there_is_told_with_where_it_was_looked_for(cache):
    with pytest.raises(app_source.SourceError, match=r"app_source: it is neither a git URL nor a folder .*/base/nowhere"):
        find("nowhere", cache, base=["/base"])


def test_a_url_is_known_by_its_commit(folder, cache):
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    git(folder, "tag", "v1")
    commit = git(folder, "rev-parse", "HEAD").strip()
    found = find(f"file://{folder}", cache, version="v1")
    assert (found["commit"], found["version"]) == (commit, commit[:10])
    assert "pkg/__init__.py" in members(found) and "pkg/__init__.py" in found["files"]


def test_of_a_source_a_folder_may_be_the_app(folder, cache):
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    (folder / "pkg/run.sh").write_text("")
    (folder / "pkg/run.sh").chmod(0o755)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "second")
    url = find(f"file://{folder}", cache, folder="pkg")
    whole = find(f"file://{folder}", cache)
    assert sorted(url["files"]) == ["__init__.py", "run.sh", "static/style.css"] and "pkg/run.sh" in whole["files"]
    assert {"__init__.py", "run.sh", "static/style.css"} <= {*members(url)} and members(url)["run.sh"].mode & 0o100
    assert members(url)["run.sh"].mtime == members(whole)["pkg/run.sh"].mtime, "the commit's, so that it is the same from any controller"
    own = find(folder, cache, folder="pkg")
    assert own["files"] == sorted(url["files"]) and own["folder"] == str(folder / "pkg")


@pytest.mark.parametrize("kind", ["folder", "git"])
def test_a_folder_that_the_source_has_not_is_told(folder, cache, kind):
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    source = f"file://{folder}" if kind == "git" else str(folder)
    with pytest.raises(app_source.SourceError, match=rf"^app_folder: {source} has no folder 'nowhere'\.$"):
        find(source, cache, folder="nowhere")


def test_a_branch_that_moves_during_a_run_stays_one_commit_for_all_hosts(folder, cache, monkeypatch):
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    args = {"source": f"file://{folder}", "version": "main"}
    first = find(cache=cache, **args)["commit"]
    git(folder, "commit", "-q", "--allow-empty", "-m", "two")
    assert find(cache=cache, **args)["commit"] == first
    monkeypatch.setattr(source_git, "RUN", "the next run")
    assert find(cache=cache, **args)["commit"] != first


def test_a_version_that_is_not_there_is_told(folder, cache):
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    with pytest.raises(app_source.SourceError, match=r"app_version: it is no branch, tag or commit of file:.*leave it empty"):
        find(f"file://{folder}", cache, version="v9")


def test_a_url_that_does_not_answer_is_told(tmp_path, cache):
    with pytest.raises(app_source.SourceError, match=r"app_source: git could not read it .*nowhere.* Check the URL"):
        find(f"file://{tmp_path}/nowhere", cache, version="")


@pytest.mark.parametrize(
    ("name", "text", "follows_code"),
    [
        ("requirements.txt", "Flask\n", False),
        ("requirements.txt", "Flask\n-e .\n", True),
        ("requirements.txt", "-r base.txt\n", True),
        ("uv.lock", "", False),
        ("pyproject.toml", "[build-system]\n", True),
        ("setup.py", "", True),
    ],
)
def test_a_venv_follows_from_dependencies_and_from_code_only_where_the_app_installs_itself(folder, cache, name, text, follows_code):
    (folder / name).write_text(text)
    (folder / "base.txt").write_text("-e .\n")

    def digest():
        found = find(folder, cache)
        with tarfile.open(found["archive"]) as tar:
            return dependencies.Dependencies(tar, tar.getmembers(), found["version"]).digest(name)

    first = digest()
    (folder / "pkg/__init__.py").write_text("app = 2\n")
    assert (digest() != first) == follows_code
    (folder / name).write_text(f"{text}# another\n")
    assert digest() != first
