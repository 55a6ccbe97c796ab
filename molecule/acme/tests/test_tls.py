"""TLS as browsers and TLS scanners see it."""

import os
import shutil
import subprocess

import pytest
from conftest import DIRECTORY
from sites import PROJECT

SSLYZE = "sslyze==6.3.1"


def complies(site, profile, root):
    """Whether sslyze finds that the site complies with one of Mozilla's profiles, and sslyze's output."""
    uv = shutil.which("uv") or str(PROJECT / ".uv/bin/uv")
    command = [uv, "tool", "run", "--quiet", "--from", SSLYZE, "sslyze", "--certinfo_ca_file", str(root), f"--mozilla_config={profile}"]
    result = subprocess.run(
        [*command, f"{site.domain}:{site.port}{{127.0.0.1}}"], capture_output=True, text=True, env={**os.environ, "UV_SYSTEM_CERTS": "1"}
    )
    output = result.stdout + result.stderr
    assert "COMPLIANCE AGAINST TLS CONFIGURATION" in output, output
    return result.returncode == 0, output.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]


@pytest.mark.sample
def test_the_default_profile_complies_with_mozillas_intermediate(site, ca, tmp_path):
    root = tmp_path / "root.pem"
    root.write_text(ca.roots())
    ok, output = complies(site, "intermediate", root)
    assert ok, output
    ok, output = complies(site, "modern", root)
    assert not ok and "TLSv1.2" in output, "sslyze must distinguish the profiles"


@pytest.fixture
def own_certificate(site, tmp_path):
    """A certificate valid for 90 days, with an ECDSA-only chain, as Mozilla's modern profile requires."""
    script = """
    set -e
    ec="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl req -x509 $ec -days 900 -subj /CN=root -addext keyUsage=critical,keyCertSign -keyout root.key -out root.pem
    openssl req $ec -subj /CN=$1 -addext subjectAltName=DNS:$1,DNS:www.$1 -keyout site.key -out site.csr
    printf "extendedKeyUsage=serverAuth\\nsubjectAltName=DNS:$1,DNS:www.$1\\n" >extensions
    openssl x509 -req -in site.csr -CA root.pem -CAkey root.key -CAcreateserial -days 90 -extfile extensions -out site.pem
    """
    subprocess.run(["sh", "-c", script, "sh", site.domain], cwd=tmp_path, check=True, capture_output=True)
    return {"tls_source": "provided", "tls_certificate_file": str(tmp_path / "site.pem"), "tls_key_file": str(tmp_path / "site.key")}


@pytest.mark.usefixtures("restored_afterwards")
def test_the_modern_profile_complies_with_mozillas_modern(site, own_certificate, tmp_path):
    run = site.play("playbooks/provision.yml", nginx_tls_profile="modern", **own_certificate)
    assert run.ok, run.output
    again = site.play("playbooks/provision.yml", nginx_tls_profile="modern", **own_certificate)
    assert again.ok and again.changed == 0, again.output
    assert site.files() == ["certificate.pem"], "the files of the previous source must be removed"
    ok, output = complies(site, "modern", tmp_path / "root.pem")
    assert ok, output


def test_hsts_is_sent(site):
    headers = site.get("/", "--head")[1]
    assert "strict-transport-security: max-age=63072000" in headers
    assert "strict-transport-security" in site.get("/nowhere", "--head")[1], "error pages must have it too"


def test_http2_works(site):
    assert site.get("/healthz", "--head")[1].startswith("HTTP/2 200")


def test_http3_works_where_nginx_supports_it(site, ca):
    version = site.host.check_output("nginx -v 2>&1").rpartition("/")[2].split()[0]
    supported = tuple(map(int, version.split("."))) >= (1, 25)
    assert ("alt-svc: h3=" in site.get("/", "--head")[1]) is supported
    assert ("443/udp" in site.host.check_output("ufw status")) is supported
    assert bool(site.host.check_output("ss --no-header --listening --udp --numeric 'sport = :443'")) is supported
    if supported and "HTTP3" in ca.host.check_output("curl --version"):
        request = f"curl --silent --insecure --http3-only --max-time 10 --resolve {site.domain}:443:{site.address}"
        assert (
            ca.host.check_output(f"{request} --output /dev/null --write-out '%{{http_version}} %{{http_code}}' https://{site.domain}/")
            == "3 200"
        )
        assert ca.host.run(f"{request.replace(site.domain, 'other.test')} https://other.test/").rc != 0, "another name must get no response"


def test_the_key_and_the_certificate_are_in_one_file(site):
    """A reload or a reboot never finds one without the other."""
    text = site.host.check_output(f"cat {DIRECTORY}/certificate.pem")
    assert text.startswith("# Issued by https://pebble.test:14000/dir\n-----BEGIN PRIVATE KEY-----")
    assert text.count("BEGIN CERTIFICATE") == 2
