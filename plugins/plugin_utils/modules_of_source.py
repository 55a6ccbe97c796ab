"""The Python modules of a source: their facts from python_facts.py, and the resolution of names across modules."""

import base64
import json
import os
import re
import subprocess
import sys

PROGRAM = os.path.join(os.path.dirname(__file__), "python_facts.py")
SECONDS = 30
MAX_FILE_BYTES, MAX_BYTES = 512 * 1024, 3 * 2**20
# number of files that may end the program before the rest is skipped
MAX_CRASHES = 3
# for one name, and for a whole source whose names refer to each other in too many ways
MAX_DEPTH, MAX_STEPS = 50, 100_000
# A file deeper in the source is read only if it can contain an app or a health page.
RELEVANT = re.compile(
    rb"Flask|Quart|FastAPI|Starlette|connexion|OpenAPI|Dash|create_app|make_app|register_blueprint|Migrate\(|health|/ping|/up\b"
)
SKIPPED = re.compile(
    r"(^|/)(tests?|testing|docs?|examples?|samples?|migrations|alembic|node_modules|venv|\.venv|env|build|dist|site-packages)/"
    r"|(^|/)(test_[^/]*|[^/]*_test|conftest|setup|noxfile|fabfile|env)\.py$|(^|/)\."
)


class TooComplex(Exception):
    """Following the names of this source takes too long."""


def read_modules(archive, roots):
    """Read the modules that can matter, those at the top first. ROOTS are the directories of the source that are on Python's path."""
    paths = [path for path in archive.files if path.endswith(".py") and not SKIPPED.search(path)]
    contents, room = {}, MAX_BYTES
    for path in sorted(paths, key=lambda path: (path.removeprefix("src/").count("/"), path)):
        if archive.size(path) > min(MAX_FILE_BYTES, room):
            continue
        content = archive.read_bytes(path)
        if path.removeprefix("src/").count("/") <= 1 or RELEVANT.search(content):
            contents[path] = content
            room -= len(content)
    facts, problems = describe(contents)
    return Modules(facts, problems, roots)


def describe(contents):
    """Return the facts of each file, and the problem of each file that cannot be parsed."""
    facts, problems, crashes = {}, {}, 0
    waiting = list(contents)
    while waiting and crashes < MAX_CRASHES:
        lines = "".join(json.dumps([path, base64.b64encode(contents[path]).decode()]) + "\n" for path in waiting)
        try:
            # -I and -S: no module of the working directory, the environment or a site-packages directory
            done = subprocess.run(
                [sys.executable, "-I", "-S", PROGRAM], input=lines.encode(), capture_output=True, timeout=SECONDS, check=False
            )
            output = done.stdout
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
        for line in output.splitlines(keepends=True):
            if line.endswith(b"\n"):
                path, found, problem = json.loads(line)
                waiting.remove(path)
                if found is None:
                    problems[path] = problem
                else:
                    facts[path] = found
        if waiting:
            crashes += 1
            problems[waiting.pop(0)] = "the parser failed"
    return facts, problems | dict.fromkeys(waiting, "the parser failed")


class Modules:
    """Modules by name."""

    def __init__(self, facts, problems, roots):
        self.facts, self.paths, self.problems, self.steps = {}, {}, problems, 0
        for path, found in facts.items():
            name = module_name(path, roots)
            if all(part.isidentifier() and part.isascii() for part in name.split(".")) and name not in self.paths:
                self.facts[name], self.paths[name] = found, path
        self.directories = {name.rsplit(".", count)[0] for name in self.facts for count in range(1, name.count(".") + 1)}

    def count_step(self):
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooComplex

    def is_package(self, module):
        return self.paths[module].endswith("/__init__.py")

    def absolute(self, module, target, level):
        """Return the absolute name of a module that another module imports."""
        if not level:
            return target
        package = module.split(".") if self.is_package(module) else module.split(".")[:-1]
        package = package[: len(package) - level + 1]
        return ".".join([*package, *([target] if target else [])])

    def resolve(self, module, name, imports=None, steps=MAX_DEPTH):
        """Follow a dotted name to where it is defined.

        Returns (module, name) for a name that a module of the source binds, (None, "flask.Flask") for one of another package, and
        (module, "") for a module of the source.
        """
        self.count_step()
        first, _dot, rest = name.partition(".")
        facts = self.facts[module]
        if steps <= 0 or not first:
            return None
        if found := (imports or {}).get(first) or facts["imports"].get(first):
            return self.member(*self.imported(module, found, steps), rest, steps)
        if first in facts["bindings"]:
            return module, name
        for relative, _name, level in facts["stars"]:
            target = self.absolute(module, relative, level)
            if target in self.facts:
                if target != module and (found := self.resolve(target, name, None, steps - 10)):
                    return found
            elif target.partition(".")[0] in ("flask", "quart"):
                return None, f"{target}.{name}"
        return None

    def imported(self, module, found, steps):
        """Resolve what an import statement binds."""
        target, name, level = found
        target = self.absolute(module, target, level)
        if not name:
            return (target, "") if self.has(target) else (None, target)
        if target in self.facts and target != module and (inner := self.resolve(target, name, None, steps - 1)):
            return inner
        if f"{target}.{name}" in self.facts:
            return f"{target}.{name}", ""
        return (target, name) if target in self.facts else (None, f"{target}.{name}")

    def member(self, module, name, rest, steps):
        """Add the rest of a dotted name to what its first part is."""
        if not rest:
            return module, name
        if module is None or name:
            return module, f"{name}.{rest}"
        first, _dot, more = rest.partition(".")
        if f"{module}.{first}" in self.facts:
            return self.member(f"{module}.{first}", "", more, steps - 1)
        if module in self.facts:
            return self.resolve(module, rest, None, steps - 1)
        return None, f"{module}.{rest}"

    def has(self, module):
        """Return whether a module or a directory of modules belongs to the source."""
        return module in self.facts or module in self.directories


def module_name(path, roots):
    root = next((root for root in roots if path.startswith(f"{root}/")), "")
    path = path.removeprefix(f"{root}/")
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
