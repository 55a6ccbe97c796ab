"""What a host has, and how it is seen from here: the controller's half of `host_report`."""

import socket
import time

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text

CONNECT_SECONDS = 5


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        host = task_vars.get("ansible_host") or task_vars["inventory_hostname"]
        asked = time.time()
        try:
            report = self._execute_module(task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            return dict(result, away=unreachable(host, int(task_vars.get("ansible_port") or 22), str(error)))
        if report.get("failed"):
            return report
        return dict(
            result,
            **report,
            away={},
            # the host's clock was read at about the middle of the question
            ahead=report["time"] - (asked + time.time()) / 2,
            host_addresses=addresses(host),
            domain_addresses={name: addresses(name) for name in self._task.args.get("domains", [])},
            closed_ports={port: why for port in self._task.args.get("ports", []) if (why := reach(host, int(port)))},
        )


def addresses(name):
    try:
        return sorted({info[4][0] for info in socket.getaddrinfo(name, None)})
    except OSError:
        return []


def reach(host, port):
    """Why a port can't be reached; empty if it can."""
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
        return ""
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return error.strerror or str(error)


def unreachable(host, port, words):
    if not addresses(host):
        return {"found": f"no address is known for {host}", "cure": "See ansible_host in the inventory, and the DNS."}
    why = reach(host, port)
    if why:
        cure = "See that it runs, that ansible_port is right, and that no firewall before it (the cloud's own) shuts the port."
        return {"found": f"{host} can't be reached on port {port}: {why}", "cure": cure}
    # a host may send anything before the login
    last = text.printable(words).strip().split("\n")[-1]
    return {
        "found": text.cut(last, 400) or "the login failed",
        "cure": "See ansible_user, and that its key is on the host and in your agent.",
    }
