"""External audit tools examine a host that was just deployed."""

import json
import re
import subprocess
import time

import pytest
import yaml
from conftest import DIRECTORY, install, run_tool
from sites import DOMAIN, PROJECT

ROOT = DIRECTORY / "root.pem"
EXPLAINED = yaml.safe_load((PROJECT / "molecule/audit/tests/lynis.yml").read_text())


def test_lynis(host, record):
    install(host, "lynis")
    host.run("cd /root && lynis audit system --quick --quiet --no-colors --report-file /root/lynis.dat")
    report = host.file("/root/lynis.dat").content_string
    index = int(re.search(r"^hardening_index=(\d+)", report, re.MULTILINE)[1])
    found = set(re.findall(r"^(?:suggestion|warning)\[\]=([A-Z]+-\d+|LYNIS)\|", report, re.MULTILINE))
    version = re.search(r"^lynis_version=(\S+)", report, re.MULTILINE)[1]
    container_only = sorted(found & set(EXPLAINED["container_only"]))
    # TCP forwarding (sshd-39) costs two points
    record(f"lynis {version}", "79 of 100 or more", f"{index}; of {len(found)} suggestions, {len(container_only)} apply to containers only")
    unexplained = found - {name for group in EXPLAINED.values() for name in group}
    assert not unexplained, f"not in molecule/audit/tests/lynis.yml: {unexplained}"
    assert index >= 79, report


def test_the_unit_is_hardened(host, site, record):
    unit = f"sample@{site.live()}.service"
    output = host.check_output(f"systemd-analyze security --no-pager {unit} | tail -n 1")
    exposure = float(output.split("service: ")[1].split()[0])
    record("systemd-analyze security", "1.5 or less", str(exposure))
    assert exposure <= 1.5, output


def test_ssh_audit(record):
    """It warns only of the key exchange for older clients, which is not safe from quantum computers; ssh_post_quantum_only disables it."""
    _code, output = run_tool("ssh-audit==3.9.0", "ssh-audit", "--port", "22063", "127.0.0.1")
    warnings, failures = [line for line in output.splitlines() if "[warn]" in line], output.count("[fail]")
    others = [line for line in warnings if not line.startswith("(kex) curve25519-sha256")]
    record("ssh-audit 3.9", "no failure, no warning but of curve25519-sha256", f"{failures} failures, {len(others)} other warnings")
    assert "(kex) sntrup761x25519-sha512" in output and not others and not failures, output


def sslyze(profile):
    command = ["sslyze", "--certinfo_ca_file", str(ROOT), f"--mozilla_config={profile}", f"{DOMAIN}:44363{{127.0.0.1}}"]
    code, output = run_tool("sslyze==6.3.1", *command)
    assert "COMPLIANCE AGAINST TLS CONFIGURATION" in output, output
    return code == 0, output.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]


def test_sslyze(site, record):
    ok, output = sslyze("intermediate")
    modern = site.play("playbooks/provision.yml", nginx_tls_profile="modern")
    assert modern.ok, modern.output
    modern_ok, modern_output = sslyze("modern")
    back = site.play("playbooks/provision.yml")
    record(
        "sslyze 6.3",
        "Mozilla's intermediate; switched, modern",
        " and ".join(["complies" if ok else "fails", "complies" if modern_ok else "fails"]),
    )
    assert ok and modern_ok and back.ok, output + modern_output


def test_testssl(client, site, record):
    client.check_output("mkdir -p /root/audit")
    subprocess.run(["podman", "cp", str(ROOT), "flaskhost-audit-client:/root/audit/root.pem"], check=True)
    output = client.run(
        f"testssl --quiet --color 0 --ip {site.address} --add-ca /root/audit/root.pem --warnings off https://{DOMAIN}/"
    ).stdout
    grade = re.search(r"Overall Grade\s+(\S+)", output)
    record("testssl.sh 3.2", "A+", grade[1] if grade else "no grade")
    assert grade and grade[1] == "A+", output


def test_gixy(host, record, tmp_path):
    config = tmp_path / "nginx.conf"
    config.write_text(host.check_output("nginx -T 2>/dev/null"))
    code, output = run_tool("gixy-next==0.9.0", "gixy", "--format", "json", str(config))
    found = json.loads(output[output.index("[") : output.rindex("]") + 1])
    record("gixy-next 0.9", "no finding", f"{len(found)} findings")
    assert code == 0 and not found, output


def test_nmap(client, site, record):
    """A scan from the client, while a stray service listens on TCP and UDP."""
    stray = """
import socket, threading
tcp = socket.create_server(("0.0.0.0", 9000))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 9000))
while True:
    data, sender = udp.recvfrom(2000)
    udp.sendto(data or b"x", sender)
"""
    site.host.check_output("systemd-run --unit=stray --collect python3 -c %s", stray)
    try:
        site.host.check_output("for i in $(seq 50); do ss -Hlun 'sport = :9000' | grep -q . && exit 0; sleep 0.1; done; exit 1")
        tcp = client.check_output(f"nmap -n -Pn -p- -T4 --min-rate 2000 -oG - {site.address}")
        udp = client.check_output(f"nmap -n -Pn -sU -p- -T4 --min-rate 5000 --max-retries 1 --open -oG - {site.address}")
        answered = client.run(f"echo x | timeout 3 bash -c 'exec 3<>/dev/udp/{site.address}/9000; cat >&3; head -c 1 <&3'").stdout
    finally:
        site.host.run("systemctl stop stray")
    open_ports = {kind: re.findall(rf"(\d+)/open/{kind}", output) for kind, output in (("tcp", tcp), ("udp", udp))}
    record(
        "nmap 7.95",
        "22, 80 and 443 of TCP, nothing of UDP",
        f"TCP {', '.join(open_ports['tcp'])}; UDP {', '.join(open_ports['udp']) or 'none'}",
    )
    assert open_ports == {"tcp": ["22", "80", "443"], "udp": []} and not answered, tcp + udp


def test_observatory(client, site, record):
    """MDN's rules, from the package that its website runs. It needs none of its lists of public websites here."""
    subprocess.run(["podman", "cp", str(ROOT), "flaskhost-audit-client:/root/root.pem"], check=True)
    client.check_output(
        "mkdir -p /root/observatory && cd /root/observatory"
        " && NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt"
        " npm install --ignore-scripts --no-audit --no-fund --silent @mdn/mdn-http-observatory@1.4.8"
        " && cd node_modules/@mdn/mdn-http-observatory && echo {} >conf/hsts-preload.json && echo '[\"test\"]' >conf/tld-list.json"
    )
    client.check_output(f"grep -q {DOMAIN} /etc/hosts || echo {site.address} {DOMAIN} >>/etc/hosts")
    output = json.loads(
        client.check_output(
            f"cd /root/observatory/node_modules/@mdn/mdn-http-observatory && NODE_EXTRA_CA_CERTS=/root/root.pem node src/scan.js {DOMAIN}"
        )
    )
    scan = output["scan"]
    result = f"{scan['grade']}, {scan['score']}, {scan['testsPassed']} of {scan['testsQuantity']} tests"
    record("MDN HTTP Observatory 1.4", "A+, 125 or more, 10 of 10 tests", result)
    assert scan["grade"] == "A+" and scan["score"] >= 125 and scan["testsFailed"] == 0, output


@pytest.mark.parametrize(
    ("kind", "options"),
    [("slow headers", "-H"), ("slow bodies", "-B -s 100000"), ("slow readers", "-X -w 10 -y 20 -n 5 -z 32 -k 3")],
)
@pytest.mark.parametrize("url", ["https", "http"])
def test_slowhttptest(client, site, record, kind, options, url):
    """The client opens more connections than an address may have; a second client is served throughout."""
    name = f"slowhttptest, {kind}, {url}"
    attack = f"slowhttptest -c 1000 -r 200 -i 5 -l 25 -p 3 {options} -u {url}://{DOMAIN}/"
    client.check_output(f"grep -q {DOMAIN} /etc/hosts || echo {site.address} {DOMAIN} >>/etc/hosts")
    with subprocess.Popen(
        ["podman", "exec", "flaskhost-audit-client", "timeout", "60", *attack.split()], stdout=subprocess.PIPE
    ) as process:
        answers, slowest, end = [], 0.0, time.monotonic() + 22
        while time.monotonic() < end:
            started = time.monotonic()
            answers.append(site.get("/", "--max-time", "5")[0])
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.5)
        process.communicate()
    served = answers.count(200)
    record(name, "a second client is served throughout", f"{served} of {len(answers)} requests, the slowest in {slowest:.1f} s")
    assert served == len(answers) > 20 and slowest < 3, answers
