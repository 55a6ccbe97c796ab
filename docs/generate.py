#!/usr/bin/env python3
"""Generate the parts of the documentation that follow from other files.

- the tables of variables, in the roles' READMEs and docs/variables.md: from the roles' argument specs and defaults
- docs/reliability.md: from the tests in molecule/faults and molecule/acme
- the tables of attacks in docs/security.md: from the tests in molecule/hostile
- the audit in docs/security.md: from docs/audit.json, which `make audit` writes, and from the reasons in molecule/audit
- the table of measures in the README of the role hardening: from the role's variables
- docs/compatibility.md: the tables of apps from docs/situations.yml and the tests' docstrings, the table of packages from docs/packages.json

A variable's type and description are in its role's meta/argument_specs.yml, its default in defaults/main.yml, with the description as the
comment. This program reports where the two differ. `--check` writes nothing and fails if a page is out of date.
"""

import ast
import json
import re
import sys
from pathlib import Path

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

PROJECT = Path(__file__).resolve().parents[1]
ROLES = sorted((PROJECT / "roles").iterdir())
BEGIN, END = "<!-- variables: written by `make docs` -->", "<!-- end of variables -->"
TABLE = re.compile(f"{BEGIN}.*?{END}", re.DOTALL)
# the end of a docstring: the IDs in docs/situations.yml that the test proves
IDS = re.compile(r"\s*\(([A-Z]\d+(?:, [A-Z]\d+)*)\)\.?$")


def main():
    problems, pages = [], {}
    settings = ""
    for role in ROLES:
        spec = read(role / "meta/argument_specs.yml")["argument_specs"]["main"]
        defaults = Defaults(role / "defaults/main.yml")
        problems += check(role, spec["options"], defaults)
        readme = role / "README.md"
        if not readme.exists() or not TABLE.search(readme.read_text()):
            problems.append(f"{relative(readme)}: the markers of the table of variables are missing")
            continue
        before, after = TABLE.split(readme.read_text(), maxsplit=1)
        pages[readme] = f"{before}{BEGIN}\n{table(spec['options'], defaults)}{END}{after}"
        settings += (
            f"\n## [{role.name}](../roles/{role.name}/README.md)\n{spec['short_description']}.\n\n{table(spec['options'], defaults)}"
        )
    pages[PROJECT / "docs/variables.md"] = VARIABLES + settings
    pages[PROJECT / "docs/reliability.md"] = reliability_page()
    security, hardening = PROJECT / "docs/security.md", PROJECT / "roles/hardening/README.md"
    pages[hardening] = with_section(pages[hardening], "measures", measures())
    pages[security] = security.read_text()
    for name, body in {"attacks": attacks(), "audit": audit(), "controls": controls(), "lynis": lynis()}.items():
        pages[security] = with_section(pages[security], name, body)
    compatibility = PROJECT / "docs/compatibility.md"
    pages[compatibility] = compatibility.read_text()
    tables, unproven = apps()
    problems += unproven
    for name, body in {"apps": tables, "packages": packages()}.items():
        pages[compatibility] = with_section(pages[compatibility], name, body)
    stale = [page for page, text in pages.items() if not page.exists() or page.read_text() != text]
    if "--check" in sys.argv:
        problems += [f"{relative(page)}: out of date; run `make docs`" for page in stale]
    else:
        for page in stale:
            page.write_text(pages[page])
            print(f"wrote {relative(page)}")
    sys.exit("\n".join(problems) or 0)


def reliability_page():
    """Return a page with a section for each file of tests."""
    text = RELIABILITY
    for file in [*sorted((PROJECT / "molecule/faults/tests").glob("test_*.py")), PROJECT / "molecule/acme/tests/test_certificates.py"]:
        text += "\n## " + section_of_tests(file, "fault")
    return text


def section_of_tests(file, what):
    """Return a table of the tests in a file. A docstring describes the fault or attack before its first colon and the result after it."""
    lines = []
    for name, text, _ids in tests_of(file):
        before, _, after = text.partition(": ")
        lines.append([before.rstrip("."), after.rstrip(".") or "as above", f"`{name.removeprefix('test_')}`"])
    intro = f"{ast.get_docstring(ast.parse(file.read_text()))}\n([tests](../{relative(file)}))"
    return f"{topic(file).capitalize()}\n{intro}\n\n{rows([what, 'result', 'test'], lines)}"


def tests_of(file):
    """Yield the name of each test in a file, its docstring, and the IDs at the docstring's end."""
    for test in ast.parse(file.read_text()).body:
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            text = " ".join((ast.get_docstring(test) or "").split())
            ids = IDS.search(text)
            yield test.name, IDS.sub("", text), ids[1].split(", ") if ids else []


def topic(file):
    return file.stem.removeprefix("test_").replace("_", " ")


def link(file):
    """Link a file of tests, with the scenario of those that need hosts."""
    scenario = f"{file.parts[-3]}: " if "molecule" in file.parts else ""
    return f"[{scenario}{topic(file)}](../{relative(file)})"


def apps():
    """Return the tables of docs/situations.yml with links to the tests, and the problems: IDs without a test, and unknown IDs in tests."""
    proven, text, problems = {}, "", []
    for file in sorted([*PROJECT.glob("tests/test_*.py"), *PROJECT.glob("molecule/*/tests/test_*.py")]):
        for name, _text, ids in tests_of(file):
            for key in ids:
                proven.setdefault(key, {})[file] = name
    for title, situations in read(PROJECT / "docs/situations.yml").items():
        lines = []
        for keys, it in situations.items():
            files = {}
            for key in keys.split(", "):
                if key not in proven:
                    problems.append(f"docs/situations.yml: no test's docstring ends with ({key})")
                files |= proven.pop(key, {})
            lines.append([it["app"], it["result"], it.get("setting", "none"), ", ".join(map(link, files))])
        text += f"\n### {title}\n{rows(['your app …', 'result', 'setting', 'tests'], lines)}"
    for key, tests in proven.items():
        problems += [f"{relative(file)}: {test} names {key}, which docs/situations.yml does not have" for file, test in tests.items()]
    return text, problems


def attacks():
    files = sorted((PROJECT / "molecule/hostile/tests").glob("test_*.py"))
    return "\n".join(f"### {section_of_tests(file, 'attack')}" for file in files)


VARIABLES = """# All settings

<!-- written by `make docs` from roles/*/meta/argument_specs.yml and roles/*/defaults/main.yml -->

Write the settings for all stages to `group_vars/all/` (in a repository of your own: `settings/`). Write the settings for one stage to its inventory,
for example to `inventories/STAGE/group_vars/app_servers.yml`; they override the settings for all stages. Preflight rejects unknown settings.
"""
RELIABILITY = """# Faults and their results
Each line is a test that causes a real fault on a host that serves a site. Most of them run under a steady load of GET and POST requests, none of
which may fail.

| command | runs |
| --- | --- |
| `make test-faults` | the faults, with the app in a venv (about half an hour) |
| `make test-containers` | the faults, with the app in a container, and faults that only containers have (about an hour) |
| `make test-acme` | the faults of certificates |
| `make test-kills` | a release and a first deploy, killed after each of their tasks in turn (about two hours) |
| `make test` | a sample of the faults with a venv, and of those of certificates |
"""


def with_section(text, name, body):
    """Replace the generated part of a page, between its markers."""
    found = re.search(rf"(<!-- {name}: written by `make \w+` -->\n).*?(<!-- end of {name} -->)", text, re.DOTALL)
    return f"{text[: found.start()]}{found[1]}{body}{found[2]}{text[found.end() :]}"


def rows(head, lines):
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *lines])


def measures():
    found = read(PROJECT / "roles/hardening/vars/main.yml")["__hardening_measures"]
    return rows(["measure", "purpose", "recommended by"], [[f"`{name}`", it["what"], it["source"]] for name, it in found.items()])


def audit():
    path = PROJECT / "docs/audit.json"
    if not path.exists():
        return "`make audit` writes the results here.\n"
    report = json.loads(path.read_text())
    results = [[tool, result["asked"], result["said"]] for tool, result in report["said"].items()]
    return f"On {report['of']} ({report['with']}), {report['on']}:\n\n" + rows(["tool", "required", "result"], results)


def controls():
    text, lines = "", []
    for baseline, found in read(PROJECT / "molecule/audit/tests/controls.yml").items():
        reasons = {name: control for name, control in found.items() if "reason" in control}
        text += f"{baseline} {len(found) - len(reasons)} of {len(found)}, "
        by_reason = {}
        for name, control in reasons.items():
            by_reason.setdefault(control["reason"], []).append(name)
        lines += [[", ".join(names), reason] for reason, names in by_reason.items()]
    return f"Tested: {text.removesuffix(', ')}. Not tested:\n\n" + rows(["control", "reason"], lines)


def lynis():
    found = read(PROJECT / "molecule/audit/tests/lynis.yml")
    lines = [[name, group.replace("_", " "), reason] for group, reasons in found.items() for name, reason in reasons.items()]
    return rows(["suggestion", "group", "reason"], lines)


def packages():
    table = json.loads((PROJECT / "docs/packages.json").read_text())
    lines = [[name, *(found.get(where, "none") for where in table["sources"])] for name, found in table["packages"].items()]
    text = f"The packages that the roles install, with the component and version in each distribution's index on {table['date']} (`docs/packages.py`).\n\n"
    return text + rows(["package", *table["sources"]], lines)


class Defaults:
    """A role's defaults: the values, parsed and as text, and the comment above each."""

    def __init__(self, path):
        self.values = read(path)
        self.texts, self.comments = {}, {}
        comment = name = ""
        for line in path.read_text().splitlines()[1:]:
            if line.startswith("# "):
                comment = line[2:]
            elif found := re.match(r"(\w+):\s*(.*)", line):
                name = found[1]
                self.texts[name], self.comments[name], comment = found[2], comment, ""
            elif line.strip():
                self.texts[name] += f" {line.strip()}"


def check(role, options, defaults):
    where = f"roles/{role.name}"
    for name in defaults.values:
        if name not in options:
            yield f"{where}: {name} has a default but no spec in meta/argument_specs.yml"
        elif defaults.comments[name] != options[name]["description"]:
            yield f"{where}: {name}'s comment in defaults/main.yml is not its description in meta/argument_specs.yml"
        elif problem := mistyped(name, options[name], defaults.values[name]):
            yield f"{where}: {problem}"
    for name, option in options.items():
        if name not in defaults.values and not option.get("required"):
            yield f"{where}: {name} has a spec but no default in defaults/main.yml"


def mistyped(name, option, value):
    if isinstance(value, str) and "{{" in value:
        return None
    known = {key: option[key] for key in ("type", "elements", "choices") if key in option}
    return "; ".join(ArgumentSpecValidator({name: known}).validate({name: value}).error_messages)


def table(options, defaults=None):
    lines = (
        ["| variable | type | default | |", "| --- | --- | --- | --- |"] if defaults else ["| variable | type | |", "| --- | --- | --- |"]
    )
    for name, option in options.items():
        text = option["description"]
        if "choices" in option and "elements" not in option:
            text += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
        for part, sub in option.get("options", {}).items():
            text += f"<br>`{part}`: {sub['description']}"
        cells = [f"`{name}`", kind(option), *([shown(defaults.texts.get(name, ""))] if defaults else []), text]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def kind(option):
    return f"list of {option['elements']}" if "elements" in option else option["type"]


def shown(default):
    default = default.removeprefix(">-").strip()
    return "*empty*" if default == '""' else f"`{default}`" if default else ""


def read(path):
    return yaml.safe_load(path.read_text())


def relative(path):
    return path.relative_to(PROJECT)


if __name__ == "__main__":
    main()
