#!/usr/bin/python
"""Ask a page until it answers well several times in a row."""

DOCUMENTATION = r"""
module: health_gate
short_description: Ask a page until it answers well several times in a row
description:
  - Asks O(path) over a unix socket, or over TLS on this host, until it gave O(successes) good answers in a row, and
    goes on for O(watch_seconds) after that. One bad answer while watching is a failure.
  - A unit that stops or restarts meanwhile is a failure at once.
options:
  socket:
    description: Unix socket to ask. Without it, the host's own port 443 is asked, as a browser would.
    type: path
  host:
    description: The Host header (and TLS server name).
    type: str
    required: true
  port:
    description: TCP port, if there is no O(socket).
    type: int
    default: 443
  path:
    description: The page.
    type: str
    default: /
  successes:
    description: Good answers in a row that are needed. Good is any status from 200 to 399.
    type: int
    default: 3
  timeout_seconds:
    description: How long the first O(successes) may take.
    type: float
    default: 60
  answer_seconds:
    description: How long one answer may take.
    type: float
    default: 5
  watch_seconds:
    description: How long to go on watching after that.
    type: float
    default: 0
  unit:
    description: The systemd unit that must stay up meanwhile.
    type: str
"""

RETURN = r"""
status: {description: The last answer's status., type: int, returned: success}
seconds: {description: Until the page had answered well., type: float, returned: success}
reason: {description: Why the gate stays shut., type: str, returned: failure}
"""

import http.client
import socket
import ssl
import time

from ansible.module_utils.basic import AnsibleModule

PAUSE = 0.05


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class LocalTLSConnection(http.client.HTTPConnection):
    """To this host, with the server name that a browser would send. Whose certificate it is, the tls role knows."""

    def __init__(self, name, port, timeout):
        super().__init__("127.0.0.1", port, timeout=timeout)
        self.name = name

    def connect(self):
        super().connect()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=self.name)


def main():
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path"},
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 443},
            "path": {"type": "str", "default": "/"},
            "successes": {"type": "int", "default": 3},
            "timeout_seconds": {"type": "float", "default": 60},
            "answer_seconds": {"type": "float", "default": 5},
            "watch_seconds": {"type": "float", "default": 0},
            "unit": {"type": "str"},
        },
    )
    gate = Gate(module)
    seconds = gate.open()
    gate.watch()
    module.exit_json(changed=False, status=gate.status, seconds=round(seconds, 2))


class Gate:
    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.status = 0
        self.restarts = self.unit_state()[1] if self.params["unit"] else 0

    def open(self):
        start = time.monotonic()
        row = 0
        why = "it was never asked"
        while time.monotonic() - start < self.params["timeout_seconds"]:
            why = self.ask()
            row = 0 if why else row + 1
            if row >= self.params["successes"]:
                return time.monotonic() - start
            self.check_unit()
            time.sleep(PAUSE)
        self.fail(f"{why}, for {self.params['timeout_seconds']:g} seconds")

    def watch(self):
        end = time.monotonic() + self.params["watch_seconds"]
        while time.monotonic() < end:
            why = self.ask()
            if why:
                self.fail(f"{why}, after it had answered well")
            self.check_unit()
            time.sleep(PAUSE * 4)

    def ask(self):
        """Why the answer isn't good; empty if it is."""
        timeout = self.params["answer_seconds"]
        if self.params["socket"]:
            connection = UnixConnection(self.params["socket"], timeout)
        else:
            connection = LocalTLSConnection(self.params["host"], self.params["port"], timeout)
        try:
            connection.request("GET", self.params["path"], headers={"Host": self.params["host"], "X-Forwarded-Proto": "https"})
            answer = connection.getresponse()
            answer.read()
            self.status = answer.status
            return "" if 200 <= answer.status < 400 else f"{self.params['path']} answered {answer.status}"
        except FileNotFoundError:
            return "the server has not opened its socket"
        except (TimeoutError, socket.timeout):
            return f"{self.params['path']} gave no answer within {timeout:g} seconds"
        except (OSError, http.client.HTTPException) as error:
            return f"{self.params['path']} could not be asked ({error or type(error).__name__})"
        finally:
            connection.close()

    def check_unit(self):
        if not self.params["unit"]:
            return
        state, restarts = self.unit_state()
        if restarts > self.restarts:
            self.fail("the app exited and was started again")
        if state in ("failed", "inactive"):
            self.fail("the app exited")

    def unit_state(self):
        command = ["systemctl", "show", "--value", "--property=ActiveState", "--property=NRestarts", self.params["unit"]]
        out = self.module.run_command(command)[1].split()
        numbers = [word for word in out if word.isdigit()]
        states = [word for word in out if not word.isdigit()]
        return (states or [""])[0], int((numbers or ["0"])[0])

    def fail(self, reason):
        self.module.fail_json(msg=reason, reason=reason)


if __name__ == "__main__":
    main()
