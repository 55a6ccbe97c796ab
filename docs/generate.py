#!/usr/bin/env python3
"""Write what follows from other files: the tables of variables (in the roles' READMEs, and docs/variables.md) from the roles'
specs and defaults, docs/reliability.md from the tests of faults, the tables of attacks in docs/security.md from the tests of the hostile app, the table of measures in the hardening role's README, and
what docs/security.md says of the audit (docs/audit.json, which `make audit` writes, and the reasons in molecule/audit/).

A variable's type and description live in its role's meta/argument_specs.yml, its default in defaults/main.yml (with the
description as its comment); here the two are checked against each other. `--check` writes nothing, and fails if
anything is out of date.
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


def main():
    problems, pages = [], {}
    settings = ""
    for role in ROLES:
        spec = read(role / "meta/argument_specs.yml")["argument_specs"]["main"]
        defaults = Defaults(role / "defaults/main.yml")
        problems += check(role, spec["options"], defaults)
        readme = role / "README.md"
        if not readme.exists() or not TABLE.search(readme.read_text()):
            problems.append(f"{relative(readme)}: it has no place for the table of variables")
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
    pages[compatibility] = with_section(compatibility.read_text(), "packages", packages())
    stale = [page for page, text in pages.items() if not page.exists() or page.read_text() != text]
    if "--check" in sys.argv:
        problems += [f"{relative(page)}: it is out of date; run `make docs`" for page in stale]
    else:
        for page in stale:
            page.write_text(pages[page])
            print(f"wrote {relative(page)}")
    sys.exit("\n".join(problems) or 0)


def reliability_page():
    """A section for each file of tests; a test's docstring says what goes wrong, and after a colon what happens then."""
    text = RELIABILITY
    for file in [*sorted((PROJECT / "molecule/faults/tests").glob("test_*.py")), PROJECT / "molecule/acme/tests/test_certificates.py"]:
        text += "\n## " + section_of_tests(file, "what goes wrong")
    return text


def section_of_tests(file, what):
    """A table of the tests in a file: a docstring's text before the colon, and after it what happens."""
    module = ast.parse(file.read_text())
    tests = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    told = [(test.name, " ".join(ast.get_docstring(test).split()).partition(": ")) for test in tests]
    lines = [[before.rstrip("."), after.rstrip(".") or "as above", f"`{name.removeprefix('test_')}`"] for name, (before, _, after) in told]
    title = file.stem.removeprefix("test_").replace("_", " ").capitalize()
    intro = f"{ast.get_docstring(module)} ([tests](../{file.relative_to(PROJECT)}))"
    return f"{title}\n{intro}\n\n{rows([what, 'what happens', 'test'], lines)}"


def attacks():
    files = sorted((PROJECT / "molecule/hostile/tests").glob("test_*.py"))
    return "\n".join(f"### {section_of_tests(file, 'what the attacker does')}" for file in files)


VARIABLES = """# All variables

<!-- written by `make docs` from roles/*/meta/argument_specs.yml and roles/*/defaults/main.yml -->

Set what holds everywhere in `group_vars/all/`, and what differs by stage in your inventory, which outranks it: in
`inventories/STAGE/group_vars/app_servers.yml`, for example. Preflight rejects names that it doesn't know.
"""
RELIABILITY = """# What happens when things go wrong
Every line is a test, which breaks something for real on a host that serves, most of them under a steady load of GET and POST
requests of which none may fail. `make test-faults` runs them all (about half an hour), `make test` a part, `make test-acme` those of
certificates. `make test-kills` kills a run after every one of its tasks in turn, of a release and of a first deploy (some hours).
"""


def with_section(text, name, body):
    """A part of a page that is made, between its marks."""
    found = re.search(rf"(<!-- {name}: written by `make \w+` -->\n).*?(<!-- end of {name} -->)", text, re.DOTALL)
    return f"{text[: found.start()]}{found[1]}{body}{found[2]}{text[found.end() :]}"


def rows(head, lines):
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *lines])


def measures():
    found = read(PROJECT / "roles/hardening/vars/main.yml")["__hardening_measures"]
    return rows(["measure", "what it is good for", "asked for by"], [[f"`{name}`", it["what"], it["source"]] for name, it in found.items()])


def audit():
    path = PROJECT / "docs/audit.json"
    if not path.exists():
        return "`make audit` writes here what they say.\n"
    report = json.loads(path.read_text())
    said = [[judge, it["asked"], it["said"]] for judge, it in report["said"].items()]
    return f"On {report['of']} ({report['with']}), {report['on']}:\n\n" + rows(["judge", "asked for", "said"], said)


def controls():
    text, lines = "", []
    for baseline, found in read(PROJECT / "molecule/audit/tests/controls.yml").items():
        reasons = {name: control for name, control in found.items() if "reason" in control}
        text += f"{baseline} {len(found) - len(reasons)} of {len(found)}, "
        by_reason = {}
        for name, control in reasons.items():
            by_reason.setdefault(control["reason"], []).append(name)
        lines += [[", ".join(names), reason] for reason, names in by_reason.items()]
    return f"Tested: {text.removesuffix(', ')}. The others:\n\n" + rows(["control", "why not"], lines)


def lynis():
    found = read(PROJECT / "molecule/audit/tests/lynis.yml")
    lines = [[name, group.replace("_", " "), reason] for group, reasons in found.items() for name, reason in reasons.items()]
    return rows(["suggestion", "", "why not"], lines)


def packages():
    table = json.loads((PROJECT / "docs/packages.json").read_text())
    lines = [[name, *(found.get(where, "none") for where in table["sources"])] for name, found in table["packages"].items()]
    text = f"What the roles install, with its component and version in each distribution's own index on {table['date']} (`docs/packages.py`).\n\n"
    return text + rows(["package", *table["sources"]], lines)


class Defaults:
    """A role's defaults: their values, as text and parsed, and the comment above each."""

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
            yield f"{where}: {name} has a default and no spec"
        elif defaults.comments[name] != options[name]["description"]:
            yield f"{where}: {name}'s comment in defaults/main.yml is not its description in meta/argument_specs.yml"
        elif problem := mistyped(name, options[name], defaults.values[name]):
            yield f"{where}: {problem}"
    for name, option in options.items():
        if name not in defaults.values and not option.get("required"):
            yield f"{where}: {name} has a spec and no default"


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
