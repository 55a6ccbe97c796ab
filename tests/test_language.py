"""docs/language.py finds phrases that are not plain technical English, and the repository contains none of them."""

import runpy

import pytest
from conftest import PROJECT

LANGUAGE = runpy.run_path(str(PROJECT / "docs/language.py"))


@pytest.mark.parametrize(
    "text, line, phrase",
    [
        ("Roll back to the former release.", 1, "former"),
        ("---\n# The run goes\n# back to it.\n", 2, "goes\n# back"),
        ("def test_whoever_logs_in_is_welcome(): ...", 1, "whoever"),
    ],
)
def test_a_phrase_is_found_with_its_line(text, line, phrase):
    assert [found[:2] for found in LANGUAGE["findings"](text)] == [(line, phrase)]


@pytest.mark.parametrize("text", ["a performer", "/srv/shop/former", "releases_folder", "firewalls", "indoors"])
def test_parts_of_words_and_paths_are_not_phrases(text):
    assert list(LANGUAGE["findings"](text)) == []


def test_the_repository_contains_no_such_phrase():
    with pytest.raises(SystemExit) as ended:
        LANGUAGE["main"]()
    assert ended.value.code == 0
