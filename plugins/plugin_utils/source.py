"""What the parts of app_source share: the error that the owner reads, and the content that Flaskhost never fetches."""

# what git has in the place of a file that is in Git LFS
LFS_POINTER, LFS_BYTES = b"version https://git-lfs.github.com/spec/", 1024


class SourceError(Exception):
    """Its text is for the owner: the variable, what is wrong, and the fix."""


def missing_directory(args):
    return SourceError(f"app_folder: {args['source']} has no folder '{args['folder']}'.")


def submodule(path):
    return SourceError(
        f"app_source: {path!r} of the source is a git submodule, which is not fetched. Put its files into the repository, or install it as a package."
    )


def reject_pointer(path, content):
    if len(content) < LFS_BYTES and content.startswith(LFS_POINTER):
        raise SourceError(
            f"app_source: {path!r} of the source is in Git LFS, from which nothing is fetched. "
            "Run `git lfs pull` in a working copy, and name that as app_source."
        )
