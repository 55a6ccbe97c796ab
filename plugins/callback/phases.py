"""The stdout callback `phases`: a line for each play, what the tasks report, and the complete message of a failure as the last thing."""

import atexit
import textwrap
import threading
import time

from ansible import constants as C
from ansible import context
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable

DOCUMENTATION = r"""
name: phases
type: stdout
author: The Flaskhost authors (@flaskhost)
short_description: Prints a line for each play, what the tasks report, and failures at the end
description:
  - Prints the name of a play, and with several hosts their names, once it has something to do.
  - Prints the messages of C(debug) tasks as text, and every warning.
  - Prints the name of a task that takes longer than 10 seconds.
  - Prints a changed task only in check mode and with C(--diff).
  - Prints the complete messages of failed tasks after the recap.
  - With C(-v), it is the same as P(ansible.builtin.default#callback).
extends_documentation_fragment:
  - ansible.builtin.default_callback
  - ansible.builtin.result_format_callback
"""

EXAMPLES = r"""
ansible_config: |
  [defaults]
  stdout_callback = flaskhost.flaskhost.phases
"""

# seconds until the name of a running task is printed, and again after twice the time
SLOW_SECONDS = 10
# what a plain message does not show: the output says whether a task failed, and -v shows the rest
HIDDEN = {"msg", "changed", "failed", "unreachable", "assertion", "evaluated_to", "ansible_loop_var"}
HIDDEN |= {"stdout_lines", "stderr_lines", "start", "end", "delta"}
# the action waits for the operator
PROMPTS = ("pause", "ansible.builtin.pause", "ansible.legacy.pause")


class CallbackModule(Default):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "flaskhost.flaskhost.phases"

    def __init__(self):
        super().__init__()
        self._heading, self._has_several_hosts = "", False
        # the hosts that the current task runs on, and what prints the task's name if it takes long
        self._running, self._timer, self._started = set(), None, 0
        # failures to print at the end: (name of the task, method of the default callback, result)
        self._failures, self._failed_items = [], []
        # a run that the operator interrupts has no recap
        atexit.register(self._print_failures)

    def set_options(self, *arguments, **options):
        super().set_options(*arguments, **options)
        if self._is_brief:
            # the default callback then prints no task's name before it has a result to print
            self.set_option("display_skipped_hosts", False)

    @property
    def _is_brief(self):
        return self._display.verbosity == 0

    # -- plays and tasks ------------------------------------------------------------------------------------------

    def v2_playbook_on_play_start(self, play):
        if not self._is_brief:
            return super().v2_playbook_on_play_start(play)
        self._play = play
        hosts = play.get_variable_manager().get_vars(play=play).get("ansible_play_hosts_all", [])
        self._has_several_hosts = len(hosts) > 1
        self._heading = play.get_name().strip() + (f": {', '.join(hosts)}" if self._has_several_hosts else "")

    def v2_playbook_on_no_hosts_matched(self):
        self._print_heading()
        super().v2_playbook_on_no_hosts_matched()

    def v2_playbook_on_include(self, included_file):
        if not self._is_brief:
            super().v2_playbook_on_include(included_file)

    def v2_runner_on_start(self, host, task):
        super().v2_runner_on_start(host, task)
        self._running.add(host.get_name())

    def _task_start(self, task, prefix=None):
        super()._task_start(task, prefix)
        if self._timer:
            self._timer.cancel()
        if self._is_brief and task.action not in PROMPTS:
            self._started = time.monotonic()
            self._watch(task_name(task), self._started, SLOW_SECONDS)

    def _watch(self, name, started, seconds):
        """Print the task's name if it is still running after these seconds."""

        def report():
            running = sorted(self._running.copy())
            # another task may have started since this thread was due
            if running and started == self._started:
                self._print_heading()
                where = f" ({', '.join(running)})" if self._has_several_hosts else ""
                self._display.display(f"  still running after {round(time.monotonic() - started)} s: {name}{where}")
                self._watch(name, started, 2 * seconds)

        self._timer = threading.Timer(started + seconds - time.monotonic(), report)
        self._timer.daemon = True
        self._timer.start()

    def _print_heading(self):
        heading, self._heading = self._heading, ""
        if heading:
            self._display.display(heading, color=C.COLOR_HIGHLIGHT)

    def _print_task_banner(self, task):
        if self._is_brief:
            self._print_heading()
        super()._print_task_banner(task)

    # -- results --------------------------------------------------------------------------------------------------

    def v2_runner_on_ok(self, result):
        self._running.discard(result.host.get_name())
        if self._is_brief and result.task.loop and "results" in result.result:
            # each item was printed
            self._handle_warnings(result.result)
        else:
            self._print_result(super().v2_runner_on_ok, result)

    def v2_runner_item_on_ok(self, result):
        self._print_result(super().v2_runner_item_on_ok, result)

    def v2_runner_on_skipped(self, result):
        self._running.discard(result.host.get_name())
        super().v2_runner_on_skipped(result)

    def v2_runner_retry(self, result):
        if not self._is_brief:
            super().v2_runner_retry(result)

    def _print_result(self, show, result):
        """Print a result that the operator needs: what a task reports, a warning, or in check mode and with --diff a change."""
        self._print_heading()
        found = result.result
        change = found.get("changed") and (context.CLIARGS.get("check") or result.task.diff)
        if not self._is_brief or change or found.get("warnings") or found.get("deprecations"):
            show(result)
        elif self._run_is_verbose(result):
            self._clean_results(found, result.task.action)
            text = textwrap.dedent(self._dump_results(found)).strip("\n")
            if self._has_several_hosts and not result.task.run_once:
                text = f"{result.host.get_name()}:" + (f"\n{textwrap.indent(text, '  ')}" if "\n" in text else f" {text}")
            self._display.display(textwrap.indent(text, "  "))

    # -- failures -------------------------------------------------------------------------------------------------

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._running.discard(result.host.get_name())
        if not self._is_brief:
            return super().v2_runner_on_failed(result, ignore_errors)
        items = [item for item in self._failed_items if item[2].host == result.host]
        self._failed_items = [item for item in self._failed_items if item not in items]
        if ignore_errors:
            self._handle_warnings(result.result)
        else:
            self._hold(result, *(items or [(self._last_task_name, super().v2_runner_on_failed, result)]))

    def v2_runner_item_on_failed(self, result):
        if self._is_brief:
            self._failed_items.append((self._last_task_name, super().v2_runner_item_on_failed, result))
        else:
            super().v2_runner_item_on_failed(result)

    def v2_runner_on_unreachable(self, result):
        self._running.discard(result.host.get_name())
        if not self._is_brief:
            super().v2_runner_on_unreachable(result)
        elif result.task.ignore_unreachable:
            self._handle_warnings(result.result)
        else:
            self._hold(result, (self._last_task_name, super().v2_runner_on_unreachable, result))

    def _hold(self, result, *failures):
        """Print that the task failed, and keep its message for the end."""
        self._print_heading()
        self._display.display(f"  failed: {task_name(result.task)} ({self.host_label(result)})", color=C.COLOR_ERROR)
        self._failures += failures

    def _print_failures(self, hosts=None):
        """Print the messages of the hosts that failed in the end. A rescue's message often contains that of the failure; print it once."""
        failures, self._failures = self._failures, []
        for number, (name, show, result) in enumerate(failures):
            rest = [
                other
                for _name, _show, other in failures[number + 1 :]
                if other.host == result.host and other.task._uuid != result.task._uuid
            ]
            is_quoted = message(result) and any(message(result) in message(other) for other in rest if message(result) != message(other))
            if (hosts is None or result.host.get_name() in hosts) and not is_quoted:
                self._last_task_name, self._current_task_result = name, result
                show(result)

    def v2_playbook_on_stats(self, stats):
        self._running.clear()
        self._heading = ""
        if self._timer:
            self._timer.cancel()
        super().v2_playbook_on_stats(stats)
        self._print_failures({*stats.failures, *stats.dark})

    def _handle_exception(self, result, use_stderr=False):
        """Print the location in the playbook only for a problem that Ansible itself reports: the message of a module says what is wrong."""
        if self._is_brief and not str(result.get("msg", "")).startswith("Task failed"):
            result.pop("exception", None)
        super()._handle_exception(result, use_stderr)

    def _dump_results(self, result, indent=None, sort_keys=True, keep_invocation=False, serialize=True):
        """Print a message as text, after the other values, so that commands in it can be copied."""
        default = super()._dump_results
        if not self._is_brief or not serialize or self.get_option("result_format") != "yaml":
            return default(result, indent, sort_keys, keep_invocation, serialize)
        found = default(result, indent, sort_keys, keep_invocation, serialize=False)
        lines = found.get("msg")
        lines = lines.splitlines() if isinstance(lines, str) else lines
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            return default(result, indent, sort_keys, keep_invocation)
        hidden = {*HIDDEN, found.get("ansible_loop_var")}
        others = {name: value for name, value in found.items() if name not in hidden and value not in ("", [], {}, None, False)}
        return (default(others, indent) if others else "") + "\n" + textwrap.indent(printable("\n".join(lines)).rstrip(), "    ")


def task_name(task):
    return task.get_name().strip().removeprefix("flaskhost.flaskhost.")


def message(result):
    return " ".join(str(result.result.get("msg", "")).split())
