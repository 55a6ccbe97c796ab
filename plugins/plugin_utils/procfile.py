"""Read an app's Procfile: process types and their commands."""

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


def wanted_types(settings):
    """Return the process types that settings use, as a list of (setting, type)."""
    processes = settings.get("app_processes") or {}
    wanted = [("app_processes", kind) for kind, count in processes.items() if count]
    wanted += [("app_server", "web")] if settings.get("app_server") == "procfile" else []
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
        kinds, example = ", ".join(kind for _name, kind in wanted), f"{wanted[0][1]}: COMMAND"
        yield (
            wanted[0][0],
            f"the source has no Procfile at its top, which must define {kinds}. Add one, with a line for each, such as {example}.",
        )
        return
    try:
        found = commands(text) if wanted else {}
    except ProcfileError as error:
        yield "app_source", str(error)
        return
    for name, kind in wanted:
        near = difflib.get_close_matches(kind, list(found)[:SHOWN], n=1)
        hint = f"Did you mean {near[0]}?" if near else f"It has {texts.cut(', '.join(found), SHOWN) or 'no process types'}."
        if kind not in found:
            yield name, f"the source's Procfile has no process type '{kind}'. {hint}"
        elif problem := shell_problem(found[kind]):
            yield "app_source", f"the command of '{kind}' in its Procfile is not a valid shell command: {problem}."


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
