"""The layout of an app's releases on a host. This file defines all paths and unit names of a release, and reads the state of the releases.

ROOT, such as /srv/APP         owned by root; no app can write here
  releases/.building/ID/       the source of a release that is being built; only root can enter .building
  releases/ID/                 a release, immutable once its manifest is written
    seed/                      what its source has at the paths of app_shared; the first release copies it to the app's data
    manifest.json              written last, by rename: a release without it is unfinished
    .venv                      link to venvs/KEY
    wsgi.sock                  link to the release's socket, /run/flaskhost/APP/ID/wsgi.sock
    unit                       the unit of its server
    TYPE.N.service             the unit of a worker
    schedule-NAME.*            the .service and .timer units of a scheduled job
    in-image                   exists only if the release runs in a container
  venvs/KEY/                   a venv, or the ID of an image in the file `image`; complete once it contains the file `complete`
  live, previous               links to the live and the previous release
  next                         link to a release that was started and will be activated; nginx already serves its static files
  history                      a line of JSON for each activation: at, id, by, before
  bad/ID                       why a release must not be activated again
  schedule-elsewhere           exists if another host of the app runs its scheduled jobs
  lock                         the deploy lock, see deploy_lock.py
/etc/systemd/system
  APP@ID.service               a copy of the release's file `unit`
  APP-TYPE.N@ID.service        a copy of TYPE.N.service
  APP-schedule-NAME.*          copies of the live release's schedule-NAME.service and .timer
"""

import glob
import os
import re
import time

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import (
    list_directories,
    list_files,
    parse_object,
    read,
    read_link,
    read_object,
)

SYSTEM_UNITS = "/etc/systemd/system"
# podman's storage, with a directory for each image
IMAGES = "/var/lib/containers/storage"
WORKER = re.compile(r"(.+\.\d+)\.service$")
SCHEDULE = re.compile(r"schedule-[^.]+\.(service|timer)$")


class Layout:
    def __init__(self, root, app):
        self.root, self.app = root, app
        self.live_link, self.previous_link, self.next_link = self.path("live"), self.path("previous"), self.path("next")
        self.live_socket = self.path("live", "wsgi.sock")
        self.history_file, self.lock_file = self.path("history"), self.path("lock")
        self.schedule_elsewhere = self.path("schedule-elsewhere")
        self.unit_name = re.compile(re.escape(app) + r"(?:-([^@]+\.\d+))?@(.+)\.service$")
        # patterns for systemctl and glob; unit_name selects the exact matches
        self.unit_patterns = f"{app}@*.service", f"{app}-*.[0-9]*@*.service"

    # -- paths ----------------------------------------------------------------------------------------------------

    def path(self, *names):
        return os.path.join(self.root, *names)

    def release(self, release_id, *names):
        return self.path("releases", release_id, *names)

    def building(self, release_id):
        return self.path("releases", ".building", release_id)

    def venv(self, key, *names):
        return self.path("venvs", key, *names)

    def building_venv(self, key):
        return self.path("venvs", ".building", key)

    def bad_marker(self, release_id):
        return self.path("bad", release_id)

    def unit_source(self, release_id, process):
        """Return the file in a release from which the unit of a process is copied."""
        return self.release(release_id, "unit" if process == "web" else f"{process}.service")

    def installed_unit(self, unit):
        """Return the path from which systemd loads a unit."""
        return os.path.join(SYSTEM_UNITS, unit)

    # -- releases -------------------------------------------------------------------------------------------------

    def live(self):
        return read_link(self.live_link)

    def history(self):
        """Return the activations, oldest first."""
        # a crash may have truncated a line
        lines = map(parse_object, read(self.history_file).splitlines())
        return [line for line in lines if isinstance(line.get("id"), str)]

    def releases(self):
        """Return all releases by ID, each with its manifest (empty if unfinished) and why it is bad (empty if it is not)."""
        found = {}
        for name in list_directories(self.path("releases")):
            manifest = read_object(self.release(name, "manifest.json"))
            if not is_complete(self.release(name, ".venv")):
                manifest = {}
            found[name] = {"manifest": manifest, "bad": read(self.bad_marker(name)).strip()}
        return found

    def built(self):
        """Return the finished releases, ordered by their last activation, latest first. Releases that were never activated come last."""
        activated = {line["id"]: number for number, line in enumerate(self.history())}
        releases = self.releases()
        return sorted(
            (name for name, release in releases.items() if release["manifest"]),
            key=lambda name: (activated.get(name, -1), str(releases[name]["manifest"].get("built", ""))),
            reverse=True,
        )

    def previous(self):
        """Return the target of a rollback: the last activated release, other than the live one, that still exists and is not bad."""
        live, releases = self.live(), self.releases()
        activated = {line["id"] for line in self.history()}
        usable = [name for name in self.built() if name != live and name in activated and not releases[name]["bad"]]
        return usable[0] if usable else ""

    def edited(self, release_id, run_command):
        """Return the files that were edited by hand, because they changed after the manifest of the release was written."""
        manifest = self.release(release_id, "manifest.json")
        if not release_id or not os.path.exists(manifest):
            return []
        command = ["find", self.release(release_id), "!", "-type", "d", "-newercc", manifest, "-printf", "%P\\n"]
        return sorted(run_command(command)[1].splitlines())

    def socket(self, release_id):
        """Return the target of the release's socket link, or an empty string if the release no longer exists."""
        link = self.release(release_id, "wsgi.sock")
        return os.readlink(link) if os.path.islink(link) else ""

    def runs_in_container(self, release_id):
        return os.path.exists(self.release(release_id, "in-image"))

    def mark_bad(self, release_id, reason):
        """Mark a release as bad, so that no rollback activates it. Do nothing without a reason."""
        if release_id and reason:
            os.makedirs(os.path.dirname(self.bad_marker(release_id)), exist_ok=True)
            with open(self.bad_marker(release_id), "w") as marker:
                marker.write(f"{now()} {reason}\n")

    # -- units ----------------------------------------------------------------------------------------------------

    def units(self, release_id):
        """Return the units of a release by process: the server, `web`, first, then the workers."""
        if not release_id:
            return {}
        files = list_files(self.release(release_id))
        workers = sorted((found[1] for found in map(WORKER.match, files) if found), key=by_number)
        return {"web": f"{self.app}@{release_id}.service", **{name: f"{self.app}-{name}@{release_id}.service" for name in workers}}

    def installed_units(self):
        """Return the app's installed units, except those of scheduled jobs."""
        return self.units_in(SYSTEM_UNITS)

    def enabled_units(self):
        """Return the installed units that start at boot."""
        return self.units_in(f"{SYSTEM_UNITS}/multi-user.target.wants")

    def units_in(self, directory):
        found = [os.path.basename(path) for pattern in self.unit_patterns for path in glob.glob(f"{directory}/{pattern}")]
        return [unit for unit in found if self.unit_name.match(unit)]

    def process_of(self, unit):
        return self.unit_name.match(unit)[1] or "web"

    def releases_of(self, units):
        """Return the releases to which these units belong."""
        return list(dict.fromkeys(self.unit_name.match(unit)[2] for unit in units))

    def schedule(self, release_id):
        """Return the units of a release's scheduled jobs: their text by file name."""
        files = list_files(self.release(release_id)) if release_id else []
        return {name: read(self.release(release_id, name)) for name in files if SCHEDULE.match(name)}

    def jobs_here(self, release_id):
        """Return the names of the scheduled jobs of a release that run on this host."""
        units = {name: text for name, text in self.schedule(release_id).items() if name.endswith(".service")}
        is_elsewhere = os.path.exists(self.schedule_elsewhere)
        return sorted(
            name.removeprefix("schedule-").removesuffix(".service")
            for name, text in units.items()
            if not (is_elsewhere and f"ConditionPathExists=!{self.schedule_elsewhere}\n" in text)
        )

    def installed_schedule(self):
        """Return the installed units of scheduled jobs in the same form."""
        paths = glob.glob(f"{SYSTEM_UNITS}/{glob.escape(self.app)}-schedule-*")
        found = {os.path.basename(path)[len(self.app) + 1 :]: path for path in paths}
        return {name: read(path) for name, path in found.items() if SCHEDULE.match(name)}

    def enabled_timers(self):
        return [name for name in list_files(f"{SYSTEM_UNITS}/timers.target.wants") if name.startswith(f"{self.app}-")]


def has_images():
    """Return whether podman may have images on this host."""
    return os.path.isdir(IMAGES)


def is_complete(venv):
    """Return whether a venv is complete. For an image, podman must also have it."""
    image = read(os.path.join(venv, "image")).strip()
    return os.path.exists(os.path.join(venv, "complete")) and (not image or glob.glob(f"{IMAGES}/*-images/{image}") != [])


def by_number(process):
    kind, _dot, number = process.rpartition(".")
    return kind, int(number)


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
