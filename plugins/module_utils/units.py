"""The units of an app's releases: which run, which start at boot, which are missing."""

ACTIVE = "active,activating,reloading"


class Units:
    def __init__(self, layout, systemd):
        self.layout, self.systemd = layout, systemd

    def active(self, states=ACTIVE):
        found = self.systemd.list_units(states, *self.layout.unit_patterns)
        return [unit for unit in found if self.layout.unit_name.match(unit)]

    def running_releases(self):
        """The releases of which a unit is active."""
        return self.layout.releases_of(self.active())

    def enabled_releases(self):
        """The releases of which a unit starts at boot."""
        return self.layout.releases_of(self.layout.enabled_units())

    def left(self, release_id):
        """The units of a release, and those that are active or enabled though its directory is gone."""
        there = [*self.active(), *self.layout.enabled_units()]
        left = [unit for unit in there if self.layout.releases_of([unit]) == [release_id]]
        return list(dict.fromkeys([*self.layout.units(release_id).values(), *left]))

    def missing(self, release_id, there):
        """The processes of a release whose units are not among those there; for the live one, also scheduled jobs that the host lacks."""
        processes = [process for process, unit in self.layout.units(release_id).items() if unit not in there]
        return processes + (self.missing_schedule(release_id) if release_id == self.layout.live() else [])

    def missing_schedule(self, release_id):
        """The scheduled jobs whose installed units differ from the release's, or whose timers are not active or not enabled."""
        wanted, there = self.layout.schedule(release_id), self.layout.installed_schedule()
        if not wanted and not there:
            return []
        active = self.systemd.list_units("active", f"{self.layout.app}-schedule-*.timer")
        enabled = self.layout.enabled_timers()
        timers = [name for name in wanted if name.endswith(".timer")]
        missing = {name for name in {*wanted, *there} if wanted.get(name) != there.get(name)}
        missing |= {name for name in timers if not {f"{self.layout.app}-{name}"} <= {*active} & {*enabled}}
        return sorted({name.rpartition(".")[0] for name in missing})

    def stop_and_disable(self, release_id):
        """Stop the units of a release, now and at boot. Nobody needs to wait until they have ended: systemd sees to that."""
        units = self.left(release_id)
        self.systemd.disable(*units)
        self.systemd.stop(*units, wait=False)
