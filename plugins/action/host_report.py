"""The controller side of `host_report`: run the module and add what only the controller can measure."""

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
        started = time.time()
        try:
            report = self._execute_module(task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            return dict(result, connection_problem=unreachable(host, int(task_vars.get("ansible_port") or 22), str(error)))
        if report.get("failed"):
            return report
        return dict(
            result,
            **report,
            connection_problem={},
            # the host read its clock about halfway through the call
            ahead=report["time"] - (started + time.time()) / 2,
            host_addresses=addresses(host),
            domain_addresses={name: addresses(name) for name in self._task.args.get("domains", [])},
            closed_ports={port: why for port in self._task.args.get("ports", []) if (why := probe(host, int(port)))},
        )


def addresses(name):
    try:
        return sorted({info[4][0] for info in socket.getaddrinfo(name, None)})
    except OSError:
        return []


def probe(host, port):
    """Return why a port is unreachable, or an empty string if it is reachable."""
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
        return ""
    except TimeoutError:
        return "no response"
    except OSError as error:
        return error.strerror or str(error)


def unreachable(host, port, message):
    if not addresses(host):
        return {"found": f"no address found for {host}", "fix": "Check ansible_host in the inventory and the DNS records."}
    why = probe(host, port)
    if why:
        fix = (
            "Check that the host is running, that ansible_port is correct, and that no firewall in front of the host, "
            "such as the cloud provider's, blocks the port."
        )
        return {"found": f"{host} is unreachable on port {port}: {why}", "fix": fix}
    # a host can send anything before the login
    last = text.printable(message).strip().split("\n")[-1]
    return {
        "found": text.cut(last, 400) or "the login failed",
        "fix": "Check ansible_user, and that its key is installed on the host and loaded in your SSH agent.",
    }
