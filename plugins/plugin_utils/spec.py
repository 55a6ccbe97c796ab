"""Check a value against its argument spec, with messages for the operator."""

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

TYPES = {
    "str": "a string",
    "int": "a whole number",
    "bool": "true or false",
    "dict": "a dictionary",
    "path": "a path",
    "float": "a number",
}


def type_problem(value, spec):
    """Return what is allowed, or None if the value has the right type and is one of the choices."""
    kind = spec.get("type", "str")
    known = {key: spec[key] for key in ("type", "elements", "choices") if key in spec}
    outcome = ArgumentSpecValidator({"value": known}).validate({"value": value})
    # For a module, Ansible converts "a,b" to a list and "a=1" to a dictionary. A template gets the string, so reject it.
    python = {"list": list, "dict": dict}.get(kind, object)
    if isinstance(value, python) and not outcome.error_messages:
        return None
    wanted = f"one of {', '.join(map(str, spec['choices']))}" if "choices" in spec else type_name(spec)
    return f"it must be {wanted}. {describe(spec)}"


def describe(spec):
    text = spec["description"]
    return (text if isinstance(text, str) else text[0]).rstrip(".") + "."


def type_name(spec):
    kind = spec.get("type", "str")
    if kind == "list":
        return f"a list in which each item is {TYPES.get(spec.get('elements', 'str'), spec.get('elements'))}"
    return TYPES[kind]
