"""A file changes whole or not at all, and what a check refuses never reaches the disk."""

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
def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "x/sub").mkdir(parents=True)
    found = run(files=[{"path": f"{tmp_path}/a", "content": "text\n"}, {"path": f"{tmp_path}/x", "content": "text\n"}])
    assert found["failed"] and f"{tmp_path}/x has to be a file, and is none" in found["msg"]
    assert (tmp_path / "x/sub").is_dir() and not (tmp_path / "a").exists()


@root_only
def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "x").write_text("somebody's\n")
    assert run(files=[{"path": f"{tmp_path}/x", "state": "directory"}])["failed"]
    assert (tmp_path / "x").read_text() == "somebody's\n"


@root_only
def test_a_folder_may_be_a_link_to_one_on_another_disk(tmp_path):
    (tmp_path / "volume").mkdir(mode=0o755)
    (tmp_path / "x").symlink_to(tmp_path / "volume")
    assert not run(files=[{"path": f"{tmp_path}/x", "state": "directory"}])["changed"]
    assert run(files=[{"path": f"{tmp_path}/x", "state": "directory", "mode": "0700"}])["changed"]
    assert (tmp_path / "x").is_symlink() and oct((tmp_path / "volume").stat().st_mode)[-3:] == "700"


@root_only
@pytest.mark.parametrize("editor", ["writes the file", "replaces the file"])
def test_a_file_of_ours_that_was_edited_is_told_and_kept(tmp_path, editor):
    path = tmp_path / "x"
    first, second = [{"path": str(path), "content": f"# Managed by Flaskhost\n{text}\n"} for text in ("one", "two")]
    run(files=[first])
    assert "warnings" not in run(files=[second]), "our own change is no edit"
    if editor == "replaces the file":
        path.unlink()
    path.write_text("# Managed by Flaskhost\nby hand\n")
    found = run(files=[second])
    assert found["changed"] and path.read_text().endswith("two\n")
    assert f"{path} was edited since Flaskhost wrote it" in str(found["warnings"])
    kept = Path(str(found["warnings"]).partition("kept as ")[2].strip("'\"]}").split("'")[0])
    assert kept.read_text().endswith("by hand\n")
    shutil.rmtree(f"/var/backups/flaskhost{tmp_path}")


@root_only
def test_another_s_file_is_kept_without_a_word(tmp_path):
    path = tmp_path / "x"
    path.write_text("the distribution's\n")
    found = run(files=[{"path": str(path), "content": "ours\n"}])
    assert found["changed"] and "warnings" not in found
    kept = list(Path(f"/var/backups/flaskhost{tmp_path}").glob("x.*"))
    assert [copy.read_text() for copy in kept] == ["the distribution's\n"]
    shutil.rmtree(f"/var/backups/flaskhost{tmp_path}")


@root_only
@pytest.mark.parametrize("there", ["link", "wrong mode"])
def test_whatever_stands_in_its_place_is_put_right(tmp_path, there):
    path = tmp_path / "x"
    if there == "link":
        path.symlink_to("/nowhere")
    else:
        path.write_text("text\n")
        path.chmod(0o777)
    assert run(files=[{"path": str(path), "content": "text\n"}])["changed"]
    assert path.read_text() == "text\n" and not path.is_symlink() and oct(path.stat().st_mode)[-3:] == "644"


@root_only
def test_of_what_is_there_only_the_rights_are_seen_to(tmp_path):
    (tmp_path / "x").write_text("another's\n")
    (tmp_path / "d").mkdir(mode=0o755)
    files = [{"path": f"{tmp_path}/{name}", "state": "existing", "mode": "0700"} for name in ("x", "d", "nowhere")]
    told, first, second = run(check_mode=True, files=files), run(files=files), run(files=files)
    assert told["paths"] == first["paths"] == [f"{tmp_path}/x", f"{tmp_path}/d"] and not second["changed"]
    assert first["diff"][1]["after"] == "root:root 0700\n"
    assert (tmp_path / "x").read_text() == "another's\n" and not (tmp_path / "nowhere").exists()
    assert {oct((tmp_path / name).stat().st_mode)[-3:] for name in "xd"} == {"700"}


@root_only
def test_lines_of_another_s_file_are_put_right_and_the_rest_stays(tmp_path):
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
def test_folders_on_the_way_are_for_others_to_pass_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        run(files=[{"path": f"{tmp_path}/way/x", "content": "text\n"}])
    finally:
        os.umask(before)
    assert oct((tmp_path / "way").stat().st_mode)[-3:] == "755"


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


@root_only
def test_directories_1500_deep_go_too(tmp_path):
    """Python calls itself for each level before 3.13, and opens a file for each since."""
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
@pytest.mark.parametrize("there", ["link", "hard link", "directory"])
def test_a_daemon_that_owns_the_directory_can_not_have_root_write_elsewhere(tmp_path, there):
    """The file is written beside its place first, under a name that the daemon knows."""
    (tmp_path / "main").mkdir()
    os.chown(tmp_path / "main", 65534, 65534)
    (tmp_path / "victim").write_text("root's\n")
    before = (tmp_path / "victim").stat()
    new = tmp_path / "main/x.conf.new"
    if there == "directory":
        new.mkdir()
    else:
        (new.symlink_to if there == "link" else new.hardlink_to)(tmp_path / "victim")
    found = run(files=[{"path": f"{tmp_path}/main/x.conf", "content": "ours\n", "owner": "nobody", "mode": "0666"}])
    assert found.get("changed"), found
    after = (tmp_path / "victim").stat()
    assert (tmp_path / "victim").read_text() == "root's\n" and (before.st_uid, before.st_mode) == (after.st_uid, after.st_mode)
    made = (tmp_path / "main/x.conf").lstat()
    assert (made.st_uid, oct(made.st_mode)[-3:]) == (65534, "666") and os.listdir(tmp_path / "main") == ["x.conf"]
