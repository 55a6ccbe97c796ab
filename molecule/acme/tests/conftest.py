"""Two hosts, and the CA from which they get their certificates.

A test's docstring says what goes wrong, and after the colon what happens then: docs/reliability.md is made of them.
"""

import json
import socket
import ssl
import time

import pytest
import testinfra
from sites import Load, Site

FOLDER = "/etc/ssl/flaskhost/sample"
# the CA whose certificates last a minute; it wants an account
SHORT = {
    "tls_acme_directory": "https://pebble.test:14001/dir",
    "tls_acme_eab_id": "lab",
    "tls_acme_eab_secret": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
}


@pytest.fixture(params=["older", "newer"], scope="module")
def site(request):
    return AcmeSite(f"acme-{request.param}")


@pytest.fixture(scope="session")
def ca():
    return Ca()


@pytest.fixture
def load(site):
    """GET and POST requests all the while, by HTTP/2 as browsers send them; none may fail."""
    load = Load(site, seconds=600, options=["-h2"])
    yield
    answers, errors = load.stop()
    print(f"{site.name}: {answers}, errors {errors}")
    # A reload ends connections by GOAWAY, which names the requests that were not processed. Browsers send those again; hey can't.
    assert [error for error in errors if "graceful shutdown GOAWAY" not in error] == []
    assert set(answers) == {200, 303} and sum(answers.values()) > 100, answers


@pytest.fixture
def as_before(site, ca):
    """Whatever a test has done, what a deploy does to certificates puts it right, and then nothing is left to do."""
    yield
    for run in site.play("playbooks/provision.yml"), site.certify():
        assert run.ok, run.output
    assert site.seen(ca)["names"] == {site.domain, f"www.{site.domain}"}
    run = site.certify()
    assert run.ok and run.changed == 0, run.output
    assert site.left() == ["acme.json", "certificate.pem"]
    assert site.host.check_output("systemctl --failed --no-legend") == ""


class AcmeSite(Site):
    def __init__(self, name):
        super().__init__(name, domain=f"{name}.test")

    def certify(self, **variables):
        return self.play("playbooks/certificate.yml", **variables)

    def seen(self, ca, port=15000):
        """The certificate that a visitor gets who trusts the CA."""
        context = ssl.create_default_context(cadata=ca.roots(port))
        # pebble's own certificates are not all that a strict reader wants
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        with socket.create_connection(("127.0.0.1", self.port), 10) as tcp, context.wrap_socket(tcp, server_hostname=self.domain) as tls:
            told = tls.getpeercert()
        ends = ssl.cert_time_to_seconds(told["notAfter"])
        return {"serial": told["serialNumber"], "names": {name for _kind, name in told["subjectAltName"]}, "ends": ends}

    def served(self):
        """What a visitor gets who trusts anybody, and what is on the disk."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port), 10) as tcp, context.wrap_socket(tcp, server_hostname=self.domain) as tls:
            got = tls.getpeercert(binary_form=True)
        disk = self.host.check_output(f"openssl x509 -in {FOLDER}/certificate.pem")
        return got, ssl.PEM_cert_to_DER_cert(disk)

    def left(self):
        return self.host.check_output(f"ls {FOLDER}").split()

    def timer(self):
        """What the timer does when it goes off; whether that went well."""
        return self.host.run("systemctl start sample-certificate.service").rc == 0

    def problem(self):
        return json.loads(self.host.check_output(f"cat {FOLDER}/problem.json"))

    def knows(self, name, address):
        """To the host, this name leads there; to nowhere if the address is empty."""
        self.host.check_output(f"grep -v ' {name}$\\|\t{name}$' /etc/hosts >/root/hosts; cat /root/hosts >/etc/hosts")
        if address:
            self.host.check_output(f"echo '{address} {name}' >>/etc/hosts")


class Ca:
    """pebble, and its name server."""

    def __init__(self):
        self.host, self.known = testinfra.get_host("podman://flaskhost-pebble"), {15000: [], 15001: []}

    def root(self, port):
        return self.host.check_output(f"curl --silent --show-error --fail --insecure https://127.0.0.1:{port}/roots/0")

    def roots(self, port=15000):
        """All that it ever had: it makes a new one when it starts."""
        root = self.root(port)
        self.known[port] += [root] if root not in self.known[port] else []
        return "\n".join(self.known[port]) + "\n"

    def knows(self, name, address):
        """This one alone: an address that is added comes beside those that are known already."""
        for call, body in (("clear-a", {"host": name}), ("add-a", {"host": name, "addresses": [address]})):
            self.host.check_output(f"curl --silent --fail --data '{json.dumps(body)}' http://127.0.0.1:8055/{call}")

    def orders(self, unit="pebble@long"):
        """How many certificates it was asked for."""
        return int(self.host.check_output(f"journalctl --unit {unit} --output=cat | grep -c 'POST /order-plz' || true"))


def sleep_until(moment):
    time.sleep(max(0, moment - time.time()))
