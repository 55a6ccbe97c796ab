"""What visitors' browsers, and those who judge a site's TLS, get to see."""

import os
import shutil
import subprocess

import pytest
from conftest import FOLDER
from sites import PROJECT

JUDGE = "sslyze==6.3.1"


def complies(site, profile, root):
    """Whether sslyze finds the site to be as Mozilla advises, and what it says."""
    uv = shutil.which("uv") or str(PROJECT / ".uv/bin/uv")
    command = [uv, "tool", "run", "--quiet", "--from", JUDGE, "sslyze", "--certinfo_ca_file", str(root), f"--mozilla_config={profile}"]
    done = subprocess.run(
        [*command, f"{site.domain}:{site.port}{{127.0.0.1}}"], capture_output=True, text=True, env={**os.environ, "UV_SYSTEM_CERTS": "1"}
    )
    said = done.stdout + done.stderr
    assert "COMPLIANCE AGAINST TLS CONFIGURATION" in said, said
    return done.returncode == 0, said.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]


@pytest.mark.sample
def test_it_complies_with_intermediate(site, ca, tmp_path):
    root = tmp_path / "root.pem"
    root.write_text(ca.roots())
    ok, said = complies(site, "intermediate", root)
    assert ok, said
    ok, said = complies(site, "modern", root)
    assert not ok and "TLSv1.2" in said, "the judge tells them apart"


@pytest.fixture
def own_certificate(site, tmp_path):
    """For 90 days, and signed by ECDSA all the way, as `modern` wants it."""
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


@pytest.mark.usefixtures("as_before")
def test_it_complies_with_modern_if_asked_to(site, own_certificate, tmp_path):
    run = site.play("playbooks/provision.yml", nginx_tls_profile="modern", **own_certificate)
    assert run.ok, run.output
    again = site.play("playbooks/provision.yml", nginx_tls_profile="modern", **own_certificate)
    assert again.ok and again.changed == 0, again.output
    assert site.left() == ["certificate.pem"], "nothing of the former source"
    ok, said = complies(site, "modern", tmp_path / "root.pem")
    assert ok, said


def test_the_browser_is_told_to_come_by_https_only(site):
    headers = site.get("/", "--head")[1]
    assert "strict-transport-security: max-age=63072000" in headers
    assert "strict-transport-security" in site.get("/nowhere", "--head")[1], "on error pages too"


def test_http2_is_spoken(site):
    assert site.get("/healthz", "--head")[1].startswith("HTTP/2 200")


def test_http3_is_spoken_where_nginx_has_it(site, ca):
    version = site.host.check_output("nginx -v 2>&1").rpartition("/")[2].split()[0]
    has = tuple(map(int, version.split("."))) >= (1, 25)
    assert ("alt-svc: h3=" in site.get("/", "--head")[1]) is has
    assert ("443/udp" in site.host.check_output("ufw status")) is has
    assert bool(site.host.check_output("ss --no-header --listening --udp --numeric 'sport = :443'")) is has
    if has and "HTTP3" in ca.host.check_output("curl --version"):
        ask = f"curl --silent --insecure --http3-only --max-time 10 --resolve {site.domain}:443:{site.address}"
        assert (
            ca.host.check_output(f"{ask} --output /dev/null --write-out '%{{http_version}} %{{http_code}}' https://{site.domain}/")
            == "3 200"
        )
        assert ca.host.run(f"{ask.replace(site.domain, 'other.test')} https://other.test/").rc != 0, "another name gets nothing"


def test_the_key_is_in_one_file_with_its_certificate(site):
    """So that no reload, and no reboot, finds one without the other."""
    text = site.host.check_output(f"cat {FOLDER}/certificate.pem")
    assert text.startswith("# Issued by https://pebble.test:14000/dir\n-----BEGIN PRIVATE KEY-----")
    assert text.count("BEGIN CERTIFICATE") == 2
