"""Unpack a source, and finish its build. This runs as the user APP-build in the build directory; all paths are relative to it."""

# pylint: disable=ansible-bad-function  # it runs as the user APP-build, in a separate process
import contextlib
import copy
import os
import shutil
import subprocess
import tarfile

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.archives import (
    LinkLoop,
    Outside,
    check_members,
    is_within,
    links_of,
    resolve,
)
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.builder import LayoutError
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.compression import pack
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import walk

# a database is complete only with these files, which SQLite creates beside it
BESIDE = ("-journal", "-wal")


def unpack_source(archive, shared, state, static):
    with tarfile.open(fileobj=archive) as tar:
        check_members(tar, shared=shared, static=static)
        archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        extract(tar)
    for path in map(os.path.normpath, shared):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        os.symlink(os.path.join(state, path), path)


def unpack_seed(archive, shared):
    """Unpack what the source has at the paths of app_shared. unpack_source has checked the archive."""
    with tarfile.open(fileobj=archive) as tar:
        members, found = tar.getmembers(), []
        links = links_of(members)
        for path in map(os.path.normpath, shared):
            # the path can be a link to other files of the source
            origin = resolve(path, links)[-1]
            for member in members:
                if is_within(member.name, origin) or member.name in [origin + end for end in BESIDE]:
                    found.append(copy.copy(member))
                    found[-1].name = path + member.name.removeprefix(origin)
        extract(tar, found)


def extract(tar, members=None):
    # Python's filters need the absolute path of the directory, which this user cannot access; check_members replaces them
    options = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    tar.extractall(".", members, **options)


def finish_source(static, shared, state, code, live):
    links = check_links(shared, state, code)
    for directory in static:
        # do not follow a link to the app's data
        with contextlib.suppress(Outside):
            place = resolve(directory, links)[-1]
            if not os.path.isdir(place):
                raise LayoutError(
                    f"app_static: there is no directory {directory!r} after the build. Correct the path, or make app_build_command create it."
                )
            pack(place, live)


def write_files(files):
    """Write the operator's files into the source, over what a build may have put there. Only the app's group will be able to read them."""
    for path, content in files.items():
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with open(path, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o640)) as file:
            file.write(content)


def check_links(shared, state, code):
    """Return the links of the source after the build, which is not trusted either. Remove compiled code, because Python would run it."""
    links = {}
    for parent, directories, names in walk("."):
        for name in [*directories, *names]:
            path = os.path.normpath(os.path.join(parent, name))
            if name == "__pycache__":
                subprocess.run(["rm", "-rf", "--", path], check=True, stdin=subprocess.DEVNULL)
            elif os.path.islink(path):
                links[path] = os.readlink(path)
        directories[:] = [name for name in directories if name != "__pycache__"]
    for path, target in links.items():
        if target.startswith(code + os.sep):
            # the build sees the source at its final path
            links[path] = os.path.relpath(target[len(code) + 1 :], os.path.dirname(path) or ".")
    within = {path: target for path, target in links.items() if path not in shared or target != os.path.join(state, path)}
    for path, target in within.items():
        try:
            resolve(path, within)
        except (Outside, LinkLoop):
            raise LayoutError(
                f"a link points outside the source or is a loop: {path!r} -> {target!r}. "
                "app_build_command may only create links inside the source."
            ) from None
    return links
