"""Findings: the results of the checks of a host.

`what` is the subject, `found` the result, and `fix` the remedy. `state` is "ok", "note" (needs attention) or "bad" (the site or the next
release is at risk).
"""


def ok(what, found):
    return {"what": what, "state": "ok", "found": found, "fix": ""}


def note(what, found, fix):
    return {"what": what, "state": "note", "found": found, "fix": fix}


def bad(what, found, fix):
    return {"what": what, "state": "bad", "found": found, "fix": fix}
