#!/usr/bin/env python3
"""`make sanity`: checks the collection as it is published, with ansible-test sanity, antsibull-docs and galaxy-importer.

The tarball is built and unpacked to a path that ansible-test accepts. The errors that ansible-test ignores are listed in
ignore-VERSION.txt, each with its reason.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import ansible_test
import yaml

PROJECT = Path(__file__).resolve().parents[2]
# kept between runs, because creating ansible-test's virtual environments takes a minute
HOME = PROJECT / ".cache/sanity-home"
BIN = Path(sys.executable).parent
GALAXY = yaml.safe_load((PROJECT / "galaxy.yml").read_text())


def main():
    with tempfile.TemporaryDirectory(prefix="flaskhost-sanity-") as directory:
        tarball, collection = build(Path(directory))
        failed = [tool.__name__ for tool in (ansible_test_sanity, antsibull_docs, galaxy_importer) if not tool(tarball, collection)]
    sys.exit(f"\n{', '.join(failed)} failed (see the output above)." if failed else 0)


def build(directory):
    out, collection = directory / "out", directory / "ansible_collections" / GALAXY["namespace"] / GALAXY["name"]
    subprocess.run([BIN / "ansible-galaxy", "collection", "build", PROJECT, "--output-path", out], check=True, stdout=subprocess.DEVNULL)
    (tarball,) = out.glob("*.tar.gz")
    with tarfile.open(tarball) as tar:
        tar.extractall(collection, filter="data")
    (collection / "tests/sanity").mkdir(parents=True)
    for path in PROJECT.glob("tests/sanity/ignore-*.txt"):
        (collection / "tests/sanity" / path.name).write_text(path.read_text() + licenses(collection))
    return tarball, collection


def licenses(collection):
    """The lines that exempt the modules from ansible-test's GPL header check: the collection's license is MIT, which is compatible with
    the BSD license of Ansible's module_utils."""
    plugins = [*collection.glob("plugins/modules/*.py"), *collection.glob("plugins/lookup/*.py")]
    return "".join(f"{path.relative_to(collection)} validate-modules:missing-gplv3-license # MIT\n" for path in sorted(plugins))


def environment(**more):
    """The environment of the tools: a separate home directory, with the operator's package index settings."""
    config = os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config"))
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "XDG_CONFIG_HOME": config, "HOME": str(HOME), **more}


def ansible_test_sanity(_tarball, collection):
    provide_pip()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [BIN / "ansible-test", "sanity", "--venv", "--python", python, "--color", "no", "--truncate", "0"]
    return subprocess.run(command, cwd=collection, env=environment(LC_ALL="C.UTF-8")).returncode == 0


def provide_pip():
    """Use the pip that comes with Python: ansible-test would download it from a server that many networks block."""
    source = (Path(ansible_test.__file__).parent / "_internal/python_requirements.py").read_text()
    version = re.search(r"\bpip='([\d.]+)'", source)[1]
    script = HOME / f".ansible/test/cache/get_pip_{version.replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text("import ensurepip\n\nensurepip.bootstrap()\n")


def antsibull_docs(_tarball, collection):
    command = [BIN / "antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "self", collection]
    return subprocess.run(command, env=environment()).returncode == 0


def galaxy_importer(tarball, _collection):
    """Warnings count as failures, because Galaxy shows them to all users."""
    config = tarball.parent / "importer.cfg"
    # `make lint` runs ansible-lint already
    config.write_text("[galaxy-importer]\nRUN_ANSIBLE_LINT = False\n")
    command = [sys.executable, "-m", "galaxy_importer.main", tarball]
    done = subprocess.run(
        command,
        cwd=tarball.parent,
        env=environment(GALAXY_IMPORTER_CONFIG=str(config)),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    print(done.stdout)
    return done.returncode == 0 and not re.search(r"^(WARNING|ERROR)", done.stdout, re.MULTILINE)


if __name__ == "__main__":
    main()
