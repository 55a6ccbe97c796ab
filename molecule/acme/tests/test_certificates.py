"""Certificates from an ACME CA (pebble). If the CA can't issue one, the site keeps serving its current certificate, and the run reports the
remedy. Once the cause is gone, a rerun or the timer gets the certificate."""

import pytest
from conftest import DIRECTORY, SHORT, sleep_until
from sites import during, kill

OPEN_PORT_80 = "open port 80 to all addresses"


@pytest.mark.sample
def test_a_certificate_is_issued_and_kept(site, ca):
    """A bare host requests a certificate: nginx starts with a temporary one and serves the CA's as soon as it is issued; a rerun changes
    nothing and takes well under a second."""
    certificate = site.certificate(ca)
    assert certificate["names"] == {site.domain, f"www.{site.domain}"}
    assert "id-ecPublicKey" in site.host.check_output(f"openssl x509 -in {DIRECTORY}/certificate.pem -noout -text")
    orders = ca.orders()
    run = site.play("deploy.yml")
    assert run.ok and run.changed == 0, run.output
    milliseconds = site.host.check_output(
        f"s=$(date +%s%N); /usr/local/sbin/sample-certificate {DIRECTORY}; echo $(( ($(date +%s%N) - s) / 1000000 ))"
    )
    assert int(milliseconds) < 700, "the script must be fast and print nothing"
    assert (site.certificate(ca), ca.orders()) == (certificate, orders)
    assert site.host.service("sample-certificate.timer").is_running and site.host.service("sample-certificate.timer").is_enabled


def test_the_acme_client_can_not_read_the_key_or_the_app(site):
    """An attacker takes over the ACME client: it runs as a separate user, who can read neither the key nor the app's files."""
    file = site.host.file(f"{DIRECTORY}/certificate.pem")
    assert (file.user, file.mode) == ("root", 0o600)
    assert site.host.file("/var/lib/flaskhost-acme/sample/accounts").user == "sample-tls"
    as_client = "setpriv --reuid=sample-tls --regid=sample-tls --init-groups --"
    assert site.host.check_output(f"{as_client} id -un") == "sample-tls"
    for path in f"{DIRECTORY}/certificate.pem", f"{DIRECTORY}/acme.json", "/srv/sample/live/env", "/var/lib/sample/sample.db":
        assert site.host.run(f"{as_client} cat {path}").rc != 0, path


def test_nobody_can_log_in_as_the_acme_client(site):
    """An attacker tries to log in as the ACME client's user: its account has expired, and it has neither a home directory nor a shell."""
    user = site.host.user("sample-tls")
    assert (user.home, user.shell) == ("/nonexistent", "/usr/sbin/nologin") and "flaskhost" in user.groups
    assert "account has expired" in site.host.run("su sample-tls -s /bin/sh -c id").stderr


FAKE_CERTBOT = "/usr/local/bin/certbot"
STATE, CHALLENGES = "/var/lib/flaskhost-acme/sample", "/run/flaskhost-acme/sample/.well-known/acme-challenge"
NEST_DIRECTORIES = "python3 -c 'import os; [(os.mkdir(chr(100)), os.chdir(chr(100))) for _ in range(1500)]'"
LEFTOVERS = {
    "processes": "setsid sleep 900 >/dev/null 2>&1 & setsid sh -c 'trap : TERM; while sleep 1; do :; done' >/dev/null 2>&1 & exit 1",
    "fifos": f"mkdir -p {STATE}/log; mkfifo chain {STATE}/log/letsencrypt.log; exit 0",
    "links": f"mkdir -p {STATE}/log; ln -s /etc/shadow chain; ln -s /etc/shadow {STATE}/log/letsencrypt.log; ln -s /etc {CHALLENGES}/etc; exit 0",
    "endless-files": f"mkdir -p {STATE}/log; ln -s /dev/zero chain; ln -s /dev/zero {STATE}/log/letsencrypt.log; exit 0",
    "nested-directories": f"mkdir -p {STATE}/log; for at in {STATE}/log {CHALLENGES} /tmp; do (cd $at; {NEST_DIRECTORIES}; chmod 000 $at/d); done; exit 1",
    "escape-sequences": r"printf '\033]0;evil\007\377\n'; exit 1",
}


@pytest.mark.usefixtures("restored_afterwards")
@pytest.mark.parametrize("leftovers", LEFTOVERS)
def test_a_compromised_acme_client(site, leftovers):
    """A compromised ACME client leaves processes, FIFOs, links, endless files, directories nested 1,500 levels deep or escape sequences
    where root works: root neither blocks nor follows the links, the run reports that there is no new certificate, and the next run gets
    one."""
    site.host.check_output("printf %%s %s >%s; chmod 755 %s", f"#!/bin/sh\n{LEFTOVERS[leftovers]}\n", FAKE_CERTBOT, FAKE_CERTBOT)
    try:
        result = site.host.run(f"timeout 60 /usr/local/sbin/sample-certificate --renew {DIRECTORY}")
    finally:
        site.host.check_output(f"rm {FAKE_CERTBOT}")
    assert result.rc == 3 and "Visitors are not affected yet" in result.stderr and len(result.stderr) < 2000
    assert "root:" not in result.stderr and "\033" not in result.stderr
    assert site.host.run("ps -o args= -u sample-tls").stdout == ""
    assert site.host.run("ls -A /run/flaskhost-acme").stdout == ""
    assert site.host.check_output("stat -c '%U %a' /etc /etc/shadow") == "root 755\nroot 640"
    assert site.host.run(f"/usr/local/sbin/sample-certificate --renew {DIRECTORY}").rc == 0


@pytest.mark.sample
@pytest.mark.usefixtures("load")
def test_a_renewal(site, ca):
    """Certificates are renewed under load, over HTTP/2: no request fails."""
    serials = {site.certificate(ca)["serial"]}
    for _ in range(3):
        run = site.certify(tls_acme_renew=True)
        assert run.ok and run.changed == 1, run.output
        serials.add(site.certificate(ca)["serial"])
    assert len(serials) == 4


@pytest.mark.usefixtures("restored_afterwards")
def test_a_certificate_that_expires(site, ca):
    """A certificate is in the last third of its lifetime, or has expired: the timer renews it, and so does the next run."""
    run = site.play("deploy.yml", **SHORT)
    assert run.ok, run.output
    first = site.certificate(ca, 15001)
    # no renewal is due yet
    assert site.run_timer() and site.certificate(ca, 15001)["serial"] == first["serial"]
    sleep_until(first["ends"] - 15)
    assert site.run_timer()
    second = site.certificate(ca, 15001)
    assert second["serial"] != first["serial"]
    site.host.check_output("systemctl stop sample-certificate.timer")
    sleep_until(second["ends"] + 2)
    assert site.play("playbooks/doctor.yml").reports("certificate", "expired")
    run = site.certify()
    assert run.ok and run.changed == 1, run.output
    assert site.certificate(ca, 15001)["serial"] != second["serial"]


@pytest.mark.usefixtures("restored_afterwards")
def test_an_added_domain(site, ca):
    """A domain is added to the site: one certificate for all domains replaces the previous one."""
    names = [site.domain, f"www.{site.domain}", f"shop.{site.domain}"]
    run = site.play("deploy.yml", app_domains=names)
    assert run.ok, run.output
    assert site.certificate(ca)["names"] == set(names)


@pytest.mark.usefixtures("restored_afterwards")
def test_a_domain_without_dns_records(site, ca):
    """A domain has no DNS records yet: Flaskhost doesn't ask the CA, the app is released, and the run fails at its end with the remedy;
    once the records exist, the timer gets the certificate."""
    added, orders, before = f"later.{site.domain}", ca.orders(), site.certificate(ca)
    names = [site.domain, f"www.{site.domain}", added]
    run = site.play("deploy.yml", app_domains=names)
    assert not run.ok
    assert run.reports(
        f"No certificate was requested: {added} does not resolve", "A and AAAA records", f"the current certificate does not cover {added}"
    ), run.output
    assert site.get("/healthz")[0] == 200 and site.certificate(ca) == before and ca.orders() == orders
    assert site.play("playbooks/doctor.yml", app_domains=names).reports("BAD certificate", f"{added} does not resolve")
    # now the domain points to another host, which also runs a web server
    other = "10.207.5.13" if site.name == "acme-older" else "10.207.5.12"
    site.set_address(added, other)
    assert not site.run_timer()
    assert f"http://{added} at {other} " in site.problem()["found"]
    site.set_address(added, site.address)
    ca.set_address(added, site.address)
    try:
        assert site.run_timer()
        assert site.certificate(ca)["names"] == set(names)
    finally:
        site.set_address(added, "")


@pytest.mark.usefixtures("restored_afterwards")
def test_a_challenge_that_fails(site, ca):
    """The CA can't connect to the host: nginx keeps serving the previous certificate; the run, status and doctor report the CA's error and
    the remedy."""
    before = site.certificate(ca)
    ca.set_address(f"www.{site.domain}", "10.207.5.77")
    try:
        run = site.certify(tls_acme_renew=True)
        assert run.ok, run.output
        assert run.reports(
            f"The CA rejected the request: www.{site.domain}:", "(connection)", OPEN_PORT_80, "Visitors are not affected yet"
        ), run.output
        assert site.certificate(ca) == before
        assert site.play("playbooks/doctor.yml").reports("note certificate", "was not renewed: The CA rejected the request")
        assert site.play("playbooks/status.yml").reports("not renewed: The CA rejected the request")
    finally:
        ca.set_address(f"www.{site.domain}", site.address)


@pytest.mark.usefixtures("restored_afterwards")
def test_a_domain_that_the_ca_rejects(site, ca):
    """The CA rejects one of the domains: the run fails at its end with the CA's error, the site stays up, and the timer doesn't request the
    same certificate again."""
    names = [site.domain, f"www.{site.domain}", f"blocked-{site.domain}"]
    before = site.certificate(ca)
    run = site.play("deploy.yml", app_domains=names)
    assert not run.ok
    assert run.reports("The CA rejected the request:", "(rejectedIdentifier)", "Remove it from app_domains"), run.output
    assert site.get("/healthz")[0] == 200 and site.certificate(ca) == before
    orders = ca.orders()
    assert not site.run_timer() and ca.orders() == orders, "the timer must not repeat a rejected request"


@pytest.mark.sample
@pytest.mark.usefixtures("restored_afterwards")
def test_a_ca_that_is_down(site, ca):
    """The CA is down and loses its accounts: the run reports that the connection failed; once the CA is up again, the next run creates a
    new account."""
    before = site.certificate(ca)
    root = ca.root(15000)
    ca.host.check_output("systemctl stop pebble@long")
    try:
        run = site.certify(tls_acme_renew=True)
        assert run.ok and run.reports("The connection to the CA failed (https://pebble.test:14000/dir)", "tls_acme_directory"), run.output
    finally:
        ca.host.check_output(
            "systemctl start pebble@long; for i in $(seq 50); do curl -sk https://127.0.0.1:15000/roots/0 && exit 0; sleep 0.1; done; exit 1"
        )
    assert ca.root(15000) != root, "pebble must have lost its state"
    run = site.certify(tls_acme_renew=True)
    assert run.ok and run.changed == 1, run.output
    assert site.certificate(ca)["serial"] != before["serial"]


NO_RELOAD = "/etc/systemd/system/nginx.service.d/no-reload.conf"


@pytest.mark.usefixtures("restored_afterwards")
@pytest.mark.parametrize("fixed_by", [pytest.param("run", marks=pytest.mark.sample), "timer"])
def test_a_certificate_that_nginx_does_not_serve(site, ca, fixed_by):
    """nginx keeps serving the previous certificate in spite of a reload: status and doctor report it, and the next run or the timer reloads
    nginx."""
    before = site.certificate(ca)
    site.host.check_output(f"printf '[Service]\\nExecReload=\\nExecReload=/bin/true\\n' >{NO_RELOAD}; systemctl daemon-reload")
    try:
        run = site.certify(tls_acme_renew=True)
        assert run.ok and run.reports("nginx does not serve the certificate on the disk", "nginx -t"), run.output
    finally:
        site.host.check_output(f"rm {NO_RELOAD}; systemctl daemon-reload")
    served, stored = site.served_and_stored()
    assert served != stored and site.certificate(ca) == before
    assert site.play("playbooks/status.yml").reports("not served by nginx")
    run = site.play("playbooks/doctor.yml")
    assert not run.ok and run.reports("BAD certificate", "nginx does not serve the certificate on disk"), run.output
    orders = ca.orders()
    if fixed_by == "timer":
        assert site.run_timer()
    else:
        run = site.certify()
        assert run.ok and run.changed == 1, run.output
    served, stored = site.served_and_stored()
    assert served == stored and ca.orders() == orders
    assert "not served by nginx" not in site.play("playbooks/status.yml").output


@pytest.mark.usefixtures("restored_afterwards")
def test_a_run_that_is_killed_during_a_request(site, ca):
    """A run is killed while it requests a certificate: the next run reaches the state of an uninterrupted run."""
    during(site, "tls/certify/command", kill, "playbooks/certificate.yml", tls_acme_renew=True)
    run = site.certify()
    assert run.ok, run.output
    served, stored = site.served_and_stored()
    assert served == stored and site.certificate(ca)["names"] == {site.domain, f"www.{site.domain}"}


@pytest.mark.usefixtures("restored_afterwards")
def test_a_deleted_certificate(site, ca):
    """The certificate is deleted: nginx gets a temporary one, so that it can start, and then one from the CA."""
    site.host.check_output(f"rm {DIRECTORY}/certificate.pem")
    run = site.play("deploy.yml")
    assert run.ok, run.output
    served, stored = site.served_and_stored()
    assert served == stored and site.certificate(ca)


TRACES = (
    "ls -d /usr/local/sbin/sample-certificate /var/lib/flaskhost-acme /run/flaskhost-acme /etc/systemd/system/sample-certificate.* "
    "/etc/systemd/system/timers.target.wants/sample-certificate.timer /var/lib/systemd/timers/stamp-sample-certificate.timer "
    f"{DIRECTORY}/acme.json {DIRECTORY}/problem.json 2>/dev/null; getent passwd sample-tls; getent group sample-tls; "
    "systemctl list-units --all --plain --no-legend 'sample-certificate*'; grep -r /run/flaskhost-acme /etc/nginx"
)


@pytest.mark.usefixtures("restored_afterwards")
def test_a_changed_source(site):
    """tls_source changes: everything that requested and renewed the previous certificate is removed."""
    run = site.play("deploy.yml", tls_source="self_signed")
    assert run.ok, run.output
    served, stored = site.served_and_stored()
    assert served == stored
    assert site.host.run(TRACES).stdout == ""
    assert site.files() == ["certificate.pem", "openssl.cnf"]
    assert site.play("playbooks/provision.yml", tls_source="self_signed").changed == 0


@pytest.mark.usefixtures("restored_afterwards")
def test_a_changed_source_and_a_killed_run(site):
    """tls_source changes, and the run is killed before it removes the renewal script: the script removes itself within an hour."""
    site.host.check_output(f"rm {DIRECTORY}/acme.json")
    assert site.run_timer()
    site.host.check_output("for i in $(seq 50); do [ -e /usr/local/sbin/sample-certificate ] || exit 0; sleep 0.1; done; exit 1")
    assert site.host.run(TRACES.rpartition(";")[0]).stdout == ""


def test_a_deploy_after_all_these_faults(site):
    """A plain deploy follows all these faults: it changes nothing."""
    run = site.play("deploy.yml")
    assert run.ok and run.changed == 0, run.output
