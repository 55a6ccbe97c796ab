"""Describe the Python files of a source without running them: names, calls, routes. This program runs in a process of its own.

It reads a JSON line for each file, [path, content in base64], and prints a JSON line for each, [path, facts or null, problem]. The files are
not trusted: one that exhausts the parser ends this process, and modules_of_source.py continues with the next file. It uses only the
standard library, because it starts without the collection.
"""

import ast
import base64
import contextlib
import json
import sys

try:
    import resource
except ImportError:  # the controller has no such limits
    resource = None

MEMORY_BYTES, CPU_SECONDS = 2**30, 20
MAX_CALLS = MAX_ROUTES = 500
MAX_TEXT = 200
ROUTE_METHODS = ("route", "get")
# functions that read a variable of the environment: os.getenv, os.environ.get, env.str, config
READERS = ("getenv", "environ", "env", "config")


def main():
    for kind, limit in (("RLIMIT_AS", MEMORY_BYTES), ("RLIMIT_CPU", CPU_SECONDS), ("RLIMIT_CORE", 0)):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, kind), (limit, limit))
    for line in sys.stdin:
        path, content = json.loads(line)
        facts, problem = None, ""
        try:
            facts = describe(base64.b64decode(content))
        except SyntaxError as error:
            problem = f"line {error.lineno}: {error.msg}"
        except (ValueError, RecursionError, MemoryError, OverflowError, LookupError) as error:
            problem = type(error).__name__
        print(json.dumps([path, facts, problem]), flush=True)


def describe(content):
    return Module(ast.parse(content)).facts


class Module:
    """`bindings` maps a name at the module's level to its values, `imports` to [module, name or empty, level]."""

    def __init__(self, tree):
        self.facts = {"bindings": {}, "imports": {}, "stars": [], "runs": [], "routes": [], "registrations": [], "blueprints": {}}
        self.facts |= {"migrate": [], "changes_static": False, "reads_secret_key": False}
        for statement in at_import(tree.body):
            self.bind(statement)
        self.search(tree)

    def bind(self, statement):
        bindings, imports = self.facts["bindings"], self.facts["imports"]
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            bindings[statement.name] = [function(statement)]
        elif isinstance(statement, ast.ClassDef):
            own = any(isinstance(node, ast.FunctionDef) and node.name == "__init__" for node in statement.body)
            bindings[statement.name] = [{"class": [dotted(base) for base in statement.bases], "init": own}]
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            found = imported(statement)
            self.facts["stars"] += found.pop("*", [])
            imports.update(found)
            for name in found:
                bindings.pop(name, None)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value:
            for name, value in assigned(statement):
                bindings.setdefault(name, []).append(value)
        elif isinstance(statement, ast.Delete):
            for target in statement.targets:
                bindings.pop(dotted(target), None)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            callee = dotted(statement.value.func)
            if callee.endswith(".run") or callee in ("serve", "waitress.serve"):
                self.facts["runs"].append([callee, statement.lineno])

    def search(self, tree):
        """Find routes, blueprints and the like at any depth, in the order of the file."""
        names, todo = {}, [tree]
        while todo:
            node = todo.pop()
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names.update({name: found for name, found in imported(node).items() if name != "*"})
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.add_routes(node)
            elif isinstance(node, ast.Assign):
                for name, value in assigned(node):
                    if value.get("call", "").endswith("Blueprint"):
                        self.facts["blueprints"][name] = prefix_of(node.value)
                attributes = {target.attr for target in node.targets if isinstance(target, ast.Attribute)}
                self.facts["changes_static"] |= bool(attributes & {"static_folder", "static_url_path"})
            elif isinstance(node, ast.Subscript) and last_part(dotted(node.value)) == "environ":
                self.facts["reads_secret_key"] |= constant(node.slice) == "SECRET_KEY"
            elif isinstance(node, ast.Call):
                self.add_call(node, names)
            todo += reversed(list(ast.iter_child_nodes(node)))

    def add_routes(self, node):
        rules = [rule_of(decorator) for decorator in node.decorator_list]
        # another decorator can require a login
        plain = all(rule or dotted(call).endswith(".exempt") for rule, call in zip(rules, node.decorator_list, strict=True))
        self.facts["routes"] += [rule for rule in rules if rule and plain][: MAX_ROUTES - len(self.facts["routes"])]

    def add_call(self, node, names):
        callee = dotted(node.func)
        owner, _dot, method = callee.rpartition(".")
        if node.args and constant(node.args[0]) == "SECRET_KEY" and (method in READERS or last_part(owner) in READERS[:3]):
            self.facts["reads_secret_key"] = True
        if method == "add_url_rule" and len(self.facts["routes"]) < MAX_ROUTES and (rule := rule_of(node)):
            self.facts["routes"].append(rule)
        elif method == "register_blueprint" and node.args and len(self.facts["registrations"]) < MAX_CALLS:
            target = dotted(node.args[0])
            first = target.partition(".")[0]
            self.facts["registrations"].append([owner, target, names.get(first), prefix_of(node)])
        elif len(self.facts["migrate"]) < MAX_CALLS and (method == "Migrate" or (method == "init_app" and "migrate" in owner.lower())):
            directory = keyword(node, "directory")
            self.facts["migrate"].append(constant(directory) if directory else None)


def at_import(body):
    """Yield the statements that run when the module is imported, in order, from all branches."""
    todo = list(reversed(body))
    while todo:
        statement = todo.pop()
        yield statement
        if isinstance(statement, ast.If):
            skipped = skipped_branch(statement.test)
            branches = [[] if skipped == "body" else statement.body, [] if skipped == "orelse" else statement.orelse]
        elif isinstance(statement, (ast.For, ast.While)):
            branches = [statement.body, statement.orelse]
        elif isinstance(statement, ast.With):
            branches = [statement.body]
        elif type(statement).__name__ in ("Try", "TryStar"):
            branches = [statement.body, *(handler.body for handler in statement.handlers), statement.orelse, statement.finalbody]
        elif isinstance(statement, ast.Match):
            branches = [case.body for case in statement.cases]
        else:
            continue
        todo += reversed([inner for branch in branches for inner in branch])


def skipped_branch(test):
    """Return which branch of an `if` does not run when the module is imported: the body of `if __name__ == "__main__"`."""
    if dotted(test).rpartition(".")[2] == "TYPE_CHECKING":
        return "body"
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        sides = [test.left, *test.comparators]
        if "__name__" in map(dotted, sides) and "__main__" in map(constant, sides):
            return "orelse" if isinstance(test.ops[0], ast.NotEq) else "body"
    return ""


def function(node):
    """Describe a function that may create the app: its required arguments, imports, names, calls and what it returns."""
    arguments = node.args
    required = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    required = required[: len(required) - len(arguments.defaults)]
    required += [argument.arg for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None]
    facts = {"function": required, "async": isinstance(node, ast.AsyncFunctionDef), "line": node.lineno}
    facts |= {"imports": {}, "names": {}, "calls": [], "returns": []}
    todo = list(reversed(node.body))
    while todo:
        inner = todo.pop()
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(inner, (ast.Import, ast.ImportFrom)):
            facts["imports"].update({name: found for name, found in imported(inner).items() if name != "*"})
        elif isinstance(inner, (ast.Assign, ast.AnnAssign)) and inner.value:
            for name, value in assigned(inner):
                facts["names"].setdefault(name, []).append(value)
        elif isinstance(inner, ast.Return) and inner.value:
            facts["returns"].append(value_of(inner.value))
        elif isinstance(inner, ast.Call) and len(facts["calls"]) < MAX_CALLS:
            facts["calls"].append(value_of(inner))
        todo += reversed(list(ast.iter_child_nodes(inner)))
    return facts


def imported(node):
    """Map each name that an import statement binds to [module, name or empty, level]."""
    if isinstance(node, ast.Import):
        return {
            alias.asname or alias.name.partition(".")[0]: [alias.name if alias.asname else alias.name.partition(".")[0], "", 0]
            for alias in node.names
        }
    found = {alias.asname or alias.name: [node.module or "", alias.name, node.level] for alias in node.names}
    if "*" in found:
        found["*"] = [[node.module or "", "", node.level]]
    return found


def assigned(node):
    """Yield each name that an assignment binds, with its value. A part of a tuple has an unknown value."""
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Name):
            yield target.id, value_of(node.value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                if isinstance(element, ast.Name):
                    yield element.id, {}


def value_of(node, depth=0):
    if isinstance(node, ast.Constant):
        return {"constant": node.value if isinstance(node.value, (str, bool, type(None))) and len(str(node.value)) < MAX_TEXT else 0}
    if isinstance(node, ast.Lambda):
        return {}
    if isinstance(node, ast.Await):
        return value_of(node.value, depth)
    if isinstance(node, ast.Call):
        if depth > 3:
            return {}
        # Flask(*args) and Flask(**settings) can contain any argument
        unknown = any(isinstance(one, ast.Starred) for one in node.args) or any(not one.arg for one in node.keywords)
        return {
            "call": dotted(node.func),
            "arguments": [value_of(one, depth + 1) for one in node.args[:8]],
            "keywords": {one.arg: value_of(one.value, depth + 1) for one in node.keywords[:50] if one.arg},
            "unknown": unknown or len(node.args) > 8 or len(node.keywords) > 50,
            "line": node.lineno,
        }
    name = dotted(node)
    return {"name": name} if name else {}


def dotted(node):
    """Return a name such as a.b.c, __name__[0] for the first part of the module's name, or an empty string for other expressions."""
    parts = []
    while isinstance(node, ast.Attribute) and len(parts) < 20:
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Subscript) and not parts:
        is_first = isinstance(node.slice, ast.Constant) and node.slice.value == 0
        is_split = isinstance(node.value, ast.Call) and dotted(node.value.func) in ("__name__.split", "__name__.partition")
        return "__name__[0]" if is_first and is_split else ""
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def last_part(name):
    return name.rpartition(".")[2]


def keyword(node, name):
    return next((one.value for one in node.keywords if one.arg == name), None)


def constant(node):
    """Return a constant string, or False for any other expression."""
    right = isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < MAX_TEXT
    return node.value if right else False


def prefix_of(call):
    """Return the url_prefix of a call: None if there is none, False if it is unknown."""
    if any(not one.arg for one in call.keywords):
        return False
    prefix = keyword(call, "url_prefix")
    return None if prefix is None or (isinstance(prefix, ast.Constant) and prefix.value is None) else constant(prefix)


def rule_of(node):
    """Return [owner, path] for a call such as app.route("/healthz") that accepts GET."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    path, methods = node.args[0] if node.args else keyword(node, "rule"), keyword(node, "methods")
    if node.func.attr not in (*ROUTE_METHODS, "add_url_rule") or not constant(path):
        return None
    if methods is not None:
        elements = methods.elts if isinstance(methods, (ast.List, ast.Tuple, ast.Set)) else []
        if "GET" not in [str(constant(one)).upper() for one in elements]:
            return None
    return [dotted(node.func.value), path.value]


if __name__ == "__main__":
    main()
