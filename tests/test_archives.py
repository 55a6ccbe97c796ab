"""Checks of a source archive's members, which run on the controller and again on the host."""

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
    """The members that a host reads from an archive with these entries: "file", "directory/", "link -> target", or a TarInfo."""
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
def test_a_safe_source_is_accepted(entries):
    archives.check_members(members(*entries))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["/etc/passwd"], "'/etc/passwd' of the source is not a plain relative path"),
        (["../x"], "not a plain"),
        (["a/../../x"], "not a plain"),
        (["./a"], "not a plain"),
        (["a//b"], "not a plain"),
        (["a/./b"], "not a plain"),
        (["a\nb"], r"'a\\nb' of the source has a name with control characters"),
        (["a\x1b[2Jb"], r"\\x1b\[2J"),
        (["a\u2028b"], "control characters"),
        ([member("a\udcff")], "not UTF-8"),
        (["x" * 256], "too long"),
        (["é" * 128], "too long"),
        (["/".join("a" * 101)], "more than 100 directories deep"),
        (["/".join(["n" * 200] * 11)], "too long"),
        (["a", "a"], "'a' of the source exists twice"),
        (["a -> b", "a/"], "twice"),
        (["a/", "a -> b"], "twice"),
        (["a/", "a/"], "twice"),
        (["a", "a/"], "twice"),
        (["a -> b", "a/x"], "'a/x' of the source is below 'a', which is not a directory"),
        (["a/x", "a -> b"], "is below"),
        (["a/b/c", "a"], "is below"),
        (["a -> /etc"], "'a' of the source is a link to the absolute path '/etc'"),
        (["a -> ../x"], "is outside the source"),
        (["a/b -> ../../x"], "is outside the source"),
        (["a/b -> c", "a/c -> ../d", "d -> ../x"], "outside the source"),
        (["deep/link -> ../top/../..", "top -> deep"], "outside the source"),
        (["a -> b/../../../x", "b -> c/d"], "outside the source"),
        (["a -> b", "b -> a"], "is a loop"),
        (["a -> a"], "is a loop"),
        (["a -> a/x"], "is a loop"),
        ([f"l{n} -> l{n + 1}" for n in range(50)], "is a loop"),
        ([member("a", type=tarfile.SYMTYPE)], "is a link to '', which"),
        (["a -> " + "b/" * 513], "'a' of the source is a link whose target is longer than 1024 bytes"),
        (["a -> " + "b/" * 100 + "c"], "through too many links or directories"),
        (["a -> " + "b/../" * 180 + "c", "b -> " + "x/../" * 180 + "x"], "through too many links or directories"),
        (["a -> b\nc"], r"link to 'b\\nc', which is empty or contains unprintable"),
        ([member("a", type=tarfile.LNKTYPE, linkname="b")], "is not a file, directory or symbolic link"),
        ([member("a", type=tarfile.FIFOTYPE)], "is not a file, directory or symbolic link"),
        ([member("a", type=tarfile.CHRTYPE)], "is not a file, directory or symbolic link"),
        ([member("a", type=tarfile.BLKTYPE)], "is not a file, directory or symbolic link"),
        ([member("a", mode=0o4755)], "has the mode 4755"),
    ],
)
def test_an_unsafe_source_is_rejected(entries, message):
    with pytest.raises(archives.UnsafeArchive, match=message) as caught:
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
    ids=["one very long link", "one long link", "chain of very long links", "chain of long links", "chain with ..", "many links"],
)
def test_checking_links_takes_little_time_and_memory(entries):
    links = [member(f"{name} -> {target}") for name, target in entries]
    started = time.process_time()
    tracemalloc.start()
    with contextlib.suppress(archives.UnsafeArchive):
        archives.check_members(links)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6 and time.process_time() - started < 5


def test_the_number_and_size_of_files_are_limited(monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(archives.UnsafeArchive, match="more than 2 files"):
        archives.check_members(members("a", "b", "c"))
    with pytest.raises(archives.UnsafeArchive, match=r"with 'a', the source is larger than 2048 MB"):
        archives.check_members([member("a", size=2**41)])


SOURCE = [
    "other/x",
    "data -> other",
    "file",
    "media/x",
    "static -> media",
    "front/dist/x",
    "assets -> front/dist",
    "deep/m -> ../media",
    "code.py",
]


@pytest.mark.parametrize(
    ("shared", "static"),
    [
        (["data"], []),
        (["file", "new.db"], ["media"]),
        (["instance", "media/a", "media/b"], []),
        ([], ["static/", "./assets", "front/dist/", "made/by/the/build"]),
        (["other"], ["media"]),
        (["med"], ["media"]),
        (["media"], ["med"]),
    ],
)
def test_shared_and_static_directories_that_do_not_overlap_are_accepted(shared, static):
    archives.check_members(members(*SOURCE), shared, static)


@pytest.mark.parametrize(
    ("shared", "static", "message"),
    [
        (["data/uploads"], [], "^app_shared: 'data/uploads' contains the symbolic link 'data' of the source"),
        (["file/x"], [], "'file/x' is below 'file', which is a file"),
        (["code.py"], [], "'code.py' is code of the source, which would never change again"),
        (["deep"], [], "'deep' contains the symbolic link 'deep/m', which points to '../media'. Replace it by the file"),
        (["media", "media/x"], [], "'media/x' and 'media' overlap"),
        (["media", "./media/"], [], "overlap"),
        ([], ["../x"], "^app_static: '../x' is outside the source"),
        ([], ["static/../../x"], "outside the source"),
        (["media"], ["media"], "^app_static: 'media' overlaps with 'media' in app_shared"),
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
def test_shared_and_static_directories_that_overlap_or_leave_the_source_are_rejected(shared, static, message):
    with pytest.raises(archives.UnsafeArchive, match=message):
        archives.check_members(members(*SOURCE), shared, static)
