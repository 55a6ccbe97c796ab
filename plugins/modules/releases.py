#!/usr/bin/python
"""An app's releases on a host: read them, bring one up, make it live, retire the others."""

DOCUMENTATION = r"""
module: releases
short_description: An app's releases on a host
description:
  - A release runs under a unit of its own, C(APP@ID.service), which is a copy of its file C(unit). nginx sends requests to the one that the
    link C(ROOT/live) points to; C(ROOT/former) is the one before, C(ROOT/history) has a line for each cut-over.
  - Its further processes run under C(APP-TYPE.N@ID.service), copies of its files C(TYPE.N.service); they come and go with it. Its scheduled
    commands, files C(schedule-NAME.service) and C(schedule-NAME.timer), are the host's as C(APP-schedule-NAME) while it is live.
options:
  app:
    description: The app; its units are C(APP@ID.service).
    type: str
    required: true
  root:
    description: The app's folder, such as C(/srv/APP).
    type: path
    required: true
  id:
    description: The release; needed for all states but V(read).
    type: str
  state:
    description:
      - V(read) changes nothing, and tells which releases there are, which is live, which instances run. It also sets
        those facts of the host on which a release depends, under the names that M(ansible.builtin.setup) gives them, so
        that a release needs no other facts.
      - V(up) starts the instance, now and at boot, and waits until it answers well on its own socket; then it starts its further
        processes, which must stay up for O(settle_seconds). If it doesn't do well, the module fails with RV(reason).
      - V(down) stops the instance, unless it is live, tells its last words, and marks it as bad for O(reason).
      - V(live) tells the further processes of other releases to end what they are at and take on no more, moves the link, asks the
        site through nginx, and watches it. If it doesn't do well, the link goes back, the instance is stopped, and the former
        processes start again. With O(reason), the release that was live before is marked as bad.
      - V(unlocked) gives the lock back.
      - V(only) lets all other instances of the app finish what they accepted, and stops them; and removes all releases
        and venvs that are not in O(keep).
    type: str
    choices: [read, up, down, live, only, unlocked]
    required: true
  ask:
    description: With V(read), ask for the site's health page, as V(live) does, and see what the live instance takes.
    type: bool
    default: false
  restart:
    description: With V(up), start it anew if it runs.
    type: bool
    default: false
  host:
    description: The Host header (and TLS server name).
    type: str
    default: localhost
  port:
    description: The port on which nginx serves the site.
    type: int
    default: 443
  path:
    description: The page that tells whether the release can do its work.
    type: str
    default: /
  successes:
    description: Good answers in a row that are needed. Good is any status from 200 to 399.
    type: int
    default: 3
  timeout_seconds:
    description: How long that may take.
    type: float
    default: 60
  answer_seconds:
    description: How long one answer may take.
    type: float
    default: 5
  settle_seconds:
    description: With V(up), how long further processes have to stay up.
    type: float
    default: 3
  watch_seconds:
    description: With V(live), how long to watch the site after that. One bad answer, or a restart, is a failure.
    type: float
    default: 0
  reason:
    description: Why a release is marked as bad, so that nobody goes back to it; empty marks none.
    type: str
    default: ''
  drain_seconds:
    description: With V(only), how long others may take to finish.
    type: float
    default: 60
  keep:
    description: With V(only), how many releases to keep, this one among them.
    type: int
    default: 5
  by:
    description: Who makes it live, for the history.
    type: str
    default: ''
  lock:
    description:
      - What the run that holds the lock is about to do, for others to read. With V(read), takes the lock, which keeps other
        runs out until it is given back, by V(only) or V(unlocked). Empty takes none.
      - The lock of a run that died is taken over. A run on the same controller is known to have died when its process is
        gone; one on another controller, when the lock is older than O(lock_expires_seconds).
    type: str
    default: ''
  lock_expires_seconds:
    description: A lock older than this belongs to a run that died.
    type: int
    default: 1800
  holder:
    description: Who holds the lock; filled in by the action plugin.
    type: dict
    default: {}
  dead:
    description: The holder that is known to have died; filled in by the action plugin.
    type: str
    default: ''
"""

RETURN = r"""
status: {description: The last answer's status., type: int, returned: success}
reason: {description: Why the release is not fit., type: str, returned: failure}
log: {description: The instance's last words., type: str, returned: state is down}
cause: {description: The last exception among them; empty if there is none., type: str, returned: state is down}
went_back: {description: Whether the former release is live again., type: bool, returned: failure}
taken_over: {description: The dead holder whose lock was taken over., type: dict, returned: when there was one}
held_by: {description: "Who holds the lock: another, if taking it failed.", type: dict, returned: state is read}
stopped: {description: Instances that were stopped., type: list, returned: state is only}
live: {description: The live release; empty if there is none., type: str, returned: state is read}
former: {description: "The release that rollback goes to; empty if there is none.", type: str, returned: state is read}
complete: {description: "Finished releases: the last one live first, those never live last.", type: list, returned: state is read}
releases: {description: "For each release its manifest, and C(bad): why it must not be used, else empty.", type: dict, returned: state is read}
running: {description: Releases of which something is up., type: list, returned: state is read}
enabled: {description: Releases of which something starts at boot., type: list, returned: state is read}
lacking:
  description: For each release its processes (C(web) is the instance) that are not up, or would not be at boot; of the live one also its schedule.
  type: dict
  returned: state is read
processes: {description: "The live release's further processes.", type: list, returned: state is read}
schedule: {description: "The live release's scheduled commands.", type: list, returned: state is read}
cut_over: {description: "The live release's line of the history; empty if there is none.", type: dict, returned: state is read}
dangling: {description: Whether the live release has no folder any more., type: bool, returned: state is read}
edited: {description: Files of the live release that were changed since it was built., type: list, returned: state is read}
unfinished: {description: Releases whose build did not come to its end., type: list, returned: state is read}
memory_mb: {description: Memory that the live instance takes., type: int, returned: state is read and O(ask)}
restarts: {description: How often systemd has started the live instance again., type: int, returned: state is read and O(ask)}
health: {description: "What is wrong with the health page; empty if nothing is.", type: str, returned: state is read and O(ask)}
history: {description: "The last cut-overs, oldest first.", type: list, returned: state is read}
removed: {description: Releases and venvs that were removed., type: list, returned: state is only}
"""

import contextlib
import glob
import json
import os
import platform
import re
import shutil
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.command import run
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.health import Page
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import LockTimeout, acquire
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.sockets import connections
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import printable, printable_values, shortened
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import remove

IMAGES = "/var/lib/containers/storage"
SYSTEM_UNITS = "/etc/systemd/system"
UP = "--state=active,activating,reloading"
PAUSE, SYNC_SECONDS = 0.05, 10
# by systemd's word for how a service ended (systemd.service(5), $SERVICE_RESULT)
DEATHS = {
    "oom-kill": "{who} was killed, for it took more memory than systemd_memory_max allows, or than the host has",
    "signal": "{who} was killed by signal {signal}",
    "core-dump": "{who} crashed with signal {signal}",
}
# files of a release
PROCESS = re.compile(r"(.+\.\d+)\.service$")
SCHEDULE = re.compile(r"schedule-[^.]+\.(service|timer)$")


def main():
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "id": {"type": "str"},
            "state": {"type": "str", "required": True, "choices": ["read", "up", "down", "live", "only", "unlocked"]},
            "ask": {"type": "bool", "default": False},
            "restart": {"type": "bool", "default": False},
            "host": {"type": "str", "default": "localhost"},
            "port": {"type": "int", "default": 443},
            "path": {"type": "str", "default": "/"},
            "successes": {"type": "int", "default": 3},
            "timeout_seconds": {"type": "float", "default": 60},
            "answer_seconds": {"type": "float", "default": 5},
            "settle_seconds": {"type": "float", "default": 3},
            "watch_seconds": {"type": "float", "default": 0},
            "reason": {"type": "str", "default": ""},
            "drain_seconds": {"type": "float", "default": 60},
            "keep": {"type": "int", "default": 5},
            "by": {"type": "str", "default": ""},
            "lock": {"type": "str", "default": ""},
            "lock_expires_seconds": {"type": "int", "default": 1800},
            "holder": {"type": "dict", "default": {}},
            "dead": {"type": "str", "default": ""},
        },
        required_if=[("state", state, ["id"]) for state in ("up", "down", "live", "only")],
        supports_check_mode=True,
    )
    if module.check_mode and module.params["state"] != "read":
        module.exit_json(changed=module.params["state"] != "unlocked")
    instance = Instance(module)
    try:
        if module.params["state"] in ("up", "down", "live", "only"):
            # a run whose connection broke may have left a step at work on the host; what comes next waits until it has ended
            acquire(instance.app, f"{module.params['state']} {instance.id}")
        module.exit_json(**printable_values(getattr(instance, module.params["state"])()))
    except Unfit as error:
        module.fail_json(msg=printable(str(error)), reason=printable(str(error)), went_back=error.went_back)
    except LockTimeout as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=printable(f"{error.filename or instance.root}: {error.strerror}"))


class Unfit(Exception):
    def __init__(self, reason, went_back=False):
        super().__init__(reason)
        self.went_back = went_back


class Instance:
    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.app, self.root, self.id = module.params["app"], module.params["root"], module.params["id"]
        self.unit = f"{self.app}@{self.id}.service"
        self.releases = Releases(self.root, self.app, module.run_command)
        # its instance first, then its further processes
        self.units = self.releases.units(self.id) if self.id else {}

    # -- the states -----------------------------------------------------------------------------------------------

    def read(self):
        taken_over = self.lock() if self.params["lock"] and not self.module.check_mode else {}
        facts = {
            "processor_vcpus": os.cpu_count(),
            "memtotal_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
            "python": {"version": dict(zip(("major", "minor", "micro"), platform.python_version_tuple(), strict=True))},
            "systemd": {"version": self.systemd_version()},
        }
        releases, live = self.releases, self.releases.live()
        found, up, enabled = releases.all(), releases.units_up(), releases.units_enabled()
        return {
            "changed": False,
            "live": live,
            "cut_over": next((line for line in reversed(releases.history()) if line["id"] == live), {}),
            "dangling": live != "" and live not in found,
            "edited": releases.edited(live),
            "former": releases.former(),
            "complete": releases.complete(),
            "unfinished": [name for name, release in found.items() if not release["manifest"]],
            "releases": found,
            "running": releases.instances(up),
            "enabled": releases.instances(enabled),
            "lacking": {name: releases.lacking(name, {*up} & {*enabled}) for name in found},
            "processes": [process for process in releases.units(live) if live and process != "web"],
            "schedule": sorted({name.rpartition(".")[0].partition("-")[2] for name in releases.schedule(live)}),
            "history": releases.history()[-20:],
            "ansible_facts": facts,
            "taken_over": taken_over,
            "held_by": read_lock(releases.path("lock")),
            **(self.judge(live) if self.params["ask"] else {}),
        }

    def systemd_version(self):
        found = re.match(r"systemd (\d+)", self.module.run_command(["systemctl", "--version"])[1])
        return int(found[1]) if found else 0

    def judge(self, live):
        restarts = sum(process["NRestarts"] for process in self.show(self.releases.units(live).values()))
        return {"memory_mb": self.memory_mb(live), "restarts": restarts, "health": self.live_page().ask()}

    def unlocked(self):
        path = self.releases.path("lock")
        if read_lock(path).get("token") == self.params["holder"]["token"]:
            os.unlink(path)
        # a lock is no part of the host's state: it never counts as a change
        return {"changed": False}

    def up(self):
        self.check_memory()
        self.install_units()
        # at boot too, from now on: should the host reboot before the cut-over, both run, and the live one serves
        # (an instance that was never loaded is read from disk anyway: no reload of all units)
        self.systemctl("enable", "--no-reload", *self.units.values())
        start = "restart" if self.params["restart"] else "start"
        self.systemctl(start, self.unit)
        page = Page(self.params, os.readlink(self.releases.path("releases", self.id, "wsgi.sock")))
        self.wait_until_good(page, [self.unit])
        others = [unit for unit in self.units.values() if unit != self.unit]
        if others:
            # a process that can't be asked is judged by whether it stays; before the cut-over, so that a release whose workers
            # can't work is never live, and after its first good answer, so that one which can't even start takes no job
            # going back right after a release, they may still be at a last job: systemd starts them when that has ended
            self.systemctl(start, "--no-block", *others)
            self.watch(page, self.params["settle_seconds"])
        return {"changed": True, "status": page.status}

    def down(self):
        words = self.last_words()
        # on a disk that is full or read-only, the words must still be told
        with contextlib.suppress(OSError):
            self.releases.mark_bad(self.id, self.params["reason"])
        stop = self.releases.live() != self.id and self.id in {*self.releases.running(), *self.releases.enabled()}
        if stop:
            self.kill()
        return {"changed": stop, "log": "\n".join(words[-40:]), "cause": last_exception(words)}

    def live(self):
        before = self.releases.live()
        # a job that the new release asks for must not meet a worker of the former, which may not know it
        self.retire_processes()
        self.releases.make_live(self.id, self.params["by"])
        page = self.live_page()
        try:
            self.wait_until_good(page, self.units.values())
            self.watch(page, self.params["watch_seconds"])
        except Unfit as error:
            if before not in ("", self.id):
                self.releases.make_live(before, f"{self.params['by']} (went back by itself)")
                former = [unit for process, unit in self.releases.units(before).items() if process != "web"]
                if former:
                    self.module.run_command(["systemctl", "start", "--no-block", *former])
                self.dismiss(self.id)
                # nginx has connections to it left over; when they are gone, nobody meets it any more
                self.drain(self.id, 5)
                error.went_back = True
            raise
        if before != self.id:
            self.releases.mark_bad(before, self.params["reason"])
        scheduled = self.keep_schedule()
        return {"changed": before != self.id or scheduled, "status": page.status}

    def only(self):
        strays = sorted({*self.releases.running(), *self.releases.enabled()} - {self.id})
        for stray in strays:
            self.drain(stray, self.params["drain_seconds"])
            self.dismiss(stray)
        removed = self.releases.prune(self.id, self.params["keep"])
        if "yes" in [process["NeedDaemonReload"] for process in self.show(self.units.values())]:
            # on the way, units came and went without one; now that nobody waits, let systemd know
            self.systemctl("daemon-reload")
        self.unlocked()
        return {"changed": bool(strays or removed), "stopped": strays, "removed": removed}

    # -- pieces ---------------------------------------------------------------------------------------------------

    def lock(self):
        """Take the lock; what a dead run left of it is returned."""
        path, holder = self.releases.path("lock"), dict(self.params["holder"], what=self.params["lock"], since=int(time.time()))
        if not os.path.isdir(self.root):
            self.module.fail_json(msg=f"{self.root} is not there: run provision.yml (or deploy.yml, which does it all) first.")
        other = {}
        for _attempt in range(3):
            try:
                if take(path, holder):
                    return other
            except OSError as error:
                self.module.fail_json(
                    msg=f"{self.root} can't be written to: {error.strerror}. Nothing was touched. On the host, `df -h` and `df -i` "
                    "tell whether its disk is full; Linux makes one read-only when it fails (`dmesg` tells). Mend it, and run this again."
                )
            other = read_lock(path)
            age = time.time() - other.get("since", 0)
            if other.get("token") == holder["token"]:
                return {}
            if other.get("token", "") != self.params["dead"] and 0 <= age < self.params["lock_expires_seconds"]:
                break
            set_aside(path, other)
        self.module.fail_json(msg="the lock is held", held_by=printable_values(other))

    def wait_until_good(self, page, units):
        restarts = self.restarts(units)
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
        raise Unfit(f"{why}, for {self.params['timeout_seconds']:g} seconds")

    def live_page(self):
        return Page(self.params, live=self.releases.path("live", "wsgi.sock"))

    def watch(self, page, seconds):
        units = self.units.values()
        restarts = self.restarts(units)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            why = page.ask()
            if why:
                raise Unfit(f"{why}, after it had answered well")
            self.check_units(units, restarts)
            time.sleep(PAUSE * 4)

    def check_units(self, units, restarts):
        for unit, now, before in zip(units, self.show(units), restarts, strict=True):
            who = "the app" if unit == self.unit else self.releases.process_of(unit)
            if now["Result"] == "exit-code" and 128 < int(now["ExecMainStatus"] or 0) <= 192:
                # a shell, or a container, says so that a signal ended what it ran
                now |= {"Result": "signal", "ExecMainStatus": int(now["ExecMainStatus"]) - 128}
            ended = now["ActiveState"] in ("failed", "inactive") and not now["Job"]
            if ended or now["SubState"].startswith("auto-restart") or now["NRestarts"] > before:
                raise Unfit(DEATHS.get(now["Result"], "{who} exited").format(who=who, signal=now["ExecMainStatus"]))

    def install_units(self):
        """Copies: systemd reads its units before other disks are there."""
        written, was_there = [], False
        for process, unit in self.units.items():
            text = read(self.releases.path("releases", self.id, "unit" if process == "web" else f"{process}.service"))
            path = f"{SYSTEM_UNITS}/{unit}"
            if read(path) != text:
                was_there |= os.path.exists(path)
                write(path, text)
                written.append(path)
        if was_there:
            self.systemctl("daemon-reload")
        if written:
            self.forget_failures(map(os.path.basename, written))
            self.verify(written + [self.releases.path("releases", self.id, name) for name in self.releases.schedule(self.id)], written)

    def forget_failures(self, units):
        """One that failed when it was last here, and whose file has gone since, is remembered by systemd, which then loads no other."""
        self.module.run_command(["systemctl", "reset-failed", *units])

    def verify(self, paths, written):
        """systemd passes over a line that it doesn't understand, be it the one that was to be the wall."""
        err = self.module.run_command(["systemd-analyze", "verify", "--man=no", *paths])[2]
        wrong = [line.partition(": ")[2] for line in err.splitlines() if line.startswith(tuple(f"{path}:" for path in paths))]
        if wrong:
            for path in written:
                os.unlink(path)
            # what is wrong with the lines that all units share is said once
            raise Unfit(f"systemd does not understand the unit (systemd_service_lines?): {' '.join(dict.fromkeys(wrong))}")

    def keep_schedule(self):
        """The host's timers are the live release's; one that is the same is not touched, and misses no beat. Gives whether any changed."""
        if not self.releases.schedule_lacking(self.id):
            return False
        wanted, there = self.releases.schedule(self.id), self.releases.schedule_installed()
        changed = [name for name, text in wanted.items() if there.get(name) != text]
        gone = [name for name in there if name not in wanted]
        timers = [f"{self.app}-{name}" for name in gone if name.endswith(".timer")]
        if timers:
            self.systemctl("disable", "--no-reload", "--now", *timers)
        for name in gone:
            os.unlink(self.releases.scheduled(name))
        for name in changed:
            write(self.releases.scheduled(name), wanted[name])
        self.forget_failures(f"{self.app}-{name}" for name in gone + changed)
        self.systemctl("daemon-reload")
        for name in wanted:
            if name.endswith(".timer"):
                self.systemctl("enable", "--no-reload", f"{self.app}-{name}")
                self.systemctl("restart" if name in changed else "start", f"{self.app}-{name}")
        return True

    def retire_processes(self):
        """Further processes of other releases: each ends the job that it is at, which nobody waits for here, and takes no other."""
        others = [unit for unit in self.releases.units_up() if unit not in self.units.values() and self.releases.process_of(unit) != "web"]
        if others:
            self.systemctl("stop", "--no-block", *others)
        end = time.monotonic() + 2
        while others and time.monotonic() < end and "active" in [process["ActiveState"] for process in self.show(others)]:
            time.sleep(PAUSE)

    def check_memory(self):
        """Both run for a while. Where there is no room for two, the kernel would kill one, and not ask which."""
        live, running = self.releases.live(), self.releases.running()
        if live not in running or self.id in running:
            return
        needed, available = self.memory_mb(live), available_mb()
        if needed > available:
            raise Unfit(
                f"there is no memory for it beside the live release, which takes {needed} MB: {available} MB are left. "
                "Add memory or swap (base_swap_mb), or have fewer workers"
            )

    def memory_mb(self, name):
        """What its processes take; what they share is counted once."""
        groups = [process["ControlGroup"] for process in self.show(self.releases.units(name).values())] if name else []
        # of a container's, they are in groups below
        tops = [f"/sys/fs/cgroup{group}" for group in groups if group]
        pids = [pid for top in tops for folder, _below, _files in os.walk(top) for pid in read(f"{folder}/cgroup.procs").split()]
        rollups = [read(f"/proc/{pid}/smaps_rollup") for pid in pids]
        return sum(int(found[1]) for found in (re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE) for text in rollups) if found) // 1024

    def restarts(self, units):
        return [process["NRestarts"] for process in self.show(units)]

    def show(self, units):
        """What systemd knows of units, in their order."""
        wanted = ("ActiveState", "SubState", "NRestarts", "Result", "ExecMainStatus", "ControlGroup", "NeedDaemonReload", "Job")
        command = ["systemctl", "show", *(f"--property={key}" for key in wanted), *units]
        told = self.module.run_command(command)[1].split("\n\n")
        found = [dict(line.split("=", 1) for line in text.splitlines() if "=" in line) for text in told]
        return [{key: one.get(key, "") for key in wanted} | {"NRestarts": int(one.get("NRestarts") or 0)} for one in found]

    def drain(self, name, seconds):
        """Nobody new connects to it; wait until nobody is connected any more."""
        path = self.releases.socket(name)
        end = time.monotonic() + seconds
        while time.monotonic() < end and connections(path):
            time.sleep(PAUSE)

    def dismiss(self, name):
        """Nobody need wait until it has ended: systemd sees to that."""
        units = self.releases.units_left(name)
        self.systemctl("disable", "--no-reload", *units)
        self.systemctl("stop", "--no-block", *units)

    def kill(self):
        """For one that never got a request: there is nothing to finish, and it may hang. Its further processes may be at a job."""
        self.dismiss(self.id)
        for words in (("kill", "--signal=KILL"), ("stop",), ("reset-failed",)):
            self.module.run_command(["systemctl", *words, self.unit])
        if os.path.exists(self.releases.path("releases", self.id, "in-image")):
            # podman was killed too, before it could forget the container, which would keep its image for ever; of two calls, the first may
            # only find out that it is dead
            for _ in range(2):
                self.module.run_command(["podman", "rm", "--force", "--ignore", "--time=0", f"{self.app}-web-{self.id}"])

    def last_words(self):
        # what was said a moment ago may not have been written yet
        for namespace in [], [f"--namespace={self.app}"]:
            # journald does so when its queue is empty, and it never is while the app logs without a pause
            run(["journalctl", *namespace, "--sync"], seconds=SYNC_SECONDS)
        units = [f"--unit={unit}" for unit in self.units.values()]
        # of a container, podman itself has much to say
        units += [
            f"--identifier={who}" for who in (self.app, "systemd") if os.path.exists(self.releases.path("releases", self.id, "in-image"))
        ]
        # what the app says is in a journal of its own, what systemd says of it is not
        command = ["journalctl", f"--namespace=+{self.app}", *units, "--lines=200", "--no-pager", "--output=cat", "--since=-15min"]
        # one entry may be as long as the app likes
        return without_farewell(shortened(run(command, seconds=30)[1].strip()).splitlines())

    def systemctl(self, *words):
        code, out, err = self.module.run_command(["systemctl", "--quiet", *words])
        if code != 0:
            raise Unfit(f"`systemctl {' '.join(words)}` failed: {(err or out).strip()}")


def available_mb():
    """Memory that can be had without harm to what runs (proc(5)), and swap."""
    found = dict(line.split()[:2] for line in read("/proc/meminfo").splitlines())
    return (int(found.get("MemAvailable:", 0)) + int(found.get("SwapFree:", 0))) // 1024


def without_farewell(lines):
    """gunicorn takes its leave with tracebacks of its own, long enough to hide why."""
    kept, traceback = [], []
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            traceback = [line]
        elif not traceback:
            kept.append(line)
        elif line.strip() and not line.startswith(" "):
            if "HaltServer" in line:
                # that it came of another of them, too
                while kept and (not kept[-1].strip() or kept[-1].startswith("During handling of the above exception")):
                    kept.pop()
            else:
                kept += [*traceback, line]
            traceback = []
        else:
            traceback.append(line)
    return kept + traceback


def last_exception(lines):
    """What ended the app, if Python said so."""
    found, traceback = "", False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            traceback = True
        elif traceback and line.strip() and not line.startswith(" "):
            traceback, found = False, line
    return found


class Releases:
    """What the folders and links of releases say; release_folder tells of their layout."""

    def __init__(self, root, app, run_command):
        self.root, self.app, self.run_command = root, app, run_command
        self.unit = re.compile(re.escape(app) + r"(?:-([^@]+\.\d+))?@(.+)\.service$")

    # -- reading --------------------------------------------------------------------------------------------------

    def live(self):
        return read_link(self.path("live"))

    def history(self):
        """The cut-overs, oldest first."""
        # a line may have been cut short by a crash
        lines = map(parsed, read(self.path("history")).splitlines())
        return [line for line in lines if isinstance(line.get("id"), str)]

    def all(self):
        """Every folder of a release: its manifest (empty if it is unfinished), and why it is bad (empty if it isn't)."""
        found = {}
        for name in listing(self.path("releases")):
            folder = self.path("releases", name)
            manifest = read_json(os.path.join(folder, "manifest.json"))
            if not is_whole(os.path.join(folder, ".venv")):
                manifest = {}
            found[name] = {"manifest": manifest, "bad": read(self.path("bad", name)).strip()}
        return found

    def edited(self, name):
        """A release is never changed after its manifest is written. What of it has, somebody did by hand."""
        folder = self.path("releases", name)
        manifest = os.path.join(folder, "manifest.json")
        if not name or not os.path.exists(manifest):
            return []
        command = ["find", folder, "!", "-type", "d", "-newercc", manifest, "-printf", "%P\\n"]
        return sorted(self.run_command(command)[1].splitlines())

    def complete(self):
        """Finished releases: the last one live first, those never live last."""
        last_live = {line["id"]: number for number, line in enumerate(self.history())}
        releases = self.all()
        return sorted(
            (name for name, release in releases.items() if release["manifest"]),
            key=lambda name: (last_live.get(name, -1), str(releases[name]["manifest"].get("built", ""))),
            reverse=True,
        )

    def former(self):
        """Where rollback goes to: the last one live before this one that is kept and not bad."""
        live, releases = self.live(), self.all()
        was_live = {line["id"] for line in self.history()}
        usable = [name for name in self.complete() if name != live and name in was_live and not releases[name]["bad"]]
        return usable[0] if usable else ""

    def socket(self, name):
        """What the release's link to its socket says; empty if the release is gone."""
        link = self.path("releases", name, "wsgi.sock")
        return os.readlink(link) if os.path.islink(link) else ""

    def units(self, name):
        """The units of a release's processes; that of its instance is the first."""
        files = listing_of_files(self.path("releases", name)) if name else []
        processes = sorted((found[1] for found in map(PROCESS.match, files) if found), key=by_number)
        return {"web": f"{self.app}@{name or 'none'}.service", **{process: f"{self.app}-{process}@{name}.service" for process in processes}}

    def units_left(self, name):
        """As above, and what is up or enabled of it though its folder is gone."""
        there = [*self.units_up(), *self.units_enabled()]
        return list(dict.fromkeys([*self.units(name).values(), *(unit for unit in there if self.instances([unit]) == [name])]))

    def units_up(self, states=UP):
        command = ["systemctl", "list-units", "--plain", "--no-legend", "--full", states, *self.patterns()]
        found = [line.split()[0] for line in self.run_command(command)[1].splitlines() if line.split()]
        return [unit for unit in found if self.unit.match(unit)]

    def units_enabled(self):
        return [os.path.basename(path) for path in self.unit_files(f"{SYSTEM_UNITS}/multi-user.target.wants")]

    def unit_files(self, folder):
        found = [path for pattern in self.patterns() for path in glob.glob(f"{folder}/{pattern}")]
        return [path for path in found if self.unit.match(os.path.basename(path))]

    def patterns(self):
        return f"{self.app}@*.service", f"{self.app}-*.[0-9]*@*.service"

    def process_of(self, unit):
        return self.unit.match(unit)[1] or "web"

    def instances(self, units):
        """The releases whose units these are."""
        return list(dict.fromkeys(self.unit.match(os.path.basename(unit))[2] for unit in units))

    def running(self):
        return self.instances(self.units_up())

    def enabled(self):
        return self.instances(self.units_enabled())

    def lacking(self, name, there):
        """Its processes that are not among those there; and what the host lacks of its schedule, if it is live."""
        processes = [process for process, unit in self.units(name).items() if unit not in there]
        return processes + (self.schedule_lacking(name) if name == self.live() else [])

    def schedule(self, name):
        """Units of a release's scheduled commands: their text by file."""
        folder = self.path("releases", name)
        return {file: read(os.path.join(folder, file)) for file in listing_of_files(folder) if SCHEDULE.match(file)} if name else {}

    def scheduled(self, name):
        return f"{SYSTEM_UNITS}/{self.app}-{name}"

    def schedule_installed(self):
        """What the host has of them."""
        paths = glob.glob(f"{SYSTEM_UNITS}/{glob.escape(self.app)}-schedule-*")
        found = {os.path.basename(path)[len(self.app) + 1 :]: path for path in paths}
        return {name: read(path) for name, path in found.items() if SCHEDULE.match(name)}

    def schedule_lacking(self, name):
        """Scheduled commands that the host has not as this release has them."""
        wanted, there = self.schedule(name), self.schedule_installed()
        timers = [unit for unit in wanted if unit.endswith(".timer")]
        if not wanted and not there:
            return []
        command = ["systemctl", "list-units", "--plain", "--no-legend", "--full", "--state=active", f"{self.app}-schedule-*.timer"]
        active = [line.split()[0] for line in self.run_command(command)[1].splitlines() if line.split()]
        enabled = listing_of_files(f"{SYSTEM_UNITS}/timers.target.wants")
        lacking = {unit for unit in {*wanted, *there} if wanted.get(unit) != there.get(unit)}
        lacking |= {unit for unit in timers if not {f"{self.app}-{unit}"} <= {*active} & {*enabled}}
        return sorted({unit.rpartition(".")[0] for unit in lacking})

    # -- changing -------------------------------------------------------------------------------------------------

    def make_live(self, name, by):
        """One rename: whoever follows the link gets the one release or the other, never none."""
        before = self.live()
        if before == name:
            return
        if before:
            self.point("former", before)
        self.point("live", name)
        # it only tells of what is done: should the disk be full just now, that is no reason to go back
        with contextlib.suppress(OSError), open(self.path("history"), "a") as history:
            history.write(json.dumps({"at": now(), "id": name, "by": by, "before": before}) + "\n")
        if os.path.exists(self.path("bad", name)):
            os.unlink(self.path("bad", name))

    def mark_bad(self, name, reason):
        if name and reason:
            os.makedirs(self.path("bad"), exist_ok=True)
            with open(self.path("bad", name), "w") as note:
                note.write(f"{now()} {reason}\n")

    def point(self, link, name):
        if os.path.isdir(self.path(link)) and not os.path.islink(self.path(link)):
            raise Unfit(f"{self.path(link)} is a folder, and has to be a link to a release: move it out of the way")
        temporary = self.path(f"{link}.new")
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(os.path.join("releases", name), temporary)
        os.rename(temporary, self.path(link))

    def prune(self, current, keep):
        """All but the newest finished ones, and every unfinished one. The live one and the one before always stay."""
        stay = {current, self.live(), read_link(self.path("former")), *self.complete()[:keep]}
        # a worker may still be at its last job
        stay |= {*self.instances(unit for unit in self.units_up("--state=deactivating") if self.process_of(unit) != "web")}
        removed = [name for name in listing(self.path("releases")) if name not in stay]
        for name in removed:
            folder = self.path("releases", name)
            # first the manifest: a removal that dies midway must not leave a folder that looks finished
            for path in (os.path.join(folder, "manifest.json"), self.path("bad", name)):
                if os.path.lexists(path):
                    os.unlink(path)
            remove_tree(folder)
        for path in self.unit_files(SYSTEM_UNITS):
            if not stay.issuperset(self.instances([path])):
                os.unlink(path)
        links = [link for link in glob.glob(self.path("releases", "*", ".venv")) if os.path.islink(link)]
        used = {os.path.basename(os.readlink(link)) for link in links}
        for name in listing(self.path("venvs")):
            if name not in used:
                remove_tree(self.path("venvs", name))
                removed.append(f"venv {name}")
        # of builds that did not come to their end
        remove_tree(self.path("releases", ".building"))
        remove_tree(self.path("venvs", ".building"))
        return removed + self.prune_images()

    def prune_images(self):
        """Those of the app that have no folder any more; one that is still in use goes the next time."""
        if not (os.path.isdir(IMAGES) and shutil.which("podman")):
            return []
        repository, keys, removed = f"localhost/flaskhost/{self.app}", listing(self.path("venvs")), []
        tags = self.run_command(["podman", "image", "ls", "--format={{.Tag}}", f"--filter=reference={repository}"])[1].split()
        in_use = any(os.path.exists(self.path("venvs", key, "image")) for key in keys)
        for tag in tags:
            needed = in_use if tag == "pulled" else tag in keys
            if not needed and self.run_command(["podman", "image", "rm", f"{repository}:{tag}"])[0] == 0:
                removed.append(f"image {tag}")
        return removed

    def path(self, *names):
        return os.path.join(self.root, *names)


def remove_tree(path):
    """What can't be removed goes with the next release."""
    with contextlib.suppress(OSError):
        remove(path)


def is_whole(venv):
    """Whether what a release runs from is there; of an image, podman's storage has a folder."""
    image = read(os.path.join(venv, "image")).strip()
    return os.path.exists(os.path.join(venv, "complete")) and (not image or glob.glob(f"{IMAGES}/*-images/{image}") != [])


def take(path, holder):
    """Whole or not at all: the file gets its content before it gets its name."""
    temporary = f"{path}.{os.getpid()}"
    try:
        # who deploys what is nobody's business but root's
        with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as handle:
            json.dump(holder, handle)
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def set_aside(path, holder):
    """Of two who both find a dead lock, one moves it away; what it moved is the dead one, or goes back."""
    aside = f"{path}.dead"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if read_lock(aside).get("token") != holder.get("token"):
        os.rename(aside, path)
    else:
        os.unlink(aside)


def read(path):
    """Whatever its bytes are: written again, they are the same; main() makes them printable."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            return handle.read()
    except OSError:
        return ""


def read_json(path):
    return parsed(read(path))


def read_lock(path):
    """Who holds it, whatever else is in the file; empty if it says nothing."""
    found = read_json(path)
    if not found:
        return {}
    texts = {key: str(found.get(key, "")) for key in ("who", "what", "controller", "token")}
    return {**texts, **{key: whole(found.get(key)) for key in ("pid", "since")}}


def whole(value):
    """A number of a process, or of seconds; 0 for what is none."""
    return value if isinstance(value, int) and 0 <= value < 2**33 else 0


def parsed(text):
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_link(path):
    return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""


def write(path, text):
    with open(f"{path}.new", "w") as handle:
        handle.write(text)
    os.rename(f"{path}.new", path)


def by_number(process):
    kind, _, number = process.rpartition(".")
    return kind, int(number)


def listing_of_files(path):
    """A link, such as that to the app's socket, is a file wherever it leads."""
    return sorted(entry.name for entry in os.scandir(path) if not entry.is_dir(follow_symlinks=False)) if os.path.isdir(path) else []


def listing(path):
    """Its folders, but for hidden ones, in which something is being built."""
    entries = os.scandir(path) if os.path.isdir(path) else []
    return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    main()
