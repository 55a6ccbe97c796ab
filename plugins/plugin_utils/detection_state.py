"""Find what an app keeps in its source: SQLite databases, the instance directory, uploads. They become the default of app_shared.

The source is not trusted. Its Python files are parsed, and constant expressions in them are evaluated here; nothing is imported or run.
"""

import ast
import contextlib
import posixpath
import re
import warnings

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import archives
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.source_paths import SHARED

MAGIC, SMALLEST_PAGE = b"SQLite format 3\0", 512
DATABASE = re.compile(r"\.(db|db3|s3db|sqlite|sqlite3)$", re.IGNORECASE)
URI = re.compile(r"sqlite(?:\+\w+)?:///(?:file:)?([^?#\s]*)(\?\S*)?")
READ_ONLY = re.compile(r"mode=(ro|memory)")
WRITTEN = re.compile(r"(UPLOAD|MEDIA|LOG)S?(_FOLDER|_DIR|_DIRECTORY|_PATH|_ROOT|_DEST)|UPLOADS_DEFAULT_DEST|UPLOADED_\w+_DEST")
# libraries to which an app passes the path of a database, and not a URI
BY_PATH = re.compile(r"^\s*(?:import|from)\s+(?:aiosqlite|peewee|pony|sqlite3)\b", re.MULTILINE)
FLASK = re.compile(r"^[^#\n]*\b(Flask|Quart)\(", re.MULTILINE)
FLASK_SQLALCHEMY = re.compile(r"^\s*(?:import|from)\s+flask_sqlalchemy\b", re.MULTILINE)
# before version 3, a relative path in a URI began at the app's package, and not at its instance directory
OLD_FLASK_SQLALCHEMY = re.compile(
    r"""flask[-_]sqlalchemy(?:["']?(?:\s+version\s*=\s*"|[\s=:"']*[=~]=\s*)[12]\.|[^\n]*<\s*3\b)""",
    re.IGNORECASE,
)
DEPENDENCIES = ("requirements.txt", "pyproject.toml", "uv.lock", "poetry.lock", "Pipfile")
RELEVANT = re.compile(r"sqlite|instance_path|UPLOAD|MEDIA|LOGS?_|\.db3?\b")
TESTS = re.compile(r"(^|/)(tests?|testing|spec)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")
STATIC = re.compile(r"(^|/)(static|public|node_modules)(/|$)")
MAX_FILE, MAX_TOTAL, MAX_TEXT, MAX_PATHS = 256 * 1024, 32 * 2**20, 4096, 50
CODE_AND_SETTINGS = (*archives.CODE, ".cfg", ".conf", ".html", ".ini", ".json", ".sql", ".toml", ".yaml", ".yml")
# stands for the directory of the source, where the app runs
ROOT = "/\0source"


def shared_paths(sizes, links, read):
    """Return the paths to share between releases, sorted.

    SIZES contains the sizes of the regular files by name, in the archive's order. LINKS contains the targets of the symbolic links by name.
    READ(name, size) returns the beginning of a file.
    """
    source = Source(sizes, links, read)
    found = {path for path in source.databases() if not TESTS.search(path)}
    for path in source.used():
        with contextlib.suppress(archives.Outside, archives.LinkLoop):
            found.add(archives.resolve(path, links)[-1] + ("/" if path.endswith("/") else ""))
    places = {place for path in sorted(found)[:MAX_PATHS] if (place := source.place(path))}
    shared = []
    # the shortest first, so that an outer directory comes before its content
    for path in sorted(places, key=lambda path: (path.count("/"), path)):
        if not any(archives.shared_problems([*shared, path], [*sizes], links)):
            shared.append(path)
    return sorted(shared)


class Source:
    def __init__(self, sizes, links, read):
        self.sizes, self.links, self.read, self.room = sizes, links, read, MAX_TOTAL
        self.directories = {parent for name in [*sizes, *links] for parent in archives.parents(name)}

    def databases(self):
        """Return the files that are SQLite databases. SQLite treats an empty file as an empty database."""
        for name, size in self.sizes.items():
            is_whole = size >= SMALLEST_PAGE and size % SMALLEST_PAGE == 0
            if self.read(name, len(MAGIC)) == MAGIC if is_whole else size == 0 and DATABASE.search(name):
                yield name

    def used(self):
        """Return the paths that the code uses for databases and, with a final slash, for directories. They may not exist yet."""
        texts = {name: self.text(name) for name in self.sizes if name.endswith(".py") and not TESTS.search(name)}
        app = App(next((name for name, text in texts.items() if FLASK.search(text)), ""), self.sizes)
        app.passes_paths = any(map(BY_PATH.search, texts.values()))
        if any(map(FLASK_SQLALCHEMY.search, texts.values())):
            is_old = any(OLD_FLASK_SQLALCHEMY.search(self.text(name)) for name in DEPENDENCIES if name in self.sizes)
            app.uri_base = app.root if is_old else app.instance
        for name, text in texts.items():
            if RELEVANT.search(text):
                # a file that Python cannot parse does not run either
                with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                    yield from Module(app, name, parsed(text)).paths()
        for name in self.sizes:
            if posixpath.basename(name) in (".env", ".flaskenv"):
                for uri in URI.finditer(self.text(name)):
                    yield from path_of(uri, app.uri_base)

    def text(self, name):
        if self.sizes[name] > min(MAX_FILE, self.room):
            return ""
        self.room -= self.sizes[name]
        return self.read(name, self.sizes[name]).decode(errors="replace")

    def place(self, path):
        """Return what to share for a path: the path itself, or the whole instance directory if it contains only data."""
        name = path.rstrip("/")
        head, instance, _rest = f"/{name}/".rpartition("/instance/")
        if instance and self.has_only_data(directory := f"{head}/instance".lstrip("/")):
            return directory
        if not SHARED.fullmatch(name) or STATIC.search(name):
            return None
        if path.endswith("/") or name in self.directories:
            return name if self.has_only_data(name) else None
        return name if name in self.sizes or DATABASE.search(name) else None

    def has_only_data(self, directory):
        names = [name for name in [*self.sizes, *self.links] if name.startswith(f"{directory}/")]
        return SHARED.fullmatch(directory) and not any(name.endswith(CODE_AND_SETTINGS) for name in names)


class App:
    """The places from which an app's relative paths begin."""

    def __init__(self, name, names):
        """NAME is the Python file that creates the app."""
        self.root = posixpath.join(ROOT, posixpath.dirname(name)).rstrip("/")
        at = posixpath.dirname(name)
        while at and f"{at}/__init__.py" in names:
            at = posixpath.dirname(at)
        # Flask: beside the package, or beside the module
        self.instance = posixpath.join(ROOT, at, "instance")
        self.uri_base, self.passes_paths = ROOT, False


def parsed(text):
    """Parse Python without its warnings, such as those about invalid escape sequences: the operator did not write the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def is_annotated(node):
    return isinstance(node, ast.AnnAssign) and node.value is not None


def path_of(uri, base):
    path = uri[1].strip("\"'")
    if path and path != ":memory:" and not READ_ONLY.search(uri[2] or ""):
        yield from within(posixpath.join(base, path))


def within(path):
    """Return the path relative to the source, unless it is outside."""
    path = posixpath.normpath(path)
    if path.startswith(f"{ROOT}/"):
        yield path.removeprefix(f"{ROOT}/")


class Module:
    """The constant expressions of a Python file."""

    def __init__(self, app, name, tree):
        self.app, self.file, self.tree = app, f"{ROOT}/{name}", tree
        self.values, self.names = {}, {}
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if is_annotated(node) else []
            if len(targets) == 1 and isinstance(targets[0], ast.Name):
                self.names.setdefault(targets[0].id, node.value)

    def paths(self):
        yield from self.visit(self.tree)
        for value in self.named(WRITTEN):
            if path := self.value(value):
                yield from (f"{found}/" for found in within(posixpath.join(ROOT, path)))

    def named(self, pattern):
        """Return the expressions that are assigned to a variable, a key or an argument whose name matches."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign):
                pairs = [(self.key(target), node.value) for target in node.targets]
            elif is_annotated(node):
                pairs = [(self.key(node.target), node.value)]
            elif isinstance(node, ast.keyword):
                pairs = [(node.arg, node.value)]
            elif isinstance(node, ast.Dict):
                pairs = [(self.constant(key), value) for key, value in zip(node.keys, node.values, strict=True)]
            else:
                continue
            yield from (value for name, value in pairs if name and pattern.fullmatch(name))

    def key(self, target):
        if isinstance(target, ast.Subscript):
            return self.constant(target.slice)
        return target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""

    @staticmethod
    def constant(node):
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""

    def visit(self, node, is_whole=True, in_engine=False):
        """Return the paths in an expression. A part of an expression that has no value, such as join(x, "app.db"), is not a path."""
        if isinstance(node, ast.Attribute) and node.attr == "instance_path":
            yield from (f"{found}/" for found in within(self.app.instance))
        value = self.value(node) if isinstance(node, ast.expr) and not isinstance(node, ast.Name) else None
        if isinstance(value, str):
            uri = URI.fullmatch(value)
            if uri:
                yield from path_of(uri, ROOT if in_engine else self.app.uri_base)
            elif DATABASE.search(value) and (value.startswith(ROOT) or (is_whole and self.app.passes_paths)):
                yield from within(posixpath.join(ROOT, value))
            return
        function = called(node)
        is_join = function in ("join", "joinpath", "Path") or isinstance(node, (ast.BinOp, ast.JoinedStr))
        for child in ast.iter_child_nodes(node):
            yield from self.visit(child, is_whole and not is_join, function in ("create_engine", "create_async_engine"))

    def value(self, node):
        """Return the value of an expression if it is a string or a path, otherwise None."""
        if id(node) not in self.values:
            # for an expression that contains itself
            self.values[id(node)] = None
            value = self.evaluate(node)
            self.values[id(node)] = value if isinstance(value, str) and len(value) <= MAX_TEXT else None
        return self.values[id(node)]

    def evaluate(self, node):
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self.file if node.id == "__file__" else self.value(self.names[node.id]) if node.id in self.names else None
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.JoinedStr):
            return joined([self.value(part) for part in node.values], "")
        if isinstance(node, ast.FormattedValue):
            return self.value(node.value)
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            # the default of a setting: os.environ.get("UPLOAD_FOLDER") or "uploads"
            return self.value(node.values[-1])
        if isinstance(node, ast.BinOp):
            parts = [self.value(node.left), self.value(node.right)]
            if None in parts:
                return None
            if isinstance(node.op, ast.Add):
                return "".join(parts)
            if isinstance(node.op, ast.Div):
                return posixpath.join(*parts)
            return parts[0].replace("%s", parts[1]) if isinstance(node.op, ast.Mod) else None
        return self.call(node) if isinstance(node, ast.Call) and not node.keywords else None

    def attribute(self, node):
        if node.attr == "instance_path":
            return self.app.instance
        if node.attr == "root_path":
            return self.app.root
        # Config.NAME, but not os.path beside a variable `path`
        if node.attr in self.names and isinstance(node.value, ast.Name) and node.value.id != "os":
            return self.value(self.names[node.attr])
        return posixpath.dirname(path) if node.attr == "parent" and (path := self.value(node.value)) else None

    def call(self, node):
        function, values = called(node), [self.value(argument) for argument in node.args]
        on = self.value(node.func.value) if isinstance(node.func, ast.Attribute) else None
        if function in ("getcwd", "cwd"):
            return ROOT
        if function in ("absolute", "resolve", "as_posix") and on:
            return on
        if function == "format" and on and len(values) == 1 and values[0]:
            return on.replace("{}", values[0])
        if function == "joinpath":
            values = [on, *values]
        elif function == "join" and on is not None:
            return None  # of a string
        if not values or None in values:
            return None
        if function in ("abspath", "realpath", "fspath", "normpath", "str"):
            return posixpath.normpath(posixpath.join(ROOT, values[0])) if function in ("abspath", "realpath") else values[0]
        if function == "dirname":
            return posixpath.dirname(values[0])
        return posixpath.join(*values) if function in ("join", "joinpath", "Path", "PurePath") else None


def called(node):
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def joined(parts, by):
    return None if None in parts else by.join(parts)
