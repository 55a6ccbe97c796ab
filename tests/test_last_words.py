"""The app's last words, as they are told when a release fails."""

from conftest import plugin

releases = plugin("modules/releases")

FAREWELL = """\
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
OF_THE_APP = """\
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


def test_the_app_s_own_words_are_kept_and_the_server_s_farewell_is_not():
    words = releases.without_farewell(f"{OF_THE_APP}{FAREWELL}".splitlines())
    assert words == [*OF_THE_APP.splitlines(), "[ERROR] Worker (pid:11) exited with code 3."]
    assert releases.last_exception(words) == "shop.SettingMissing: KEY is not set"


def test_words_that_break_off_are_told_as_far_as_they_go():
    words = OF_THE_APP.splitlines()[:3]
    assert releases.without_farewell(words) == words
    assert releases.last_exception(words) == ""
