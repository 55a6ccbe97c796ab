#!/usr/bin/env python3
"""`make site`: build the documentation as a site with search, in .cache/site-html.

The pages are the Markdown files of the repository, and the pages that antsibull-docs generates for modules, plugins and roles. The navigation
follows docs/README.md. Any warning fails the build, such as a link to a missing page or heading.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[2]
SOURCE, SITE = PROJECT / ".cache/site-src", PROJECT / ".cache/site-html"
BIN = Path(sys.executable).parent
COLLECTION = "flaskhost.flaskhost"
REPOSITORY = yaml.safe_load((PROJECT / "galaxy.yml").read_text())["repository"]
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted(PROJECT.glob("docs/*.md")),
    *sorted(PROJECT.glob("roles/*/README.md")),
]
PICTURES = [*PROJECT.glob("docs/*.svg"), *PROJECT.glob("docs/pictures/*.svg")]
# a code block, code in a line, or the target of a link or a picture
CODE_OR_LINK = re.compile(r"^```.*?^```|`[^`\n]+`|(?<=\]\()(?!\w+:|#)([^)#\s]+)", re.MULTILINE | re.DOTALL)

REFERENCE = "Modules, plugins and options of roles"
TOCTREE = """
```{{toctree}}
:hidden:
:caption: {}
{}
```
"""


def main():
    for directory in (SOURCE, SITE):
        shutil.rmtree(directory, ignore_errors=True)
    for page in PAGES:
        write(page, CODE_OR_LINK.sub(lambda found, page=page: target(found, page), page.read_text()))
    for picture in PICTURES:
        write(picture, picture.read_text())
    with (SOURCE / "index.md").open("a") as index:
        index.write(navigation())
    reference()
    run("sphinx-build", "--quiet", "--fail-on-warning", "--keep-going", "--conf-dir", Path(__file__).parent, SOURCE, SITE)
    print(f"The site is {SITE}/index.html")


def write(source, text):
    path = SOURCE / place(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def place(source):
    """Return the path of a page in the site. The README of a directory is the directory's index."""
    path = source.relative_to(PROJECT)
    return path.with_name("index.md") if path.name == "README.md" else path


def target(found, page):
    """Return the target of a link on a page. A file of the repository that is not part of the site is linked on the repository's site."""
    if not found[1]:
        return found[0]
    path = (page.parent / found[1]).resolve()
    if path in PAGES:
        return os.path.relpath(SOURCE / place(path), (SOURCE / place(page)).parent)
    if path in PICTURES or not path.exists():
        return found[0]
    return f"{REPOSITORY}/{'tree' if path.is_dir() else 'blob'}/main/{path.relative_to(PROJECT)}"


def navigation():
    """Return the table of contents: the pages that docs/README.md links to, under its headings."""
    contents, captions, caption = PROJECT / "docs/README.md", {}, ""
    for heading, link in re.findall(r"^## (.+)|\]\((?!\w+:)([^)#]+)", contents.read_text(), re.MULTILINE):
        caption = heading or caption
        if link:
            page = place((contents.parent / link).resolve()).with_suffix("").as_posix()
            captions.setdefault("Roles" if page.startswith("roles/") else caption, []).append(page)
    captions["Reference"].append("collection/index")
    captions["Project"] = ["docs/index", "CONTRIBUTING", "SECURITY", "CHANGELOG"]
    return "".join(TOCTREE.format(caption, "\n".join(pages)) for caption, pages in captions.items())


def reference():
    """Generate the pages of modules, plugins and roles, with short titles for the navigation and without a table of contents, which furo adds."""
    directory = SOURCE / "collection"
    directory.mkdir()
    run("antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--fail-on-error", "--dest-dir", directory, COLLECTION)
    for page in directory.glob("*.rst"):
        text = re.sub(r"^\.\. contents::\n(?: +:.*\n)+", "", page.read_text(), flags=re.MULTILINE)
        text = re.sub(rf"^{COLLECTION}\.(\w+ \w+) -- (.+)\n(\++)$", r"\1\n\3\n\n\2.", text, flags=re.MULTILINE)
        text = re.sub(rf"^{COLLECTION.title()}\n=+$", f"{REFERENCE}\n{'=' * len(REFERENCE)}", text, flags=re.MULTILINE)
        page.write_text(text)


def run(program, *arguments):
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / "collections")}
    if code := subprocess.run([BIN / program, *arguments], env=environment).returncode:
        sys.exit(f"{program} failed with exit code {code} (see the output above).")


if __name__ == "__main__":
    main()
