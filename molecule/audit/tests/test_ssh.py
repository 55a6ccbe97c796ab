"""dev-sec's ssh baseline, one test per control. molecule/audit/tests/controls.yml explains the controls that have no test."""

import socket

import pytest


@pytest.fixture(scope="module")
def sshd(host):
    """sshd's effective settings."""
    lines = [line.split(maxsplit=1) for line in host.check_output("sshd -T").splitlines() if " " in line]
    return {name: [value for other, value in lines if other == name] for name, _ in lines}


def names(values):
    return set(values[0].split(","))


def test_ssh_01(host):
    found = host.file("/etc/ssh/ssh_config")
    assert (found.user, found.group, found.mode) == ("root", "root", 0o644)


# the value that the baseline requires, or the best one that it lists for OpenSSH 8.5 and newer
EXACT = {
    "sshd-06": ("permitrootlogin", "without-password"),
    "sshd-07": ("port", "22"),
    "sshd-08": ("addressfamily", "any"),
    "sshd-11": ("strictmodes", "yes"),
    "sshd-12": ("syslogfacility", "AUTH"),
    "sshd-13": ("loglevel", "VERBOSE"),
    "sshd-17": ("permituserenvironment", "no"),
    "sshd-18": ("logingracetime", "30"),
    "sshd-20": ("maxsessions", "10"),
    "sshd-21": ("maxstartups", "10:30:60"),
    "sshd-22": ("pubkeyauthentication", "yes"),
    "sshd-23": ("ignorerhosts", "yes"),
    "sshd-24": ("ignoreuserknownhosts", "yes"),
    "sshd-25": ("hostbasedauthentication", "no"),
    "sshd-27": ("passwordauthentication", "no"),
    "sshd-28": ("permitemptypasswords", "no"),
    "sshd-29": ("kbdinteractiveauthentication", "no"),
    "sshd-30": ("kerberosauthentication", "no"),
    "sshd-32": ("kerberosticketcleanup", "yes"),
    "sshd-33": ("gssapiauthentication", "no"),
    "sshd-34": ("gssapicleanupcredentials", "yes"),
    "sshd-35": ("tcpkeepalive", "no"),
    "sshd-38": ("permittunnel", "no"),
    "sshd-40": ("allowagentforwarding", "no"),
    "sshd-41": ("gatewayports", "no"),
    "sshd-42": ("x11forwarding", "no"),
    "sshd-43": ("x11uselocalhost", "yes"),
    "sshd-44": ("printmotd", "no"),
    "sshd-46": ("banner", "none"),
}


@pytest.mark.parametrize("control", EXACT)
def test_settings(sshd, control):
    name, value = EXACT[control]
    assert sshd.get(name) == [value]


def test_sshd_01(sshd):
    allowed = {
        "chacha20-poly1305@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-gcm@openssh.com",
        "aes256-ctr",
        "aes192-ctr",
        "aes128-ctr",
    }
    assert names(sshd["ciphers"]) <= allowed


def test_sshd_02(sshd):
    found = sshd["kexalgorithms"][0].split(",")
    post_quantum = {"mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com"}
    # the last two are for older clients
    assert set(found[:-2]) <= post_quantum and found[-2:] == ["curve25519-sha256", "curve25519-sha256@libssh.org"]


def test_sshd_03(sshd):
    assert names(sshd["macs"]) <= {"hmac-sha2-512-etm@openssh.com", "hmac-sha2-256-etm@openssh.com", "umac-128-etm@openssh.com"}


def test_sshd_04(host):
    found = host.file("/etc/ssh")
    assert (found.user, found.group, found.mode) == ("root", "root", 0o755)


def test_sshd_05(host):
    for path in "/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/10-flaskhost.conf":
        found = host.file(path)
        assert (found.user, found.group, found.mode) == ("root", "root", 0o600)


def test_sshd_09(sshd):
    """sshd listens on all addresses; the firewall decides who can connect."""
    assert sorted(sshd["listenaddress"]) == ["0.0.0.0:22", "[::]:22"]


def test_sshd_14(sshd):
    assert set(sshd["hostkey"]) == {"/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key"}


def test_sshd_36(sshd):
    assert 0 < int(sshd["clientaliveinterval"][0]) <= 300


def test_sshd_37(sshd):
    assert 0 < int(sshd["clientalivecountmax"][0]) <= 3


def test_sshd_47(site):
    """OpenSSH always sends its version, but it must not send the distribution's."""
    with socket.create_connection(("127.0.0.1", 22063), timeout=5) as client:
        banner = client.recv(200).decode()
    assert banner.startswith("SSH-2.0-OpenSSH_") and "deb" not in banner.lower() and "ubuntu" not in banner.lower()


def test_sshd_48(host):
    assert host.check_output("awk '$5 ~ /^[0-9]+$/ && $5 < 2047' /etc/ssh/moduli | wc -l") == "0"


def test_sshd_49(host):
    assert "-o" not in host.check_output("ps --format args= -C sshd | grep -m 1 listener")
