#!/usr/bin/env python3
"""`make lint`: find phrases that are not plain technical English (CONTRIBUTING.md), in all text files of the repository.

Each phrase comes with what to write instead. Add a phrase only if it is wrong wherever it occurs.
"""

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
# locked, generated or legal texts, records of earlier names, and the phrases themselves
SKIPPED = re.compile(
    r"LICENSE|uv\.lock|.*\.(json|svg)|CHANGELOG\.md|changelogs/.*|collections/.*|playbooks/collections/.*|docs/language\.py|tests/test_language\.py"
)
# A pattern is a regular expression. A space in it also matches a line break, with the comment sign of the next line, and an underscore.
PHRASES = [
    # other words for a term of CONTRIBUTING.md
    ("former", "previous"),
    # the earlier names of some settings end with _folder
    ("(?<!_)folders?", "directory"),
    ("cures?|cured", "fix, remedy"),
    ("lacking", "missing"),
    ("(last|own|final) words", "final log lines"),
    ("rights", "permissions"),
    ("walls?", "sandbox, hardening"),
    ("doors?", "sandbox, hardening; name what is open or closed"),
    ("(ma(ke|kes|de|king)) live", "activate"),
    ("(go|goes|going|went|gone) back", "roll back, revert, return"),
    ("way back", "rollback"),
    ("(does|do|did|doing) well|(is|are)(n't| not) well", "healthy, unhealthy"),
    ("(is|are|was|were) away", "is unreachable"),
    ("told", "name the actor: the module reports, warns, rejects"),
    ("(say|says|tell|tells) (of|so)", "report, show"),
    ("(is|are) refused", "name the actor: preflight rejects, nginx rejects"),
    ("now and then", "scheduled job; name the schedule"),
    ("further process(es)?", "worker process"),
    # no actor, or no object
    ("somebody", "operator, visitor, user"),
    ("whoever|whomever", "operator, visitor, user"),
    ("those who", "users, operators"),
    ("whatever", "any, all, every; or name the thing"),
    ("who may", "which users may"),
    ("what (is|are|was) there|what there (is|are)", "name the thing"),
    ("(and|that|which|it|they|this|empty) (is|are) none", "name what is wrong or missing"),
    ("none such", "no such, or name what is missing"),
    ("no one has", "use the active voice: nothing changed, nobody edited"),
    ("(is|are|was|were|be) asked", "is requested, is queried"),
    # constructions that need a second reading
    ("by (itself|themselves)", "automatically, alone"),
    ("as ever", "as before, unchanged"),
    ("for ever", "indefinitely"),
    ("all else", "everything else; or name it"),
    ("put right", "fix"),
    ("(can|could|to) be had", "available"),
    ("whence", "from which"),
    ("anew", "again"),
    ("lest", "so that … does not"),
    ("(let|lets|letting) in", "allow, accept"),
    ("(come|comes|came) along", "is included"),
    ("(lead|leads|led) nowhere", "is broken; name what is missing"),
    ("to whom", "rewrite with who or which"),
    ("give or take", "about, ±"),
    ("amiss", "wrong"),
    ("in vain", "without success"),
]


def main():
    found = [
        f"{path.relative_to(PROJECT)}:{line}: {phrase!r}; write: {better}"
        for path in text_files()
        for line, phrase, better in findings(path.read_text())
    ]
    sys.exit("\n".join(found) or 0)


def text_files():
    """Return the files that git tracks, and new ones that it doesn't ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=True).stdout
    paths = [PROJECT / name for name in listed.split("\0") if name and not SKIPPED.fullmatch(name)]
    return [path for path in paths if path.is_file() and not path.is_symlink() and b"\0" not in path.read_bytes()]


def findings(text):
    """Yield the line, the phrase and the replacement for each phrase in a text."""
    for pattern, better in PATTERNS:
        for found in pattern.finditer(text):
            yield text.count("\n", 0, found.start()) + 1, found[0], better


def compiled(pattern):
    spaces = r"(?:_|[ \t]+|[ \t]*\n[ \t]*(?:#|//|>)?[ \t]*)"
    return re.compile(rf"(?<![a-z/.-])(?:{pattern.replace(' ', spaces)})(?![a-z-])", re.IGNORECASE)


PATTERNS = [(compiled(pattern), better) for pattern, better in PHRASES]


if __name__ == "__main__":
    main()
