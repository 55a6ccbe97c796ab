"""A hostile repository or directory is rejected by preflight, as `make deploy` runs it, before a host is touched; nothing of it runs here."""

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
from conftest import PROJECT, plugin, run_playbook

app_source, run_git = plugin("action/app_source"), plugin("plugin_utils/git")
source_folder, source_git = plugin("plugin_utils/source_folder"), plugin("plugin_utils/source_git")
TOKEN = "tok3n-of-the-owner"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The controller's home: clones and archives of these tests only, and a git that knows who commits."""
    for key, value in {"HOME": tmp_path / "home", "GIT_CONFIG_NOSYSTEM": 1}.items():
        monkeypatch.setenv(key, str(value))
    for kind in "AUTHOR", "COMMITTER":
        monkeypatch.setenv(f"GIT_{kind}_NAME", "ann")
        monkeypatch.setenv(f"GIT_{kind}_EMAIL", "ann@example.com")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path, home):
    """A directory that can be deployed."""
    folder = tmp_path / "source"
    (folder / "shop/static").mkdir(parents=True)
    (folder / "shop/__init__.py").write_text("app = 1\n")
    (folder / "shop/static/site.css").write_text("p {}\n")
    (folder / "requirements.txt").write_text("Flask\n")
    return folder


def git(folder, *words, **options):
    return subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True, **options).stdout.strip()


def committed(folder):
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    return f"file://{folder}"


def crafted(folder, *entries):
    """A commit of a tree with these entries beside those of the source: (mode, name, content or entries)."""
    url = committed(folder)

    def tree(entries):
        lines = []
        for mode, name, content in entries:
            if mode == "040000":
                sha = tree(content)
            elif mode == "160000":
                sha = content
            else:
                sha = git(folder, "hash-object", "-w", "--stdin", input=content)
            kind = {"040000": "tree", "160000": "commit"}.get(mode, "blob")
            lines.append(f"{mode} {kind} {sha}\t{name}\0")
        return git(folder, "mktree", "-z", "--missing", input="".join(lines))

    ours = [line.split(maxsplit=3) for line in git(folder, "ls-tree", "HEAD").splitlines()]
    kept = "".join(f"{mode} {kind} {sha}\t{name}\0" for mode, kind, sha, name in ours)
    added = "".join(f"{line}\0" for line in git(folder, "ls-tree", "-z", tree(entries)).split("\0") if line)
    whole = git(folder, "mktree", "-z", "--missing", input=kept + added)
    git(folder, "update-ref", "refs/heads/main", git(folder, "commit-tree", whole, "-m", "two"))
    return url


def limit():
    """What is endless must not take this machine's disk or memory if it is read after all."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))


def preflight(tmp_path, cases, good=False):
    """What preflight.yml says of hosts, each with settings of its own; none can be reached: one that it connects to says so."""
    common = {
        "ansible_host": "127.0.0.1",
        "ansible_port": 9,
        "app_name": "shop",
        "app_domains": ["shop.example"],
        "app_module": "shop:app",
        "app_static": {},
        "app_secrets": {"SECRET_KEY": "5f3c9a"},
    }
    folder = tmp_path / "inventory"
    folder.mkdir(exist_ok=True)
    hosts = {name: common | settings for name, settings in cases.items()}
    return run_playbook(folder, "playbooks/preflight.yml", hosts, settings={}, good=good, timeout=300, preexec_fn=limit)


def rejected(tmp_path, *cases):
    """Each case, (settings, words), is a host that is reported with these words; no host is touched. One more is good, so that each has its name."""
    run = preflight(tmp_path, {f"h{number}": settings for number, (settings, _words) in enumerate([*cases, GOOD])})
    text = run.text
    assert "No host was touched." in text and "Traceback" not in text, run.output
    assert "unreachable=0" in text and "Check the host" not in text, "a host was touched"
    reports = {}
    for report in text.split("PLAY RECAP")[0].split(" - "):
        for name in re.sub(r".*\(host (.*?)\).*", r"\1", report).split(", "):
            reports[name] = reports.get(name, "") + report
    for number, (_settings, words) in enumerate(cases):
        assert words in reports.get(f"h{number}", ""), f"{words}: {json.dumps(reports, indent=2)}"
    return text


GOOD = ({"app_source": str(PROJECT / "sample_app"), "app_module": "sample_app:create_app()"}, "")


def accepted(tmp_path, *settings):
    run = preflight(tmp_path, {f"h{number}": values for number, values in enumerate(settings)})
    text = run.text
    assert text.count("unreachable=1") == len(settings) and "No host was touched" not in text, run.output
    return text


# -- what an archive holds (S3) -----------------------------------------------------------------------------------


def test_a_plain_source_reaches_the_host(tmp_path, source):
    (source / "latest.css").symlink_to("shop/static/site.css")
    (source / "assets").symlink_to("shop/static")
    url, static = committed(source), {"/static/": "assets"}
    accepted(tmp_path, {"app_source": url, "app_static": static}, {"app_source": str(source), "app_static": static})


CRAFTED = [
    ([("120000", "data", "/etc")], "'data' of the source is a link to the absolute path '/etc'"),
    ([("120000", "data", "shop/../../etc")], "'data' of the source is a link to 'shop/../../etc', which leads out of the source"),
    ([("120000", "a", "b"), ("120000", "b", "a")], "'a' of the source is a link to 'b', which leads back to itself"),
    ([("120000", "data", "shop/../" * 5000 + "shop")], "'data' of the source is a link to a path of more than 1024 bytes"),
    ([("120000", "data", "/etc"), ("040000", "data", [("100644", "cron", "x")])], "'data' of the source is there twice"),
    ([("100644", "twice", "a"), ("100644", "twice", "b")], "'twice' of the source is there twice"),
    ([("100644", "a\nb", "x")], r"'a\nb' of the source has control characters"),
    ([("100644", "a\x1b[2J", "x")], r"'a\x1b[2J' of the source has control characters"),
    ([("040000", "vendor", [("160000", "lib", "1" * 40)])], "'vendor/lib' of the source is a git submodule"),
    ([("040000", "..", [("100644", "x", "y")])], "'..' of the source is not a plain relative path"),
    ([("040000", ".git", [("100644", "x", "y")])], "git could not read it (error: invalid path '.git/x')"),
]


def test_a_crafted_commit_is_rejected(tmp_path, source):
    cases = []
    for number, (entries, words) in enumerate(CRAFTED):
        copy = shutil.copytree(source, tmp_path / f"copy{number}")
        cases.append(({"app_source": crafted(copy, *entries)}, words))
        # in a directory of the source, which then is the app
        if number < 9:
            copy = shutil.copytree(source, tmp_path / f"deep{number}")
            url = crafted(copy, ("040000", "app", [("100644", "requirements.txt", "Flask"), *entries]))
            cases.append(({"app_source": url, "app_folder": "app"}, words))
    rejected(tmp_path, *cases)


def test_what_git_would_unpack_in_memory_is_rejected_before(source, home, monkeypatch):
    """Links and names of hundreds of megabytes, directories without end: git and tarfile have each in memory as a whole."""
    committed(source)
    blob = git(source, "hash-object", "-w", "--stdin", input="x" * 2**25)
    deep = git(source, "mktree", input="")
    for _ in range(18):
        deep = git(source, "mktree", input="".join(f"040000 tree {deep}\t{name}\n" for name in "abcd"))
    cases = {
        f"120000 blob {blob}\tlink": "is a link to a path of more than 1024 bytes",
        f"100644 blob {blob}\t{'n' * 2**25}": "^'n{255}…' of the source has a name that is too long",
        f"040000 tree {deep}\tdeep": "more than 200000 files",
    }
    monkeypatch.setattr(source_git, "copied", lambda *_: pytest.fail("it is archived"))
    for number, (entry, words) in enumerate(cases.items()):
        monkeypatch.setattr(source_git, "RUN", str(number))
        tree = git(source, "mktree", input=f"{entry}\n")
        git(source, "update-ref", "refs/heads/main", git(source, "commit-tree", tree, "-m", "two"))
        with pytest.raises(app_source.archives.UnsafeArchive, match=words):
            found(f"file://{source}", home)


def test_a_link_of_the_app_s_folder_to_what_is_beside_it_is_rejected(tmp_path, source):
    (source / "shop/requirements.txt").symlink_to("../requirements.txt")
    url, words = committed(source), "'requirements.txt' of the source is a link to '../requirements.txt', which leads out"
    rejected(tmp_path, *(({"app_source": where, "app_folder": "shop"}, words) for where in (url, str(source))))


def test_a_name_that_is_not_utf_8_is_rejected(tmp_path, source):
    with open(os.fsencode(source) + b"/caf\xe9.txt", "w"):
        pass
    copy = shutil.copytree(source, tmp_path / "copy")
    words = r"'caf\udce9.txt' of the source has control characters in its name, or bytes that are not UTF-8"
    rejected(tmp_path, *(({"app_source": where}, words) for where in (str(source), str(copy), committed(copy))))


def test_a_cached_archive_is_checked_too(tmp_path, source, home):
    """An earlier version of Flaskhost may have packed it."""
    good = {"app_source": committed(source)}
    accepted(tmp_path, good)
    (archive,) = (home / ".cache/flaskhost/source").glob("*.tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("data")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    rejected(tmp_path, (good, "absolute path '/etc'"))


def test_an_archive_of_one_source_is_never_taken_for_another_s(source, home):
    """Somebody with time can make a commit whose name begins as that of another."""
    url = committed(source)
    first = found(url, home)
    copy = shutil.copytree(source, source.with_name("copy"))
    assert found(f"file://{copy}", home)["archive"] != first["archive"]
    assert first["archive"].endswith(f"-{first['commit']}.tar.gz") and len(os.path.basename(found(source, home)["archive"])) == 64 + 7


def test_the_app_s_data_are_never_put_behind_a_link_of_the_source(tmp_path, source):
    """S3: root would have removed /etc/uploads."""
    cases = []
    for target, words in ("/etc", "absolute path '/etc'"), ("shop", "'data/uploads' goes through 'data', a link of the source"):
        copy = shutil.copytree(source, tmp_path / target.strip("/"))
        (copy / "data").symlink_to(target)
        cases += [({"app_source": where, "app_shared": ["data/uploads"]}, words) for where in (str(copy), committed(copy))]
    rejected(tmp_path, *cases)


def test_nginx_is_never_given_what_the_app_writes(tmp_path, source):
    """S15: root would have written into the app's data."""
    (source / "media/thumbs").mkdir(parents=True)
    (source / "media/thumbs/a.css").touch()
    (source / "pub").symlink_to("media")
    pairs = [("media", "media/thumbs"), ("media/up", "media"), ("media", "pub"), ("media", "./media/"), ("media", "pub/thumbs")]
    rejected(
        tmp_path,
        *(
            (
                {"app_source": str(source), "app_shared": [shared], "app_static": {"/m/": static}},
                f"'{static}' overlaps '{shared}' of app_shared",
            )
            for shared, static in pairs
        ),
    )


def test_the_app_s_folder_is_within_the_source(tmp_path, source):
    (source / "etc").symlink_to("/etc")
    (source / "inner").symlink_to("shop")
    url = committed(source)
    rejected(
        tmp_path,
        ({"app_source": str(source), "app_folder": "etc"}, "app_folder is 'etc': 'etc' goes through a link"),
        ({"app_source": str(source), "app_folder": "inner"}, "app_folder is 'inner': 'inner' goes through a link"),
        ({"app_source": url, "app_folder": "etc"}, "has no folder 'etc'"),
        ({"app_source": url, "app_folder": "../x"}, "app_folder is '../x'"),
    )


# -- what can't be read stops preflight (B1) ----------------------------------------------------------------------


def test_a_source_that_is_not_there_stops_before_any_host(tmp_path, source):
    url = committed(source)
    cases = [({"app_source": str(source / "nowhere")}, "it is neither a git URL nor a folder")]
    for version in "v9.9", "-x", "--all", "--git-dir=/", "a b", "HEAD:shop":
        cases.append(({"app_source": url, "app_version": version}, f"app_version is '{version}': it is no branch, tag or commit of"))
    for name in "app_source", "app_version":
        cases.append(({"app_source": str(source), name: "a\0b"}, f"{name} is 'a\\x00b': it has a control character"))
    rejected(tmp_path, *cases)


# -- nothing runs on the controller -------------------------------------------------------------------------------


@pytest.fixture
def trap(tmp_path):
    """A program that leaves a mark."""
    program = tmp_path / "trap"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    program.chmod(0o755)
    yield program
    assert not (tmp_path / "sprung").exists(), "a program of the source ran on the controller"


def test_a_url_runs_nothing(tmp_path, trap):
    urls = {
        f"ext::{trap} x": "neither a git URL nor a folder",
        f"-u{trap}@host:x": "neither a git URL nor a folder",
        "-x@host:y": "git could not read it",
        f"ssh://-oProxyCommand={trap}/x": "git could not read it",
        f"file:///x --upload-pack={trap}": "a space in its URL",
    }
    rejected(tmp_path, *(({"app_source": url}, words) for url, words in urls.items()))


def test_a_working_copy_s_configuration_runs_nothing(tmp_path, source, trap):
    committed(source)
    for name in "core.fsmonitor", "core.sshCommand", "core.pager", "core.editor", "filter.x.clean", "filter.x.process", "alias.ls-files":
        git(source, "config", name, f"!{trap}" if name.startswith("alias") else str(trap))
    (source / ".git/hooks").mkdir(exist_ok=True)
    shutil.copy(trap, source / ".git/hooks/post-index-change")
    (source / ".gitattributes").write_text("* filter=x\n")
    accepted(tmp_path, {"app_source": str(source)})


def test_an_object_that_is_missing_is_not_fetched(tmp_path, source, trap):
    """A partial clone fetches what it lacks by a command of its configuration."""
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
    preflight(tmp_path, {"h": {"app_source": str(source)}}, good=None)


def test_an_embedded_bare_repository_runs_nothing(tmp_path, source, trap):
    """Git takes a directory for a repository if it looks like one: here within another working copy."""
    committed(source.parent / "source")
    git(source, "init", "-q", "--bare", "inner")
    (source / "inner/requirements.txt").touch()
    for key, value in {"core.bare": "false", "core.worktree": str(source / "inner"), "core.fsmonitor": str(trap)}.items():
        subprocess.run(["git", "config", "--file", source / "inner/config", key, value], check=True)
    rejected(tmp_path, ({"app_source": str(source / "inner")}, "git could not read it"))


def test_a_repository_may_not_replace_the_commit_that_app_version_names(tmp_path, source, home):
    url = committed(source)
    first = git(source, "rev-parse", "HEAD")
    (source / "shop/__init__.py").write_text("evil = 1\n")
    git(source, "commit", "-qam", "two")
    git(source, "replace", first, "HEAD")
    accepted(tmp_path, {"app_source": url, "app_version": first})
    (archive,) = (home / ".cache/flaskhost/source").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert tar.extractfile("shop/__init__.py").read() == b"app = 1\n"


def test_the_same_content_is_packed_the_same(tmp_path, source, home):
    (source / ".gitattributes").write_text("version.txt export-subst\nnotes export-ignore\n")
    (source / "version.txt").write_text("$Format:%H %d %GG$")
    (source / "notes").touch()
    accepted(tmp_path, {"app_source": committed(source)})
    (archive,) = (home / ".cache/flaskhost/source").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert tar.extractfile("version.txt").read() == b"$Format:%H %d %GG$" and "notes" not in tar.getnames()


LFS = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def test_no_filter_of_the_operator_s_runs_on_a_source(tmp_path, source, home, trap):
    """Git LFS is one, which would fetch from where the source says."""
    (source / ".gitattributes").write_text("*.bin filter=lfs ident\n")
    (source / "logo.bin").write_text("$Id$")
    url = committed(source)
    for kind in "smudge", "clean", "process":
        git(source, "config", "--global", f"filter.lfs.{kind}", str(trap))
    accepted(tmp_path, {"app_source": url}, {"app_source": str(source)})
    for archive in (home / ".cache/flaskhost/source").glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            assert tar.extractfile("logo.bin").read() == b"$Id$"


def test_a_file_that_is_in_git_lfs_is_named(tmp_path, source):
    (source / "shop/static/logo.png").write_text(LFS)
    copy = shutil.copytree(source, tmp_path / "copy")
    words = "'shop/static/logo.png' of the source is in Git LFS, from which nothing is fetched. Run `git lfs pull`"
    rejected(tmp_path, *(({"app_source": where}, words) for where in (str(source), committed(copy))))


def test_a_git_that_takes_too_long_ends_with_its_descendants(tmp_path, source, home, monkeypatch):
    url, real = committed(source), shutil.which("git")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text(f'#!/bin/sh\ncase "$*" in *archive*) setsid sleep 7654 & wait ;; esac\nexec {real} "$@"\n')
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(run_git, "GIT_SECONDS", 2)
    with pytest.raises(app_source.SourceError, match="git has not read it within"):
        found(url, home)
    assert "sleep 7654" not in subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout


def test_git_s_failure_is_never_taken_for_no_git(tmp_path, source):
    """B3: what git ignores would be shipped."""
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
        cases.append(({"app_source": str(foreign)}, "git could not read it (fatal: detected dubious ownership"))
    rejected(
        tmp_path,
        ({"app_source": str(source)}, "git could not read it (fatal: bad config"),
        *cases,
        ({"app_source": str(other)}, "git could not read it (fatal: not a git repository: /nowhere). Make `git status` succeed"),
    )


# -- what is no plain file (S27) ----------------------------------------------------------------------------------


def test_what_is_no_file_is_left_out_with_a_warning(tmp_path, source):
    copy = shutil.copytree(source, tmp_path / "copy")
    for name in "fifo", "socket":
        (copy / name).touch()
    committed(copy)
    for folder in source, copy:
        (folder / "fifo").unlink(missing_ok=True)
        os.mkfifo(folder / "fifo")
    (copy / "socket").unlink()
    with socket.socket(socket.AF_UNIX) as here, socket.socket(socket.AF_UNIX) as there:
        here.bind(str(source / "socket"))
        there.bind(str(copy / "socket"))
        output = accepted(tmp_path, {"app_source": str(source)}, {"app_source": str(copy)})
    for name in "fifo", "socket":
        assert f"'{name}' of the source is neither a file nor a directory nor a link, and is left out" in output


def test_a_working_copy_ships_nothing_of_this_controller_through_a_link(tmp_path, source, home):
    """Git lists what its index has; the link on the disk is hidden from it."""
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
        words = f"'lib/keys/id_ed25519' of the source lies beneath '{link}', which is not a directory. Make it a directory again"
        cases.append(({"app_source": str(copy)}, words))
    (home / "keys").symlink_to(".ssh")
    rejected(tmp_path, *cases)


def test_a_device_is_left_out(source, home):
    try:
        os.mknod(source / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    assert "zero" not in found(source, home)["files"]


def test_an_endless_file_behind_a_link_is_never_read(tmp_path, source):
    (source / "zero").symlink_to("/dev/zero")
    rejected(tmp_path, ({"app_source": str(source)}, "'zero' of the source is a link to the absolute path '/dev/zero'"))


def test_a_file_that_is_too_large_is_not_read(tmp_path, source):
    copy = shutil.copytree(source, tmp_path / "copy")
    committed(copy)
    for folder in source, copy:
        with open(folder / "dump.sql", "wb") as handle:
            handle.truncate(2**40)
    rejected(tmp_path, *(({"app_source": str(folder)}, "'dump.sql' brings the source to more than 2048 MB") for folder in (source, copy)))


def found(source, home):
    (home / "cache").mkdir(exist_ok=True)
    return app_source.read_archive(result := app_source.find({"source": str(source)}, str(home / "cache")), {}) | result


@pytest.fixture
def nobody(source, home):
    """Root may read everything: these tests are somebody else."""
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
def test_what_can_not_be_read_is_named(source, home, request, name, versioned):
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
    with pytest.raises(app_source.SourceError, match=rf"^app_source: '.*{name}' can't be read.*Make it readable"):
        found(source, home)
    # for pytest, which removes it
    os.seteuid(os.getuid())
    (source / name).chmod(0o755)


def test_what_changes_meanwhile_is_taken_as_it_was_listed(source, home, monkeypatch):
    listed = source_folder.list_files(str(source))
    monkeypatch.setattr(source_folder, "list_files", lambda _folder: [*listed, "gone.txt"])
    assert "gone.txt" not in found(source, home)["files"]
    real = os.fstat

    def growing(descriptor):
        before, path = real(descriptor), os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith("shop/__init__.py"):
            os.pwrite(os.open(path, os.O_WRONLY), b"more = 1\n" * 1000, 8)
        return before

    monkeypatch.setattr(source_folder.os, "fstat", growing)
    with tarfile.open(found(source, home)["archive"]) as tar:
        assert tar.extractfile("shop/__init__.py").read() == b"app = 1\n"


def test_texts_of_the_source_are_read_within_limits(tmp_path, source):
    def copy(name, **files):
        folder = shutil.copytree(source, tmp_path / name)
        for file, text in files.items():
            (folder / file).write_text(text)
        return str(folder)

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
    for folder in many, linked:
        (folder / "requirements.txt").write_text("".join(f"-r r{number}\n" for number in range(5)))
    with open(source / "requirements.txt", "w") as handle:
        handle.truncate(2**26)
    text = rejected(
        tmp_path,
        ({"app_source": types, "app_server": "procfile"}, f"line 100002 of its Procfile describes '{'y' * 200} [… 8800 more characters]'"),
        ({"app_source": many_types, "app_server": "procfile"}, "has no type of process 'web'. It has type-0, type-1,"),
        ({"app_source": turned, "app_server": "procfile"}, r"line 1 of its Procfile, 'web: a\u202eb', has a control character"),
        ({"app_source": token, "app_server": "procfile"}, "the command of 'web' in its Procfile is none that a shell understands"),
        ({"app_source": escape, "app_server": "procfile"}, r"line 1 of its Procfile, 'web: a\x1bb', has a control character"),
        ({"app_source": long, "app_server": "procfile"}, "the command of 'web' in its Procfile is none that a shell understands"),
        ({"app_source": str(source)}, "'requirements.txt' brings its Procfile and its lists of dependencies to more than 32 MB"),
        ({"app_source": str(many)}, "brings its Procfile and its lists of dependencies to more than 32 MB"),
        ({"app_source": str(linked)}, "brings its Procfile and its lists of dependencies to more than 32 MB"),
    )
    assert len(text) < 20_000
