"""Laying out a release from an untrusted source: the build user handles the source, and root does not follow its links."""

import gzip
import io
import json
import os
import pwd
import shutil
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from conftest import plugin, survivors

module, builder, compression = plugin("modules/release_layout"), plugin("module_utils/builder"), plugin("module_utils/compression")
CSS = "body { color: black }\n" * 200
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changes users, as on a host")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The directory of a source, as the working directory."""
    (tmp_path / "source/static").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def static(source):
    return source / "static"


@pytest.fixture
def served(tmp_path):
    """The static directory of the live release."""
    (tmp_path / "live/static").mkdir(parents=True)
    return tmp_path / "live/static"


@pytest.fixture(autouse=True)
def brotli(tmp_path, monkeypatch):
    """A stand-in for brotli that writes its arguments to the output."""
    program = tmp_path / "bin/brotli"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncase $2 in --output=*) echo "packed: $*" >"${2#--output=}" ;; *) exit 1 ;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_text_files_are_compressed_and_keep_their_modification_time(static, served):
    (static / "site.css").write_text(CSS)
    os.utime(static / "site.css", (1_000_000, 1_000_000))
    compression.pack("static", str(served.parent))
    assert gzip.decompress((static / "site.css.gz").read_bytes()).decode() == CSS
    assert (static / "site.css.br").read_text().startswith("packed: --best")
    assert {path.stat().st_mtime for path in static.iterdir()} == {1_000_000}


def test_compressed_and_small_files_and_links_are_not_compressed(static, served):
    (static / "photo.jpg").write_bytes(b"x" * 5000)
    (static / "small.css").write_text("p {}")
    (static / "link.css").symlink_to("elsewhere.css")
    compression.pack("static", str(served.parent))
    assert sorted(path.name for path in static.iterdir()) == ["link.css", "photo.jpg", "small.css"]


def test_a_compressed_file_of_the_app_is_kept(static, served):
    (static / "site.css").write_text(CSS)
    (static / "site.css.gz").write_text("the app's")
    compression.pack("static", str(served.parent))
    assert (static / "site.css.gz").read_text() == "the app's"


@pytest.mark.parametrize("same", [True, False])
def test_only_changed_files_are_compressed_again(static, served, same):
    (served / "site.css").write_text(CSS)
    (served / "site.css.br").write_text("packed before")
    (static / "site.css").write_text(CSS if same else CSS + "p {}")
    compression.pack("static", str(served.parent))
    assert ((static / "site.css.br").read_text() == "packed before") is same


def test_without_brotli_only_gzip_is_used(static, served, brotli, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    (static / "site.css").write_text(CSS)
    compression.pack("static", str(served.parent))
    assert sorted(path.name for path in static.iterdir()) == ["site.css", "site.css.gz"]


def test_an_error_of_brotli_is_reported(static, served, brotli):
    brotli.write_text("#!/bin/sh\necho No space left on device >&2; exit 1\n")
    (static / "site.css").write_text(CSS)
    with pytest.raises(OSError, match=r"brotli cannot compress .*site.css: No space left on device"):
        compression.pack("static", str(served.parent))


def archive(path, *members):
    """Members are (name, text), (name, None) for a directory, or (name, link's target, True)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content, *is_link in members:
            info = tarfile.TarInfo(name)
            if is_link:
                info.type, info.linkname = tarfile.SYMTYPE, content
            elif content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO((content or "").encode()) if info.isreg() else None)
    return path


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Creates a release as on a host, with `nobody` as the build user."""
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(module.Release, "builder", lambda self: nobody)
    for name in "releases", "venvs/key", "state":
        (tmp_path / f"srv/{name}").mkdir(parents=True)
    (tmp_path / "srv/venvs/key/complete").touch()

    def make(*members, **params):
        source = archive(tmp_path / "source.tar.gz", *members)
        defaults = {"app": "shop", "root": str(tmp_path / "srv"), "id": "r1", "phase": "unpacked", "build": False, "archive": str(source)}
        defaults |= {
            "files": {"start": "#!/bin/sh"},
            "secret_files": {"env": "A=b"},
            "private_files": {},
            "programs": ["start"],
            "venv": "key",
            "group": "games",
        }
        defaults |= {"socket": "/run/x/wsgi.sock", "static": {}, "shared": [], "state": str(tmp_path / "srv/state"), "manifest": {}}
        return module.Release(defaults | params)

    return make


@root_only
def test_a_finished_release_belongs_to_root_and_nginx_can_read_its_static_files(release, tmp_path):
    members = [("shop", None), ("shop/app.py", "x = 1"), ("shop/static", None), ("shop/static/site.css", CSS)]
    result = release(*members, static={"/static/": "shop/static"}, shared=["instance"]).lay_out()
    code = tmp_path / "srv/releases/r1/app"
    assert result == {"venv_complete": True, "sealed": True}
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in code.rglob("*")} == {(0, 60)}
    modes = {str(path.relative_to(code)): stat.S_IMODE(path.stat().st_mode) for path in (code, *code.rglob("*")) if not path.is_symlink()}
    assert modes["shop/app.py"] == 0o640 and modes["shop/static/site.css"] == 0o644 and modes["shop/static/site.css.gz"] == 0o644
    assert modes["."] == modes["shop"] == 0o751 and modes["shop/static"] == 0o755
    assert list((code / "shop/__pycache__").iterdir())
    assert (code / "instance").readlink() == tmp_path / "srv/state/instance"
    assert not (tmp_path / "srv/releases/.building/r1").exists()


STATIC = [
    ("shop/static/site.css", CSS),
    ("shop/static/admin/old.css", CSS),
    ("shop/static/deep/a/page.css", CSS),
    ("shop/static/deep/b.css", CSS),
    ("admin/static/admin.css", CSS),
    ("extra/page.css", CSS),
    ("frontend/dist/app.js", CSS),
    ("linked", "frontend/dist", True),
    ("shop/static/vendor", "../../frontend/dist", True),
]


@root_only
@pytest.mark.parametrize("order", [1, -1])
def test_nested_urls_and_linked_directories_are_served(release, tmp_path, order):
    """The longest URL decides, as in nginx, and the code has no files that root has written (B14)"""
    urls = {"/static/": "shop/static", "/static/admin/": "admin/static", "/static/deep/a/": "extra", "/assets/js/": "linked"}
    assert release(*STATIC, static=dict([*urls.items()][::order])).lay_out()["sealed"]
    public = tmp_path / "srv/releases/r1/public"
    expected = {
        *("static/site.css", "static/admin/admin.css", "static/deep/a/page.css", "static/deep/b.css"),
        *("static/vendor/app.js", "assets/js/app.js"),
    }
    found = {str(Path(parent, name).relative_to(public)) for parent, _, names in os.walk(public, followlinks=True) for name in names}
    assert {name for name in found if not name.endswith((".gz", ".br"))} == expected
    assert {name.removesuffix(".gz") for name in found if name.endswith(".gz")} == expected, "compressed copies"
    assert (public / "static/deep/a/page.css").resolve() == tmp_path / "srv/releases/r1/app/extra/page.css"
    for name in expected:
        path = (public / name).resolve()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        while (path := path.parent) != tmp_path / "srv/releases":
            assert path.stat().st_mode & stat.S_IXOTH, path
    code = os.listdir(tmp_path / "srv/releases/r1/app/shop/static")
    assert {name for name in code if not name.endswith(".br")} == {"admin", "deep", "site.css", "site.css.gz", "vendor"}


@root_only
def test_a_static_directory_that_the_build_creates_is_served(release, tmp_path):
    """(A7)"""
    shop = release(("shop.py", "x = 1"), static={"/static/": "shop/static"}, build=True)
    assert not shop.lay_out()["sealed"]
    building = tmp_path / "srv/releases/.building/r1/shop/static"
    building.mkdir(parents=True)
    (building / "site.css").write_text(CSS)
    shutil.chown(building, "nobody")
    shop.params["phase"] = "sealed"
    assert shop.lay_out()["sealed"]
    assert (tmp_path / "srv/releases/r1/public/static/site.css.gz").exists()


@root_only
@pytest.mark.parametrize("create", [lambda _path: None, lambda path: path.write_text("a file")])
def test_a_static_directory_that_the_build_does_not_create_is_reported(release, tmp_path, create):
    """(A7)"""
    shop = release(("shop.py", "x = 1"), static={"/static/": "static"}, build=True)
    shop.lay_out()
    create(tmp_path / "srv/releases/.building/r1/static")
    shop.params["phase"] = "sealed"
    with pytest.raises(
        module.LayoutError, match=r"^app_static: there is no directory 'static' after the build\. Correct the path, or make app_build"
    ):
        shop.lay_out()


FILES = {"settings.py": "SECRET = 'hunter2 ü'\n", "config/deep/x.ini": "[a]\n"}


@root_only
@pytest.mark.parametrize("build", [False, True])
def test_the_operator_s_files_are_readable_by_the_app_only(release, tmp_path, build):
    """They have the mode of the code, and replace what a build put in their place. Only the build command sees them before. (A9)"""
    shop = release(
        ("shop", None),
        ("shop/app.py", "x = 1"),
        ("shop/static/a.css", CSS),
        build=build,
        private_files=FILES,
        static={"/s/": "shop/static"},
    )
    shop.lay_out()
    code, building = tmp_path / "srv/releases/r1/app", tmp_path / "srv/releases/.building/r1"
    if build:
        assert not (building / "settings.py").exists(), "the venv must not depend on them"
        shop.params["phase"] = "configured"
        assert shop.lay_out()["sealed"] is False
        assert (building / "settings.py").read_text() == FILES["settings.py"]
        assert (building / "settings.py").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        (building / "settings.py").unlink()
        (building / "settings.py").symlink_to("shop/app.py")
        (building / "config/deep/x.ini").write_text("changed")
        shop.params["phase"] = "sealed"
        shop.lay_out()
    for path, content in FILES.items():
        found = code / path
        assert found.read_text() == content and not found.is_symlink()
        assert (found.stat().st_uid, found.stat().st_gid, stat.S_IMODE(found.stat().st_mode)) == (0, 60, 0o640)
    assert (code / "shop/app.py").read_text() == "x = 1"
    assert not list(tmp_path.rglob("public/settings.py")) and "hunter2" not in (tmp_path / "srv/releases/r1/manifest.json").read_text()


@root_only
def test_a_build_can_not_redirect_the_operator_s_files(release, tmp_path):
    """A directory on their path may be a link after the build. (A9)"""
    (tmp_path / "outside").mkdir(mode=0o777)
    os.chmod(tmp_path / "outside", 0o777)
    shop = release(("shop.py", "x = 1"), build=True, private_files=FILES)
    shop.lay_out()
    (tmp_path / "srv/releases/.building/r1/config").symlink_to(tmp_path / "outside")
    shop.params["phase"] = "sealed"
    with pytest.raises(module.LayoutError, match="a link points outside the source"):
        shop.lay_out()
    assert not list((tmp_path / "outside").iterdir())


HOSTILE = {
    "link out": ([("data", "/etc", True)], ["data/uploads"]),
    "link in the way": ([("other", None), ("data", "other", True)], ["data/uploads"]),
    "twice": ([("data", None), ("data", "/etc", True), ("data/x", "y")], []),
    "beneath a link": ([("data", "other", True), ("data/x", "y")], []),
    "out by name": ([("../x", "y")], []),
}


@root_only
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_rejected_by_the_host_too(release, tmp_path, name):
    """Regardless of the host's Python version and of who created the archive."""
    members, shared = HOSTILE[name]
    with pytest.raises(module.LayoutError):
        release(*members, shared=shared).lay_out()
    assert not (tmp_path / "srv/releases/.building/r1/x").exists() and not (tmp_path / "srv/x").exists()


@root_only
def test_the_files_of_a_build_are_taken_over_without_following_links(release, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "page.css").write_text(CSS)
    shop = release(("shop.py", "x = 1"), static={"/s/": "static", "/m/": "thumbs"}, shared=["media"], build=True)
    assert shop.lay_out()["sealed"] is False
    building = tmp_path / "srv/releases/.building/r1"
    # as the build user, who owns the whole directory
    (building / "static").mkdir()
    os.mkfifo(building / "static/pipe.css")
    os.mknod(building / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (building / "root").write_text("#!/bin/sh")
    os.chmod(building / "root", 0o6755)
    (building / "__pycache__").symlink_to(outside)
    (tmp_path / "srv/state/media/thumbs").mkdir(parents=True)
    (tmp_path / "srv/state/media/thumbs/page.css").write_text(CSS)
    (building / "thumbs").symlink_to("media/thumbs")
    (building / "absolute").symlink_to(tmp_path / "srv/releases/r1/app/shop.py")
    shop.params["phase"] = "sealed"
    assert shop.lay_out()["sealed"] is True
    code = tmp_path / "srv/releases/r1/app"
    assert sorted(path.name for path in code.iterdir()) == ["__pycache__", "absolute", "media", "root", "shop.py", "static", "thumbs"]
    assert not (code / "__pycache__").is_symlink() and (outside / "page.css").exists()
    assert list((code / "static").iterdir()) == [] and stat.S_IMODE((code / "root").stat().st_mode) == 0o750
    # the app's own directory is unchanged, without files from root
    assert sorted(path.name for path in (tmp_path / "srv/state/media/thumbs").iterdir()) == ["page.css"]


@root_only
@pytest.mark.parametrize("target", ["/etc", "../../../../etc/passwd", "../..", "loop"])
def test_a_link_out_of_the_source_is_rejected_after_a_build(release, tmp_path, target):
    shop = release(("shop.py", "x = 1"), build=True)
    shop.lay_out()
    (tmp_path / "srv/releases/.building/r1/loop").symlink_to(target)
    shop.params["phase"] = "sealed"
    with pytest.raises(module.LayoutError, match=r"a link points outside the source or is a loop: 'loop' -> "):
        shop.lay_out()


@root_only
def test_directories_1500_deep_are_removed(release, tmp_path):
    shop = release(("shop.py", "x = 1"), build=True)
    shop.lay_out()
    script = 'import os\nfor _ in range(1500):\n    os.mkdir("d")\n    os.chdir("d")'
    subprocess.run(["python3", "-c", script], cwd=tmp_path / "srv/releases/.building/r1", check=True)
    shop.remove()
    assert not (tmp_path / "srv/releases/.building/r1").exists()


@root_only
def test_a_missing_build_user_is_reported(tmp_path):
    archive(tmp_path / "source.tar.gz", ("shop.py", "x = 1"))
    (tmp_path / "srv/releases").mkdir(parents=True)
    params = {
        "app": "nosuchapp",
        "root": str(tmp_path / "srv"),
        "id": "r1",
        "phase": "unpacked",
        "archive": str(tmp_path / "source.tar.gz"),
    }
    params |= {"secret_files": {}, "venv": "key", "group": "games", "static": {}, "shared": [], "state": "", "build": False}
    with pytest.raises(module.LayoutError, match=r"the user nosuchapp-build is missing on the host\. Run deploy\.yml"):
        module.Release(params).lay_out()


# the size of the bytecode doubles with each level
NESTED = "".join(f"{' ' * level}try: pass\n{' ' * level}finally:\n" for level in range(18)) + " " * 18 + "pass\n"


@root_only
def test_source_that_exceeds_the_memory_limit_when_compiled_is_released_uncompiled(release, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "WORK_BYTES", 400 * 2**20)
    assert release(("shop.py", "x = 1"), ("nested.py", NESTED)).lay_out()["sealed"]
    code = tmp_path / "srv/releases/r1/app"
    assert (code / "nested.py").read_text() == NESTED
    assert [path.name.partition(".")[0] for path in (code / "__pycache__").iterdir()] == ["shop"]


@root_only
def test_source_that_exceeds_the_time_limit_when_compiled_is_released_uncompiled(release, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "COMPILE_SECONDS", 1)
    monkeypatch.setattr(module.compileall, "compile_dir", lambda *_, **_options: time.sleep(60))
    started = time.monotonic()
    assert release(("shop.py", "x = 1")).lay_out()["sealed"]
    assert time.monotonic() - started < 10


@root_only
@pytest.mark.parametrize(
    ("packer", "reason"),
    [
        (lambda *_: subprocess.run(["sleep", "61.5"]), "processing the source took longer than 1 seconds"),
        (lambda *_: bytearray(2**30), "processing the source takes more than 400 MB of memory"),
    ],
)
def test_files_that_exceed_the_limits_when_compressed_fail_the_release(release, monkeypatch, packer, reason):
    monkeypatch.setattr(builder, "WORK_SECONDS", 1)
    monkeypatch.setattr(builder, "WORK_BYTES", 400 * 2**20)
    monkeypatch.setattr(compression, "PACKERS", {".gz": packer})
    shop = release(("static", None), ("static/site.css", CSS), static={"/static/": "static"})
    started = time.monotonic()
    with pytest.raises(module.LayoutError, match=reason):
        shop.lay_out()
    assert time.monotonic() - started < 10
    assert not survivors("sleep 61.5"), "its child process was not killed"


@root_only
def test_an_error_cut_within_a_character_is_still_reported(release, tmp_path):
    shop = release(("shop.py", "x = 1"), build=True)
    shop.lay_out()
    for name in "x", "xy":
        (tmp_path / f"srv/releases/.building/r1/{name}").symlink_to("/" + "é" * 2000)
        shop.params["phase"] = "sealed"
        with pytest.raises(module.LayoutError, match=rf"a link points outside the source or is a loop: '{name}' -> '/é"):
            shop.lay_out()
        (tmp_path / f"srv/releases/.building/r1/{name}").unlink()


def test_control_characters_in_an_error_are_replaced(tmp_path, brotli, source, static, monkeypatch, capsys):
    """A build can create files with any name."""
    (static / "a\x1b]0;title\x07\u202eb.css").write_text(CSS)
    brotli.write_text('#!/bin/sh\necho "no: $5" >&2\nexit 1\n')
    monkeypatch.setattr(module, "acquire", lambda *_: None)
    monkeypatch.setattr(module.Release, "lay_out", lambda _release: compression.pack("static", str(tmp_path)))
    arguments = {
        "app": "shop",
        "root": str(tmp_path),
        "id": "r1",
        "phase": "sealed",
        "archive": "/x",
        "venv": "k",
        "socket": "/x",
        "group": "x",
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    message = json.loads(capsys.readouterr().out)["msg"]
    assert "brotli cannot compress static/a\ufffdb.css" in message and message.isprintable()
