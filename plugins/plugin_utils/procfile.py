"""The processes of an app: the types and commands of its Procfile, and of app_processes."""

import difflib
import re
import subprocess

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text as texts

PROCESS = re.compile(r"([A-Za-z0-9_-]+)\s*:\s*(\S.*)")
# maximum number of characters of a Procfile in a message
SHOWN = 200
SHELL_SECONDS = 10


class ProcfileError(ValueError):
    """The message states the problem and the remedy."""


def counts(processes):
    """Return the number of worker processes of each type. An entry is a number, or a dictionary with a command, a count or both."""
    return {kind: entry.get("count", 1) if isinstance(entry, dict) else entry for kind, entry in processes.items() if kind != "web"}


def own_commands(processes):
    """Return the commands in app_processes by process type. They take precedence over the Procfile's."""
    return {kind: entry["command"] for kind, entry in processes.items() if isinstance(entry, dict) and "command" in entry}


def all_commands(text, settings):
    """Return the command of each process type that settings use."""
    found = commands(text or "") if wanted_types(settings) else {}
    return {**found, **own_commands(settings.get("app_processes") or {})}


def wanted_types(settings):
    """Return the process types that settings take from the Procfile, as a list of (setting, type)."""
    processes = settings.get("app_processes") or {}
    own = own_commands(processes)
    wanted = [("app_processes", str(kind)) for kind, count in counts(processes).items() if count and kind not in own]
    wanted += [("app_server", "web")] if settings.get("app_server") == "procfile" and "web" not in own else []
    return wanted + ([("app_release_command", "release")] if settings.get("app_release_command") == "procfile" else [])


def commands(text):
    """Return the commands of a Procfile by process type."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        process = PROCESS.fullmatch(line.strip())
        if not process or texts.FORBIDDEN_IN_LINE.search(process[2]):
            problem = "contains a control character" if process else "is not valid"
            raise ProcfileError(f"line {number} of its Procfile, {line.strip()[:SHOWN]!r}, {problem}. Write it as TYPE: COMMAND.")
        if process[1] in found:
            raise ProcfileError(
                f"line {number} of its Procfile defines '{texts.cut(process[1], SHOWN)}' a second time. Remove one of the two lines."
            )
        found[process[1]] = process[2]
    return found


def problems(text, settings):
    """Yield (setting, problem) for each process type that settings use and the Procfile does not provide."""
    wanted = wanted_types(settings)
    if wanted and text is None:
        (name, kind), kinds = wanted[0], ", ".join(kind for _name, kind in wanted)
        yield name, f"the source has no Procfile at its top, which must define {kinds}. {remedy(name, kind)}"
        return
    try:
        found = commands(text) if wanted else {}
    except ProcfileError as error:
        yield "app_source", str(error)
        return
    for name, kind in wanted:
        near = difflib.get_close_matches(kind, list(found)[:SHOWN], n=1)
        hint = (
            f"Did you mean {near[0]}?"
            if near
            else f"It has {texts.cut(', '.join(found), SHOWN) or 'no process types'}. {remedy(name, kind)}"
        )
        if kind not in found:
            yield name, f"the source's Procfile has no process type '{kind}'. {hint}"
        elif problem := shell_problem(found[kind]):
            yield "app_source", f"the command of '{kind}' in its Procfile is not a valid shell command: {problem}."


def remedy(name, kind):
    if name == "app_processes":
        example = f"{kind}: {{ command: COMMAND, count: 1 }}"
        return f"Write the command into app_processes, such as {example}, or into a Procfile, as {kind}: COMMAND."
    if name == "app_server":
        instead = "Choose another app_server, set app_processes: { web: { command: COMMAND } }"
        return f"{instead}, or add the line {kind}: COMMAND to a Procfile."
    instead = "Set app_release_command to the command itself"
    return f"{instead}, or add the line {kind}: COMMAND to a Procfile."


def shell_problem(command):
    """Return why bash cannot parse a command, or an empty string if it can."""
    try:
        # stdin, because the length of an argument is limited
        done = subprocess.run(
            ["bash", "-n"], input=command.encode(errors="replace"), capture_output=True, timeout=SHELL_SECONDS, check=False
        )
    except FileNotFoundError:
        return ""  # without bash here, the host reports the problem
    except subprocess.TimeoutExpired:
        return f"bash did not finish reading it within {SHELL_SECONDS} seconds"
    errors = done.stderr.decode(errors="replace").strip()
    return texts.cut(errors.splitlines()[0].rpartition(": ")[2], SHOWN) if errors else ""
