"""A finding: what a check of a host found, its state, and the fix.

`state` is "ok", "note" (look at it) or "bad" (the site, or the next release, is at risk).
"""


def ok(what, found):
    return {"what": what, "state": "ok", "found": found, "cure": ""}


def note(what, found, cure):
    return {"what": what, "state": "note", "found": found, "cure": cure}


def bad(what, found, cure):
    return {"what": what, "state": "bad", "found": found, "cure": cure}
