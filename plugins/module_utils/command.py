"""Commands of which an app decides how much they print, in what encoding, and whether they end."""

# pylint: disable=ansible-bad-function  # the controller uses it too, where no module has a run_command to call
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
    """Its exit code, and the end of what it printed on stdout and on stderr. After so many seconds, if any are given, it and its descendants are killed.

    ENVIRONMENT is added to this process's own; a name whose value is None is removed.
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
                    # what it printed is in the pipes by now; another process that has them open may never close them
                    end = min(end, time.monotonic() + 1)
                    if not ready:
                        break
                if time.monotonic() > end:
                    kill_all(process)
                    break
        # it may have closed them and still run
        try:
            process.wait(None if end == float("inf") else max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill_all(process)
    return process.returncode, outputs[process.stdout].text(), outputs[process.stderr].text()


@contextlib.contextmanager
def deadline(process, seconds):
    """Kill a process and its descendants after so many seconds. Gives an event, which is set if that has happened."""
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
    """Kill a process and its descendants, in whatever session they are."""
    found = [process.pid] if process.poll() is None else []
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # one that is stopped starts no other, and keeps the numbers of those that have ended from being used again
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
    """The last bytes of an output."""

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
        # of the first word the beginning is gone, without which nobody could tell that it is a URL with credentials
        words = self.data.split(maxsplit=1) if self.data[:1].strip() else [b"", self.data]
        return f"[… {self.dropped} bytes before]\n" + printable(bytes(words[1] if len(words) > 1 else b""))
