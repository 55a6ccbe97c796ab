"""Running an app's command: its exit code decides, and its output is untrusted."""

import json
import subprocess
import time

import pytest
from conftest import plugin, run_playbook, survivors

command = plugin("module_utils/command")


def sh(script, **options):
    return command.run(["sh", "-c", script], **options)


def test_exit_code_and_outputs_are_returned():
    assert sh("echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
    assert sh("kill -SYS $$")[0] == -31


def test_invalid_utf8_and_escape_sequences_are_replaced():
    assert sh(r"printf 'a\377\033[2Jb'") == (0, "a\ufffdb", "")


def test_only_the_end_of_a_long_output_is_kept():
    code, out, _err = sh("head -c 30000000 /dev/zero | tr '\\0' x; echo; echo the end", keep=1000)
    assert code == 0 and out.endswith("\nthe end\n") and out.startswith("[… ") and len(out) < 1100


@pytest.mark.parametrize("keep", range(20, 60))
def test_a_long_output_is_not_cut_within_a_word(keep):
    """Part of a URL could be a credential that no filter recognizes."""
    _code, out, _err = sh("echo 'xxxxxxxxxx https://deploy:S3CRET@git.example.com/shop.git not found'", keep=keep)
    assert out.splitlines()[-1].split()[-1] == "found"
    assert "https://deploy:S3CRET@" in out or not any(part in out for part in ("S3C", "CRE", "RET"))


def test_a_command_that_exceeds_its_time_limit_is_killed():
    started = time.monotonic()
    assert sh("echo begun; exec sleep 60", seconds=0.5) == (-9, "begun\n", "")
    assert sh("exec >&- 2>&-; exec sleep 60", seconds=0.5)[0] == -9
    assert time.monotonic() - started < 4


def test_descendants_are_killed_too(tmp_path):
    """Including those in other sessions, and those that keep starting new processes."""
    (tmp_path / "grow").write_text('while :; do sleep 0.05; "$@" & done\n')
    script = f"setsid sh {tmp_path}/grow sleep 60 & setsid sh -c 'sh {tmp_path}/grow true' & wait"
    assert sh(script, seconds=1)[0] == -9
    assert not survivors(str(tmp_path))


def test_a_deadline_kills_a_process_and_records_it(tmp_path):
    started = time.monotonic()
    child = f"setsid sh -c ': {tmp_path}; sleep 60; :'"
    with subprocess.Popen(["sh", "-c", f"{child}; :"]) as process, command.deadline(process, 0.5) as late:
        process.wait()
    seconds = time.monotonic() - started
    assert late.is_set() and process.returncode == -9 and seconds < 5 and not survivors(str(tmp_path))
    with subprocess.Popen(["true"]) as process, command.deadline(process, 0.5) as late:
        process.wait()
    time.sleep(0.6)
    assert not late.is_set()


@pytest.mark.parametrize("holder", ["sleep 30 &", "(while :; do echo x; done) & echo $! >pid"])
def test_a_background_process_that_keeps_the_output_open_does_not_block(tmp_path, holder):
    started = time.monotonic()
    process = f"cd {tmp_path}; {holder} echo done"
    assert sh(process)[0] == 0 and time.monotonic() - started < 5
    subprocess.run(["sh", "-c", f"kill $(cat {tmp_path}/pid 2>/dev/null) 2>/dev/null"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of the module, run by Ansible."""
    directory = tmp_path_factory.mktemp("app_command")
    printing = [
        {"flaskhost.flaskhost.app_command": {"argv": ["printf", r"\377\033[31mred\033[0m\r\n%s", word]}, "register": word}
        for word in ("a", "b")
    ]
    tasks = [
        *printing,
        {
            "flaskhost.flaskhost.app_command": {"argv": ["sh", "-c", "printf '\\377'; printf 'why \\007' >&2; exit 4"]},
            "register": "bad",
            "ignore_errors": True,
        },
        {"flaskhost.flaskhost.app_command": {"argv": ["/nowhere"]}, "register": "missing", "ignore_errors": True},
        {"ansible.builtin.copy": {"dest": f"{directory}/results", "mode": "0600", "content": "{{ [a, b, bad, missing] | to_json }}"}},
    ]
    run = run_playbook(directory, tasks, {"here": {}})
    assert "\x1b" not in run.stdout, run.output
    return json.loads((directory / "results").read_text())


def test_a_command_that_prints_arbitrary_bytes_succeeds(results):
    assert [(result["rc"], result["stdout"], result["stdout_lines"]) for result in results[:2]] == [
        (0, "\ufffdred\na", ["\ufffdred", "a"]),
        (0, "\ufffdred\nb", ["\ufffdred", "b"]),
    ]


def test_a_failed_command_is_reported_with_its_exit_code(results):
    bad, missing = results[2:]
    assert bad["failed"] and (bad["rc"], bad["stdout"], bad["stderr"]) == (4, "\ufffd", "why \ufffd")
    assert bad["msg"] == "the command failed with exit code 4"
    assert missing["failed"] and missing["msg"] == "cannot start /nowhere: No such file or directory"
