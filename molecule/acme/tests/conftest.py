"""Two hosts, and the CA that issues their certificates.

A test's docstring says what goes wrong and, after the colon, what happens. docs/reliability.md is generated from the docstrings.
"""

import json
import socket
import ssl
import time

import pytest
import testinfra
from sites import SAMPLE, Load, Site

DIRECTORY = "/etc/ssl/flaskhost/sample"
# the CA whose certificates are valid for one minute; it requires external account binding
SHORT = {
    "tls_acme_directory": "https://pebble.test:14001/dir",
    "tls_acme_eab_id": "lab",
    "tls_acme_eab_secret": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
}


@pytest.fixture(params=["newer"] if SAMPLE else ["older", "newer"], scope="module")
def site(request):
    return AcmeSite(f"acme-{request.param}")


@pytest.fixture(scope="session")
def ca():
    return Ca()


@pytest.fixture
def load(site):
    """GET and POST requests over HTTP/2, as browsers send them, for the duration of a test. None may fail."""
    load = Load(site, seconds=600, options=["-h2"])
    yield
    answers, errors = load.stop()
    print(f"{site.name}: {answers}, errors {errors}")
    # A reload closes connections with GOAWAY, which names the unprocessed requests. Browsers send those again; hey can't.
    assert [error for error in errors if "graceful shutdown GOAWAY" not in error] == []
    assert set(answers) == {200, 303} and sum(answers.values()) > 100, answers


@pytest.fixture
def restored_afterwards(site, ca):
    """Afterwards, provisioning and requesting a certificate restore the host, and a further run changes nothing."""
    yield
    for run in site.play("playbooks/provision.yml"), site.certify():
        assert run.ok, run.output
    assert site.certificate(ca)["names"] == {site.domain, f"www.{site.domain}"}
    run = site.certify()
    assert run.ok and run.changed == 0, run.output
    assert site.files() == ["acme.json", "certificate.pem"]
    assert site.host.check_output("systemctl --failed --no-legend") == ""


class AcmeSite(Site):
    def __init__(self, name):
        super().__init__(name, domain=f"{name}.test")

    def certify(self, **variables):
        return self.play("playbooks/certificate.yml", **variables)

    def certificate(self, ca, port=15000):
        """The certificate that a visitor who trusts the CA gets."""
        context = ssl.create_default_context(cadata=ca.roots(port))
        # pebble's certificates don't pass the strict checks
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        with socket.create_connection(("127.0.0.1", self.port), 10) as tcp, context.wrap_socket(tcp, server_hostname=self.domain) as tls:
            certificate = tls.getpeercert()
        ends = ssl.cert_time_to_seconds(certificate["notAfter"])
        return {"serial": certificate["serialNumber"], "names": {name for _kind, name in certificate["subjectAltName"]}, "ends": ends}

    def served_and_stored(self):
        """The certificate that nginx serves, without verification, and the one on the disk."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port), 10) as tcp, context.wrap_socket(tcp, server_hostname=self.domain) as tls:
            served = tls.getpeercert(binary_form=True)
        stored = self.host.check_output(f"openssl x509 -in {DIRECTORY}/certificate.pem")
        return served, ssl.PEM_cert_to_DER_cert(stored)

    def files(self):
        return self.host.check_output(f"ls {DIRECTORY}").split()

    def run_timer(self):
        """Run what the timer starts; return whether it succeeded."""
        return self.host.run("systemctl start sample-certificate.service").rc == 0

    def problem(self):
        return json.loads(self.host.check_output(f"cat {DIRECTORY}/problem.json"))

    def set_address(self, name, address):
        """Set the address that the host resolves this name to; an empty address removes the name."""
        self.host.check_output(f"grep -v ' {name}$\\|\t{name}$' /etc/hosts >/root/hosts; cat /root/hosts >/etc/hosts")
        if address:
            self.host.check_output(f"echo '{address} {name}' >>/etc/hosts")


class Ca:
    """pebble, and its name server."""

    def __init__(self):
        self.host, self.known_roots = testinfra.get_host("podman://flaskhost-pebble"), {15000: [], 15001: []}

    def root(self, port):
        return self.host.check_output(f"curl --silent --show-error --fail --insecure https://127.0.0.1:{port}/roots/0")

    def roots(self, port=15000):
        """All root certificates so far: pebble creates a new one each time it starts."""
        root = self.root(port)
        self.known_roots[port] += [root] if root not in self.known_roots[port] else []
        return "\n".join(self.known_roots[port]) + "\n"

    def set_address(self, name, address):
        """Set the only address of this name: add-a alone would keep the previous addresses."""
        for call, body in (("clear-a", {"host": name}), ("add-a", {"host": name, "addresses": [address]})):
            self.host.check_output(f"curl --silent --fail --data '{json.dumps(body)}' http://127.0.0.1:8055/{call}")

    def orders(self, unit="pebble@long"):
        """Number of certificates that were requested from this CA."""
        return int(self.host.check_output(f"journalctl --unit {unit} --output=cat | grep -c 'POST /order-plz' || true"))


def sleep_until(moment):
    time.sleep(max(0, moment - time.time()))
