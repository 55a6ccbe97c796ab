"""The archive of a source. It is written once for each version, and checked each time it is read."""

import contextlib
import os
import tarfile

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import procfile
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.dependencies import Dependencies
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.detection import detect
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import SourceError

KEPT_ARCHIVES = 20


@contextlib.contextmanager
def packing(archive):
    """Write an archive under a temporary name, and rename it when it is complete."""
    temporary = f"{archive}.{os.getpid()}"
    try:
        with tarfile.open(temporary, "w:gz", compresslevel=6) as tar:
            yield tar
        os.rename(temporary, archive)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def forget_old_archives(cache):
    found = [os.path.join(cache, name) for name in os.listdir(cache) if name.endswith(".tar.gz")]
    for path in sorted(found, key=os.path.getmtime)[:-KEPT_ARCHIVES]:
        os.unlink(path)


def read_archive(source, args):
    """Check an archive and describe its content. An earlier run with an older version of these checks may have written it."""
    with tarfile.open(source["archive"]) as tar:
        members = tar.getmembers()
        archives.check_members(members)
        files = sorted(member.name for member in members if not member.isdir())
        found = {"files": files, "links": archives.links_of(members)}
        dependencies = Dependencies(tar, members, source["version"], args.get("dependencies"))
        found["dependencies"] = dependencies.read_all()
        found["dependency_file"] = dependencies.name
        found["procfile"] = dependencies.read("Procfile") if "Procfile" in files else None
        if args.get("detect_for") is not None:
            found["detected"] = detect(tar, members, args["detect_for"])
    if args.get("procfile_settings") is not None:
        # an image has its own dependencies, and its release passes no settings for them
        for name, _value, problem in found["dependencies"]["problems"] if args.get("dependencies") else []:
            raise SourceError(f"{name}: {problem}")
        for name, problem in procfile.problems(found["procfile"], args["procfile_settings"]):
            raise SourceError(f"{name}: {problem}")
        found["commands"] = procfile.all_commands(found["procfile"], args["procfile_settings"])
    return found
