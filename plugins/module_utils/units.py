"""Find the units of an app's releases that are running, enabled or missing."""

ACTIVE = "active,activating,reloading"


class Units:
    def __init__(self, layout, systemd):
        self.layout, self.systemd = layout, systemd

    def active(self, states=ACTIVE):
        found = self.systemd.list_units(states, *self.layout.unit_patterns)
        return [unit for unit in found if self.layout.unit_name.match(unit)]

    def running_releases(self):
        """Return the releases that have an active unit."""
        return self.layout.releases_of(self.active())

    def enabled_releases(self):
        """Return the releases that have a unit enabled at boot."""
        return self.layout.releases_of(self.layout.enabled_units())

    def all_units(self, release_id):
        """Return the units of a release, including active or enabled ones if its directory no longer exists."""
        present = [*self.active(), *self.layout.enabled_units()]
        own = [unit for unit in present if self.layout.releases_of([unit]) == [release_id]]
        return list(dict.fromkeys([*self.layout.units(release_id).values(), *own]))

    def missing(self, release_id, present):
        """Return the processes of a release whose units are not in `present`. For the live release, add missing scheduled jobs."""
        processes = [process for process, unit in self.layout.units(release_id).items() if unit not in present]
        return processes + (self.missing_schedule(release_id) if release_id == self.layout.live() else [])

    def missing_schedule(self, release_id):
        """Return the scheduled jobs whose installed units differ from the release's, or whose timers are not active or not enabled."""
        wanted, installed = self.layout.schedule(release_id), self.layout.installed_schedule()
        if not wanted and not installed:
            return []
        active = self.systemd.list_units("active", f"{self.layout.app}-schedule-*.timer")
        enabled = self.layout.enabled_timers()
        timers = [name for name in wanted if name.endswith(".timer")]
        missing = {name for name in {*wanted, *installed} if wanted.get(name) != installed.get(name)}
        missing |= {name for name in timers if not {f"{self.layout.app}-{name}"} <= {*active} & {*enabled}}
        return sorted({name.rpartition(".")[0] for name in missing})

    def stop_and_disable(self, release_id):
        """Stop the units of a release and disable them at boot. Do not wait until they have ended."""
        units = self.all_units(release_id)
        self.systemd.disable(*units)
        self.systemd.stop(*units, wait=False)
