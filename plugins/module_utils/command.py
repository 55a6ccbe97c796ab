"""Run commands that an app controls: they may print any amount of output, in any encoding, and may never end."""

# pylint: disable=ansible-bad-function  # the controller uses it too, where no AnsibleModule provides run_command
import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable

KEEP_BYTES = 65536


def run(argv, keep=KEEP_BYTES, seconds=None, environment=None):
    """Return the exit code and the end of stdout and stderr. After SECONDS, if set, kill the command and its descendants.

    ENVIRONMENT is added to the environment of this process. A variable whose value is None is removed.
    """
    end = time.monotonic() + seconds if seconds else float("inf")
    environment = {name: value for name, value in {**os.environ, **(environment or {})}.items() if value is not None}
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        outputs = {process.stdout: Tail(keep), process.stderr: Tail(keep)}
        with selectors.DefaultSelector() as selector:
            for pipe in outputs:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = [key.fileobj for key, _events in selector.select(0.2)]
                for pipe in ready:
                    data = os.read(pipe.fileno(), 65536)
                    outputs[pipe].add(data)
                    if not data:
                        selector.unregister(pipe)
                if process.poll() is not None:
                    # All output is in the pipes now. Do not wait for them to close: another process may keep them open forever.
                    end = min(end, time.monotonic() + 1)
                    if not ready:
                        break
                if time.monotonic() > end:
                    kill_all(process)
                    break
        # it may have closed the pipes and still be running
        try:
            process.wait(None if end == float("inf") else max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill_all(process)
    return process.returncode, outputs[process.stdout].text(), outputs[process.stderr].text()


@contextlib.contextmanager
def deadline(process, seconds):
    """Kill a process and its descendants after this many seconds. Yield an event that is set when this happens."""
    late = threading.Event()

    def end():
        late.set()
        kill_all(process)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def kill_all(process):
    """Kill a process and its descendants in all sessions."""
    found = [process.pid] if process.poll() is None else []
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # a stopped process cannot start others, and does not reap its children, so their process IDs cannot be reused
            os.kill(pid, signal.SIGSTOP)
        found += children(pid)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def children(pid):
    try:
        done = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        return []
    pairs = [line.split() for line in done.stdout.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


class Tail:
    """Keep the last bytes of an output."""

    def __init__(self, keep):
        self.keep, self.data, self.dropped = keep, bytearray(), 0

    def add(self, data):
        self.data += data
        if len(self.data) > 2 * self.keep:
            self.trim()

    def trim(self):
        surplus = max(0, len(self.data) - self.keep)
        del self.data[:surplus]
        self.dropped += surplus

    def text(self):
        self.trim()
        if not self.dropped:
            return printable(bytes(self.data))
        # drop the truncated first word: a URL with credentials could not be recognized in it
        parts = self.data.split(maxsplit=1) if self.data[:1].strip() else [b"", self.data]
        return f"[… {self.dropped} bytes omitted]\n" + printable(bytes(parts[1] if len(parts) > 1 else b""))
