"""What the modules release_start, release_activate, release_stop and release_prune share: a release on a host, watched and stopped."""

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
# by systemd's name for how a service ended (systemd.service(5), $SERVICE_RESULT)
ENDINGS = {
    "oom-kill": "{process} was killed, for it took more memory than systemd_memory_max allows, or than the host has",
    "signal": "{process} was killed by signal {signal}",
    "core-dump": "{process} crashed with signal {signal}",
}


class ReleaseError(Exception):
    """Why a release can't be started or activated; `reverted` if the previous release is live again."""

    def __init__(self, reason, reverted=False):
        super().__init__(reason)
        self.reverted = reverted


def run_step(module, verb, step):
    """Run `step(release, params)` under the app's lock, and end the module with its result, or with the reason why it failed."""
    if module.check_mode:
        module.exit_json(changed=True)
    with errors_reported(module):
        # a run whose connection broke may have left a step running on the host: this step waits until that one has ended
        acquire(module.params["app"], f"{verb} {module.params['id']}")
        result = step(Release(module), module.params)
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
        # by process; that of the server comes first
        self.units = self.layout.units(self.id)
        self.server_unit = self.units["web"]

    def wait_until_healthy(self, page, units):
        restarts = self.systemd.restarts(units)
        end = time.monotonic() + self.params["timeout_seconds"]
        row, why = 0, "it was never asked"
        while time.monotonic() < end:
            why = page.ask()
            row = 0 if why else row + 1
            if row >= self.params["successes"]:
                return
            if why:
                self.check_units(units, restarts)
                time.sleep(PAUSE)
        raise ReleaseError(f"{why}, for {self.params['timeout_seconds']:g} seconds")

    def watch(self, page, seconds):
        """One unhealthy answer, or the end of one process, is a failure."""
        units = self.units.values()
        restarts = self.systemd.restarts(units)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            why = page.ask()
            if why:
                raise ReleaseError(f"{why}, after it had been healthy")
            self.check_units(units, restarts)
            time.sleep(PAUSE * 4)

    def check_units(self, units, restarts):
        """Fail if a unit has ended, or has been restarted since."""
        for unit, now, before in zip(units, self.systemd.show(units), restarts, strict=True):
            process = "the app" if unit == self.server_unit else self.layout.process_of(unit)
            if now["Result"] == "exit-code" and 128 < int(now["ExecMainStatus"] or 0) <= 192:
                # so a shell, or a container, reports that a signal ended what it ran
                now |= {"Result": "signal", "ExecMainStatus": int(now["ExecMainStatus"]) - 128}
            ended = now["ActiveState"] in ("failed", "inactive") and not now["Job"]
            if ended or now["SubState"].startswith("auto-restart") or now["NRestarts"] > before:
                raise ReleaseError(ENDINGS.get(now["Result"], "{process} exited").format(process=process, signal=now["ExecMainStatus"]))

    def drain(self, release_id, seconds):
        """Wait until nobody is connected to a release any more. Nobody new connects to it."""
        socket = self.layout.socket(release_id)
        end = time.monotonic() + seconds
        while time.monotonic() < end and connections(socket):
            time.sleep(PAUSE)


def site_page(params, layout):
    """The health page as visitors get it, through nginx."""
    return Page(params, live=layout.live_socket)
