"""Find the app in a source's modules, its static directory and its health page, by the rules that `flask run` documents."""

import re
from typing import NamedTuple

FLASK = {
    *(("flask", "Flask"), ("apiflask", "APIFlask"), ("flask_openapi3", "OpenAPI"), ("eve", "Eve")),
    *(("quart", "Quart"), ("quart_trio", "QuartTrio")),
}
CONNEXION = {("connexion", name) for name in ("App", "FlaskApp", "AsyncApp")}
ASGI = {("quart", "Quart"), ("quart_trio", "QuartTrio"), ("fastapi", "FastAPI"), ("starlette", "Starlette"), *CONNEXION}
OTHER = {("dash", "Dash")}
CONSTRUCTORS = FLASK | ASGI | OTHER
TO_ASGI = ("WsgiToAsgi", "WSGIMiddleware")
NAMES, FACTORIES = ("app", "application"), ("create_app", "make_app")
# modules that `flask run` and ASGI servers try first
FIRST = ("wsgi", "app", "asgi")
# modules with an app that they don't serve
LAST = re.compile(r"(celery|worker|manage|cli|shell|cron|seed|task|script|debug|dev)")
HEALTH_PATHS = tuple(
    path + slash
    for path in ("/healthz", "/health", "/healthcheck", "/health-check", "/health_check", "/_health", "/livez", "/up", "/ping")
    for slash in ("", "/")
)
# the Flask tutorial's page that needs no database
HEALTH_PATHS += ("/hello",)
SHOWN = 8


class App(NamedTuple):
    """An app: its constructor, the module that calls it, and the call. A function that hides the constructor has neither."""

    constructor: tuple
    module: str
    call: dict
    asgi: bool

    @property
    def origin(self):
        return self.module, self.call.get("line", 0), self.call.get("call", "")


class Candidate(NamedTuple):
    module: str
    object: str
    app: App

    @property
    def text(self):
        return f"{self.module}:{self.object}"


class Finder:
    def __init__(self, modules):
        self.modules, self.notes, self.known = modules, [], {}

    # -- what a name is

    def app_of(self, module, name):
        """Return the app that a name of a module is, or None."""
        self.modules.count_step()
        key = module, name
        if key not in self.known:
            self.known[key] = None  # ends a loop
            self.known[key] = self.find_app(module, name)
        return self.known[key]

    def find_app(self, module, name):
        facts = self.modules.facts[module]
        values = facts["bindings"].get(name, [])
        for value in reversed(values):
            if app := self.value(module, value, name):
                wrapped = any(last_part(one.get("call", "")) in TO_ASGI for one in values)
                return app._replace(asgi=app.asgi or wrapped)
        if name in facts["imports"] or (facts["stars"] and not values):
            return self.named(module, name)
        return None

    def named(self, module, name, imports=None):
        found = self.modules.resolve(module, name, imports)
        if not found or found[0] not in self.modules.facts or not found[1]:
            return None
        base, _dot, attribute = found[1].partition(".")
        app = self.app_of(found[0], base)
        if app and attribute:
            # the Flask app inside of a connexion or Dash app
            inner = (app.constructor in CONNEXION and attribute == "app") or (app.constructor in OTHER and attribute == "server")
            return App(("flask", "Flask"), app.module, {**app.call, "unknown": True}, asgi=False) if inner else None
        return app

    def value(self, module, value, name="", function=None):
        """Return the app that a value is. `function` is the function that contains it."""
        self.modules.count_step()
        imports = function["imports"] if function else None
        if "name" in value:
            if function and value["name"] in function["names"]:
                return next(filter(None, (self.value(module, one, name) for one in function["names"][value["name"]])), None)
            return self.named(module, value["name"], imports)
        if "call" not in value:
            return None
        found = self.modules.resolve(module, value["call"], imports)
        if found and found[0] is None:
            constructor = found[1].partition(".")[0], last_part(found[1])
            if constructor in CONSTRUCTORS:
                return App(constructor, module, value, constructor in ASGI)
        if found and found[0] in self.modules.facts and "." not in found[1]:
            for target in self.modules.facts[found[0]]["bindings"].get(found[1], []):
                if "function" in target:
                    return self.made_by(*found)
                if "class" in target and (constructor := self.base_of(*found)):
                    return App(constructor, module, {**value, "unknown": value["unknown"] or target["init"]}, constructor in ASGI)
        # a middleware: app = ProxyFix(app)
        inside = [*value["arguments"][:1], *(value["keywords"][key] for key in ("app", "wsgi_app") if key in value["keywords"])]
        app = next(filter(None, (self.value(module, one, "", function) for one in inside)), None) if name in (*NAMES, "") else None
        return app._replace(asgi=app.asgi or last_part(value["call"]) in TO_ASGI) if app else None

    def made_by(self, module, name):
        """Return the app that a function creates. A factory with a documented name creates one, even if this file can't see how."""
        key = module, f"{name}()"
        if key not in self.known:
            self.known[key] = None
            function = next(one for one in self.modules.facts[module]["bindings"][name] if "function" in one)
            # another function may call a factory for another purpose, such as create_celery_app()
            values = [*function["returns"], *(function["calls"] if name in FACTORIES else [])]
            found = next(filter(None, (self.value(module, one, "return", function) for one in values)), None)
            unknown = App(("", ""), module, {"call": name, "line": function["line"], "unknown": True}, asgi=False)
            self.known[key] = found or (unknown if name in FACTORIES else None)
        return self.known[key]

    def base_of(self, module, name, steps=10):
        """Return the constructor that a class of the source extends."""
        for value in self.modules.facts[module]["bindings"].get(name, []):
            for base in value.get("class", []):
                found = self.modules.resolve(module, base)
                if found and found[0] is None and (constructor := (found[1].partition(".")[0], last_part(found[1]))) in CONSTRUCTORS:
                    return constructor
                if (
                    found
                    and found[0] in self.modules.facts
                    and steps
                    and "." not in found[1]
                    and (inner := self.base_of(*found, steps - 1))
                ):
                    return inner
        return None

    # -- the app of a module

    def candidates(self, module):
        """Return what `flask run` would take from a module: app, application, its only app, or a factory without required arguments."""
        facts, path = self.modules.facts[module], self.modules.paths[module]
        for callee, line in facts["runs"]:
            owner = callee.rpartition(".")[0]
            is_socketio = any(last_part(value.get("call", "")) == "SocketIO" for value in facts["bindings"].get(owner, []))
            if callee.endswith("serve") or owner == "uvicorn" or is_socketio or self.app_of(module, owner):
                self.notes.append(
                    f'{path} starts a server when it is imported (line {line}): move {callee}(…) below `if __name__ == "__main__":`.'
                )
                return []
        names = [*facts["bindings"], *facts["imports"]]
        for name in NAMES:
            app = self.app_of(module, name)
            if app and app.constructor not in OTHER:
                return [Candidate(module, name, app)]
            is_module = name in facts["imports"] and (self.modules.resolve(module, name) or ("", "?"))[1] == ""
            if not app and name in names and last_part(module) in ("wsgi", "asgi") and not is_module:
                return [Candidate(module, name, App(("", ""), module, {"unknown": True}, last_part(module) == "asgi"))]
        apps = {}
        for name in names:
            app = self.app_of(module, name)
            if app and app.constructor not in OTHER:
                apps.setdefault(app.origin, Candidate(module, name, app))
        if apps:
            return list(apps.values())
        return [Candidate(module, f"{name}()", app) for name in FACTORIES if (app := self.factory(module, name))][:1]

    def factory(self, module, name):
        """Return the app of a factory that can be called without arguments."""
        found = self.modules.resolve(module, name)
        if not found or found[0] not in self.modules.facts or "." in found[1]:
            return None
        for value in self.modules.facts[found[0]]["bindings"].get(found[1], []):
            if value.get("async"):
                self.notes.append(f"{name} in {self.modules.paths[found[0]]} is async, so servers can't call it.")
            elif value.get("function"):
                arguments = ", ".join(value["function"][:SHOWN])
                self.notes.append(
                    f"{name} in {self.modules.paths[found[0]]} requires arguments ({arguments}): app_module: {module}:{name}(…)."
                )
            elif "function" in value:
                return self.made_by(*found)
        return None

    def from_name(self, text):
        """Return the candidate that a name such as shop, shop:app or shop:create_app("x") selects."""
        module, _colon, wanted = text.partition(":")
        if module not in self.modules.facts:
            return None
        if not wanted:
            found = self.candidates(module)
            return found[0] if len(found) == 1 else None
        name = wanted.partition("(")[0]
        functions = [one for one in self.modules.facts[module]["bindings"].get(name, []) if "function" in one]
        is_factory = "(" in wanted or functions or name in FACTORIES
        found = self.modules.resolve(module, name) if is_factory else None
        if (
            found
            and found[0] in self.modules.facts
            and any("function" in one for one in self.modules.facts[found[0]]["bindings"].get(found[1], []))
        ):
            app = self.made_by(*found)
        else:
            app = self.app_of(module, name)
        app = app or App(("", ""), module, {"unknown": True}, asgi=False)
        return Candidate(module, wanted if "(" in wanted or not is_factory else f"{wanted}()", app)

    def find(self, preferred=()):
        """Return the candidates of the first group of modules that has any: the documented names, other modules at the top, all others."""
        depth = {module: module.count(".") for module in self.modules.facts}
        top = [module for module in depth if not depth[module] and module != "__init__"]
        # `flask run` looks for the files wsgi.py and app.py, not for packages with these names
        groups = [[module] for module in FIRST if module in top and not self.modules.is_package(module)]
        groups += [top, [module for module in depth if depth[module] == 1], [module for module in depth if depth[module] > 1]]
        for group in groups:
            found = [candidate for module in group for candidate in self.candidates(module)]
            if len(group) > 1:
                found = self.distinct(found)
                named = [one for one in found if one.module.partition(".")[0] in preferred]
                found = named if len(named) == 1 else found
            if found:
                return found
        return []

    def distinct(self, found):
        """Keep one candidate for each app, preferably the module at the top that the others are imported into."""

        def order(candidate):
            definition = candidate.module == candidate.app.module
            helper, other = LAST.match(last_part(candidate.module)), last_part(candidate.module) not in (*FIRST, "main", "run", "server")
            return bool(helper), definition, candidate.object.endswith("()"), candidate.module.count("."), other, candidate.module

        best = {}
        for candidate in sorted(found, key=order):
            best.setdefault(candidate.app.origin, candidate)
        return list(best.values())

    # -- what the app serves

    def static(self, app):
        """Return the URL and the directory of a Flask app's static files, or None if they are not constant."""
        if app.constructor not in FLASK or app.call.get("unknown") or any(facts["changes_static"] for facts in self.modules.facts.values()):
            return None
        arguments, keywords = app.call["arguments"], app.call["keywords"]
        if len(arguments) != 1 or {"static_host", "host_matching"} & {*keywords}:
            return None
        name = arguments[0].get("name") or arguments[0].get("constant")
        module = {"__name__": app.module, "__name__[0]": app.module.partition(".")[0], "__package__": app.module}.get(name, name)
        if module not in self.modules.facts:
            return None
        directory = keywords.get("static_folder", {"constant": "static"}).get("constant")
        url = keywords.get("static_url_path", {"constant": None}).get("constant", 0)
        if not isinstance(directory, str) or not directory or directory.startswith("/") or not isinstance(url, (str, type(None))):
            return None
        url = url if url is not None else f"/{directory.rstrip('/').rpartition('/')[2]}"
        top = self.modules.paths[module].rpartition("/")[0]
        return f"{url.rstrip('/')}/", "/".join(filter(None, [top, directory]))

    def health(self, app):
        """Return the first well-known health page that the app declares, with the prefix of its blueprint."""
        found = set()
        for module, facts in self.modules.facts.items():
            for owner, path in facts["routes"]:
                key = "prefix", module, owner
                if key not in self.known:
                    self.known[key] = self.prefix(module, owner, app)
                prefix = self.known[key]
                if prefix is not None:
                    found.add(prefix.rstrip("/") + path if prefix else path)
        return next((path for path in HEALTH_PATHS if path in found), "")

    def prefix(self, module, owner, app):
        """Return the URL prefix of an app's or a blueprint's routes, or None if it is unknown."""
        facts = self.modules.facts[module]
        if owner not in facts["blueprints"]:
            owned = self.app_of(module, owner)
            # the name of a variable or an argument of a factory
            is_local = owner in NAMES and module.partition(".")[0] == app.module.partition(".")[0]
            return "" if (owned.origin == app.origin if owned else is_local) else None
        found = set()
        for other, registered in self.modules.facts.items():
            for parent, target, imported, prefix in registered["registrations"]:
                imports = {target.partition(".")[0]: imported} if imported else None
                if self.modules.resolve(other, target, imports) == (module, owner):
                    # a blueprint in another blueprint gets both prefixes
                    nested = parent in registered["blueprints"] or (parent not in NAMES and not self.app_of(other, parent))
                    found.add(False if nested else prefix if prefix is not None else facts["blueprints"][owner])
        known = found.pop() if len(found) == 1 else False
        return None if known is False else known or ""


def last_part(name):
    return name.rpartition(".")[2]
