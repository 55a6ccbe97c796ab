"""A git URL is packed like a checkout: with submodules, files in Git LFS and line ends, and without the operator's git settings."""

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import plugin
from test_credentials import Server

app_source, git_submodules = plugin("action/app_source"), plugin("plugin_utils/git_submodules")
Remote = plugin("plugin_utils/git_remote").Remote
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
PICTURE = b"\x89PNG" + bytes(range(256)) * 20


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name, value in {"HOME": tmp_path / "home", "GIT_CONFIG_NOSYSTEM": 1}.items():
        monkeypatch.setenv(name, str(value))
    for kind in "AUTHOR", "COMMITTER":
        monkeypatch.setenv(f"GIT_{kind}_NAME", "ann")
        monkeypatch.setenv(f"GIT_{kind}_EMAIL", "ann@example.com")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def git(directory, *arguments, **options):
    return subprocess.run(["git", "-C", directory, *arguments], check=True, capture_output=True, text=True, **options).stdout.strip()


def repository(directory, **files):
    """A repository with one commit."""
    directory.mkdir(parents=True)
    git(directory, "init", "-q", "-b", "main")
    return commit(directory, **files)


def commit(directory, **files):
    for name, content in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "one")
    return directory


def add_submodule(directory, url, path, commit=None):
    """Add a submodule as `git submodule add` does, but with any URL."""
    with open(directory / ".gitmodules", "a") as modules:
        modules.write(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n')
    git(directory, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    git(directory, "add", ".gitmodules")
    git(directory, "commit", "-qm", f"submodule {path}")


def head(directory):
    return git(directory, "rev-parse", "HEAD")


def find(tmp_path, source, **args):
    (tmp_path / "cache").mkdir(exist_ok=True)
    found = app_source.find({"source": str(source), **args}, str(tmp_path / "cache"))
    return found | app_source.read_archive(found, {})


def contents(found):
    """The archive's files, with links as text."""
    with tarfile.open(found["archive"]) as tar:
        return {
            member.name: (member.linkname if member.issym() else tar.extractfile(member).read(), bool(member.mode & 0o100))
            for member in tar.getmembers()
            if not member.isdir()
        }


def checked_out(directory):
    found = {}
    for path in directory.rglob("*"):
        if path.name != ".git" and ".git" not in path.relative_to(directory).parts and (path.is_symlink() or path.is_file()):
            is_link = path.is_symlink()
            found[str(path.relative_to(directory))] = (
                os.readlink(path) if is_link else path.read_bytes(),
                (not is_link and os.access(path, os.X_OK) and bool(path.stat().st_mode & 0o100)) or is_link,
            )
    return found


def same(archive, checkout):
    links = {name for name, (content, _mode) in checkout.items() if isinstance(content, str)}
    return {name: value[0] if name in links else value for name, value in archive.items()} == {
        name: value[0] if name in links else value for name, value in checkout.items()
    }


def test_a_commit_has_the_content_of_a_checkout(tmp_path, home):
    """Also with nested submodules at relative URLs, attributes, and any settings of the operator (B12)"""
    deep = repository(tmp_path / "deep.git", **{"deep.txt": "deep\n"})
    library = repository(tmp_path / "lib.git", **{"lib__code.py": "x = 1\n", ".gitattributes": "*.txt eol=crlf\n", "a.txt": "a\n"})
    add_submodule(library, "../deep.git", "vendor/deep", head(deep))
    app = repository(
        tmp_path / "app.git",
        **{
            ".gitattributes": "dos.bat text eol=crlf\nwide.txt working-tree-encoding=UTF-16LE text\ntests export-ignore\nversion.txt export-subst\n",
            "dos.bat": "@echo\n",
            "unix.sh": "#!/bin/sh\n",
            "mixed.txt": "a\nb\r\n",
            "wide.txt": "wide\n".encode("utf-16-le"),
            "tests__conftest.py": "fixtures the app imports\n",
            "version.txt": "$Format:%H$\n",
            "venv__tracked.py": "x = 1\n",
            ".env": "DEBUG=0\n",
        },
    )
    (app / "unix.sh").chmod(0o755)
    (app / "latest").symlink_to("mixed.txt")
    commit(app)
    add_submodule(app, "../lib.git", "libs/lib", head(library))
    clone = ["git", "-c", "protocol.file.allow=always", "clone", "-q", "--recurse-submodules", f"file://{app}", str(tmp_path / "checkout")]
    subprocess.run(clone, check=True, capture_output=True)
    # they would convert line ends and drop files
    (home / "attributes").write_text("*.sh eol=crlf\n*.py export-ignore\n")
    for name, value in {"core.autocrlf": "true", "core.eol": "crlf", "core.attributesFile": str(home / "attributes")}.items():
        git(app, "config", "--global", name, value)
    found = contents(find(tmp_path, f"file://{app}"))
    assert same(found, checked_out(tmp_path / "checkout"))
    assert found["dos.bat"][0] == b"@echo\r\n" and found["libs/lib/a.txt"][0] == b"a\r\n" and "libs/lib/vendor/deep/deep.txt" in found
    # the app's directory has the same content, also if a submodule is in it
    part = contents(find(tmp_path, f"file://{app}", directory="libs"))
    assert part == {name.removeprefix("libs/"): value for name, value in found.items() if name.startswith("libs/")}
    # the operator's own checkout of the same commit
    assert same(contents(find(tmp_path, tmp_path / "checkout")), checked_out(tmp_path / "checkout"))


def test_a_submodule_that_is_not_checked_out_is_reported(tmp_path):
    """In a working copy that was cloned without its submodules (B12)"""
    library = repository(tmp_path / "lib.git", **{"code.py": "x = 1\n"})
    app = repository(tmp_path / "app.git", **{"app.py": "x = 1\n"})
    add_submodule(app, "../lib.git", "lib", head(library))
    git(tmp_path, "clone", "-q", app, "copy")
    for prepare in (lambda: None, (tmp_path / "copy/lib").rmdir):
        prepare()
        with pytest.raises(app_source.SourceError, match=r"'lib' of the source is a git submodule that is not checked out\. Run `git sub"):
            find(tmp_path, tmp_path / "copy")


def test_a_submodule_s_ignored_and_separate_files_are_left_out(tmp_path):
    """As those of the working copy itself (B12)"""
    library = repository(tmp_path / "lib.git", **{"code.py": "x = 1\n", ".gitignore": "*.log\n", "venv__kept.py": "x = 1\n"})
    app = repository(tmp_path / "app.git", **{"app.py": "x = 1\n"})
    add_submodule(app, "../lib.git", "lib", head(library))
    git(tmp_path, "-c", "protocol.file.allow=always", "clone", "-q", "--recurse-submodules", f"file://{app}", "copy")
    for name in "debug.log", "new.py", "env/pyvenv.cfg", "env/lib/x.py", ".env":
        (tmp_path / "copy/lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy/lib" / name).touch()
    assert find(tmp_path, tmp_path / "copy")["files"] == [
        *(".gitmodules", "app.py", "lib/.gitignore", "lib/code.py", "lib/new.py", "lib/venv/kept.py")
    ]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("/etc", "whose URL is a path"),
        ("../../elsewhere/lib.git", "whose URL is a path"),
        ("../../../../../../../../../../x", "whose relative URL leaves its server"),
        ("ext::sh -c x", "whose URL is a path, or not supported"),
        ("git@internal.example:secret.git", "on another server, internal.example, where ssh would use your keys"),
        ("ssh://-oProxyCommand=x/y", "on another server"),
        ("../nowhere.git", "does not appear to be a git repository"),
        ("../lib.git", "The server does not have this commit. Push it"),
    ],
)
def test_a_submodule_that_cannot_be_fetched_is_reported(tmp_path, url, problem):
    """A repository can't name one that only this controller can read (B12)"""
    repository(tmp_path / "git/lib.git", **{"code.py": "x = 1\n"})
    repository(tmp_path / "elsewhere/lib.git", **{"code.py": "x = 1\n"})
    app = repository(tmp_path / "git/app.git", **{"app.py": "x = 1\n"})
    add_submodule(app, url, "lib", "1" * 40)
    with pytest.raises(app_source.SourceError, match=f"^app_source: .*{problem}") as error:
        find(tmp_path, f"file://{app}")
    assert "'lib'" in str(error.value)


def served(directory, *names):
    """Bare copies of repositories that a plain HTTP server can serve."""
    for name in names:
        git(directory, "clone", "-q", "--bare", name, f"served/{name}")
        git(directory / "served" / name, "update-server-info")
    return directory / "served"


def test_only_the_repository_s_own_server_gets_its_credentials(tmp_path, home):
    """A submodule on another server is fetched without them, and without those of the operator (B12)"""
    library = repository(tmp_path / "lib.git", **{"code.py": "x = 1\n"})
    other = Server(served(tmp_path, "lib.git"), [""])
    other.allowed = Everyone()
    app = repository(tmp_path / "app.git", **{"app.py": "x = 1\n"})
    add_submodule(app, f"http://{other.place}/lib.git", "elsewhere", head(library))
    add_submodule(app, "./../lib.git", "here", head(library))
    # another protocol of the same server, for which the controller may have no key
    add_submodule(app, "git@127.0.0.1:lib.git", "by-ssh", head(library))
    server = Server(served(tmp_path, "app.git"), ["ann:t0ken"])
    git(app, "config", "--global", "credential.helper", "!f() { echo username=bob; echo password=of-the-operator; }; f")
    (home / ".netrc").write_text("machine 127.0.0.1 login bob password of-the-operator\n")
    url = f"http://ann:t0ken@{server.place}/app.git"
    with pytest.raises(app_source.SourceError, match=r"'by-ssh' of the source is a git submodule on another server, 127\.0\.0\.1"):
        find(tmp_path, url)
    git(app, "rm", "-q", "--cached", "by-ssh")
    git(app, "commit", "-qm", "two")
    shutil.rmtree(tmp_path / "served/app.git")
    served(tmp_path, "app.git")
    assert {"elsewhere/code.py", "here/code.py"} <= {*find(tmp_path, url, version=head(app))["files"]}
    assert {*other.credentials} == {""}


class Everyone:
    def __contains__(self, _credential):
        return True


@pytest.mark.parametrize(
    ("parent", "url", "expected"),
    [
        ("https://git.example/org/app.git", "../lib.git", "https://git.example/org/lib.git"),
        ("https://git.example/org/app.git/", "../../other/lib", "https://git.example/other/lib"),
        ("git@git.example:org/app.git", "../lib.git", "git@git.example:org/lib.git"),
        ("git@git.example:app.git", "../lib.git", "git@git.example:lib.git"),
        ("ssh://git@git.example:2222/org/app.git", "./../lib.git", "ssh://git@git.example:2222/org/lib.git"),
    ],
)
def test_a_relative_url_of_a_submodule_is_resolved_as_git_does(parent, url, expected):
    """(B12)"""
    assert git_submodules.absolute(parent, "lib", url) == expected


def test_an_ssh_url_on_the_same_server_uses_the_credentials_of_app_source(tmp_path):
    """In CI, a token for https is usual, while .gitmodules has the URLs of developers (B12)"""
    library = repository(tmp_path / "org__lib.git".replace("__", "/"), **{"code.py": "x = 1\n"})
    served(tmp_path, "org/lib.git")
    server = Server(tmp_path / "served", ["ann:t0ken"])
    parent = Remote(f"http://ann:t0ken@{server.place}/org/app.git", str(tmp_path / "home"))
    # the server of the test has a port, which git's short form of an ssh URL has not
    remote = git_submodules.fetch(parent, "lib", f"ssh://git@{server.place}/org/lib.git", head(library))
    assert remote.url == f"http://{server.place}/org/lib.git" and remote.find(head(library))


# -- Git LFS ---------------------------------------------------------------------------------------------------------

# stands for git-lfs: it stores the objects of $STORE in the clone, as `git lfs fetch` does
FAKE_LFS = """#!/bin/sh
echo "$*" >>"$STORE/arguments"
[ "$1 $2" = "fetch origin" ] && cd "$GIT_DIR" && for path in "$STORE"/????*; do
    name=${path##*/}; directory=lfs/objects/$(echo "$name" | cut -c1-2)/$(echo "$name" | cut -c3-4)
    [ "$name" = arguments ] || { mkdir -p "$directory" && cp "$path" "$directory/"; }
done
"""


@pytest.fixture
def lfs(tmp_path, monkeypatch):
    """A repository with a picture in Git LFS, and the directory of its server."""
    for name in "bin", "store":
        (tmp_path / name).mkdir()
    (tmp_path / "bin/git-lfs").write_text(FAKE_LFS)
    (tmp_path / "bin/git-lfs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("STORE", str(tmp_path / "store"))
    digest = hashlib.sha256(PICTURE).hexdigest()
    (tmp_path / "store" / digest).write_bytes(PICTURE)
    files = {"logo.png": LFS.format(digest, len(PICTURE)), "app.py": "x = 1\n"}
    return repository(tmp_path / "app.git", **files), tmp_path / "store" / digest


def test_files_in_git_lfs_are_fetched(tmp_path, lfs):
    """(B13)"""
    app, picture = lfs
    assert contents(find(tmp_path, f"file://{app}"))["logo.png"][0] == PICTURE
    assert (picture.parent / "arguments").read_text() == f"fetch origin {head(app)}\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "'logo.png' of the source is in Git LFS, and its server does not have the content. Push it"),
        (lambda picture: picture.write_bytes(b"y" * len(PICTURE)), "'logo.png' of the source is in Git LFS, and its content was damaged"),
    ],
)
def test_a_file_in_git_lfs_that_is_missing_or_damaged_is_reported(tmp_path, lfs, change, message):
    """(B13)"""
    app, picture = lfs
    change(picture)
    with pytest.raises(app_source.SourceError, match=message):
        find(tmp_path, f"file://{app}")


def test_an_error_of_git_lfs_is_reported(tmp_path, lfs):
    """(B13)"""
    (tmp_path / "bin/git-lfs").write_text("#!/bin/sh\necho 'batch response: Authentication required: Access denied' >&2; exit 2\n")
    message = r"git cannot read the source \(batch response: .* Access denied\)\. .*The file 'logo.png' is in Git LFS"
    with pytest.raises(app_source.SourceError, match=message):
        find(tmp_path, f"file://{lfs[0]}")


def test_a_pointer_that_promises_more_than_the_limit_is_rejected(tmp_path, lfs, monkeypatch):
    """The size counts, not that of the pointer (B13)"""
    monkeypatch.setattr(app_source.archives, "MAX_MB", 0.004)
    with pytest.raises(app_source.archives.UnsafeArchive, match=r"with 'logo\.png', the source is larger than"):
        find(tmp_path, f"file://{lfs[0]}")


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="git-lfs is not installed here")
def test_git_lfs_itself(tmp_path):
    """(B13)"""
    app = repository(tmp_path / "app", **{"app.py": "x = 1\n"})
    git(tmp_path, "init", "-q", "--bare", "server.git")
    git(app, "lfs", "install", "--local")
    git(app, "lfs", "track", "*.png")
    commit(app, **{"logo.png": PICTURE})
    git(app, "push", "-q", f"file://{tmp_path}/server.git", "main")
    assert contents(find(tmp_path, f"file://{tmp_path}/server.git", version="main"))["logo.png"][0] == PICTURE
