"""Text that an app controls can be shown in a terminal without any effect on it."""

import json
import time

import pytest
from conftest import plugin

text = plugin("module_utils/text")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (b"plain \xc3\xa9 text\n\tindented", "plain é text\n\tindented"),
        (b"a\xffb", "a\ufffdb"),
        ("a\udcffb", "a\ufffdb"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b[2J\x1b[H", ""),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;https://a.example\x1b\\a link\x1b]8;;\x1b\\", "a link"),
        ("\x1b]52;c;aGFjaw==\x07", ""),
        ("\x1b]0;never ended", "0;never ended"),
        ("\x1bc\x1b(0", ""),
        ("\x1b", "\ufffd"),
        ("10 %\r20 %\r\nend", "10 %\n20 %\nend"),
        ("bell\x07 null\x00 back\x08 del\x7f nel\x85", "bell\ufffd null\ufffd back\ufffd del\ufffd nel\ufffd"),
        ("user\u202egnp.exe \u2066x\u2069", "user\ufffdgnp.exe \ufffdx\ufffd"),
    ],
)
def test_control_sequences_are_removed_or_replaced(source, shown):
    assert text.printable(source) == shown


def test_all_values_of_a_result_become_printable():
    found = text.printable_values({"a\x1b[2J": ["\udcff", {"b": b"\xff", "n": 1, "none": None}], "t": ("\x07",)})
    assert found == {"a": ["\ufffd", {"b": "\ufffd", "n": 1, "none": None}], "t": ["\ufffd"]}
    assert json.dumps(found).encode()


@pytest.mark.parametrize("piece", ["\x1b", "\x1b[", "\x1b]", "\x1b[0", "\x9d", "\x1b ", "\r", "\x1b]\\", "\u202e"])
def test_the_time_is_proportional_to_the_length(piece):
    started = time.process_time()
    text.printable(piece * 400_000)
    assert time.process_time() - started < 2


def test_long_lines_and_long_texts_are_shortened_with_a_mark():
    assert text.cut("x" * 2000) == "x" * 2000
    assert text.cut("x" * 2001) == "x" * 2000 + " [… 1 more characters]"
    short = text.shortened("first\n" + "y" * 400_000 + "\nlast")
    assert len(short) < 70_000 and short.startswith("[… ") and short.endswith("\nlast")
    assert max(map(len, short.split("\n"))) < 2100
    assert text.one_line("a\nb\x1b[2J  c") == "a b c"


@pytest.mark.parametrize("size", range(20, 45))
def test_a_shortened_url_contains_no_credential(size):
    url = "https://deploy:S3CRET@git.example.com/shop.git"
    for short in text.shortened(url, line=size), text.shortened(f"{'x' * 90} {url}", size=size):
        assert not any(part in short for part in ("S3C", "CRE", "RET")), short
