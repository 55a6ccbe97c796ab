"""Files are replaced atomically, and a file that fails the check is never installed."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import run_module

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="sets owners, as on a host")


def run(**arguments):
    return run_module("managed_files", **arguments)


@root_only
def test_files_are_created_once(tmp_path):
    files = [{"path": f"{tmp_path}/a/x.conf", "content": "one\n", "mode": "0640"}, {"path": f"{tmp_path}/d", "state": "directory"}]
    first, second = run(files=files), run(files=files)
    assert first["changed"] and not second["changed"]
    assert (tmp_path / "a/x.conf").read_text() == "one\n"
    assert oct((tmp_path / "a/x.conf").stat().st_mode)[-3:] == "640"
    assert sorted(os.listdir(tmp_path / "a")) == ["x.conf"]


@root_only
def test_check_mode_reports_changes_without_making_them(tmp_path):
    (tmp_path / "x").write_text("old\n")
    found = run(check_mode=True, files=[{"path": f"{tmp_path}/x", "content": "new\n"}])
    assert found["changed"] and (tmp_path / "x").read_text() == "old\n"
    assert (found["diff"][0]["before"], found["diff"][0]["after"]) == ("old\n", "new\n")


@root_only
def test_a_directory_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "x/sub").mkdir(parents=True)
    found = run(files=[{"path": f"{tmp_path}/a", "content": "text\n"}, {"path": f"{tmp_path}/x", "content": "text\n"}])
    assert found["failed"] and f"{tmp_path}/x must be a file, but is something else" in found["msg"]
    assert (tmp_path / "x/sub").is_dir() and not (tmp_path / "a").exists()


@root_only
def test_a_file_is_not_replaced_by_a_directory(tmp_path):
    (tmp_path / "x").write_text("of another program\n")
    assert run(files=[{"path": f"{tmp_path}/x", "state": "directory"}])["failed"]
    assert (tmp_path / "x").read_text() == "of another program\n"


@root_only
def test_a_directory_can_be_a_link_to_another_disk(tmp_path):
    (tmp_path / "volume").mkdir(mode=0o755)
    (tmp_path / "x").symlink_to(tmp_path / "volume")
    assert not run(files=[{"path": f"{tmp_path}/x", "state": "directory"}])["changed"]
    assert run(files=[{"path": f"{tmp_path}/x", "state": "directory", "mode": "0700"}])["changed"]
    assert (tmp_path / "x").is_symlink() and oct((tmp_path / "volume").stat().st_mode)[-3:] == "700"


@root_only
@pytest.mark.parametrize("editor", ["writes the file", "replaces the file"])
def test_a_manual_edit_of_a_managed_file_is_reported_and_kept_as_a_copy(tmp_path, editor):
    path = tmp_path / "x"
    first, second = [{"path": str(path), "content": f"# Managed by Flaskhost\n{text}\n"} for text in ("one", "two")]
    run(files=[first])
    assert "warnings" not in run(files=[second]), "a change by the module is not an edit"
    if editor == "replaces the file":
        path.unlink()
    path.write_text("# Managed by Flaskhost\nby hand\n")
    found = run(files=[second])
    assert found["changed"] and path.read_text().endswith("two\n")
    assert f"{path} was edited after Flaskhost wrote it" in str(found["warnings"])
    kept = Path(str(found["warnings"]).partition("saved the edited file as ")[2].strip("'\"]}").split("'")[0])
    assert kept.read_text().endswith("by hand\n")
    shutil.rmtree(f"/var/backups/flaskhost{tmp_path}")


@root_only
def test_a_file_of_the_distribution_is_kept_as_a_copy_without_a_warning(tmp_path):
    path = tmp_path / "x"
    path.write_text("the distribution's\n")
    found = run(files=[{"path": str(path), "content": "ours\n"}])
    assert found["changed"] and "warnings" not in found
    kept = list(Path(f"/var/backups/flaskhost{tmp_path}").glob("x.*"))
    assert [copy.read_text() for copy in kept] == ["the distribution's\n"]
    shutil.rmtree(f"/var/backups/flaskhost{tmp_path}")


@root_only
@pytest.mark.parametrize("existing", ["link", "wrong mode"])
def test_a_link_or_a_wrong_mode_is_corrected(tmp_path, existing):
    path = tmp_path / "x"
    if existing == "link":
        path.symlink_to("/nowhere")
    else:
        path.write_text("text\n")
        path.chmod(0o777)
    assert run(files=[{"path": str(path), "content": "text\n"}])["changed"]
    assert path.read_text() == "text\n" and not path.is_symlink() and oct(path.stat().st_mode)[-3:] == "644"


@root_only
def test_state_existing_only_sets_owner_and_mode(tmp_path):
    (tmp_path / "x").write_text("another's\n")
    (tmp_path / "d").mkdir(mode=0o755)
    files = [{"path": f"{tmp_path}/{name}", "state": "existing", "mode": "0700"} for name in ("x", "d", "nowhere")]
    checked, first, second = run(check_mode=True, files=files), run(files=files), run(files=files)
    assert checked["paths"] == first["paths"] == [f"{tmp_path}/x", f"{tmp_path}/d"] and not second["changed"]
    assert first["diff"][1]["after"] == "root:root 0700\n"
    assert (tmp_path / "x").read_text() == "another's\n" and not (tmp_path / "nowhere").exists()
    assert {oct((tmp_path / name).stat().st_mode)[-3:] for name in "xd"} == {"700"}


@root_only
def test_lines_of_an_existing_file_are_corrected_and_the_rest_is_kept(tmp_path):
    (tmp_path / "login.defs").write_text("# UMASK is explained here\nUMASK\t\t022\nUMASKED 1\nPASS_MIN_DAYS 0")
    lines = {"UMASK": "027", "PASS_MIN_DAYS": 1, "SHA_CRYPT_MIN_ROUNDS": 65536}
    files = [{"path": f"{tmp_path}/login.defs", "state": "existing", "mode": "0644", "lines": lines}]
    first, second = run(files=files), run(files=files)
    assert first["changed"] and not second["changed"]
    assert (tmp_path / "login.defs").read_text() == (
        "# UMASK is explained here\nUMASK\t027\nUMASKED 1\nPASS_MIN_DAYS\t1\nSHA_CRYPT_MIN_ROUNDS\t65536\n"
    )
    shutil.rmtree(f"/var/backups/flaskhost{tmp_path}")


@root_only
def test_parent_directories_are_traversable_with_any_umask(tmp_path):
    before = os.umask(0o077)
    try:
        run(files=[{"path": f"{tmp_path}/way/x", "content": "text\n"}])
    finally:
        os.umask(before)
    assert oct((tmp_path / "way").stat().st_mode)[-3:] == "755"


@root_only
def test_state_absent_removes_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    assert run(files=[{"path": f"{tmp_path}/x", "state": "absent"}])["changed"]
    assert not run(files=[{"path": f"{tmp_path}/x", "state": "absent"}])["changed"]


@root_only
def test_files_that_fail_the_check_are_not_installed(tmp_path):
    config = tmp_path / "etc"
    config.mkdir()
    (config / "a.conf").write_text("good\n")
    files = [{"path": f"{config}/a.conf", "content": "bad\n"}, {"path": f"{config}/b.conf", "content": "new\n"}]
    found = run(files=files, check=["sh", "-c", f"! grep bad {config}/a.conf"], check_in=str(config))
    assert found["failed"], found
    assert (config / "a.conf").read_text() == "good\n" and os.listdir(config) == ["a.conf"]


@root_only
def test_the_check_runs_on_all_new_files_together(tmp_path):
    config = tmp_path / "etc"
    config.mkdir()
    files = [{"path": f"{config}/{name}", "content": name} for name in ("a", "b")]
    found = run(files=files, check=["sh", "-c", f"test $(cat {config}/*) = ab"], check_in=str(config))
    assert found["changed"], found
    assert sorted(os.listdir(config)) == ["a", "b"]


@root_only
def test_directories_1500_deep_are_removed(tmp_path):
    """Python's rmtree recurses for each level before 3.13, and keeps a file open for each level since."""
    script = 'import os\nfor _ in range(1500):\n    os.mkdir("d")\n    os.chdir("d")'
    (tmp_path / "cache").mkdir()
    subprocess.run(["python3", "-c", script], cwd=tmp_path / "cache", check=True)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    try:
        found = run(files=[{"path": f"{tmp_path}/cache", "state": "absent"}])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found.get("changed"), found
    assert not (tmp_path / "cache").exists()


@root_only
@pytest.mark.parametrize("existing", ["link", "hard link", "directory"])
def test_a_daemon_that_owns_the_directory_cannot_make_root_write_elsewhere(tmp_path, existing):
    """The new file is first written in the same directory, under a name that the daemon can predict."""
    (tmp_path / "main").mkdir()
    os.chown(tmp_path / "main", 65534, 65534)
    (tmp_path / "victim").write_text("root's\n")
    before = (tmp_path / "victim").stat()
    new = tmp_path / "main/x.conf.new"
    if existing == "directory":
        new.mkdir()
    else:
        (new.symlink_to if existing == "link" else new.hardlink_to)(tmp_path / "victim")
    found = run(files=[{"path": f"{tmp_path}/main/x.conf", "content": "ours\n", "owner": "nobody", "mode": "0666"}])
    assert found.get("changed"), found
    after = (tmp_path / "victim").stat()
    assert (tmp_path / "victim").read_text() == "root's\n" and (before.st_uid, before.st_mode) == (after.st_uid, after.st_mode)
    written = (tmp_path / "main/x.conf").lstat()
    assert (written.st_uid, oct(written.st_mode)[-3:]) == (65534, "666") and os.listdir(tmp_path / "main") == ["x.conf"]
