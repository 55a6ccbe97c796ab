"""Shared parts of app_source: its errors, and pointers to files in Git LFS."""

import re

# git stores such a pointer in place of a file that is in Git LFS
LFS_POINTER, LFS_BYTES = b"version https://git-lfs.github.com/spec/", 1024
LFS_FIELDS = re.compile(rb"^oid sha256:([0-9a-f]{64})\nsize (\d{1,18})$", re.MULTILINE)


class SourceError(Exception):
    """An error whose message is for the operator: the setting, the problem, and the fix."""


def missing_directory(args):
    return SourceError(f"app_directory: {args['source']} has no directory '{args['directory']}'. Use a path relative to its top.")


def is_pointer(content):
    return len(content) < LFS_BYTES and content.startswith(LFS_POINTER)


def pointer_error(path, problem, remedy):
    return SourceError(f"app_source: {path!r} of the source is in Git LFS, {problem}. {remedy}.")


def reject_pointer(path, content):
    if is_pointer(content):
        raise pointer_error(path, "and its content is not in this directory", "Run `git lfs pull` there")
