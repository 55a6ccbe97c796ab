"""What nginx serves is packed once, when the release is built; what the app writes to is linked to where it outlives releases."""

import gzip
import os
from pathlib import Path

import pytest
from conftest import plugin

module = plugin("modules/release_folder")
CSS = "body { color: black }\n" * 200


@pytest.fixture
def release(tmp_path):
    for name in ("new", "old"):
        (tmp_path / f"releases/{name}/app/static").mkdir(parents=True)
    (tmp_path / "live").symlink_to("releases/old")
    return module.Release(
        {"root": str(tmp_path), "id": "new", "static": {"/static/": "static"}, "shared": ["instance", "a/b"], "state": "/var/lib/shop"}
    )


@pytest.fixture
def static(release, tmp_path):
    return tmp_path / "releases/new/app/static"


@pytest.fixture
def served(release, tmp_path):
    return tmp_path / "releases/old/app/static"


@pytest.fixture(autouse=True)
def brotli(tmp_path, monkeypatch):
    """Stands in for the distribution's, and says what it was asked."""
    program = tmp_path / "bin/brotli"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncase $2 in --output=*) echo "packed: $*" >"${2#--output=}" ;; *) exit 1 ;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_text_is_packed_and_the_packed_one_is_as_old(release, static):
    (static / "site.css").write_text(CSS)
    os.utime(static / "site.css", (1_000_000, 1_000_000))
    release.pack()
    assert gzip.decompress((static / "site.css.gz").read_bytes()).decode() == CSS
    assert (static / "site.css.br").read_text().startswith("packed: --best")
    assert {path.stat().st_mtime for path in static.iterdir()} == {1_000_000}


def test_what_is_packed_already_or_small_stays_as_it_is(release, static):
    (static / "photo.jpg").write_bytes(b"x" * 5000)
    (static / "small.css").write_text("p {}")
    (static / "link.css").symlink_to("elsewhere.css")
    release.pack()
    assert sorted(path.name for path in static.iterdir()) == ["link.css", "photo.jpg", "small.css"]


def test_an_app_s_own_is_kept(release, static):
    (static / "site.css").write_text(CSS)
    (static / "site.css.gz").write_text("the app's")
    release.pack()
    assert (static / "site.css.gz").read_text() == "the app's"


@pytest.mark.parametrize("same", [True, False])
def test_only_what_has_changed_is_packed_anew(release, static, served, same):
    (served / "site.css").write_text(CSS)
    (served / "site.css.br").write_text("packed before")
    (static / "site.css").write_text(CSS if same else CSS + "p {}")
    release.pack()
    assert ((static / "site.css.br").read_text() == "packed before") is same


def test_without_brotli_there_is_gzip(release, static, brotli, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    (static / "site.css").write_text(CSS)
    release.pack()
    assert sorted(path.name for path in static.iterdir()) == ["site.css", "site.css.gz"]


def test_what_brotli_says_of_a_full_disk_is_told(release, static, brotli):
    brotli.write_text("#!/bin/sh\necho No space left on device >&2; exit 1\n")
    (static / "site.css").write_text(CSS)
    with pytest.raises(OSError, match=r"brotli can't pack .*site.css: No space left on device"):
        release.pack()


def test_what_the_app_writes_to_is_kept_outside_of_releases(release, tmp_path):
    app = tmp_path / "releases/new/app"
    (app / "instance").mkdir()
    (app / "instance/left.db").touch()
    release.share()
    assert (app / "instance").readlink() == Path("/var/lib/shop/instance") and (app / "a/b").readlink() == Path("/var/lib/shop/a/b")


@pytest.fixture
def built(release, tmp_path, monkeypatch):
    """A source that its build command has written to."""
    monkeypatch.setattr(release, "give_to_root", lambda group: None)
    app = tmp_path / "releases/new/app"
    release.params["phase"] = "sealed"
    (app / "instance").symlink_to("/var/lib/shop/instance")
    (app / "node_modules/.bin").mkdir(parents=True)
    (app / "node_modules/.bin/tool").symlink_to("../tool/cli.js")
    return app


def test_what_a_build_command_made_is_taken_over(release, built, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "module.pyc").touch()
    (built / "__pycache__").symlink_to(elsewhere)
    (built / "node_modules/__pycache__").mkdir()
    release.take_over(0)
    assert not (built / "__pycache__").is_symlink() and not (built / "node_modules/__pycache__").exists()
    assert (elsewhere / "module.pyc").exists() and (built / "node_modules/.bin/tool").is_symlink()


@pytest.mark.parametrize("target", ["/etc", "../../../../etc/passwd", "/var/lib/shop", "../.."])
def test_a_link_out_of_the_source_is_refused(release, built, target):
    (built / "static/site.css").symlink_to(target)
    with pytest.raises(OSError, match=r"a link that leads out of the source: static/site\.css"):
        release.take_over(0)
