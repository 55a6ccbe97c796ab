"""A hostile repository or directory is rejected by preflight, as `make deploy` runs it, before a host is touched; nothing of it runs here."""

import base64
import http.server
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time

import pytest
import yaml
from conftest import PROJECT, plugin

app_source = plugin("action/app_source")
TOKEN = "tok3n-of-the-owner"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The controller's home: clones and archives of these tests only, and a git that knows who commits."""
    for key, value in {"HOME": tmp_path / "home", "GIT_CONFIG_NOSYSTEM": 1, "ANSIBLE_NOCOLOR": 1, "ANSIBLE_FORCE_COLOR": 0}.items():
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


def preflight(tmp_path, hosts=1, **settings):
    """What preflight.yml says of hosts that can't be reached: one that gets as far as connecting says so."""
    common = {
        "ansible_host": "127.0.0.1",
        "ansible_port": 9,
        "app_name": "shop",
        "app_domains": ["shop.example"],
        "app_module": "shop:app",
        "app_static": {"/static/": "shop/static"},
        "app_secrets": {"SECRET_KEY": "5f3c9a"},
    }
    entries = {f"h{number}": {**common, **settings} for number in range(hosts)}
    return run_playbook(tmp_path, "playbooks/preflight.yml", entries)


def run_playbook(tmp_path, playbook, hosts, *words):
    (tmp_path / "inventory").mkdir(exist_ok=True)
    (tmp_path / "inventory/hosts.yml").write_text(yaml.safe_dump({"app_servers": {"hosts": hosts}}))
    command = ["ansible-playbook", "-i", tmp_path / "inventory", playbook, *words]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=120)
    return done.returncode, (done.stdout + done.stderr).decode()


def rejected(tmp_path, *words, **settings):
    code, output = preflight(tmp_path, **settings)
    text = " ".join(output.split())
    assert code != 0 and "No host was touched." in text and "Traceback" not in output, output
    assert "unreachable=0" in output and "Check the host" not in output, "a host was touched"
    for word in words:
        assert word in text
    return output


def accepted(tmp_path, **settings):
    code, output = preflight(tmp_path, **settings)
    assert code != 0 and "unreachable=1" in output and "No host was touched" not in output, output
    return output


# -- what an archive holds (S3) -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "url"])
def test_a_plain_source_reaches_the_host(tmp_path, source, kind):
    (source / "latest.css").symlink_to("shop/static/site.css")
    (source / "assets").symlink_to("shop/static")
    url = committed(source)
    accepted(tmp_path, app_source=url if kind == "url" else str(source), app_static={"/static/": "assets"})


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([("120000", "data", "/etc")], "'data' of the source is a link to the absolute path '/etc'"),
        ([("120000", "data", "shop/../../etc")], "'data' of the source is a link to 'shop/../../etc', which leads out of the source"),
        ([("120000", "a", "b"), ("120000", "b", "a")], "'a' of the source is a link to 'b', which leads back to itself"),
        ([("120000", "data", "/etc"), ("040000", "data", [("100644", "cron", "x")])], "'data' of the source is there twice"),
        ([("100644", "twice", "a"), ("100644", "twice", "b")], "'twice' of the source is there twice"),
        ([("100644", "a\nb", "x")], r"'a\nb' of the source has control characters"),
        ([("100644", "a\x1b[2J", "x")], r"'a\x1b[2J' of the source has control characters"),
        ([("040000", "vendor", [("160000", "lib", "1" * 40)])], "'vendor/lib' of the source is a git submodule"),
        ([("040000", "..", [("100644", "x", "y")])], "is not a plain relative path"),
        ([("040000", ".", [("100644", "x", "y")])], "is not a plain relative path"),
    ],
)
def test_a_crafted_commit_is_rejected(tmp_path, source, entries, words):
    rejected(tmp_path, words, app_source=crafted(source, *entries))


def test_a_name_that_is_not_utf_8_is_rejected(tmp_path, source):
    name = os.fsencode(source) + b"/caf\xe9.txt"
    with open(name, "w"):
        pass
    rejected(
        tmp_path, r"'caf\udce9.txt' of the source has control characters in its name, or bytes that are not UTF-8", app_source=str(source)
    )
    url = committed(source)
    rejected(tmp_path, r"'caf\udce9.txt' of the source", app_source=str(source))
    rejected(tmp_path, r"'caf\udce9.txt' of the source", app_source=url)


def test_an_archive_of_before_the_check_is_checked_too(tmp_path, source, home):
    url = crafted(source, ("120000", "data", "/etc"))
    commit = git(source, "rev-parse", "HEAD")
    (home / ".cache/flaskhost/source").mkdir(parents=True)
    git(source, "archive", "--format=tar.gz", "--output", home / f".cache/flaskhost/source/{commit[:10]}.tar.gz", commit)
    rejected(tmp_path, "absolute path '/etc'", app_source=url)


@pytest.mark.parametrize("target", ["/etc", "shop"])
def test_the_app_s_data_are_never_put_behind_a_link_of_the_source(tmp_path, source, target):
    """S3: root would have removed /etc/uploads."""
    (source / "data").symlink_to(target)
    words = "absolute path '/etc'" if target == "/etc" else "'data/uploads' goes through 'data', a link of the source"
    for where in str(source), committed(source):
        rejected(tmp_path, words, app_source=where, app_shared=["data/uploads"])


@pytest.mark.parametrize(
    ("shared", "static"),
    [("media", "media/thumbs"), ("media/up", "media"), ("media", "pub"), ("media", "./media/"), ("media", "pub/thumbs")],
)
def test_nginx_is_never_given_what_the_app_writes(tmp_path, source, shared, static):
    """S15: root would have written into the app's data."""
    (source / "media/thumbs").mkdir(parents=True)
    (source / "media/thumbs/a.css").touch()
    (source / "pub").symlink_to("media")
    rejected(
        tmp_path,
        "app_static is",
        f"overlaps '{shared}' of app_shared",
        app_source=str(source),
        app_shared=[shared],
        app_static={"/m/": static},
    )


def test_the_app_s_folder_is_within_the_source(tmp_path, source):
    (source / "etc").symlink_to("/etc")
    (source / "inner").symlink_to("shop")
    for folder in "etc", "inner":
        rejected(tmp_path, f"app_folder is '{folder}'", "goes through a link", app_source=str(source), app_folder=folder)
    url = committed(source)
    rejected(tmp_path, "app_folder is 'etc'", "has no folder 'etc'", app_source=url, app_folder="etc")
    rejected(tmp_path, "app_folder is '../x'", app_source=url, app_folder="../x")


# -- what can't be read stops preflight (B1) ----------------------------------------------------------------------


def test_each_host_s_own_source_is_checked(tmp_path, source):
    good = {"ansible_host": "127.0.0.1", "ansible_port": 9, "app_name": "shop", "app_domains": ["shop.example"], "app_module": "shop:app"}
    good |= {"app_static": {}, "app_secrets": {"SECRET_KEY": "5f3c9a"}, "app_source": str(source)}
    hosts = {"first": good, "second": good | {"app_name": "two", "app_source": str(source / "nowhere")}}
    code, output = run_playbook(tmp_path, "playbooks/preflight.yml", hosts)
    text = " ".join(output.split())
    assert code != 0 and "it is neither a git URL nor a folder" in text and "(host second)" in text and "unreachable=0" in text, output


@pytest.mark.parametrize("version", ["v9.9", "-x", "--all", "--git-dir=/", "a b", "HEAD:shop"])
def test_a_version_that_is_not_there_stops_before_any_host(tmp_path, source, version):
    rejected(tmp_path, f"app_version is '{version}': it is no branch, tag or commit of", app_source=committed(source), app_version=version)


# -- nothing runs on the controller -------------------------------------------------------------------------------


@pytest.fixture
def trap(tmp_path):
    """A program that leaves a mark."""
    program = tmp_path / "trap"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    program.chmod(0o755)
    yield program
    assert not (tmp_path / "sprung").exists(), "a program of the source ran on the controller"


@pytest.mark.parametrize("url", ["ext::{trap} x", "-u{trap}@host:x", "ssh://-oProxyCommand={trap}/x", "file:///x --upload-pack={trap}"])
def test_a_url_runs_nothing(tmp_path, source, trap, url):
    rejected(tmp_path, "app_source", app_source=url.format(trap=trap))


def test_a_working_copy_s_configuration_runs_nothing(tmp_path, source, trap):
    committed(source)
    for name in "core.fsmonitor", "core.sshCommand", "core.pager", "core.editor", "filter.x.clean", "filter.x.process", "alias.ls-files":
        git(source, "config", name, f"!{trap}" if name.startswith("alias") else str(trap))
    (source / ".git/hooks").mkdir(exist_ok=True)
    shutil.copy(trap, source / ".git/hooks/post-index-change")
    (source / ".gitattributes").write_text("* filter=x\n")
    accepted(tmp_path, app_source=str(source))


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
    preflight(tmp_path, app_source=str(source))


def test_an_embedded_bare_repository_runs_nothing(tmp_path, source, trap):
    """Git takes a directory for a repository if it looks like one: here within another working copy."""
    committed(source.parent / "source")
    git(source, "init", "-q", "--bare", "inner")
    (source / "inner/requirements.txt").touch()
    for key, value in {"core.bare": "false", "core.worktree": str(source / "inner"), "core.fsmonitor": str(trap)}.items():
        subprocess.run(["git", "config", "--file", source / "inner/config", key, value], check=True)
    rejected(tmp_path, "git could not read it", app_source=str(source / "inner"))


def test_a_repository_may_not_replace_the_commit_that_app_version_names(tmp_path, source, home):
    url = committed(source)
    first = git(source, "rev-parse", "HEAD")
    (source / "shop/__init__.py").write_text("evil = 1\n")
    git(source, "commit", "-qam", "two")
    git(source, "replace", first, "HEAD")
    accepted(tmp_path, app_source=url, app_version=first)
    with tarfile.open(home / f".cache/flaskhost/source/{first[:10]}.tar.gz") as tar:
        assert tar.extractfile("shop/__init__.py").read() == b"app = 1\n"


def test_the_same_content_is_packed_the_same(tmp_path, source, home):
    (source / ".gitattributes").write_text("version.txt export-subst\nnotes export-ignore\n")
    (source / "version.txt").write_text("$Format:%H %d %GG$")
    (source / "notes").touch()
    accepted(tmp_path, app_source=committed(source))
    (archive,) = (home / ".cache/flaskhost/source").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert tar.extractfile("version.txt").read() == b"$Format:%H %d %GG$" and "notes" not in tar.getnames()


def test_git_s_failure_is_never_taken_for_no_git(tmp_path, source):
    """B3: what git ignores would be shipped."""
    committed(source)
    (source / ".git/config").write_text("[nonsense")
    rejected(tmp_path, "app_source is", "git could not read it (fatal: bad config", app_source=str(source))
    shutil.rmtree(source / ".git/")
    (source / ".git").write_text("gitdir: /nowhere\n")
    rejected(tmp_path, "git could not read it (fatal: not a git repository: /nowhere", app_source=str(source))


# -- what is no plain file (S27) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("versioned", [False, True])
def test_what_is_no_file_is_left_out_with_a_warning(tmp_path, source, versioned):
    if versioned:
        for name in "fifo", "socket":
            (source / name).touch()
        committed(source)
        for name in "fifo", "socket":
            (source / name).unlink()
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(str(source / "socket"))
    output = " ".join(accepted(tmp_path, app_source=str(source)).split())
    for name in "fifo", "socket":
        assert f"'{name}' of the source is neither a file nor a directory nor a link, and is left out" in output


def test_a_device_is_left_out(source, home):
    try:
        os.mknod(source / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    assert "zero" not in found(source, home)["files"]


def test_an_endless_file_behind_a_link_is_never_read(tmp_path, source):
    (source / "zero").symlink_to("/dev/zero")
    rejected(tmp_path, "'zero' of the source is a link to the absolute path '/dev/zero'", app_source=str(source))


@pytest.mark.parametrize("versioned", [False, True])
def test_a_file_that_is_too_large_is_not_read(tmp_path, source, versioned):
    if versioned:
        committed(source)
    with open(source / "dump.sql", "wb") as handle:
        handle.truncate(2**40)
    began = time.monotonic()
    rejected(tmp_path, "'dump.sql' brings the source to more than 2048 MB", app_source=str(source))
    assert time.monotonic() - began < 60


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
        os.chown(source, 65534, 65534)
        os.chown(source / ".git", 65534, 65534)
    (source / name).chmod(0)
    request.getfixturevalue("nobody")
    with pytest.raises(app_source.SourceError, match=rf"^app_source: '.*{name}' can't be read.*Make it readable"):
        found(source, home)
    os.seteuid(os.getuid())
    (source / name).chmod(0o755)


def test_what_changes_meanwhile_is_taken_as_it_was_listed(source, home, monkeypatch):
    listed = app_source.list_files(str(source))
    monkeypatch.setattr(app_source, "list_files", lambda _folder: [*listed, "gone.txt"])
    assert "gone.txt" not in found(source, home)["files"]
    real = os.fstat

    def growing(descriptor):
        before = real(descriptor)
        with open(source / "shop/__init__.py", "a") as handle:
            handle.write("more = 1\n" * 1000)
        return before

    monkeypatch.setattr(app_source.os, "fstat", growing)
    with tarfile.open(found(source, home)["archive"]) as tar:
        assert tar.extractfile("shop/__init__.py").read() == b"app = 1\n"


def test_texts_of_the_source_are_read_within_limits(tmp_path, source):
    (source / "Procfile").write_text("web: a\x1bb\n")
    settings = {"app_source": str(source), "app_server": "procfile"}
    rejected(tmp_path, r"line 1 of its Procfile, 'web: a\x1bb', has a control character", **settings)
    (source / "Procfile").write_text("web: " + "echo x; " * 40_000 + "(\n")
    rejected(tmp_path, "the command of 'web' in its Procfile is none that a shell understands", **settings)
    (source / "Procfile").unlink()
    for number in range(1500):
        (source / f"r{number}.txt").write_text(f"-r r{number + 1}.txt\n")
    (source / "requirements.txt").write_text("-r r0.txt\n")
    accepted(tmp_path, app_source=str(source))
    with open(source / "requirements.txt", "w") as handle:
        handle.truncate(2**26)
    rejected(tmp_path, "its file requirements.txt is larger than 32 MB", app_source=str(source))
