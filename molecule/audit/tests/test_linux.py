"""dev-sec's Linux baseline, one test per control. molecule/audit/tests/controls.yml explains the controls that have no test."""

import re

import pytest
import yaml
from sites import PROJECT

MEASURES = yaml.safe_load((PROJECT / "roles/hardening/vars/main.yml").read_text())["__hardening_measures"]
# setuid and setgid programs that no host needs
POWERFUL = (
    "/usr/bin/rcp /usr/bin/rlogin /usr/bin/rsh /sbin/netreport /usr/sbin/usernetctl /usr/sbin/userisdnctl /usr/sbin/pppd /usr/bin/lockfile"
    " /usr/bin/mail-lock /usr/bin/mail-unlock /usr/bin/mail-touchlock /usr/bin/dotlockfile /usr/bin/arping /usr/sbin/arping /usr/sbin/uuidd"
    " /usr/bin/mtr /usr/lib/pt_chown /usr/lib/mc/cons.saver"
)


def owner_and_mode(host, path):
    found = host.file(path)
    return found.user, found.group, f"{found.mode:04o}"


def test_os_01(host):
    assert not host.file("/etc/hosts.equiv").exists


def test_os_02(host):
    assert owner_and_mode(host, "/etc/shadow") == ("root", "shadow", "0640")


def test_os_03(host):
    assert owner_and_mode(host, "/etc/passwd") == ("root", "root", "0644")


def test_os_03b(host):
    assert {line.split(":")[1] for line in host.file("/etc/passwd").content_string.splitlines()} <= {"x", "*"}


def test_os_04(host):
    paths = host.check_output("bash --login -c 'echo $PATH'").split(":")
    assert "" not in paths and "." not in paths


def test_os_05(host):
    """Except password expiry, which would end logins by key."""
    assert owner_and_mode(host, "/etc/login.defs") == ("root", "root", "0644")
    found = dict(re.findall(r"^([A-Z_]+)\s+(\S.*)$", host.file("/etc/login.defs").content_string, re.MULTILINE))
    expected = {"UMASK": "027", "PASS_WARN_AGE": "7", "LOGIN_RETRIES": "5", "LOGIN_TIMEOUT": "60", "UID_MIN": "1000", "GID_MIN": "1000"}
    assert {name: found.get(name) for name in expected} == expected
    assert "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in found["ENV_SUPATH"]
    assert host.check_output("bash --login -c umask") == "0027"


def test_os_06(host):
    found = set(host.check_output("find / -xdev -type f -perm /6000 2>/dev/null; true").split())
    assert not found & set(POWERFUL.split())


def test_os_07(host):
    for path in "/etc/passwd", "/etc/group":
        ids = [line.split(":")[2] for line in host.file(path).content_string.splitlines()]
        assert len(ids) == len(set(ids)), path


def test_os_09(host):
    assert host.run(r"find / -maxdepth 3 \( -iname .rhosts -o -iname .netrc \) -print 2>/dev/null").stdout == ""


def test_os_10(host):
    """Except squashfs (snaps), udf (Azure) and vfat (EFI)."""
    content = host.file("/etc/modprobe.d/flaskhost.conf").content_string
    for name in "cramfs", "freevxfs", "jffs2", "hfs", "hfsplus":
        assert f"install {name} /bin/false\n" in content


def test_os_11(host):
    found = host.file("/var/log")
    assert found.is_directory and found.user == "root" and found.group in ("root", "syslog")


def test_os_13(host):
    for path in "/etc/crontab", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly", "/etc/cron.d":
        if host.file(path).exists:
            assert owner_and_mode(host, path) in (("root", "root", "0600"), ("root", "root", "0700")), path


@pytest.mark.parametrize("option", [pytest.param("nosuid", id="os-15"), pytest.param("nodev", id="os-16")])
def test_mounts(host, option):
    """Only mounts that the system makes itself; the others are up to the image."""
    mounts = [line.split() for line in host.file("/proc/self/mounts").content_string.splitlines()]
    options = {path: options.split(",") for _device, path, _type, options, *_ in mounts}
    for path in "/dev/shm", "/run":
        assert option in options[path], path


UNWANTED = {
    "package-01": ["inetd", "openbsd-inetd", "inetutils-inetd", "xinetd"],
    "package-02": ["telnetd", "inetutils-telnetd"],
    "package-03": ["rsh-server", "rsh-redone-server"],
    "package-05": ["nis", "ypserv"],
    "package-06": ["tftpd", "tftpd-hpa", "atftpd"],
    "package-09": ["prelink"],
}


@pytest.mark.parametrize("control", UNWANTED)
def test_packages(host, control):
    for name in UNWANTED[control]:
        assert not host.package(name).is_installed, name


SYSCTL = {
    "sysctl-02": {"net.ipv4.conf.all.rp_filter": 1, "net.ipv4.conf.default.rp_filter": 1},
    "sysctl-03": {"net.ipv4.icmp_ignore_bogus_error_responses": 1},
    "sysctl-04": {"net.ipv4.icmp_echo_ignore_broadcasts": 1},
    "sysctl-05": {"net.ipv4.icmp_ratelimit": 100},
    "sysctl-06": {"net.ipv4.icmp_ratemask": 88089},
    "sysctl-08": {"net.ipv4.conf.all.arp_ignore": 1},
    "sysctl-09": {"net.ipv4.conf.all.arp_announce": 2},
    "sysctl-10": {"net.ipv4.tcp_rfc1337": 1},
    "sysctl-11": {"net.ipv4.tcp_syncookies": 1},
    "sysctl-12": {"net.ipv4.conf.all.shared_media": 1, "net.ipv4.conf.default.shared_media": 1},
    "sysctl-13": {f"net.{ip}.conf.{which}.accept_source_route": 0 for ip in ("ipv4", "ipv6") for which in ("all", "default")},
    "sysctl-14": {"net.ipv4.conf.all.accept_redirects": 0, "net.ipv4.conf.default.accept_redirects": 0},
    "sysctl-15": {"net.ipv4.conf.all.secure_redirects": 0, "net.ipv4.conf.default.secure_redirects": 0},
    "sysctl-16": {"net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.default.send_redirects": 0},
    "sysctl-17": {"net.ipv4.conf.all.log_martians": 1, "net.ipv4.conf.default.log_martians": 1},
    "sysctl-20": {"net.ipv6.conf.all.accept_redirects": 0, "net.ipv6.conf.default.accept_redirects": 0},
    # global kernel settings, which a container can't set
    "sysctl-30": {"kernel.sysrq": 0},
    "sysctl-31a": {"fs.suid_dumpable": 0},
    "sysctl-31b": {"kernel.core_pattern": "|/bin/false"},
    "sysctl-32": {"kernel.randomize_va_space": 2},
    "sysctl-34": {"fs.protected_fifos": 2, "fs.protected_hardlinks": 1, "fs.protected_regular": 2, "fs.protected_symlinks": 1},
    "sysctl-35": {"kernel.yama.ptrace_scope": 2},
}


@pytest.mark.parametrize("control", SYSCTL)
def test_sysctl(host, control):
    """In a container, the machine sets the global kernel settings. There, the test checks that Flaskhost would set them on a VM and omits
    them in the container."""
    in_container = host.run("systemd-detect-virt --container --quiet").rc == 0
    written = host.file("/etc/sysctl.d/zz-flaskhost.conf").content_string
    planned = {name: value for measure in MEASURES.values() for name, value in measure.get("sysctl", {}).items()}
    for name, value in SYSCTL[control].items():
        if in_container and not re.match(r"net\.ipv[46]\.", name):
            assert planned[name] == value and name not in written
        else:
            assert host.check_output(f"sysctl --values {name}") == str(value), name


def test_sysctl_29(host):
    """Kernel modules can be loaded: the firewall needs that."""
    assert host.run("sysctl --values kernel.modules_disabled 2>/dev/null").stdout.strip() in ("", "0")


def test_sysctl_33(host):
    assert " nx " in host.file("/proc/cpuinfo").content_string or host.system_info.arch != "x86_64"
