"""Preflight rejects a hostile repository or directory before any host is touched, and runs none of its code on the controller."""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import PROJECT, plugin, run_playbook, survivors

app_source, run_git = plugin("action/app_source"), plugin("plugin_utils/git")
source_directory, source_git = plugin("plugin_utils/source_directory"), plugin("plugin_utils/source_git")
TOKEN = "tok3n-of-the-owner"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home directory for the controller, and an identity for git commits."""
    for key, value in {"HOME": tmp_path / "home", "GIT_CONFIG_NOSYSTEM": 1}.items():
        monkeypatch.setenv(key, str(value))
    for kind in "AUTHOR", "COMMITTER":
        monkeypatch.setenv(f"GIT_{kind}_NAME", "ann")
        monkeypatch.setenv(f"GIT_{kind}_EMAIL", "ann@example.com")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path, home):
    """A deployable source directory."""
    directory = tmp_path / "source"
    (directory / "shop/static").mkdir(parents=True)
    (directory / "shop/__init__.py").write_text("app = 1\n")
    (directory / "shop/static/site.css").write_text("p {}\n")
    (directory / "requirements.txt").write_text("Flask\n")
    return directory


def git(directory, *arguments, **options):
    return subprocess.run(["git", "-C", directory, *arguments], check=True, capture_output=True, text=True, **options).stdout.strip()


def committed(directory):
    git(directory, "init", "-q", "-b", "main")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "one")
    return f"file://{directory}"


def crafted(directory, *entries):
    """A repository whose last commit adds these entries to the source: (mode, name, content or entries)."""
    url = committed(directory)

    def tree(entries):
        lines = []
        for mode, name, content in entries:
            if mode == "040000":
                sha = tree(content)
            elif mode == "160000":
                sha = content
            else:
                sha = git(directory, "hash-object", "-w", "--stdin", input=content)
            kind = {"040000": "tree", "160000": "commit"}.get(mode, "blob")
            lines.append(f"{mode} {kind} {sha}\t{name}\0")
        return git(directory, "mktree", "-z", "--missing", input="".join(lines))

    existing = [line.split(maxsplit=3) for line in git(directory, "ls-tree", "HEAD").splitlines()]
    kept = "".join(f"{mode} {kind} {sha}\t{name}\0" for mode, kind, sha, name in existing)
    added = "".join(f"{line}\0" for line in git(directory, "ls-tree", "-z", tree(entries)).split("\0") if line)
    tree_id = git(directory, "mktree", "-z", "--missing", input=kept + added)
    git(directory, "update-ref", "refs/heads/main", git(directory, "commit-tree", tree_id, "-m", "two"))
    return url


def limit():
    """Protect this machine's disk and memory in case an endless file is read."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))


def preflight(tmp_path, cases, succeeds=False):
    """Run preflight.yml for these hosts. All are unreachable, so the output shows whether preflight connected to one."""
    common = {
        "ansible_host": "127.0.0.1",
        "ansible_port": 9,
        "app_name": "shop",
        "app_domains": ["shop.example"],
        "app_module": "shop:app",
        "app_static": {},
        "app_secrets": {"SECRET_KEY": "5f3c9a"},
    }
    directory = tmp_path / "inventory"
    directory.mkdir(exist_ok=True)
    hosts = {name: common | settings for name, settings in cases.items()}
    return run_playbook(directory, "playbooks/preflight.yml", hosts, settings={}, succeeds=succeeds, timeout=300, preexec_fn=limit)


def rejected(tmp_path, *cases):
    """Each case (settings, message) is a host, for which preflight must report this message without touching any host.

    A further host is valid, so that each report names its hosts.
    """
    run = preflight(tmp_path, {f"h{number}": settings for number, (settings, _message) in enumerate([*cases, GOOD])})
    text = run.text
    assert "No host was touched." in text and "Traceback" not in text, run.output
    assert "unreachable=0" in text and "Check the host" not in text, "a host was touched"
    reports = {}
    for report in text.partition("fatal: ")[2].split(" - "):
        for name in re.sub(r".*\(host (.*?)\).*", r"\1", report).split(", "):
            reports[name] = reports.get(name, "") + report
    for number, (_settings, message) in enumerate(cases):
        assert message in reports.get(f"h{number}", ""), f"{message}: {json.dumps(reports, indent=2)}"
    return text


GOOD = ({"app_source": str(PROJECT / "sample_app"), "app_module": "sample_app:create_app()"}, "")


def accepted(tmp_path, *settings):
    run = preflight(tmp_path, {f"h{number}": values for number, values in enumerate(settings)})
    text = run.text
    assert text.count("unreachable=1") == len(settings) and "No host was touched" not in text, run.output
    return text


# -- the members of an archive ------------------------------------------------------------------------------------


def test_a_safe_source_is_accepted(tmp_path, source):
    """nginx can serve a directory that is a link within the source (B14)"""
    (source / "latest.css").symlink_to("shop/static/site.css")
    (source / "assets").symlink_to("shop/static")
    url, static = committed(source), {"/static/": "assets"}
    accepted(tmp_path, {"app_source": url, "app_static": static}, {"app_source": str(source), "app_static": static})


CRAFTED = [
    ([("120000", "data", "/etc")], "'data' of the source is a link to the absolute path '/etc'"),
    ([("120000", "data", "shop/../../etc")], "'data' of the source is a link to 'shop/../../etc', which is outside the source"),
    ([("120000", "a", "b"), ("120000", "b", "a")], "'a' of the source is a link to 'b', which is a loop"),
    ([("120000", "data", "shop/../" * 5000 + "shop")], "'data' of the source is a link whose target is longer than 1024 bytes"),
    ([("120000", "data", "/etc"), ("040000", "data", [("100644", "cron", "x")])], "'data' of the source exists twice"),
    ([("100644", "twice", "a"), ("100644", "twice", "b")], "'twice' of the source exists twice"),
    ([("100644", "a\nb", "x")], r"'a\nb' of the source has a name with control characters"),
    ([("100644", "a\x1b[2J", "x")], r"'a\x1b[2J' of the source has a name with control characters"),
    ([("040000", "vendor", [("160000", "lib", "1" * 40)])], "'vendor/lib' of the source is a git submodule"),
    ([("040000", "..", [("100644", "x", "y")])], "'..' of the source is not a plain relative path"),
    ([("040000", ".git", [("100644", "x", "y")])], "git cannot read the source (error: invalid path '.git/x')"),
]


def test_a_crafted_commit_is_rejected(tmp_path, source):
    cases = []
    for number, (entries, message) in enumerate(CRAFTED):
        copy = shutil.copytree(source, tmp_path / f"copy{number}")
        cases.append(({"app_source": crafted(copy, *entries)}, message))
        # the same entries in a subdirectory that is the app
        if number < 9:
            copy = shutil.copytree(source, tmp_path / f"deep{number}")
            url = crafted(copy, ("040000", "app", [("100644", "requirements.txt", "Flask"), *entries]))
            cases.append(({"app_source": url, "app_directory": "app"}, message))
    rejected(tmp_path, *cases)


def test_a_tree_that_would_exhaust_memory_is_rejected_before_it_is_unpacked(source, home, monkeypatch):
    """Git and tarfile keep link targets, names and directory listings completely in memory, even those of hundreds of megabytes."""
    committed(source)
    blob = git(source, "hash-object", "-w", "--stdin", input="x" * 2**25)
    deep = git(source, "mktree", input="")
    for _ in range(18):
        deep = git(source, "mktree", input="".join(f"040000 tree {deep}\t{name}\n" for name in "abcd"))
    cases = {
        f"120000 blob {blob}\tlink": "is a link whose target is longer than 1024 bytes",
        f"100644 blob {blob}\t{'n' * 2**25}": "^'n{255}…' of the source has a name that is too long",
        f"040000 tree {deep}\tdeep": "more than 200000 files",
    }
    monkeypatch.setattr(source_git.Checkout, "copy_members", lambda *_: pytest.fail("the tree was unpacked"))
    for number, (entry, message) in enumerate(cases.items()):
        monkeypatch.setattr(source_git, "RUN", str(number))
        tree = git(source, "mktree", input=f"{entry}\n")
        git(source, "update-ref", "refs/heads/main", git(source, "commit-tree", tree, "-m", "two"))
        with pytest.raises(app_source.archives.UnsafeArchive, match=message):
            found(f"file://{source}", home)


def test_a_link_out_of_the_app_s_directory_is_rejected(tmp_path, source):
    (source / "shop/requirements.txt").symlink_to("../requirements.txt")
    url, message = committed(source), "'requirements.txt' of the source is a link to '../requirements.txt', which is outside"
    rejected(tmp_path, *(({"app_source": path, "app_directory": "shop"}, message) for path in (url, str(source))))


def test_a_file_name_that_is_not_utf_8_is_rejected(tmp_path, source):
    """(S27)"""
    with open(os.fsencode(source) + b"/caf\xe9.txt", "w"):
        pass
    copy = shutil.copytree(source, tmp_path / "copy")
    message = r"'caf\udce9.txt' of the source has a name with control characters or bytes that are not UTF-8"
    rejected(tmp_path, *(({"app_source": path}, message) for path in (str(source), str(copy), committed(copy))))


def test_a_cached_archive_is_checked_too(tmp_path, source, home):
    """An earlier version of Flaskhost may have created it."""
    good = {"app_source": committed(source)}
    accepted(tmp_path, good)
    (archive,) = (home / ".cache/flaskhost/source").glob("*.tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("data")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    rejected(tmp_path, (good, "absolute path '/etc'"))


def test_sources_with_the_same_commit_have_separate_archives(source, home):
    """The full commit hash is part of the name, because an attacker can create a commit with the same prefix."""
    url = committed(source)
    first = found(url, home)
    copy = shutil.copytree(source, source.with_name("copy"))
    assert found(f"file://{copy}", home)["archive"] != first["archive"]
    assert first["archive"].endswith(f"-{first['commit']}.tar.gz") and len(os.path.basename(found(source, home)["archive"])) == 64 + 7


def test_shared_directories_are_never_below_a_link_of_the_source(tmp_path, source):
    """Otherwise, root would remove /etc/uploads."""
    cases = []
    for target, message in ("/etc", "absolute path '/etc'"), ("shop", "'data/uploads' contains the symbolic link 'data' of the source"):
        copy = shutil.copytree(source, tmp_path / target.strip("/"))
        (copy / "data").symlink_to(target)
        cases += [({"app_source": path, "app_shared": ["data/uploads"]}, message) for path in (str(copy), committed(copy))]
    rejected(tmp_path, *cases)


def test_static_directories_never_overlap_with_shared_ones(tmp_path, source):
    """Otherwise, root would write into the app's data."""
    (source / "media/thumbs").mkdir(parents=True)
    (source / "media/thumbs/a.css").touch()
    (source / "pub").symlink_to("media")
    pairs = [("media", "media/thumbs"), ("media/up", "media"), ("media", "pub"), ("media", "./media/"), ("media", "pub/thumbs")]
    rejected(
        tmp_path,
        *(
            (
                {"app_source": str(source), "app_shared": [shared], "app_static": {"/m/": static}},
                f"'{static}' overlaps with '{shared}' in app_shared",
            )
            for shared, static in pairs
        ),
    )


def test_app_directory_must_be_within_the_source(tmp_path, source):
    (source / "etc").symlink_to("/etc")
    (source / "inner").symlink_to("shop")
    url = committed(source)
    rejected(
        tmp_path,
        ({"app_source": str(source), "app_directory": "etc"}, "app_directory is 'etc': 'etc' contains a symbolic link"),
        ({"app_source": str(source), "app_directory": "inner"}, "app_directory is 'inner': 'inner' contains a symbolic link"),
        ({"app_source": url, "app_directory": "etc"}, "has no directory 'etc'"),
        ({"app_source": url, "app_directory": "../x"}, "app_directory is '../x'"),
    )


# -- an unreadable source stops preflight -------------------------------------------------------------------------


def test_a_missing_source_or_version_is_reported_before_any_host_is_touched(tmp_path, source):
    """By preflight itself, from what app_source returns on a failure (B1)"""
    url = committed(source)
    cases = [({"app_source": str(source / "nowhere")}, "it is neither a git URL nor a directory")]
    for version in "v9.9", "-x", "--all", "--git-dir=/", "a b", "HEAD:shop":
        cases.append(({"app_source": url, "app_version": version}, f"app_version is '{version}': no such branch, tag or commit in"))
    for name in "app_source", "app_version":
        cases.append(({"app_source": str(source), name: "a\0b"}, f"{name} is 'a\\x00b': the value contains a control character"))
    rejected(tmp_path, *cases)


# -- the source's code does not run on the controller -------------------------------------------------------------


@pytest.fixture
def trap(tmp_path):
    """A program that creates a file if it is run, which fails the test."""
    program = tmp_path / "trap"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    program.chmod(0o755)
    yield program
    assert not (tmp_path / "sprung").exists(), "a program of the source ran on the controller"


def test_a_hostile_url_does_not_run_a_program(tmp_path, trap):
    urls = {
        f"ext::{trap} x": "neither a git URL nor a directory",
        f"-u{trap}@host:x": "neither a git URL nor a directory",
        "-x@host:y": "git cannot read the source",
        f"ssh://-oProxyCommand={trap}/x": "git cannot read the source",
        f"file:///x --upload-pack={trap}": "the URL contains a space",
    }
    rejected(tmp_path, *(({"app_source": url}, message) for url, message in urls.items()))


def test_the_git_configuration_of_a_working_copy_does_not_run_a_program(tmp_path, source, trap):
    committed(source)
    for name in "core.fsmonitor", "core.sshCommand", "core.pager", "core.editor", "filter.x.clean", "filter.x.process", "alias.ls-files":
        git(source, "config", name, f"!{trap}" if name.startswith("alias") else str(trap))
    (source / ".git/hooks").mkdir(exist_ok=True)
    shutil.copy(trap, source / ".git/hooks/post-index-change")
    (source / ".gitattributes").write_text("* filter=x\n")
    accepted(tmp_path, {"app_source": str(source)})


def test_a_missing_git_object_is_not_fetched(tmp_path, source, trap):
    """A partial clone would fetch missing objects with a command from its configuration."""
    committed(source)
    (source / ".gitignore").write_text("*.log\n")
    git(source, "add", ".gitignore")
    blob = git(source, "rev-parse", ":.gitignore")
    git(source, "update-index", "--skip-worktree", ".gitignore")
    (source / ".gitignore").unlink()
    (source / f".git/objects/{blob[:2]}/{blob[2:]}").unlink()
    git(source, "config", "core.repositoryFormatVersion", "1")
    git(source, "config", "extensions.partialClone", "origin")
    for key, value in {"url": str(source), "uploadpack": str(trap), "promisor": "true"}.items():
        git(source, "config", f"remote.origin.{key}", value)
    preflight(tmp_path, {"h": {"app_source": str(source)}}, succeeds=None)


def test_an_embedded_bare_repository_does_not_run_a_program(tmp_path, source, trap):
    """Git treats any directory that looks like a repository as one, even within another working copy."""
    committed(source.parent / "source")
    git(source, "init", "-q", "--bare", "inner")
    (source / "inner/requirements.txt").touch()
    for key, value in {"core.bare": "false", "core.worktree": str(source / "inner"), "core.fsmonitor": str(trap)}.items():
        subprocess.run(["git", "config", "--file", source / "inner/config", key, value], check=True)
    rejected(tmp_path, ({"app_source": str(source / "inner")}, "git cannot read the source"))


def test_git_replace_cannot_replace_the_commit_of_app_version(tmp_path, source, home):
    url = committed(source)
    first = git(source, "rev-parse", "HEAD")
    (source / "shop/__init__.py").write_text("evil = 1\n")
    git(source, "commit", "-qam", "two")
    git(source, "replace", first, "HEAD")
    accepted(tmp_path, {"app_source": url, "app_version": first})
    (archive,) = (home / ".cache/flaskhost/source").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert tar.extractfile("shop/__init__.py").read() == b"app = 1\n"


def test_gitattributes_do_not_drop_a_file_or_change_it_with_the_commit(tmp_path, source, home):
    (source / ".gitattributes").write_text("version.txt export-subst\nnotes export-ignore\n")
    (source / "version.txt").write_text("$Format:%H %d %GG$")
    (source / "notes").touch()
    accepted(tmp_path, {"app_source": committed(source)})
    (archive,) = (home / ".cache/flaskhost/source").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert tar.extractfile("version.txt").read() == b"$Format:%H %d %GG$" and "notes" in tar.getnames()


LFS = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def test_the_operator_s_git_filters_do_not_run_on_a_source(tmp_path, source, home, trap):
    """E.g. the Git LFS filter would download from a URL that the source chooses."""
    (source / ".gitattributes").write_text("*.bin filter=lfs ident\n")
    (source / "logo.bin").write_text("$Id$")
    url = committed(source)
    for kind in "smudge", "clean", "process":
        git(source, "config", "--global", f"filter.lfs.{kind}", str(trap))
    accepted(tmp_path, {"app_source": url}, {"app_source": str(source)})
    for archive in (home / ".cache/flaskhost/source").glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            assert tar.extractfile("logo.bin").read() == b"$Id$"


@pytest.mark.skipif(shutil.which("git-lfs"), reason="git-lfs is installed here")
def test_a_file_in_git_lfs_is_reported_without_git_lfs(tmp_path, source):
    """In a working copy, the operator fetches it (B13)."""
    (source / "shop/static/logo.png").write_text(LFS)
    copy = shutil.copytree(source, tmp_path / "copy")
    problem = "'shop/static/logo.png' of the source is in Git LFS, and"
    rejected(
        tmp_path,
        ({"app_source": str(source)}, f"{problem} its content is not in this directory. Run `git lfs pull` there."),
        ({"app_source": committed(copy)}, f"{problem} git-lfs is not installed on this controller. Install git-lfs, or run `git lfs pull`"),
    )


def test_git_is_killed_with_its_descendants_after_a_timeout(tmp_path, source, home, monkeypatch):
    url, real = committed(source), shutil.which("git")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text(f'#!/bin/sh\ncase "$*" in *archive*) setsid sleep 7654 & wait ;; esac\nexec {real} "$@"\n')
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(run_git, "GIT_SECONDS", 2)
    with pytest.raises(app_source.SourceError, match="git did not finish within"):
        found(url, home)
    assert not survivors("sleep 7654")


def test_a_repository_that_git_cannot_read_is_not_treated_as_a_plain_directory(tmp_path, source):
    """Otherwise, ignored files would be shipped (B3)"""
    committed(source)
    (source / ".git/config").write_text("[nonsense")
    other = shutil.copytree(source, tmp_path / "other", ignore=shutil.ignore_patterns(".git"))
    (other / ".git").write_text("gitdir: /nowhere\n")
    foreign = shutil.copytree(other, tmp_path / "foreign", ignore=shutil.ignore_patterns(".git"))
    committed(foreign)
    cases = []
    if os.geteuid() == 0:
        for path in foreign, foreign / ".git":
            os.chown(path, 65534, 65534)
        cases.append(({"app_source": str(foreign)}, "git cannot read the source (fatal: detected dubious ownership"))
    rejected(
        tmp_path,
        ({"app_source": str(source)}, "git cannot read the source (fatal: bad config"),
        *cases,
        (
            {"app_source": str(other)},
            "git cannot read the source (fatal: not a git repository: /nowhere). Make sure that `git status` succeeds",
        ),
    )


# -- special files and links --------------------------------------------------------------------------------------


def test_fifos_and_sockets_are_skipped_with_a_warning(tmp_path, source):
    """(S27)"""
    copy = shutil.copytree(source, tmp_path / "copy")
    for name in "fifo", "socket":
        (copy / name).touch()
    committed(copy)
    for directory in source, copy:
        (directory / "fifo").unlink(missing_ok=True)
        os.mkfifo(directory / "fifo")
    (copy / "socket").unlink()
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(str(source / "socket"))
        second.bind(str(copy / "socket"))
        output = accepted(tmp_path, {"app_source": str(source)}, {"app_source": str(copy)})
    for name in "fifo", "socket":
        assert f"'{name}' of the source is not a file, directory or symbolic link and is not deployed" in output


def test_a_working_copy_does_not_ship_the_controller_s_files_through_a_link(tmp_path, source, home):
    """A link replaces a directory on disk and is ignored by git, but git's index still lists the files of the directory."""
    (home / ".ssh").mkdir()
    (home / ".ssh/id_ed25519").write_text("the operator's key")
    (source / "lib/keys").mkdir(parents=True)
    (source / "lib/keys/id_ed25519").touch()
    cases = []
    for link in "lib/keys", "lib":
        copy = shutil.copytree(source, tmp_path / link.replace("/", "-"))
        committed(copy)
        shutil.rmtree(copy / link)
        (copy / link).symlink_to(home / ".ssh" if link == "lib/keys" else home)
        (copy / ".git/info/exclude").write_text(f"/{link}\n")
        message = f"'lib/keys/id_ed25519' of the source is below '{link}', which is not a directory. Make it a directory again"
        cases.append(({"app_source": str(copy)}, message))
    (home / "keys").symlink_to(".ssh")
    rejected(tmp_path, *cases)


def test_a_device_is_skipped(source, home):
    try:
        os.mknod(source / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root can create devices")
    assert "zero" not in found(source, home)["files"]


def test_an_endless_file_behind_a_link_is_never_read(tmp_path, source):
    (source / "zero").symlink_to("/dev/zero")
    rejected(tmp_path, ({"app_source": str(source)}, "'zero' of the source is a link to the absolute path '/dev/zero'"))


def test_a_file_that_exceeds_the_size_limit_is_not_read(tmp_path, source):
    copy = shutil.copytree(source, tmp_path / "copy")
    committed(copy)
    for directory in source, copy:
        with open(directory / "dump.sql", "wb") as handle:
            handle.truncate(2**40)
    rejected(
        tmp_path, *(({"app_source": str(directory)}, "with 'dump.sql', the source is larger than 2048 MB") for directory in (source, copy))
    )


def found(source, home):
    (home / "cache").mkdir(exist_ok=True)
    return app_source.read_archive(result := app_source.find({"source": str(source)}, str(home / "cache")), {}) | result


@pytest.fixture
def nobody(source, home):
    """Run the test as another user, because root can read everything."""
    for path in (source, *source.parents[: len(source.parents) - 2]):
        path.chmod(0o755)
    (home / "cache").mkdir(mode=0o777)
    (home / "cache").chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["secret.txt", "closed"])
@pytest.mark.parametrize("versioned", [False, True])
def test_an_unreadable_file_or_directory_is_reported(source, home, request, name, versioned):
    """(S27)"""
    (source / "secret.txt").touch()
    (source / "closed").mkdir()
    (source / "closed/x").touch()
    if versioned:
        git(source, "init", "-q")
        if os.geteuid() == 0:
            os.chown(source, 65534, 65534)
            os.chown(source / ".git", 65534, 65534)
    (source / name).chmod(0)
    request.getfixturevalue("nobody")
    with pytest.raises(app_source.SourceError, match=rf"^app_source: cannot read '.*{name}'.*Make it readable"):
        found(source, home)
    # so that pytest can remove it
    os.seteuid(os.getuid())
    (source / name).chmod(0o755)


def test_files_that_change_during_packing_keep_their_listed_size(source, home, monkeypatch):
    listed = source_directory.list_files(str(source))
    monkeypatch.setattr(source_directory, "list_files", lambda _directory: [*listed, "gone.txt"])
    assert "gone.txt" not in found(source, home)["files"]
    real = os.fstat

    def growing(descriptor):
        before, path = real(descriptor), os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith("shop/__init__.py"):
            os.pwrite(os.open(path, os.O_WRONLY), b"more = 1\n" * 1000, 8)
        return before

    monkeypatch.setattr(source_directory.os, "fstat", growing)
    with tarfile.open(found(source, home)["archive"]) as tar:
        assert tar.extractfile("shop/__init__.py").read() == b"app = 1\n"


def test_procfile_and_dependency_lists_have_size_limits(tmp_path, source):
    def copy(name, **files):
        directory = shutil.copytree(source, tmp_path / name)
        for file, text in files.items():
            (directory / file).write_text(text)
        return str(directory)

    escape, long = copy("one", Procfile="web: a\x1bb\n"), copy("two", Procfile=f"web: {'echo x; ' * 40_000}(\n")
    types = copy("four", Procfile="".join(f"type-{number}: x\n" for number in range(100_000)) + f"{'y' * 9000}: x\n" * 2)
    many_types = copy("five", Procfile="".join(f"type-{number}: x\n" for number in range(100_000)))
    turned = copy("six", Procfile="web: a\u202eb\n")
    token = copy("seven", Procfile=f"web: {'x' * 9000} ;; )\n")
    chain = {f"r{number}": f"-r r{number + 1}\n" for number in range(1500)}
    accepted(tmp_path, {"app_source": copy("three", **chain, **{"requirements.txt": "-r r0\n"})})
    many, linked = Path(copy("many")), Path(copy("linked"))
    for number in range(5):
        (many / f"r{number}").write_text("#" * 2**23)
        (linked / f"r{number}").symlink_to("shop/large")
    (linked / "shop/large").write_text("#" * 2**23)
    for directory in many, linked:
        (directory / "requirements.txt").write_text("".join(f"-r r{number}\n" for number in range(5)))
    with open(source / "requirements.txt", "w") as handle:
        handle.truncate(2**26)
    text = rejected(
        tmp_path,
        ({"app_source": types, "app_server": "procfile"}, f"line 100002 of its Procfile defines '{'y' * 200} [… 8800 more characters]'"),
        ({"app_source": many_types, "app_server": "procfile"}, "has no process type 'web'. It has type-0, type-1,"),
        ({"app_source": turned, "app_server": "procfile"}, r"line 1 of its Procfile, 'web: a\u202eb', contains a control character"),
        ({"app_source": token, "app_server": "procfile"}, "the command of 'web' in its Procfile is not a valid shell command"),
        ({"app_source": escape, "app_server": "procfile"}, r"line 1 of its Procfile, 'web: a\x1bb', contains a control character"),
        ({"app_source": long, "app_server": "procfile"}, "the command of 'web' in its Procfile is not a valid shell command"),
        ({"app_source": str(source)}, "with 'requirements.txt', the source's Procfile and dependency files are larger than 32 MB"),
        ({"app_source": str(many)}, "the source's Procfile and dependency files are larger than 32 MB"),
        ({"app_source": str(linked)}, "the source's Procfile and dependency files are larger than 32 MB"),
    )
    assert len(text) < 20_000
