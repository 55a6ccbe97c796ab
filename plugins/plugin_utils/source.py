"""Shared parts of app_source: its errors, and the checks for content that Flaskhost does not fetch."""

# git stores such a pointer in place of a file that is in Git LFS
LFS_POINTER, LFS_BYTES = b"version https://git-lfs.github.com/spec/", 1024


class SourceError(Exception):
    """An error whose message is for the operator: the setting, the problem, and the fix."""


def missing_directory(args):
    return SourceError(f"app_directory: {args['source']} has no directory '{args['directory']}'. Use a path relative to its top.")


def submodule(path):
    return SourceError(
        f"app_source: {path!r} of the source is a git submodule, which Flaskhost does not fetch. "
        "Add its files to the repository, or install it as a package."
    )


def reject_pointer(path, content):
    if len(content) < LFS_BYTES and content.startswith(LFS_POINTER):
        raise SourceError(
            f"app_source: {path!r} of the source is in Git LFS, which Flaskhost does not fetch. "
            "Run `git lfs pull` in a working copy, and set app_source to that directory."
        )
