"""Read the commands that start an app, such as the web line of a Procfile, and write the app's name in them."""

import os
import re
import shlex

# a name that is safe in a command, in a template and in a unit
NAME = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
MODULE = re.compile(rf"({NAME}):({NAME})(\([A-Za-z0-9_ ,.='\"-]*\))?")
# gunicorn's workers that Flaskhost's own settings replace; for others, such as gevent, the app needs its own command
PLAIN_WORKERS = ("sync", "gthread", "uvicorn.workers.UvicornWorker", "uvicorn_worker.UvicornWorker")
FACTORY_OPTIONS = {"waitress-serve": "--call", "uvicorn": "--factory", "granian": "--factory"}
SERVERS = ("gunicorn", "uvicorn", "hypercorn", "granian", "waitress-serve", "uwsgi", "flask", "python", "python3")


def app_of_command(command, modules):
    """Return (module:object, False) from the command of a server, or (a value of FLASK_APP, True) from `flask` or `python`."""
    program, words = server_of(command)
    if not program or any(word.startswith(("--chdir", "--app-dir", "--pythonpath")) for word in words) or re.search(r"\bcd\s", command):
        return "", False
    if program == "flask":
        named = [words[number + 1] for number, word in enumerate(words[:-1]) if word in ("--app", "-A")]
        return next(iter([*named, *(word.partition("=")[2] for word in words if word.startswith("--app="))]), ""), True
    if program.startswith("python"):
        return next((word for word in words if word.endswith(".py")), ""), True
    factory = FACTORY_OPTIONS.get(program) in words
    for word in words:
        found = MODULE.fullmatch(word)
        if found and found[1] in modules:
            return (f"{word}()" if factory and not found[3] else word), False
    # gunicorn's default is the object `application`
    named = next((word for word in words if not word.startswith("-") and word in modules), "")
    return (f"{named}:application" if named else ""), False


def has_own_workers(command):
    """Return whether a command runs gunicorn with workers that Flaskhost's settings don't have, such as gevent."""
    program, words = server_of(command)
    kinds = re.findall(r"(?:-k|--worker-class)[ =]?(\S+)", " ".join(words)) if program == "gunicorn" else []
    return bool(kinds) and kinds[-1] not in PLAIN_WORKERS


def server_of(command):
    """Return the server that a command runs, and its arguments: `poetry run gunicorn …`, `A=1 exec python -m gunicorn …`."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    for number, word in enumerate(words):
        program = os.path.basename(word)
        if program in SERVERS and (program not in ("python", "python3") or "-m" not in words[number : number + 2]):
            return program, words[number + 1 :]
    return "", []


def flask_app(module):
    """Return a module for FLASK_APP: without the object if Flask finds it."""
    name, _colon, wanted = module.partition(":")
    return name if wanted in ("app", "application", "create_app()", "make_app()") else shlex.quote(module)
