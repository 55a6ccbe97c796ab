"""Unpack a source, and finish its build. The user APP-build does it in the directory that is being built; all paths are relative to that."""

# pylint: disable=ansible-bad-function  # it runs as the user APP-build, in a process of its own
import contextlib
import os
import shutil
import subprocess
import tarfile

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.archives import Circle, Outside, check_members, resolve
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.builder import LayoutError
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.compression import pack
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import walk


def unpack_source(archive, shared, state, static):
    with tarfile.open(fileobj=archive) as tar:
        check_members(tar, shared=shared, static=static)
        archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        # Python's own filter asks for the directory's absolute path, where this user can't go; what is in there was checked
        options = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
        tar.extractall(".", **options)
    for folder in map(os.path.normpath, shared):
        if os.path.isdir(folder) and not os.path.islink(folder):
            shutil.rmtree(folder)
        elif os.path.lexists(folder):
            os.unlink(folder)
        os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)
        os.symlink(os.path.join(state, folder), folder)


def finish_source(static, shared, state, code, live):
    links = check_links(shared, state, code)
    for folder in static:
        # a link that leads to the app's data is not followed
        with contextlib.suppress(Outside):
            pack(resolve(folder, links)[-1], live)


def check_links(shared, state, code):
    """Return the links of the source, after a build that is no more trusted than the source. Compiled code that it made is removed: Python would believe it."""
    links = {}
    for parent, folders, names in walk("."):
        for name in [*folders, *names]:
            path = os.path.normpath(os.path.join(parent, name))
            if name == "__pycache__":
                subprocess.run(["rm", "-rf", "--", path], check=True, stdin=subprocess.DEVNULL)
            elif os.path.islink(path):
                links[path] = os.readlink(path)
        folders[:] = [name for name in folders if name != "__pycache__"]
    for path, target in links.items():
        if target.startswith(code + os.sep):
            # as a build sees its source
            links[path] = os.path.relpath(target[len(code) + 1 :], os.path.dirname(path) or ".")
    within = {path: target for path, target in links.items() if path not in shared or target != os.path.join(state, path)}
    for path, target in within.items():
        try:
            resolve(path, within)
        except (Outside, Circle):
            raise LayoutError(
                f"a link leads out of the source, or nowhere: {path!r} to {target!r}. Let app_build_command link to what is within the source."
            ) from None
    return links
