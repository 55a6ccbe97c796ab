"""Shared code of release_start, release_activate, release_stop and release_prune: watch and stop a release on a host."""

import contextlib
import time

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.health import Page
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import Layout
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import LockTimeout, acquire
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.sockets import connections
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.systemd import Systemd, SystemdError
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable, printable_values
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.units import Units

# documented in plugins/doc_fragments/release.py
APP_OPTIONS = {"app": {"type": "str", "required": True}, "root": {"type": "path", "required": True}}
RELEASE_OPTIONS = {**APP_OPTIONS, "id": {"type": "str", "required": True}}
PAGE_OPTIONS = {
    "host": {"type": "str", "default": "localhost"},
    "port": {"type": "int", "default": 443},
    "path": {"type": "str", "default": "/"},
    "answer_seconds": {"type": "float", "default": 5},
}
HEALTH_OPTIONS = {**PAGE_OPTIONS, "successes": {"type": "int", "default": 3}, "timeout_seconds": {"type": "float", "default": 60}}
PAUSE = 0.05
# messages by systemd's result of a service ($SERVICE_RESULT in systemd.exec(5))
ENDINGS = {
    "oom-kill": "{process} was killed because it used more memory than systemd_memory_max allows or the host has",
    "signal": "{process} was killed by signal {signal}",
    "core-dump": "{process} crashed with signal {signal}",
}


class ReleaseError(Exception):
    """The reason why a release cannot be started or activated. `reverted` means that the previous release is live again."""

    def __init__(self, reason, reverted=False):
        super().__init__(reason)
        self.reverted = reverted


def run_step(module, verb, step):
    """Run `step(release, params)` while holding the app's lock. Exit the module with its result, or fail with the reason."""
    if module.check_mode:
        module.exit_json(changed=True)
    with errors_reported(module):
        # a run that lost its connection may have left a step running on the host; wait until it ends
        acquire(module.params["app"], f"{verb} {module.params['id']}")
        result = step(Release(module), module.params)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**printable_values(result))


@contextlib.contextmanager
def errors_reported(module):
    try:
        yield
    except (ReleaseError, SystemdError) as error:
        reason = printable(str(error))
        module.fail_json(msg=reason, reason=reason, reverted=getattr(error, "reverted", False))
    except LockTimeout as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=printable(f"{error.filename or module.params['root']}: {error.strerror}"))


class Release:
    def __init__(self, module):
        self.params, self.run_command = module.params, module.run_command
        self.app, self.id = module.params["app"], module.params["id"]
        self.layout = Layout(module.params["root"], self.app)
        self.systemd = Systemd(module.run_command)
        self.app_units = Units(self.layout, self.systemd)
        # units by process, the server first
        self.units = self.layout.units(self.id)
        self.server_unit = self.units["web"]

    def wait_until_healthy(self, page, units):
        restarts = self.systemd.restarts(units)
        end = time.monotonic() + self.params["timeout_seconds"]
        healthy, why = 0, "the health page was never requested"
        while time.monotonic() < end:
            why = page.probe()
            healthy = 0 if why else healthy + 1
            if healthy >= self.params["successes"]:
                return
            if why:
                self.check_units(units, restarts)
                time.sleep(PAUSE)
        raise ReleaseError(f"{why} (checked for {self.params['timeout_seconds']:g} seconds)")

    def watch(self, page, seconds):
        """Fail after one unhealthy response, or if a process ends."""
        units = self.units.values()
        restarts = self.systemd.restarts(units)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            why = page.probe()
            if why:
                raise ReleaseError(f"{why}; it was healthy before")
            self.check_units(units, restarts)
            time.sleep(PAUSE * 4)

    def check_units(self, units, restarts):
        """Fail if a unit has ended, or if systemd has restarted it since `restarts` was read."""
        for unit, now, before in zip(units, self.systemd.show(units), restarts, strict=True):
            process = "the app" if unit == self.server_unit else self.layout.process_of(unit)
            if now["Result"] == "exit-code" and 128 < int(now["ExecMainStatus"] or 0) <= 192:
                # a shell or a container reports the end by signal N as exit code 128+N
                now |= {"Result": "signal", "ExecMainStatus": int(now["ExecMainStatus"]) - 128}
            ended = now["ActiveState"] in ("failed", "inactive") and not now["Job"]
            if ended or now["SubState"].startswith("auto-restart") or now["NRestarts"] > before:
                raise ReleaseError(ENDINGS.get(now["Result"], "{process} exited").format(process=process, signal=now["ExecMainStatus"]))

    def drain(self, release_id, seconds):
        """Wait until all connections to a release are closed. It gets no new ones, because it is not live."""
        socket = self.layout.socket(release_id)
        end = time.monotonic() + seconds
        while time.monotonic() < end and connections(socket):
            time.sleep(PAUSE)


def site_page(params, layout):
    """Return the health page as visitors get it, through nginx, from the live release."""
    return Page(params, live=layout.live_socket, release=layout.live_link)
