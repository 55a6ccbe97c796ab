"""The output of a run: a line for each phase, what the tasks report, and the message of a failure as the last thing on the screen."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import yaml
from conftest import LOCAL, PROJECT, run_playbook

RECAP = re.compile(
    r"^(\S+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+) +skipped=\d+ +rescued=(\d+) +ignored=(\d+) *$", re.MULTILINE
)
PLAY = {"hosts": "all", "gather_facts": False}
HERE = {**LOCAL, "ansible_python_interpreter": "/usr/bin/python3"}
WEB1 = "inventory_hostname == 'web1'"


def task(name, module, arguments, **keywords):
    return {"name": name, f"ansible.builtin.{module}": arguments, **keywords}


def play(directory, plays, *arguments, hosts=("web1", "web2"), succeeds=True, **options):
    """Run the plays as an operator does, with one host at a time, so that the order is always the same."""
    playbook = directory / "book.yml"
    playbook.write_text(yaml.safe_dump([{**PLAY, **one} for one in plays]))
    hosts = hosts if isinstance(hosts, dict) else {host: {} for host in hosts}
    return run_playbook(directory, playbook, hosts, "--forks", "1", *arguments, settings=HERE, succeeds=succeeds, **options)


def before_recap(run):
    """The output without the recap, and without the lines that only a busy machine causes."""
    return re.sub(r"  still running after .*\n", "", run.stdout.partition("\nPLAY RECAP")[0])


REPORTS = [
    {
        "name": "Provision the host",
        "tasks": [
            task("Do something", "command", "true"),
            task("Skip something", "command", "true", when=False),
            task("Do it for each item", "command", "echo {{ item }}", loop=["one", "two"]),
            task("Include the role", "include_role", {"name": "flaskhost.flaskhost.app", "rolespec_validate": False}),
            task("Report one line", "debug", {"msg": 'it\'s "here" on {{ inventory_hostname }}'}),
            task("Report several lines", "debug", {"msg": "live  none\n\nrelease\n"}),
            task("Report a list once", "debug", {"msg": ["Found: gunicorn", "Not set up: redis"]}, run_once=True),
            task("Report each item", "debug", {"msg": "item {{ item }}"}, loop=[1, 2], run_once=True),
            task("Report a value", "debug", {"var": "ansible_play_hosts"}, run_once=True),
            task("Report what an app printed", "debug", {"msg": "a\u001b[2Jb\u001b]0;title\u0007c"}, run_once=True),
        ],
    },
    {"name": "Request the certificate", "tasks": [task("Request it", "command", "true", when=False)]},
    {"name": "Check the others", "hosts": "nobody", "tasks": []},
    {
        "name": "Release the app",
        "tasks": [
            task("Fail without consequences", "fail", {"msg": "not important"}, ignore_errors=True),
            task("Start it", "command", "true"),
            # some tasks only compare, in every run
            task("Compare it", "file", {"path": "/nowhere", "state": "directory"}, check_mode=True),
        ],
    },
    {"hosts": "web1", "name": "Summary", "tasks": [task("Report the end", "debug", {"msg": "done"})]},
]


def test_a_run_prints_a_line_for_each_phase_and_what_its_tasks_report(tmp_path):
    run = play(tmp_path, REPORTS)
    assert before_recap(run) == (
        "Provision the host: web1, web2\n"
        '  web1: it\'s "here" on web1\n'
        '  web2: it\'s "here" on web2\n'
        "  web1:\n    live  none\n\n    release\n"
        "  web2:\n    live  none\n\n    release\n"
        "  Found: gunicorn\n  Not set up: redis\n"
        "  item 1\n  item 2\n"
        "  ansible_play_hosts:\n  - web1\n  - web2\n"
        "  abc\n"
        "Check the others\nskipping: no hosts matched\n"
        "Release the app: web1, web2\n"
        "Summary\n"
        "  done\n"
    )
    # the recap has Ansible's format, and counts what was not printed
    assert RECAP.findall(run.stdout) == [("web1", "13", "4", "0", "0", "0", "1"), ("web2", "8", "4", "0", "0", "0", "1")], run.stdout
    # a file or a CI log gets neither colours nor carriage returns
    assert not {"\x1b", "\r"} & {*run.output}


def test_the_default_output_is_one_setting_away(tmp_path):
    plays = [{"name": "Release the app", "tasks": [task("Start it", "command", "true"), task("Report it", "debug", {"msg": "it serves"})]}]
    default = play(tmp_path, plays, hosts=["web1"], environment={"ANSIBLE_STDOUT_CALLBACK": "default"}).stdout
    assert "TASK [Start it] ***" in default and "changed: [web1]" in default and "    msg: it serves" in default
    verbose = [play(tmp_path, plays, "-v", hosts=["web1"], environment=one).stdout for one in ({}, {"ANSIBLE_STDOUT_CALLBACK": "default"})]
    ours, plain = (re.sub(r"\d+:\d+:[\d.]+|\d{4}-\d\d-\d\d", "", output) for output in verbose)
    assert ours == plain


REASON = """Release 1 was not activated.
{{ ansible_failed_task.name }}: {{ ansible_failed_result.msg }}
Its final log lines:
  it's "bad"
Set app_module.
"""
FAILURES = [
    {
        "name": "Check settings and hosts",
        "tasks": [
            task("Become root", "fail", {"msg": "not important"}, ignore_errors=True),
            task("Reach the host", "ping", {}),
            {
                "name": "Release",
                "block": [
                    {
                        "name": "Build",
                        "block": [task("Start the release", "fail", {"msg": "worker.1 exited"})],
                        "rescue": [
                            task(
                                "Report why the release failed",
                                "fail",
                                {"msg": REASON},
                            )
                        ],
                    }
                ],
                "always": [task("Release the deploy lock", "command", "true")],
                "when": WEB1,
            },
            task(
                "Install the packages",
                "command",
                "ls /nonexistent {{ item }}",
                loop=["/", "/proc/none"],
                when="inventory_hostname == 'web2'",
            ),
            task("Wait", "command", "true"),
        ],
    },
    {"name": "Provision the host", "tasks": [task("Do something", "command", "true")]},
]


def test_a_failure_is_the_last_thing_on_the_screen(tmp_path):
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    run = play(tmp_path, FAILURES, hosts={"web1": {}, "web2": {}, "web3": away, "web4": {}}, succeeds=False)
    phases, _, end = run.stdout.partition("\nPLAY RECAP")
    assert phases.splitlines() == [
        "Check settings and hosts: web1, web2, web3, web4",
        "  failed: Reach the host (web3)",
        "  failed: Start the release (web1)",
        "  failed: Report why the release failed (web1)",
        "  failed: Install the packages (web2)",
        "Provision the host: web1, web2, web3, web4",
    ]
    assert [(host, failed, unreachable, rescued) for host, _ok, _changed, unreachable, failed, rescued, _ignored in RECAP.findall(end)] == [
        ("web1", "1", "0", "1"),
        ("web2", "1", "0", "0"),
        ("web3", "0", "1", "0"),
        ("web4", "0", "0", "0"),
    ]
    messages = end.split("\nTASK ")[1:]
    assert [text.partition("]")[0] for text in messages] == ["[Reach the host", "[Report why the release failed", "[Install the packages"]
    assert "fatal: [web3]: UNREACHABLE! => \n" in messages[0] and "Connection refused" in messages[0]
    # the message is printed as text, so that its commands and settings can be copied
    assert messages[1].partition("\n")[2] == (
        "fatal: [web1]: FAILED! => \n    Release 1 was not activated.\n    Start the release: worker.1 exited\n    Its final log lines:\n"
        '      it\'s "bad"\n    Set app_module.\n'
    )
    assert "failed: [web2] (item=/proc/none) => \n" in messages[2] and "rc: 2" in messages[2] and "/proc/none" in messages[2]
    assert re.search(r"\n    .*non-zero return code\.?\n\Z", run.stdout) and "not important" not in run.output
    assert run.failures.keys() == {"web1", "web2", "web3"}


def test_a_failed_rescue_does_not_hide_the_first_failure(tmp_path):
    plays = [
        {
            "name": "Release the app",
            "tasks": [
                {
                    "block": [task("Start the release", "fail", {"msg": "worker.1 exited"})],
                    "rescue": [task("Stop the release", "fail", {"msg": "the disk is full"})],
                }
            ],
        }
    ]
    run = play(tmp_path, plays, hosts=["web1"], succeeds=False)
    first, second = re.findall(r"TASK \[(.*?)\].*\nfatal: \[web1\]: FAILED! => \n    (.*)\n", run.stdout)
    assert (first, second) == (("Start the release", "worker.1 exited"), ("Stop the release", "the disk is full"))


def test_every_failed_item_is_shown_but_no_secret(tmp_path):
    items = task("Check the files", "fail", {"msg": "{{ item }}"}, loop=["no file", "no file or directory"])
    secret = task("Write the settings", "fail", {"msg": "hunter2"}, no_log=True)
    run = play(tmp_path, [{"name": "Release the app", "tasks": [{"block": [items], "always": [secret]}]}], hosts=["web1"], succeeds=False)
    shown = run.stdout.partition("PLAY RECAP")[2]
    assert "(item=no file) => \n    no file\n" in shown and "(item=no file or directory) => \n    no file or directory\n" in shown
    assert "TASK [Write the settings]" in shown and "censored" in shown and "hunter2" not in run.output


def test_a_template_that_fails_is_shown_with_its_place(tmp_path):
    """Ansible itself reports the problem, with the file and the line."""
    run = play(
        tmp_path,
        [{"name": "Provision", "tasks": [task("Use a setting", "debug", {"msg": "{{ nothing }}"})]}],
        hosts=["web1"],
        succeeds=False,
    )
    assert re.search(r"Origin: .*book.yml:\d+", run.stdout) and run.stdout.rstrip().endswith("'nothing' is undefined"), run.output


def test_check_mode_and_diff_show_each_change(tmp_path):
    tasks = [
        task("Write the site", "copy", {"content": "new\n", "dest": f"{tmp_path}/site"}),
        task("Leave a file", "copy", {"content": "same\n", "dest": f"{tmp_path}/same"}),
        task("Write several", "copy", {"content": "new {{ item }}\n", "dest": f"{tmp_path}/{{{{ item }}}}"}, loop=["a", "same"]),
    ]
    (tmp_path / "site").write_text("old\n")
    (tmp_path / "same").write_text("same\n")
    for arguments in (["--check", "--diff"], ["--check"], ["--diff"]):
        run = play(tmp_path, [{"name": "Provision the host", "tasks": tasks}], *arguments, hosts=["web1"])
        shown = before_recap(run)
        assert shown.startswith("Provision the host\n\nTASK [Write the site] ***") and "changed: [web1]\n" in shown, shown
        assert "Leave a file" not in shown and "changed: [web1] => (item=a)" in shown
        assert ("-old\n+new\n" in shown) is ("--diff" in arguments)
        (tmp_path / "site").write_text("old\n")
        (tmp_path / "same").write_text("same\n")
        (tmp_path / "a").unlink(missing_ok=True)


def test_a_warning_is_shown_with_its_task(tmp_path):
    """managed_files warns about a file that was edited by hand."""
    managed = {"name": "Render the site", "flaskhost.flaskhost.managed_files": {"files": [{"path": f"{tmp_path}/site", "content": "v1\n"}]}}
    edit = task("Edit it", "copy", {"content": "edited\n", "dest": f"{tmp_path}/site"})
    run = play(tmp_path, [{"name": "Provision the host", "tasks": [managed, edit, managed]}], hosts=["web1"], succeeds=None)
    assert "TASK [Render the site]" in run.stdout and f"{tmp_path}/site was edited after Flaskhost wrote it" in run.text, run.output


# makes the terminal that is the standard input the process's own
OWN_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A run in a terminal."""

    def __init__(self, directory, plays):
        (directory / "book.yml").write_text(json.dumps([{**PLAY, **one} for one in plays]))
        (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": {"web1": {}, "web2": {}}, "vars": HERE}}))
        master, terminal = pty.openpty()
        self.master, self.text = master, ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, "ansible-playbook", "-i", directory / "hosts.json", directory / "book.yml"],
            cwd=PROJECT,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)

    def wait_for(self, text, keys=b""):
        """Wait for the text. Press the keys every second until then, because a prompt discards keys that were pressed before."""
        end = time.monotonic() + 200
        while text not in self.text:
            if time.monotonic() > end:
                self.process.kill()
                pytest.fail(self.text)
            if select.select([self.master], [], [], 1)[0]:
                self.text += os.read(self.master, 4096).decode(errors="replace")
            else:
                os.write(self.master, keys)

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        # Linux reports the end of a terminal as an error
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 4096):
                self.text += data.decode(errors="replace")
        os.close(self.master)
        return self.process.wait()


def test_prompts_slow_tasks_and_an_interrupt(tmp_path):
    """A prompt works, a task of more than 10 seconds is announced with its hosts, and Ctrl-C still shows the failure."""
    tasks = [
        task("Check the settings", "fail", {"msg": "Set app_domains."}, when=WEB1),
        task("Ask", "pause", {"prompt": "Continue?"}),
        task("Build the venv", "command", "sleep 60"),
    ]
    run = Terminal(
        tmp_path, [{"name": "Release the app", "tasks": tasks, "vars_prompt": [{"name": "who", "prompt": "Who", "private": False}]}]
    )
    run.wait_for("Who")
    run.wait_for("Continue?", b"ann\n")
    run.wait_for("still running after 10 s: Build the venv (web2)", b"\n")
    assert "failed: Check the settings (web1)" in run.text and "Set app_domains." not in run.text
    assert run.interrupt() != 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", run.text).replace("\r\n", "\n")
    assert "TASK [Check the settings]" in plain and plain.rstrip().endswith("fatal: [web1]: FAILED! => \n    Set app_domains."), plain
