"""The app's final log lines, which are shown when a release fails."""

import time

from conftest import plugin

journal = plugin("module_utils/journal")

SERVER_TRACEBACK = """\
[ERROR] Worker (pid:11) exited with code 3.
Traceback (most recent call last):
  File "gunicorn/arbiter.py", line 270, in run
    handler()
    ~~~~~~~^^
gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "gunicorn/arbiter.py", line 485, in stop
    self.reap_workers()
gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>
"""
APP_TRACEBACK = """\
Traceback (most recent call last):
  File "shop/__init__.py", line 3, in <module>
    settings["KEY"]
KeyError: 'KEY'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "gunicorn/workers/base.py", line 138, in init_process
    self.load_wsgi()
  File "shop/__init__.py", line 5, in <module>
    raise SettingMissing("KEY is not set")
shop.SettingMissing: KEY is not set
"""


def test_the_app_s_tracebacks_are_kept_and_the_server_s_are_removed():
    lines = journal.without_server_tracebacks(f"{APP_TRACEBACK}{SERVER_TRACEBACK}".splitlines())
    assert lines == [*APP_TRACEBACK.splitlines(), "[ERROR] Worker (pid:11) exited with code 3."]
    assert journal.last_exception(lines) == "shop.SettingMissing: KEY is not set"


def test_an_incomplete_traceback_is_kept():
    lines = APP_TRACEBACK.splitlines()[:3]
    assert journal.without_server_tracebacks(lines) == lines
    assert journal.last_exception(lines) == ""


def logged(monkeypatch, data):
    """The final lines of a journal with this content."""
    real = journal.run
    monkeypatch.setattr(journal, "run", lambda _argv, **options: real(["cat", str(data)], **options))
    return journal.final_lines("shop", [])


def test_escape_sequences_are_removed(monkeypatch, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"\x1b[2J\x1b]0;pwned\x07Traceback (most recent call last):\n  File x\n\x1b[31mValueError\x1b[0m: \xff\r\n")
    lines = logged(monkeypatch, log)
    assert lines == ["Traceback (most recent call last):", "  File x", "ValueError: \ufffd"]
    assert journal.last_exception(lines) == "ValueError: \ufffd"


def test_long_lines_are_shortened_and_the_end_of_the_log_is_kept(monkeypatch, tmp_path):
    log = tmp_path / "log"
    log.write_text("Traceback (most recent call last):\n" * 100_000 + "x" * 5_000_000 + "\n" + "y" * 10_000 + "\nthe end\n")
    started = time.monotonic()
    lines = logged(monkeypatch, log)
    assert time.monotonic() - started < 2
    assert lines[-1] == "the end" and lines[-2] == "y" * 2000 + " [… 8000 more characters]"
    assert sum(map(len, lines)) < 70_000


def test_many_tracebacks_are_processed_in_linear_time():
    lines = [
        *["", "During handling of the above exception, another exception occurred:"] * 50_000,
        "Traceback (most recent call last)",
        "HaltServer",
    ]
    started = time.monotonic()
    assert journal.without_server_tracebacks(lines * 2) == []
    assert journal.last_exception(lines * 2) == "HaltServer"
    assert time.monotonic() - started < 2
