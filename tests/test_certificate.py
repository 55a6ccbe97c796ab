"""A certificate is requested once when it is due, problems are reported, and nginx serves the certificate on the disk."""

import argparse
import http.server
import importlib.util
import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import PROJECT

DAY = 86400
DIRECTORY = "https://ca.example/directory"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The program as on a host, except for system paths, ports and the commands that it calls."""
    spec = importlib.util.spec_from_file_location("certificate", PROJECT / "roles/tls/files/certificate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("run", "etc", "bin", "site", "ca"):
        (tmp_path / name).mkdir()
    module.RUN, module.UNITS, module.RELOAD_SECONDS = tmp_path / "run", tmp_path / "etc", 0.5
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    me = SimpleNamespace(pw_uid=os.getuid(), pw_gid=os.getgid(), pw_dir="/nonexistent", pw_shell="/usr/sbin/nologin")
    monkeypatch.setattr(module, "pwd", SimpleNamespace(getpwnam=lambda _name: me))
    monkeypatch.setattr(module, "grp", SimpleNamespace(getgrnam=lambda _name: SimpleNamespace(gr_mem=["unit-tls"])))
    # the program runs setpriv to kill all processes of the client's user
    command(tmp_path, "setpriv", "exit 1")
    command(tmp_path, "getent", "echo 'unit-tls:!:20000::::1:1:'")
    command(tmp_path, "systemd-run", UNIT.format(base=tmp_path))
    command(tmp_path, "systemctl", f'echo "$@" >>{tmp_path}/systemctl')
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1000", "-subj", "/CN=CA",
            "-keyout", tmp_path / "ca/key", "-out", tmp_path / "ca/pem")  # fmt: skip
    return module


# A stand-in for systemd-run: creates the client unit's runtime directory and working directory. Removes the runtime directory afterwards.
UNIT = """
echo "$@" >>{base}/units
while [ "$1" != -- ]; do
  case $1 in --property=RuntimeDirectory=*) directory={base}/run/${{1##*=}} ;; --setenv=*) export "${{1#--setenv=}}" ;; --collect) ;; --quiet) ;; esac
  shift
done
shift
mkdir -p "$directory" {base}/state
cd "$(mktemp -d -p {base})"
"$@"
code=$?
rm -rf "$directory"
exit $code
"""


def command(directory, name, script):
    path = directory / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def openssl(*command):
    subprocess.run(["openssl", *command], check=True, capture_output=True)


@pytest.fixture
def site(program, tmp_path):
    return configured(program, tmp_path)


def configured(program, tmp_path, **changed):
    settings = {"domains": ["a.example", "B.example"], "directory": DIRECTORY, "ca": "", "email": "", "eab_id": "", "eab_secret": ""}
    (tmp_path / "site/acme.json").write_text(json.dumps({**settings, "probe": False, **changed}))
    site = program.Site(tmp_path / "site", "unit")
    site.state = tmp_path / "state"
    return site


def keep(program, site, **options):
    return program.keep(site, argparse.Namespace(**{"check": False, "renew": False, "timer": False, **options}))


def put(site, tmp_path, names="a.example,b.example", days=90, mark=f"# Issued by {DIRECTORY}\n", signed=True):
    """Put a certificate on the disk."""
    names = ",".join(f"DNS:{name}" for name in names.split(","))
    key, pem = tmp_path / "key", tmp_path / "pem"
    command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(days), "-subj", "/CN=site"]
    by = ["-CA", tmp_path / "ca/pem", "-CAkey", tmp_path / "ca/key"] if signed else []
    openssl(*command, *by, "-addext", f"subjectAltName={names}", "-keyout", key, "-out", pem)
    site.file.write_text(mark + key.read_text() + pem.read_text())


# a stand-in for a successful certbot: signs the request
SIGN = """
for word; do
  case $last in --csr) request=$word ;; --fullchain-path) chain=$word ;; --logs-dir) log=$word ;; --config-dir) state=$word ;; esac
  last=$word
done
echo "$@" >>{base}/requests
ls -l "$(dirname "$request")" | awk 'NR > 1 {{ print $1, $NF }}' >{base}/given
openssl x509 -req -in "$request" -CA {base}/ca/pem -CAkey {base}/ca/key -days {days} -copy_extensions copy -out "$chain" 2>/dev/null
cat {base}/ca/pem >>"$chain"
"""


def client(tmp_path, before="", days=90):
    command(tmp_path, "certbot", before + SIGN.format(base=tmp_path, days=days))


def requests(tmp_path):
    path = tmp_path / "requests"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def nginx(program, tmp_path):
    """A server that presents the certificate that was on the disk at its last reload."""
    server = Nginx(tmp_path)
    program.HTTPS = server.address
    command(tmp_path, "systemctl", f'[ "$1" != reload ] || cp {tmp_path}/site/certificate.pem {tmp_path}/served')
    yield server
    server.close()


class Nginx:
    def __init__(self, directory):
        self.file, self.listener = directory / "served", socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                tcp = self.listener.accept()[0]
            except OSError:
                return
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.file)
                context.wrap_socket(tcp, server_side=True).close()
            except OSError:
                tcp.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


# -- when a certificate is due -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "reason"),
    [
        ({}, ""),
        ({"names": "b.example,A.example"}, ""),
        ({"names": "a.example"}, "the current certificate does not cover b.example"),
        ({"names": "a.example,b.example,c.example"}, "the current certificate also covers c.example"),
        ({"mark": ""}, f"the current certificate is not from {DIRECTORY}"),
        ({"mark": "# Issued by https://staging.example/directory\n"}, f"the current certificate is not from {DIRECTORY}"),
        ({"signed": False}, "the current certificate is self-signed"),
    ],
)
def test_a_new_certificate_is_due_for_each_of_these_reasons(program, site, tmp_path, current, reason):
    put(site, tmp_path, **current)
    assert program.why_due(site, program.Certificate(site.file.read_text())) == reason


@pytest.mark.parametrize(("days", "due_after"), [(90, 60), (45, 30), (6, 4)])
def test_a_certificate_is_renewed_when_a_third_of_its_lifetime_is_left(program, site, tmp_path, monkeypatch, days, due_after):
    put(site, tmp_path, days=days)
    certificate, now = program.Certificate(site.file.read_text()), time.time()
    for later, reason in (
        (due_after - 0.1, ""),
        (due_after + 0.1, "the current certificate expires at"),
        (days + 1, "the current certificate expired at"),
    ):
        monkeypatch.setattr(
            program, "time", SimpleNamespace(time=lambda later=later: now + later * DAY, strftime=time.strftime, gmtime=time.gmtime)
        )
        found = program.why_due(site, certificate)
        assert found.startswith(reason) and bool(found) == bool(reason)


@pytest.mark.parametrize("text", ["", "junk", "-----BEGIN CERTIFICATE-----\nanVuaw==\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_valid_certificate_counts_as_missing(program, site, text):
    assert program.why_due(site, program.Certificate(text)) == "there is no certificate"


# -- the request -------------------------------------------------------------------------------------------------------


def test_a_bare_host_requests_a_certificate_only_once(program, site, nginx, tmp_path, capsys):
    client(tmp_path)
    assert keep(program, site) == 0
    assert "The CA issued a certificate. Reason for the request: there is no certificate." in capsys.readouterr().out
    text = site.file.read_text()
    assert text.startswith(f"# Issued by {DIRECTORY}\n-----BEGIN PRIVATE KEY-----")
    assert text.count("BEGIN CERTIFICATE") == 2, "the certificate and its chain"
    assert stat.S_IMODE(site.file.stat().st_mode) == 0o600
    assert nginx.file.read_text() == text
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(site.file)  # checks that the key matches the certificate
    assert keep(program, site) == 0 and capsys.readouterr().out == ""
    assert len(requests(tmp_path)) == 1
    assert sorted(os.listdir(site.directory)) == ["acme.json", "certificate.pem"]
    assert not site.webroot.exists() and sorted(os.listdir(program.RUN)) == ["flaskhost", "flaskhost-acme"]
    assert os.listdir(program.RUN / "flaskhost") == ["host.lock"]
    assert stat.S_IMODE((program.RUN / "flaskhost/host.lock").stat().st_mode) == 0o600


def test_the_acme_client_gets_no_private_key(program, site, nginx, tmp_path):
    client(tmp_path)
    keep(program, site)
    assert (tmp_path / "given").read_text().split() == ["-rw-r-----", "ca", "-rw-r-----", "request", "-rw-r-----", "secrets"]


def test_each_certificate_has_a_new_key(program, site, nginx, tmp_path):
    client(tmp_path)
    keep(program, site)
    first = site.file.read_text()
    assert keep(program, site, renew=True) == 0
    assert first.split("-----")[2] != site.file.read_text().split("-----")[2]
    assert len(requests(tmp_path)) == 2


def test_the_client_gets_the_settings(program, nginx, tmp_path):
    site = configured(program, tmp_path, email="you@a.example", eab_id="kid-1", eab_secret="hunter2", ca="PEM")
    client(tmp_path, before=f'cp "$(dirname "$5")"/secrets {tmp_path}/secrets; echo "$REQUESTS_CA_BUNDLE" >{tmp_path}/bundle\n')
    keep(program, site)
    (arguments,) = requests(tmp_path)
    for option in (
        f"--server {DIRECTORY}",
        "--email you@a.example",
        f"--webroot-path {site.webroot}",
        "--agree-tos",
        "--preferred-challenges http",
    ):
        assert option in arguments
    assert "hunter2" not in arguments, "other users can see command lines"
    assert (tmp_path / "secrets").read_text() == "eab-kid = kid-1\neab-hmac-key = hunter2\n"
    assert (tmp_path / "bundle").read_text().endswith("/ca\n")


def test_check_mode_reports_changes_without_making_them(program, site, nginx, tmp_path, capsys):
    client(tmp_path)
    assert keep(program, site, check=True) == 0
    assert capsys.readouterr().out == "Would request a certificate. Reason: there is no certificate.\n"
    keep(program, site)
    nginx.file.unlink()
    capsys.readouterr()
    assert keep(program, site, check=True) == 0
    assert capsys.readouterr().out.startswith("Would reload nginx")
    assert len(requests(tmp_path)) == 1 and not nginx.file.exists()


LOG = 'log=$(echo "$@" | sed "s/.*--logs-dir //; s/ .*//"); mkdir -p $log; echo requests >>{0}/requests\n'


def fails_with(tmp_path, output="", log="", times=9):
    """A stand-in for certbot that fails this many times."""
    (tmp_path / "output").write_text(output)
    (tmp_path / "log").write_text(log)
    fail = f"cat {tmp_path}/output; cp {tmp_path}/log $log/letsencrypt.log; exit 1"
    client(tmp_path, before=LOG.format(tmp_path) + f"if [ $(wc -l <{tmp_path}/requests) -le {times} ]; then {fail}; fi\n")


ERROR = "acme.messages.Error: urn:ietf:params:acme:error:"


@pytest.mark.parametrize(
    ("output", "log", "found", "fix"),
    [
        (
            "  Domain: a.example\n  Type:   connection\n  Detail: 192.0.2.1: Timeout during connect\n\n",
            "",
            "The CA rejected the request: a.example: 192.0.2.1: Timeout during connect (connection)",
            "open port 80",
        ),
        (
            "  Domain: a.example\n  Type:   caa\n  Detail: CAA record for a.example prevents issuance\n\n",
            "",
            "CAA record for a.example prevents issuance (caa)",
            "Add the CA to the domain's CAA record",
        ),
        # certbot 2.1 fails like this for any error other than a failed challenge
        (
            "An unexpected error occurred:\nAttributeError: can't set attribute\n",
            f"{ERROR}rateLimited :: There were too many requests :: too many certificates (5) already issued, retry after 2026-12-01\n",
            "too many certificates (5) already issued, retry after 2026-12-01 (rateLimited)",
            "Wait until the limit is reset",
        ),
        (
            "An unexpected error occurred:\nrequests.exceptions.SSLError: certificate verify failed\n",
            "2026:ERROR:certbot._internal.log:An unexpected error occurred:\n2026:ERROR:certbot._internal.log:requests.exceptions.SSLError: certificate verify failed",
            f"The connection to the CA failed ({DIRECTORY}): certificate verify failed",
            "tls_acme_ca_file",
        ),
        (
            "See the logfile\n",
            "2026:ERROR:certbot._internal.log:Server requires external account binding. Please use --eab-kid",
            "Server requires external account binding",
            "Set tls_acme_eab_id",
        ),
        ("", "", "The ACME client failed: no output", "/log on the host"),
    ],
)
def test_a_rejected_request_is_reported_with_its_reason_and_fix(program, site, nginx, tmp_path, capsys, output, log, found, fix):
    fails_with(tmp_path, output, log)
    put(site, tmp_path, signed=False)
    shutil.copy(site.file, nginx.file)
    before = site.file.read_text()
    assert keep(program, site) == 1, "browsers warn about the self-signed certificate"
    message = " ".join(capsys.readouterr().err.split())
    assert found in message and fix in message and "Visitors are affected: the current certificate is self-signed." in message
    noted = json.loads(site.problem_file.read_text())
    assert found in noted["found"] and fix in noted["fix"]
    assert site.file.read_text() == before and sorted(os.listdir(site.directory)) == ["acme.json", "certificate.pem", "problem.json"]


def test_a_failed_renewal_does_not_affect_visitors_and_is_cleared_by_the_next_success(program, site, nginx, tmp_path, capsys):
    fails_with(tmp_path, log=f"{ERROR}serverInternal :: The server experienced an internal error :: out of order")
    put(site, tmp_path)
    shutil.copy(site.file, nginx.file)
    assert keep(program, site, renew=True) == 3
    assert "out of order (serverInternal)" in (message := capsys.readouterr().err) and "Visitors are not affected yet." in message
    client(tmp_path)
    assert keep(program, site, renew=True) == 0
    assert not site.problem_file.exists()


def test_the_timer_waits_after_a_rejection_unless_the_settings_change(program, site, nginx, tmp_path):
    fails_with(tmp_path, log=f"{ERROR}rateLimited :: too many")
    os.utime(site.settings_file, (time.time() - 60, time.time() - 60))
    assert keep(program, site, timer=True) == 1
    assert keep(program, site, timer=True) == 1, "still a failure"
    assert len(requests(tmp_path)) == 1
    noted = json.loads(site.problem_file.read_text())
    site.problem_file.write_text(json.dumps({**noted, "at": time.time() - 13 * 3600}))
    keep(program, site, timer=True)
    assert len(requests(tmp_path)) == 2
    keep(program, site)
    assert len(requests(tmp_path)) == 3, "an operator can retry immediately"
    os.utime(site.settings_file, (time.time() + 60, time.time() + 60))
    keep(program, site, timer=True)
    assert len(requests(tmp_path)) == 4


def test_the_timer_retries_soon_if_the_ca_was_unreachable(program, site, nginx, tmp_path):
    fails_with(tmp_path, output="requests.exceptions.ConnectionError: no route\n")
    keep(program, site, timer=True)
    client(tmp_path)
    assert keep(program, site, timer=True) == 0


@pytest.mark.parametrize("kind", ["badNonce", "accountDoesNotExist"])
def test_a_transient_error_is_retried(program, site, nginx, tmp_path, kind):
    fails_with(tmp_path, log=f"{ERROR}{kind} :: again", times=1)
    (site.state / "accounts").mkdir(parents=True)
    assert keep(program, site) == 0
    assert (site.state / "accounts").exists() == (kind == "badNonce"), "an account that the CA does not know is removed"


def test_a_certificate_for_another_key_is_rejected(program, site, nginx, tmp_path, capsys):
    client(tmp_path)
    path = tmp_path / "bin/certbot"
    path.write_text(path.read_text() + f"cat {tmp_path}/ca/pem >$chain\n")
    assert keep(program, site) == 1
    assert "did not return the requested certificate" in capsys.readouterr().err
    assert not site.file.exists()


def test_a_full_disk_is_detected_before_the_request(program, site, nginx, tmp_path, monkeypatch, capsys):
    client(tmp_path)

    def full(path, text):
        if path.suffix == ".new":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(program, "write", full)
    assert keep(program, site) == 1
    assert "No space left on device" in capsys.readouterr().err and requests(tmp_path) == []


# -- a compromised client ----------------------------------------------------------------------------------------------


def test_the_client_runs_in_a_sandboxed_unit_that_kills_all_its_processes(program, site, nginx, tmp_path):
    client(tmp_path)
    keep(program, site)
    unit = (tmp_path / "units").read_text()
    for line in (
        *("User=unit-tls", "KillMode=control-group", "KillSignal=SIGKILL", "RuntimeMaxSec=330", "StateDirectory=flaskhost-acme/unit"),
        *(
            "PrivateTmp=yes",
            "ProtectSystem=strict",
            "NoNewPrivileges=yes",
            "CapabilityBoundingSet=",
            "LimitFSIZE=64M",
            "InaccessiblePaths=-/srv",
        ),
        "RuntimeDirectory=flaskhost-acme/unit/.well-known/acme-challenge",
    ):
        assert f" --property={line} " in unit, line
    assert " --unit=unit-certificate-client.service " in unit and " --wait --pipe " in unit
    # only the client writes to its state directory: root does not even create it
    text = (PROJECT / "roles/tls/files/certificate.py").read_text()
    assert not re.search(r"rmtree\((?!site\.given)|shutil\.chown|read\(site\.state|\"chown\"", text)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("exec sleep 5", "no answer within 1 seconds"),
        ("exec yes", "The ACME client failed: File size limit exceeded"),
        ("ln -s /dev/zero chain; exit 0", "did not return the requested certificate"),
        ("mkdir -p $log; ln -s /dev/zero $log/letsencrypt.log; echo end; exit 1", "The ACME client failed: end"),
        ("yes -----BEGIN CERTIFICATE----- | head -c 3000000 | tr -d '\\n' >chain; exit 0", "did not return the requested certificate"),
        ("printf 'a\\033]0;b\\007\\377\\n'; exit 1", "The ACME client failed: a\N{REPLACEMENT CHARACTER}]0;b"),
    ],
)
def test_a_client_cannot_block_or_flood_the_program(program, site, nginx, tmp_path, capsys, monkeypatch, script, found):
    monkeypatch.setattr(program, "CLIENT_SECONDS", 1)
    client(tmp_path, before=f"log=$(echo \"$@\" | sed 's/.*--logs-dir //; s/ .*//'); {script}\n")
    started = time.monotonic()
    assert keep(program, site) == 1
    assert time.monotonic() - started < 4
    message = capsys.readouterr().err
    assert found in message and "\033" not in message and len(message) < 2000


def test_endless_output_is_read_up_to_a_limit(program):
    code, printed = program.bounded(["yes"], 10)
    assert code == 1 and printed == b"certbot printed more than 240000 bytes"


def test_leftovers_of_a_killed_run_are_removed_without_following_links(program, site, nginx, tmp_path):
    client(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    site.challenges.mkdir(parents=True)
    (site.challenges / "link").symlink_to(tmp_path / "other")
    site.given.mkdir()
    (site.given / "secrets").write_text("old")
    assert keep(program, site) == 0
    assert (tmp_path / "other/file").exists() and not site.webroot.exists() and not site.given.exists()


def test_the_holder_of_a_lock_is_reported_after_a_timeout(program, site, nginx, tmp_path, monkeypatch, capsys):
    put(site, tmp_path)
    monkeypatch.setattr(program, "HOST_LOCK_SECONDS", 0.3)
    (program.RUN / "flaskhost").mkdir()
    file = program.RUN / "flaskhost/host.lock"
    with subprocess.Popen(["flock", "--no-fork", file, "sleep", "3"]) as other:
        while not file.exists() or program.locked(os.open(file, os.O_RDWR)):
            time.sleep(0.05)
        assert keep(program, site) == 1
        other.terminate()
    message = capsys.readouterr().err
    assert f"{file} has been locked by process" in message and "sleep 3)" in message
    assert keep(program, site) == 0


def test_the_client_s_user_cannot_log_in(program, site, tmp_path, monkeypatch, capsys):
    calls = tmp_path / "calls"
    for name in "systemd-sysusers", "usermod":
        command(tmp_path, name, f'echo {name} "$@" >>{calls}')
    program.have_user(site)
    assert not calls.exists() and capsys.readouterr().out == "", "an up-to-date user is not changed"
    # as created by an earlier version
    outdated = SimpleNamespace(pw_dir="/var/lib/flaskhost-acme/unit", pw_shell="/usr/sbin/nologin")
    monkeypatch.setattr(program, "pwd", SimpleNamespace(getpwnam=lambda _name: outdated))
    monkeypatch.setattr(program, "grp", SimpleNamespace(getgrnam=lambda _name: SimpleNamespace(gr_mem=[])))
    program.have_user(site)
    sysusers, usermod = calls.read_text().splitlines()
    assert sysusers.endswith("/nonexistent /usr/sbin/nologin m unit-tls flaskhost")
    assert usermod == "usermod --home /nonexistent --shell /usr/sbin/nologin --expiredate 1 unit-tls"


# -- probing whether the names resolve to this host --------------------------------------------------------------------


@pytest.fixture
def web(program, tmp_path, monkeypatch):
    """The server on port 80 of an address. It serves the directory or, depending on `answers`, something else."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.directory, server.answers = tmp_path / "web", "files"
    program.HTTP_PORT = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    real = socket.getaddrinfo
    server.names = {"a.example": ["127.0.0.1"], "b.example": ["127.0.0.1"]}

    def resolve(name, port, *rest, **kinds):
        if not str(name).endswith(".example"):
            return real(name, port, *rest, **kinds)
        if name not in server.names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in server.names[name]]

    monkeypatch.setattr(program.socket, "getaddrinfo", resolve)
    yield server
    server.shutdown()
    server.server_close()


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        if isinstance(server.answers, bytes):
            self.wfile.write(server.answers)
            return
        if server.answers == "redirect" and "moved" not in self.path:
            self.send_response(301)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}{self.path}?moved")
            self.end_headers()
            return
        file = server.directory / self.path.lstrip("/").partition("?")[0]
        found = server.answers != "nothing" and file.is_file() and self.headers["Host"]
        self.send_response(200 if found or server.answers == "parked" else 404)
        self.end_headers()
        self.wfile.write(file.read_bytes() if found and server.answers != "parked" else b"this domain is parked")

    def log_message(self, *arguments):
        pass


def probe(program, web, tmp_path):
    site = configured(program, tmp_path)
    web.directory = site.webroot
    try:
        program.probe(site)
    finally:
        assert not site.challenges.exists(), "only the client creates this directory"


@pytest.mark.parametrize("answers", ["files", "redirect"])
def test_names_that_lead_to_this_host_are_accepted(program, web, tmp_path, answers):
    web.answers = answers
    probe(program, web, tmp_path)


@pytest.mark.parametrize(
    ("answers", "names", "messages"),
    [
        (
            "nothing",
            {},
            ["http://a.example at 127.0.0.1 is answered by a server other than this site's nginx (HTTP status 404)", "http://b.example"],
        ),
        ("parked", {}, ["by a server other than this site's nginx (HTTP status 200)"]),
        ("files", {"b.example": []}, ["b.example does not resolve"]),
        ("files", {"b.example": ["127.0.0.9"]}, ["http://b.example at 127.0.0.9 does not answer (Connection refused)"]),
        ("files", {"b.example": ["127.0.0.1", "127.0.0.9"]}, ["http://b.example at 127.0.0.9"]),
        ("files", {"b.example": ["::1"]}, ["http://b.example at ::1 does not answer"]),
    ],
)
def test_names_that_do_not_lead_to_this_host_are_reported(program, web, tmp_path, answers, names, messages):
    web.answers = answers
    web.names.update(names)
    web.names = {name: addresses for name, addresses in web.names.items() if addresses}
    with pytest.raises(program.Problem) as problem:
        probe(program, web, tmp_path)
    assert problem.value.found.startswith("No certificate was requested: ")
    for message in messages:
        assert message in problem.value.found
    assert "open port 80" in problem.value.fix and not problem.value.refused


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 \x1b[2J\x1b]0;owned\x07 200 x" + b"y" * 60_000 + b"\r\n\r\n",
        *(b"HTTP/1.1 302 x\r\nLocation: " + url + b"\r\n\r\n" for url in (b"http://[", b"http://x:abc/", b"http://x:99999/", b"//\x1b[2J")),
    ],
)
def test_a_hostile_response_to_the_probe_is_reported_safely(program, web, tmp_path, capsys, answer):
    web.answers = answer
    with pytest.raises(program.Problem) as problem:
        probe(program, web, tmp_path)
    assert problem.value.found.startswith("No certificate was requested: ") and len(problem.value.found) < 1000
    program.say(problem.value.found)
    assert capsys.readouterr().out.strip().isprintable()


def test_a_host_without_ipv6_does_not_probe_ipv6_addresses(program, web, tmp_path):
    web.names["b.example"] = ["127.0.0.1", "::1"]
    probe(program, web, tmp_path)


def test_no_certificate_is_requested_while_a_name_leads_elsewhere(program, web, nginx, tmp_path):
    site = configured(program, tmp_path, probe=True)
    client(tmp_path)
    web.names.pop("b.example")
    assert keep(program, site) == 1 and requests(tmp_path) == []
    web.names["b.example"], web.directory = ["127.0.0.1"], site.webroot
    assert keep(program, site) == 0 and len(requests(tmp_path)) == 1


# -- nginx -------------------------------------------------------------------------------------------------------------


def test_nginx_is_reloaded_if_it_serves_another_certificate(program, site, nginx, tmp_path, capsys):
    put(site, tmp_path)
    shutil.copy(site.file, nginx.file)
    put(site, tmp_path)
    assert keep(program, site) == 0
    assert "Reloaded nginx" in capsys.readouterr().out
    assert nginx.file.read_text() == site.file.read_text()


def test_a_reload_without_effect_is_reported_and_retried(program, site, nginx, tmp_path, capsys):
    """`systemctl reload` also succeeds if nginx rejects its configuration."""
    put(site, tmp_path)
    shutil.copy(site.file, nginx.file)
    put(site, tmp_path)
    command(tmp_path, "systemctl", "true")
    assert keep(program, site) == 3, "the certificate that nginx serves is still valid"
    assert "nginx does not serve the certificate on the disk" in capsys.readouterr().err
    command(tmp_path, "systemctl", f'[ "$1" != reload ] || cp {site.file} {nginx.file}')
    assert keep(program, site, timer=True) == 0
    assert not site.problem_file.exists()


def test_a_stopped_nginx_is_reported(program, site, tmp_path, capsys):
    put(site, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        program.HTTPS = closed.getsockname()
    command(tmp_path, "systemctl", "echo nginx.service is not active >&2; exit 1")
    assert keep(program, site) == 1
    assert (
        "(nginx.service is not active)" in (message := capsys.readouterr().err)
        and "Visitors are affected: nginx does not answer." in message
    )


# -- installation and removal ------------------------------------------------------------------------------------------


def test_prepare_creates_a_temporary_certificate_and_starts_the_timer(program, site, tmp_path, capsys):
    site.state.mkdir()
    command(tmp_path, "systemctl", f'echo "$@" >>{tmp_path}/systemctl; [ "$1" != show ] || cat {tmp_path}/shown')
    (tmp_path / "shown").write_text("NeedDaemonReload=no\nUnitFileState=disabled\nActiveState=inactive\n")
    program.prepare(site)
    assert "temporary certificate" in capsys.readouterr().out
    certificate = program.Certificate(site.file.read_text())
    assert certificate.self_signed and set(certificate.names) == {"a.example", "b.example"}
    assert stat.S_IMODE(site.file.stat().st_mode) == 0o600
    assert "enable --now unit-certificate.timer" in (tmp_path / "systemctl").read_text()
    (tmp_path / "shown").write_text("NeedDaemonReload=no\nUnitFileState=enabled\nActiveState=active\n")
    before = site.file.read_text()
    program.prepare(site)
    assert capsys.readouterr().out == "" and site.file.read_text() == before


def test_changed_units_are_reloaded(program, site, tmp_path):
    site.state.mkdir()
    command(
        tmp_path,
        "systemctl",
        f'echo "$@" >>{tmp_path}/systemctl; echo NeedDaemonReload=yes; echo UnitFileState=enabled; echo ActiveState=active',
    )
    program.prepare(site)
    assert (tmp_path / "systemctl").read_text().splitlines()[1:] == ["daemon-reload", "restart unit-certificate.timer"]


def test_without_settings_the_program_removes_itself_and_its_files(program, site, nginx, tmp_path, monkeypatch, capsys):
    client(tmp_path)
    keep(program, site)
    site.state.mkdir(exist_ok=True)
    (site.state / "account").write_text("")
    program_file = tmp_path / "unit-certificate"
    program_file.write_text("")
    units = [program.UNITS / f"unit-certificate.{kind}" for kind in ("timer", "service")]
    for unit in units:
        unit.write_text("")
    monkeypatch.setattr(program, "__file__", str(program_file))
    command(tmp_path, "systemctl", f'echo "$@" >>{tmp_path}/systemctl')
    own_run = f'case " $* " in *" --wait "*) ;; *) echo "$@" >>{tmp_path}/later; exit ;; esac\n'
    command(tmp_path, "systemd-run", own_run + UNIT.format(base=tmp_path))
    command(tmp_path, "userdel", f'echo "$@" >>{tmp_path}/users')
    site.settings_file.unlink()
    program.remove(site, argparse.Namespace(check=True, timer=False))
    program.remove(site, argparse.Namespace(check=False, timer=True))
    assert program_file.exists() and (tmp_path / "later").read_text().endswith(f"{program_file} {site.directory}\n"), (
        "the timer's unit has a read-only view of the system, so another unit removes the program"
    )
    program.remove(site, argparse.Namespace(check=False, timer=False))
    assert not any(path.exists() for path in (program_file, site.state, site.webroot, program.RUN / "flaskhost-acme", *units))
    assert (tmp_path / "users").read_text() == "unit-tls\n"
    assert "disable --now unit-certificate.timer" in (tmp_path / "systemctl").read_text()
    assert site.file.exists(), "nginx serves it until the new source provides another one"
