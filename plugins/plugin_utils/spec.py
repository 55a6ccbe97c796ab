"""Check a value against its argument spec, with messages for the operator."""

import datetime

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

TYPES = {
    "str": "a string",
    "int": "a whole number",
    "bool": "true or false",
    "dict": "a dictionary",
    "path": "a path",
    "float": "a number",
}
TEXT = ("str", "path")
# what YAML makes of values without quotes; bool is first because true and false are also instances of int
YAML_TYPES = [
    (bool, "true or false"),
    ((int, float), "a number"),
    (datetime.date, "a date"),
    (dict, "a dictionary"),
    ((list, tuple), "a list"),
]


def type_problem(value, spec):
    """Return what is allowed, or None if the value has the right type and is one of the choices."""
    kind = spec.get("type", "str")
    if value is None:
        return f"the line has no value. Write one, or remove the line. {describe(spec)}"
    # Ansible would turn the value into text again, after YAML has changed it
    texts = [value] if kind in TEXT else value if isinstance(value, list) and spec.get("elements", "str") in TEXT else []
    if problem := next(filter(None, map(text_problem, texts)), None):
        return problem
    known = {key: spec[key] for key in ("type", "elements", "choices") if key in spec}
    outcome = ArgumentSpecValidator({"value": known}).validate({"value": value})
    # For a module, Ansible converts "a,b" to a list and "a=1" to a dictionary. A template gets the string, so reject it.
    python = {"list": list, "dict": dict}.get(kind, object)
    if isinstance(value, python) and not outcome.error_messages:
        return None
    wanted = f"one of {', '.join(map(str, spec['choices']))}" if "choices" in spec else type_name(spec)
    return f"it must be {wanted}. {describe(spec)}"


def text_problem(value, name=""):
    """Return why a value is not the text that the operator wrote, or None if it is text. The message does not show the value."""
    if isinstance(value, str):
        return None
    subject, start = (f"'{name}'", f"{name}: ") if name else ("it", "")
    if value is None:
        return f'{subject} has no value. Write {start}"" if it is meant to be empty, or remove the line.'
    kind = next((kind for types, kind in YAML_TYPES if isinstance(value, types)), type(value).__name__)
    quoted = """'{"a": true}'""" if isinstance(value, (dict, list, tuple)) else '"…"'
    return (
        f"YAML reads {subject} as {kind}, and may have changed it, as it changes 3.10, 0755, 12:30 and no. "
        f"Put the value in quotes: {start}{quoted} (in a template, add | string)."
    )


def describe(spec):
    text = spec["description"]
    return (text if isinstance(text, str) else text[0]).rstrip(".") + "."


def type_name(spec):
    kind = spec.get("type", "str")
    if kind == "list":
        return f"a list in which each item is {TYPES.get(spec.get('elements', 'str'), spec.get('elements'))}"
    return TYPES[kind]
