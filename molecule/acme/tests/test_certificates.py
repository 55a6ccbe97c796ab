"""Certificates from a CA that speaks ACME (pebble): while one can't be had, the site stays up on what it has, the run says what to
do, and a plain rerun, or the timer, is all that is needed once it can."""

import pytest
from conftest import FOLDER, SHORT, sleep_until
from sites import during, kill

REACH = "open port 80 to the whole world"


@pytest.mark.sample
def test_a_certificate_is_issued_and_kept(site, ca):
    """A bare host asks for a certificate: nginx starts with a temporary one, and serves the CA's as soon as it is there; a rerun
    changes nothing, in well under a second."""
    seen = site.seen(ca)
    assert seen["names"] == {site.domain, f"www.{site.domain}"}
    assert "id-ecPublicKey" in site.host.check_output(f"openssl x509 -in {FOLDER}/certificate.pem -noout -text")
    asked = ca.orders()
    run = site.play("deploy.yml")
    assert run.ok and run.changed == 0, run.output
    told = site.host.check_output(
        f"s=$(date +%s%N); /usr/local/sbin/sample-certificate {FOLDER}; echo $(( ($(date +%s%N) - s) / 1000000 ))"
    )
    assert int(told) < 700, "milliseconds, and not a word"
    assert (site.seen(ca), ca.orders()) == (seen, asked)
    assert site.host.service("sample-certificate.timer").is_running and site.host.service("sample-certificate.timer").is_enabled


def test_who_talks_to_the_ca_can_read_nothing_else(site):
    """The ACME client is taken over by somebody: it runs as a user of its own, who can read neither key nor app."""
    file = site.host.file(f"{FOLDER}/certificate.pem")
    assert (file.user, file.mode) == ("root", 0o600)
    assert site.host.file("/var/lib/flaskhost-acme/sample/accounts").user == "sample-tls"
    as_client = "setpriv --reuid=sample-tls --regid=sample-tls --init-groups --"
    assert site.host.check_output(f"{as_client} id -un") == "sample-tls"
    for path in f"{FOLDER}/certificate.pem", f"{FOLDER}/acme.json", "/srv/sample/live/env", "/var/lib/sample/sample.db":
        assert site.host.run(f"{as_client} cat {path}").rc != 0, path


def test_nobody_logs_in_as_the_acme_client(site):
    """Somebody wants to log in as the ACME client's user: its account has expired, its home is nowhere, and it has no shell."""
    user = site.host.user("sample-tls")
    assert (user.home, user.shell) == ("/nonexistent", "/usr/sbin/nologin") and "flaskhost" in user.groups
    assert "account has expired" in site.host.run("su sample-tls -s /bin/sh -c id").stderr


EVIL = "/usr/local/bin/certbot"
STATE, ANSWERS = "/var/lib/flaskhost-acme/sample", "/run/flaskhost-acme/sample/.well-known/acme-challenge"
NEST = "python3 -c 'import os; [(os.mkdir(chr(100)), os.chdir(chr(100))) for _ in range(1500)]'"
LEAVES = {
    "processes": "setsid sleep 900 >/dev/null 2>&1 & setsid sh -c 'trap : TERM; while sleep 1; do :; done' >/dev/null 2>&1 & exit 1",
    "fifos": f"mkdir -p {STATE}/log; mkfifo chain {STATE}/log/letsencrypt.log; exit 0",
    "links": f"mkdir -p {STATE}/log; ln -s /etc/shadow chain; ln -s /etc/shadow {STATE}/log/letsencrypt.log; ln -s /etc {ANSWERS}/etc; exit 0",
    "endless-files": f"mkdir -p {STATE}/log; ln -s /dev/zero chain; ln -s /dev/zero {STATE}/log/letsencrypt.log; exit 0",
    "nested-folders": f"mkdir -p {STATE}/log; for at in {STATE}/log {ANSWERS} /tmp; do (cd $at; {NEST}; chmod 000 $at/d); done; exit 1",
    "escape-sequences": r"printf '\033]0;evil\007\377\n'; exit 1",
}


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("leaves", LEAVES)
def test_what_an_acme_client_leaves_that_was_taken_over(site, leaves):
    """The ACME client is taken over, and leaves where root works: processes, FIFOs, links, endless files, folders nested 1,500 deep, escape
    sequences: root neither blocks nor follows, the run says that there is no new certificate, and the next one gets it."""
    site.host.check_output("printf %%s %s >%s; chmod 755 %s", f"#!/bin/sh\n{LEAVES[leaves]}\n", EVIL, EVIL)
    try:
        found = site.host.run(f"timeout 60 /usr/local/sbin/sample-certificate --renew {FOLDER}")
    finally:
        site.host.check_output(f"rm {EVIL}")
    assert found.rc == 3 and "Visitors don't notice yet" in found.stderr and len(found.stderr) < 2000
    assert "root:" not in found.stderr and "\033" not in found.stderr
    assert site.host.run("ps -o args= -u sample-tls").stdout == ""
    assert site.host.run("ls -A /run/flaskhost-acme").stdout == ""
    assert site.host.check_output("stat -c '%U %a' /etc /etc/shadow") == "root 755\nroot 640"
    assert site.host.run(f"/usr/local/sbin/sample-certificate --renew {FOLDER}").rc == 0


@pytest.mark.sample
@pytest.mark.usefixtures("load")
def test_a_renewal(site, ca):
    """Certificates are renewed, under load (by HTTP/2, as browsers come): no request fails."""
    serials = {site.seen(ca)["serial"]}
    for _ in range(3):
        run = site.certify(tls_acme_renew=True)
        assert run.ok and run.changed == 1, run.output
        serials.add(site.seen(ca)["serial"])
    assert len(serials) == 4


@pytest.mark.usefixtures("as_before")
def test_one_that_ends(site, ca):
    """A certificate comes to its last third, or has ended: the timer renews it, and so does the next run."""
    run = site.play("deploy.yml", **SHORT)
    assert run.ok, run.output
    first = site.seen(ca, 15001)
    # nothing is due yet
    assert site.timer() and site.seen(ca, 15001)["serial"] == first["serial"]
    sleep_until(first["ends"] - 15)
    assert site.timer()
    second = site.seen(ca, 15001)
    assert second["serial"] != first["serial"]
    site.host.check_output("systemctl stop sample-certificate.timer")
    sleep_until(second["ends"] + 2)
    assert site.play("playbooks/doctor.yml").tells("certificate", "has ended")
    run = site.certify()
    assert run.ok and run.changed == 1, run.output
    assert site.seen(ca, 15001)["serial"] != second["serial"]


@pytest.mark.usefixtures("as_before")
def test_an_added_domain(site, ca):
    """A name is added to the site: one certificate for all of them takes the place of the former."""
    names = [site.domain, f"www.{site.domain}", f"shop.{site.domain}"]
    run = site.play("deploy.yml", app_domains=names)
    assert run.ok, run.output
    assert site.seen(ca)["names"] == set(names)


@pytest.mark.usefixtures("as_before")
def test_a_name_that_leads_nowhere_yet(site, ca):
    """A name's DNS isn't ready: the CA isn't asked, the app is released, the run fails at its end with what to do; once the name leads
    here, the timer gets the certificate."""
    new, asked, before = f"later.{site.domain}", ca.orders(), site.seen(ca)
    names = [site.domain, f"www.{site.domain}", new]
    run = site.play("deploy.yml", app_domains=names)
    assert not run.ok
    assert run.tells(f"The CA was not asked: {new} is not in the DNS", "A and AAAA records", f"it isn't for {new}"), run.output
    assert site.get("/healthz")[0] == 200 and site.seen(ca) == before and ca.orders() == asked
    assert site.play("playbooks/doctor.yml", app_domains=names).tells("BAD certificate", f"{new} is not in the DNS")
    # it leads to another host, which has a web server too
    other = "10.207.5.13" if site.name == "acme-older" else "10.207.5.12"
    site.knows(new, other)
    assert not site.timer()
    assert f"http://{new} leads to {other}, where" in site.problem()["found"]
    site.knows(new, site.address)
    ca.knows(new, site.address)
    try:
        assert site.timer()
        assert site.seen(ca)["names"] == set(names)
    finally:
        site.knows(new, "")


@pytest.mark.usefixtures("as_before")
def test_a_challenge_that_is_refused(site, ca):
    """The CA can't reach the host: the former certificate serves on; the run, status and doctor say what the CA said, and what to do."""
    before = site.seen(ca)
    ca.knows(f"www.{site.domain}", "10.207.5.77")
    try:
        run = site.certify(tls_acme_renew=True)
        assert run.ok, run.output
        assert run.tells(f"The CA refuses: www.{site.domain}:", "(connection)", REACH, "Visitors don't notice yet"), run.output
        assert site.seen(ca) == before
        assert site.play("playbooks/doctor.yml").tells("note certificate", "was not renewed: The CA refuses")
        assert site.play("playbooks/status.yml").tells("not renewed: The CA refuses")
    finally:
        ca.knows(f"www.{site.domain}", site.address)


@pytest.mark.usefixtures("as_before")
def test_a_name_that_the_ca_does_not_like(site, ca):
    """The CA gives no certificate for one of the names: the run fails at its end with its words, the site stays up, and the timer
    doesn't ask the CA in vain."""
    names = [site.domain, f"www.{site.domain}", f"blocked-{site.domain}"]
    before = site.seen(ca)
    run = site.play("deploy.yml", app_domains=names)
    assert not run.ok
    assert run.tells("The CA refuses:", "(rejectedIdentifier)", "take it out of app_domains"), run.output
    assert site.get("/healthz")[0] == 200 and site.seen(ca) == before
    asked = ca.orders()
    assert not site.timer() and ca.orders() == asked, "a CA that has refused is left in peace"


@pytest.mark.sample
@pytest.mark.usefixtures("as_before")
def test_a_ca_that_is_down(site, ca):
    """The CA is down, and comes back without any memory of us: the run says so; the next makes a new account."""
    before = site.seen(ca)
    root = ca.root(15000)
    ca.host.check_output("systemctl stop pebble@long")
    try:
        run = site.certify(tls_acme_renew=True)
        assert run.ok and run.tells("The CA can't be asked (https://pebble.test:14000/dir)", "tls_acme_directory"), run.output
    finally:
        ca.host.check_output(
            "systemctl start pebble@long; for i in $(seq 50); do curl -sk https://127.0.0.1:15000/roots/0 && exit 0; sleep 0.1; done; exit 1"
        )
    assert ca.root(15000) != root, "pebble forgets all"
    run = site.certify(tls_acme_renew=True)
    assert run.ok and run.changed == 1, run.output
    assert site.seen(ca)["serial"] != before["serial"]


NO_RELOAD = "/etc/systemd/system/nginx.service.d/no-reload.conf"


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("mended_by", [pytest.param("run", marks=pytest.mark.sample), "timer"])
def test_one_that_nginx_does_not_serve(site, ca, mended_by):
    """nginx goes on with the former certificate, though it was told to reload: status and doctor say so, and the next run, or the
    timer, has it reload."""
    before = site.seen(ca)
    site.host.check_output(f"printf '[Service]\\nExecReload=\\nExecReload=/bin/true\\n' >{NO_RELOAD}; systemctl daemon-reload")
    try:
        run = site.certify(tls_acme_renew=True)
        assert run.ok and run.tells("nginx doesn't serve the certificate that is on the disk", "nginx -t"), run.output
    finally:
        site.host.check_output(f"rm {NO_RELOAD}; systemctl daemon-reload")
    got, disk = site.served()
    assert got != disk and site.seen(ca) == before
    assert site.play("playbooks/status.yml").tells("not the one that nginx serves")
    run = site.play("playbooks/doctor.yml")
    assert not run.ok and run.tells("BAD certificate", "nginx serves another one than the one on the disk"), run.output
    asked = ca.orders()
    if mended_by == "timer":
        assert site.timer()
    else:
        run = site.certify()
        assert run.ok and run.changed == 1, run.output
    got, disk = site.served()
    assert got == disk and ca.orders() == asked
    assert "not the one" not in site.play("playbooks/status.yml").output


@pytest.mark.usefixtures("as_before")
def test_a_run_that_is_killed_while_it_asks(site, ca):
    """A run is killed while it asks the CA: the next ends where an undisturbed run ends."""
    during(site, "tls/certify/command", kill, "playbooks/certificate.yml", tls_acme_renew=True)
    run = site.certify()
    assert run.ok, run.output
    got, disk = site.served()
    assert got == disk and site.seen(ca)["names"] == {site.domain, f"www.{site.domain}"}


@pytest.mark.usefixtures("as_before")
def test_a_certificate_that_was_deleted(site, ca):
    """Somebody deleted the certificate: nginx gets a temporary one, in case it has to start, and then the CA's."""
    site.host.check_output(f"rm {FOLDER}/certificate.pem")
    run = site.play("deploy.yml")
    assert run.ok, run.output
    got, disk = site.served()
    assert got == disk and site.seen(ca)


TRACES = (
    "ls -d /usr/local/sbin/sample-certificate /var/lib/flaskhost-acme /run/flaskhost-acme /etc/systemd/system/sample-certificate.* "
    "/etc/systemd/system/timers.target.wants/sample-certificate.timer /var/lib/systemd/timers/stamp-sample-certificate.timer "
    f"{FOLDER}/acme.json {FOLDER}/problem.json 2>/dev/null; getent passwd sample-tls; getent group sample-tls; "
    "systemctl list-units --all --plain --no-legend 'sample-certificate*'; grep -r /run/flaskhost-acme /etc/nginx"
)


@pytest.mark.usefixtures("as_before")
def test_another_source(site):
    """The certificate is to come from elsewhere: nothing is left of what got and renewed the former one."""
    run = site.play("deploy.yml", tls_source="self_signed")
    assert run.ok, run.output
    got, disk = site.served()
    assert got == disk
    assert site.host.run(TRACES).stdout == ""
    assert site.left() == ["certificate.pem", "openssl.cnf"]
    assert site.play("playbooks/provision.yml", tls_source="self_signed").changed == 0


@pytest.mark.usefixtures("as_before")
def test_another_source_and_a_run_that_was_killed(site):
    """The same, and the run dies before it has removed what renewed the certificate: that removes itself within the hour."""
    site.host.check_output(f"rm {FOLDER}/acme.json")
    assert site.timer()
    site.host.check_output("for i in $(seq 50); do [ -e /usr/local/sbin/sample-certificate ] || exit 0; sleep 0.1; done; exit 1")
    assert site.host.run(TRACES.rpartition(";")[0]).stdout == ""


def test_after_all_that_nothing_is_left_to_do(site):
    """All of this has been done to a host: a plain deploy changes nothing."""
    run = site.play("deploy.yml")
    assert run.ok and run.changed == 0, run.output
