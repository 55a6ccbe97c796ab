"""Judge a value by its argument spec, in words for the owner."""

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

TYPES = {
    "str": "a text",
    "int": "a whole number",
    "bool": "true or false",
    "dict": "names with values",
    "path": "a path",
    "float": "a number",
}


def type_problem(value, spec):
    """Return what is allowed, or None if the value has the type and is one of the choices."""
    kind = spec.get("type", "str")
    known = {key: spec[key] for key in ("type", "elements", "choices") if key in spec}
    outcome = ArgumentSpecValidator({"it": known}).validate({"it": value})
    # Ansible would make a list of "a,b" and a dict of "a=1" for a module; a template gets them as they are
    python = {"list": list, "dict": dict}.get(kind, object)
    if isinstance(value, python) and not outcome.error_messages:
        return None
    wanted = f"one of {', '.join(map(str, spec['choices']))}" if "choices" in spec else type_in_words(spec)
    return f"it must be {wanted}. {describe(spec)}"


def describe(spec):
    text = spec["description"]
    return (text if isinstance(text, str) else text[0]).rstrip(".") + "."


def type_in_words(spec):
    kind = spec.get("type", "str")
    if kind == "list":
        return f"a list, each of it {TYPES.get(spec.get('elements', 'str'), spec.get('elements'))}"
    return TYPES[kind]
