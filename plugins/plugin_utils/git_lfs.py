"""Fetch the files of a commit that are in Git LFS, with the operator's own git-lfs.

git-lfs only downloads objects into the clone. No filter runs, and each object is checked against the digest in its pointer.
"""

import hashlib
import os
import shutil

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source import LFS_FIELDS, SourceError, pointer_error

IN_A_DIRECTORY = "or run `git lfs pull` in a working copy, and set app_source to that directory"


class LargeFiles:
    def __init__(self, remote, commit):
        self.remote, self.commit, self.fetched = remote, commit, False

    def open(self, path, pointer):
        """Open the file that a pointer stands for. Return it with its size."""
        fields = LFS_FIELDS.search(pointer)
        if not fields:
            raise pointer_error(path, "but its pointer is not valid", "Add the file again with `git add`")
        digest, size = fields[1].decode(), int(fields[2])
        place = os.path.join(self.remote.clone, "lfs/objects", digest[:2], digest[2:4], digest)
        if not os.path.isfile(place):
            self.fetch(path)
        try:
            file = open(place, "rb")  # noqa: SIM115
        except FileNotFoundError:
            remedy = f"Push it with `git lfs push --all origin`, {IN_A_DIRECTORY}"
            raise pointer_error(path, "and its server does not have the content", remedy) from None
        if os.fstat(file.fileno()).st_size != size or digest_of(file) != digest:
            file.close()
            os.unlink(place)
            raise pointer_error(path, "and its content was damaged on the way", "Run Flaskhost again")
        file.seek(0)
        return file, size

    def fetch(self, path):
        if not shutil.which("git-lfs"):
            raise pointer_error(path, "and git-lfs is not installed on this controller", f"Install git-lfs, {IN_A_DIRECTORY}")
        if self.fetched:
            return
        self.fetched = True
        try:
            self.remote.git("lfs", "fetch", "origin", self.commit)
        except SourceError as problem:
            raise SourceError(f"{str(problem).rstrip()} The file {path!r} is in Git LFS.") from None


def digest_of(file):
    digest = hashlib.sha256()
    while piece := file.read(2**20):
        digest.update(piece)
    return digest.hexdigest()
