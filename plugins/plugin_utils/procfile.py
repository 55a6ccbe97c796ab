"""The Procfile of an app: its types of process, and the command of each."""

import difflib
import re
import subprocess

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text as texts

PROCESS = re.compile(r"([A-Za-z0-9_-]+)\s*:\s*(\S.*)")
# of a Procfile, in a message
SHOWN = 200
SHELL_SECONDS = 10


class ProcfileError(ValueError):
    """What is wrong with it, and the remedy."""


def wanted_types(settings):
    """The types of process that settings ask for: (setting, type)."""
    processes = settings.get("app_processes") or {}
    wanted = [("app_processes", kind) for kind, count in processes.items() if count]
    wanted += [("app_server", "web")] if settings.get("app_server") == "procfile" else []
    return wanted + ([("app_release_command", "release")] if settings.get("app_release_command") == "procfile" else [])


def commands(text):
    """What a Procfile says: a command for each type of process."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        process = PROCESS.fullmatch(line.strip())
        if not process or texts.NOT_IN_A_LINE.search(process[2]):
            what = "has a control character" if process else "is no process"
            raise ProcfileError(f"line {number} of its Procfile, {line.strip()[:SHOWN]!r}, {what}: write a type, a colon and a command.")
        if process[1] in found:
            raise ProcfileError(f"line {number} of its Procfile describes '{texts.cut(process[1], SHOWN)}' a second time.")
        found[process[1]] = process[2]
    return found


def problems(text, settings):
    """Why settings can't have what they ask for: (setting, what is wrong)."""
    wanted = wanted_types(settings)
    if wanted and text is None:
        kinds = ", ".join(kind for _name, kind in wanted)
        yield (
            wanted[0][0],
            f"the source has no Procfile at its top to say how to run {kinds}. Add one, a line each, such as {wanted[0][1]}: COMMAND.",
        )
        return
    try:
        found = commands(text) if wanted else {}
    except ProcfileError as error:
        yield "app_source", str(error)
        return
    for name, kind in wanted:
        near = difflib.get_close_matches(kind, list(found)[:SHOWN], n=1)
        hint = f"Did you mean {near[0]}?" if near else f"It has {texts.cut(', '.join(found), SHOWN) or 'none at all'}."
        if kind not in found:
            yield name, f"the source's Procfile has no type of process '{kind}'. {hint}"
        elif problem := shell_problem(found[kind]):
            yield "app_source", f"the command of '{kind}' in its Procfile is none that a shell understands: {problem}."


def shell_problem(command):
    try:
        # on its standard input a command may have any length
        done = subprocess.run(
            ["bash", "-n"], input=command.encode(errors="replace"), capture_output=True, timeout=SHELL_SECONDS, check=False
        )
    except FileNotFoundError:
        return ""  # the host has one, and will say
    except subprocess.TimeoutExpired:
        return f"bash has not read it to its end after {SHELL_SECONDS} seconds"
    said = done.stderr.decode(errors="replace").strip()
    return texts.cut(said.splitlines()[0].rpartition(": ")[2], SHOWN) if said else ""
