"""What an archive of a source may hold, checked on the controller and again on the host."""

import contextlib
import io
import tarfile
import time
import tracemalloc

import pytest
from ansible.module_utils.common.text.converters import to_text
from conftest import plugin

archives = plugin("module_utils/archives")


def members(*entries):
    """Members as a host reads them: "file", "folder/", "link -> target", or a TarInfo; through a real archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            tar.addfile(entry if isinstance(entry, tarfile.TarInfo) else member(entry))
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar:
        return tar.getmembers()


def member(text, **changes):
    name, arrow, target = text.partition(" -> ")
    info = tarfile.TarInfo(name.rstrip("/") if text.endswith("/") else name)
    info.type = tarfile.SYMTYPE if arrow else tarfile.DIRTYPE if text.endswith("/") else tarfile.REGTYPE
    info.linkname = target
    for key, value in changes.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "entries",
    [
        [],
        ["pkg/", "pkg/__init__.py", "pkg/static/site.css"],
        ["static -> frontend/dist", "frontend/dist/site.css"],
        ["a/b/c -> ../../d", "d/e"],
        ["a -> b", "b -> c/d", "c -> e", "e/d"],
        ["a -> b/../../x", "b -> c/d"],
        ["nowhere -> not/there/../here", "self/here -> .", "top -> pkg/..", "pkg/x"],
        ["names/naïve ünï 文.txt", "names/with space", "names/-dash", "names/..dots..", "names/back\\slash"],
    ],
)
def test_a_plain_source_passes(entries):
    archives.check_members(members(*entries))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["/etc/passwd"], "'/etc/passwd' of the source is not a plain relative path"),
        (["../x"], "not a plain"),
        (["a/../../x"], "not a plain"),
        (["./a"], "not a plain"),
        (["a//b"], "not a plain"),
        (["a/./b"], "not a plain"),
        (["a\nb"], r"'a\\nb' of the source has control characters"),
        (["a\x1b[2Jb"], r"\\x1b\[2J"),
        (["a\u2028b"], "control characters"),
        ([member("a\udcff")], "not UTF-8"),
        (["x" * 256], "too long"),
        (["é" * 128], "too long"),
        (["/".join("a" * 101)], "more than 100 directories deep"),
        (["/".join(["n" * 200] * 11)], "too long"),
        (["a", "a"], "'a' of the source is there twice"),
        (["a -> b", "a/"], "twice"),
        (["a/", "a -> b"], "twice"),
        (["a/", "a/"], "twice"),
        (["a", "a/"], "twice"),
        (["a -> b", "a/x"], "'a/x' of the source lies beneath 'a', which is not a directory"),
        (["a/x", "a -> b"], "beneath"),
        (["a/b/c", "a"], "beneath"),
        (["a -> /etc"], "'a' of the source is a link to the absolute path '/etc'"),
        (["a -> ../x"], "leads out of the source"),
        (["a/b -> ../../x"], "leads out of the source"),
        (["a/b -> c", "a/c -> ../d", "d -> ../x"], "leads out"),
        (["deep/link -> ../top/../..", "top -> deep"], "leads out"),
        (["a -> b/../../../x", "b -> c/d"], "leads out"),
        (["a -> b", "b -> a"], "leads back to itself"),
        (["a -> a"], "leads back to itself"),
        (["a -> a/x"], "leads back to itself"),
        ([f"l{n} -> l{n + 1}" for n in range(50)], "leads back to itself"),
        ([member("a", type=tarfile.SYMTYPE)], "is a link to '', which"),
        (["a -> " + "b/" * 513], "'a' of the source is a link to a path of more than 1024 bytes"),
        (["a -> " + "b/" * 100 + "c"], "through too many links or directories"),
        (["a -> " + "b/../" * 180 + "c", "b -> " + "x/../" * 180 + "x"], "through too many links or directories"),
        (["a -> b\nc"], r"link to 'b\\nc', which has unprintable"),
        ([member("a", type=tarfile.LNKTYPE, linkname="b")], "neither a file"),
        ([member("a", type=tarfile.FIFOTYPE)], "neither a file"),
        ([member("a", type=tarfile.CHRTYPE)], "neither a file"),
        ([member("a", type=tarfile.BLKTYPE)], "neither a file"),
        ([member("a", mode=0o4755)], "has the mode 4755"),
    ],
)
def test_a_source_that_would_leave_its_directory_is_rejected(entries, words):
    with pytest.raises(archives.UnsafeArchive, match=words) as caught:
        archives.check_members(members(*entries))
    assert to_text(str(caught.value), errors="strict").isprintable()


@pytest.mark.parametrize(
    "entries",
    [
        [("l", "a/" * 40_000)],
        [("l", "a/" * 512)],
        [(f"l{number}", f"l{number + 1}" + "/a" * 2040) for number in range(30)],
        [(f"l{number}", f"l{number + 1}" + "/a" * 500) for number in range(30)],
        [(f"l{number}", f"l{number + 1}" + "/a/.." * 150) for number in range(39)],
        [(f"l{number}", "x" * 250 + ("/" + "y" * 250) * 3) for number in range(20_000)],
    ],
    ids=["one long", "one", "a chain of long", "a chain", "a chain to and fro", "many"],
)
def test_links_take_little_time_and_memory(entries):
    links = [member(f"{name} -> {target}") for name, target in entries]
    started = time.monotonic()
    tracemalloc.start()
    with contextlib.suppress(archives.UnsafeArchive):
        archives.check_members(links)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6 and time.monotonic() - started < 5


def test_a_source_is_limited(monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(archives.UnsafeArchive, match="more than 2 files"):
        archives.check_members(members("a", "b", "c"))
    with pytest.raises(archives.UnsafeArchive, match=r"'a' of the source brings .* more than 2048 MB"):
        archives.check_members([member("a", size=2**41)])


SOURCE = ["other/x", "data -> other", "file", "media/x", "static -> media", "front/dist/x", "assets -> front/dist", "deep/m -> ../media"]


@pytest.mark.parametrize(
    ("shared", "static"),
    [
        (["data"], []),
        (["instance", "media/a", "media/b"], []),
        ([], ["static/", "./assets", "front/dist/", "made/by/the/build"]),
        (["other"], ["media"]),
        (["med"], ["media"]),
        (["media"], ["med"]),
    ],
)
def test_shared_and_static_directories_that_stay_apart_pass(shared, static):
    archives.check_members(members(*SOURCE), shared, static)


@pytest.mark.parametrize(
    ("shared", "static", "words"),
    [
        (["data/uploads"], [], "^app_shared: 'data/uploads' goes through 'data', a link of the source"),
        (["file/x"], [], "'file/x' lies beneath 'file', which is a file"),
        (["file"], [], "'file' is a file of the source"),
        (["media", "media/x"], [], "'media/x' and 'media' overlap"),
        (["media", "./media/"], [], "overlap"),
        ([], ["../x"], "^app_static: '../x' leads out of the source"),
        ([], ["static/../../x"], "leads out"),
        (["media"], ["media"], "^app_static: 'media' overlaps 'media' of app_shared"),
        (["media"], ["media/thumbs"], "overlap"),
        (["media/thumbs"], ["media"], "overlap"),
        (["media"], ["./media/"], "overlap"),
        (["media"], ["static"], "overlap"),
        (["media/thumbs"], ["static/"], "overlap"),
        (["media"], ["static/thumbs"], "overlap"),
        (["media"], ["deep/m"], "overlap"),
        (["front"], ["assets"], "overlap"),
        (["static"], ["static"], "overlap"),
        (["media"], ["media/../front"], "overlap"),
        (["media"], ["."], "overlap"),
    ],
)
def test_a_directory_of_the_app_is_never_reached_through_the_source(shared, static, words):
    with pytest.raises(archives.UnsafeArchive, match=words):
        archives.check_members(members(*SOURCE), shared, static)
