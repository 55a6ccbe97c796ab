"""The kernel's log lines about the app's AppArmor profile."""


def denials(site):
    """The lines of the kernel's log about an access that a profile of ours forbids, or would forbid if it were enforced."""
    log = site.host.run("journalctl --dmesg --no-pager --output=cat").stdout
    return [line for line in log.splitlines() if 'apparmor="' in line and "flaskhost-" in line and ("DENIED" in line or "ALLOWED" in line)]


def confinement(site, process):
    return site.host.check_output(f"tr -d '\\\\0' </proc/{process}/attr/current")
