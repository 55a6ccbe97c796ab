#!/usr/bin/python3
"""Renews a site's certificate. Managed by Flaskhost (roles/tls).

Requests a certificate from an ACME CA when a new one is due, and reloads nginx if it does not serve the certificate on the disk. The
playbooks and the timer run this program; it prints nothing if there is nothing to do. It reads its settings from acme.json in
DIRECTORY. certificate.pem in the same directory holds the key, the certificate and its chain, so that one rename replaces all three.
If there is no acme.json, the program removes itself and the ACME client's user, files and units.

Exit codes: 0 for success; 3 for a problem that does not affect visitors yet; 1 for a problem that does.
"""

import argparse
import contextlib
import fcntl
import grp
import http.client
import json
import os
import pwd
import re
import secrets
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

HTTPS = ("127.0.0.1", 443)
HTTP_PORT = 80
CHALLENGES = ".well-known/acme-challenge"
PEM = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----\n?")
CA_ERROR = re.compile(r"acme\.messages\.Error: urn:ietf:params:acme:error:(\w+) :: (.*)")
RUN = Path("/run")
UNITS = Path("/etc/systemd/system")
# CAs limit failed requests: after a rejection, the timer waits this long before the next request
REJECTION_RETRY_SECONDS = 12 * 3600
CLIENT_SECONDS = 300
PROBE_SECONDS = 30
RELOAD_SECONDS = 15
# longer than a run of this program takes
SITE_LOCK_SECONDS = 480
HOST_LOCK_SECONDS = 120
# read at most from each file that the client leaves, and from its whole output
FILE_BYTES = 60_000
PRINTED_BYTES = 4 * FILE_BYTES
# sshd rejects the members of this group
GROUP = "flaskhost"

# The client processes untrusted network input and could be compromised. It runs in a transient unit; when the unit stops, systemd ends all
# its processes and removes its /tmp. Root reads the unit's output, and never opens, moves or removes a file where the client can write.
CLIENT_UNIT = """
CapabilityBoundingSet=
InaccessiblePaths=-/srv
InaccessiblePaths=-/run/dbus
TemporaryFileSystem=/run/systemd:ro,mode=0755
BindReadOnlyPaths=-/run/systemd/resolve
KillMode=control-group
KillSignal=SIGKILL
LimitCORE=0
LimitFSIZE=64M
LimitNPROC=64
LockPersonality=yes
MemoryMax=512M
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RuntimeDirectoryMode=0755
StateDirectoryMode=0700
SystemCallArchitectures=native
SystemCallFilter=@system-service
TasksMax=64
WorkingDirectory=/tmp
"""
# certbot writes some of the CA's errors only to its log file.
CERTBOT_SCRIPT = """
log=$1 mark=$2 bytes=$3
shift 3
# keep endless output from filling the disk (blocks of 512 bytes)
ulimit -f 65536
rm -rf -- "$log"
certbot "$@" >output 2>&1
code=$?
for file in output "$log/letsencrypt.log" chain; do
  printf '\\n%s\\n' "$mark"
  timeout 5 tail -c "$bytes" -- "$file" 2>/dev/null
done
exit $code
"""
EMPTY_DIRECTORY_SCRIPT = 'chmod -R u+rwX -- "$1"; find "$1" -mindepth 1 -delete'

RETRY = "The timer retries automatically. To retry now, run certificate.yml."
REACHABILITY_FIX = (
    "Point the A and AAAA records of each name to this host, and open port 80 to all addresses, also in the cloud provider's firewall."
)
# by ACME error type (RFC 8555, section 6.7)
FIXES = {
    "caa": "Add the CA to the domain's CAA record, or remove that record.",
    "connection": REACHABILITY_FIX,
    "dns": REACHABILITY_FIX,
    "externalAccountRequired": "Set tls_acme_eab_id and tls_acme_eab_secret to the values that the CA gave you.",
    "rateLimited": "Wait until the limit is reset. While you experiment, set tls_acme_staging: true.",
    "rejectedIdentifier": "The CA issues no certificate for this name. Remove it from app_domains, or choose another tls_source.",
    "unauthorized": REACHABILITY_FIX,
}


class Problem(Exception):
    """What is wrong (`found`) and its fix. `refused`: the CA rejected the request."""

    def __init__(self, found, fix, refused=False):
        super().__init__(found)
        self.found, self.fix, self.refused = found, fix, refused


class Site:
    """A site's settings, files, user and units."""

    def __init__(self, directory, name):
        self.directory, self.name = Path(directory), name
        self.file, self.settings_file, self.problem_file = (
            self.directory / part for part in ("certificate.pem", "acme.json", "problem.json")
        )
        self.settings = json.loads(self.settings_file.read_text()) if self.settings_file.exists() else {}
        self.user = f"{name}-tls"
        self.state = Path("/var/lib/flaskhost-acme") / name
        self.webroot = RUN / "flaskhost-acme" / name
        self.challenges = self.webroot / CHALLENGES
        # files that the client may only read
        self.given = self.webroot.with_name(f"{name}.given")
        self.unit = f"{name}-certificate"
        self.client = f"{name}-certificate-client.service"

    @property
    def domains(self):
        return [name.lower() for name in self.settings["domains"]]

    def mark(self):
        """The first line of a certificate.pem whose certificate this CA issued."""
        return f"# Issued by {self.settings['directory']}\n"


class Certificate:
    """The content of a certificate.pem. `own` is the site's certificate, without its chain; empty if there is none."""

    def __init__(self, text):
        self.text, self.own, output = text, "", ""
        with contextlib.suppress(IndexError, Problem):
            own = PEM.findall(text)[0]
            output = openssl("x509", "-noout", "-startdate", "-enddate", "-subject", "-issuer", "-ext", "subjectAltName", given=own)
            self.own = own
        fields = dict(line.split("=", 1) for line in output.splitlines() if re.match(r"(not\w+|subject|issuer)=", line))
        self.begins, self.ends = (ssl.cert_time_to_seconds(fields[key]) if key in fields else 0 for key in ("notBefore", "notAfter"))
        self.self_signed = fields.get("subject") == fields.get("issuer")
        self.names = [name.lower() for name in re.findall(r"DNS:([^,\s]+)", output)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("directory", metavar="DIRECTORY")
    parser.add_argument("--prepare", action="store_true", help="create a temporary certificate if there is none, and start the timer")
    parser.add_argument("--check", action="store_true", help="report what would be done, and do nothing")
    parser.add_argument("--renew", action="store_true", help="request a certificate even if none is due")
    parser.add_argument("--timer", action="store_true", help="after a rejection by the CA, wait before the next request")
    options = parser.parse_args()
    os.umask(0o022)
    site = Site(options.directory, Path(__file__).name.removesuffix("-certificate"))
    try:
        with lock(site.directory, SITE_LOCK_SECONDS, os.O_RDONLY | os.O_DIRECTORY):
            if not site.settings:
                return remove(site, options)
            if options.prepare:
                return prepare(site)
            return keep(site, options)
    except Problem as problem:
        say(f"{problem.found.rstrip('.')}. {problem.fix}", sys.stderr)
        return 1


# -- renewing ----------------------------------------------------------------------------------------------------------


def keep(site, options):
    certificate = Certificate(read(site.file))
    due = why_due(site, certificate) or ("a renewal was requested" if options.renew else "")
    if options.check:
        if due:
            say(f"Would request a certificate. Reason: {due}.")
        elif not is_served(site, certificate):
            say("Would reload nginx, because it does not serve the certificate on the disk.")
        return 0
    problems, rejection = [], last_rejection(site) if due and options.timer else None
    if due and not rejection:
        try:
            certificate = issue(site)
            say(f"The CA issued a certificate. Reason for the request: {due}.")
        except Problem as problem:
            problems.append(problem)
    try:
        if reload_nginx(site, certificate):
            say("Reloaded nginx. It serves the certificate on the disk.")
    except Problem as problem:
        problems.append(problem)
    if problems:
        record = {"found": "; ".join(problem.found for problem in problems), "fix": problems[0].fix}
        refused = any(problem.refused for problem in problems)
        write(site.problem_file, json.dumps({**record, "refused": refused, "at": int(time.time())}))
    elif rejection:
        problems.append(rejection)
    else:
        if site.problem_file.exists():
            site.problem_file.unlink()
            systemctl("reset-failed", f"{site.unit}.service")
        return 0
    served = served_certificate(site)
    warning = why_invalid(site, Certificate(ssl.DER_cert_to_PEM_cert(served))) if served else "nginx does not answer"
    impact = f"Visitors are affected: {warning}." if warning else "Visitors are not affected yet."
    say(" ".join([*(f"{problem.found.rstrip('.')}. {problem.fix}" for problem in problems), impact, RETRY]), sys.stderr)
    return 1 if warning else 3


def why_due(site, certificate):
    """Why a new certificate is due; empty if it is not."""
    invalid = why_invalid(site, certificate)
    if invalid:
        return invalid
    if not certificate.text.startswith(site.mark()):
        return f"the current certificate is not from {site.settings['directory']}"
    if set(certificate.names) != set(site.domains):
        return f"the current certificate also covers {', '.join(sorted(set(certificate.names) - set(site.domains)))}"
    # CAs advise to renew after two thirds of the lifetime, however long it is
    if certificate.ends - time.time() < (certificate.ends - certificate.begins) / 3:
        return f"the current certificate expires at {utc(certificate.ends)}"
    return ""


def why_invalid(site, certificate):
    """Why browsers warn about it; empty if they don't."""
    missing = [name for name in site.domains if name not in certificate.names]
    if not certificate.own:
        return "there is no certificate"
    if certificate.self_signed:
        return "the current certificate is self-signed"
    if missing:
        return f"the current certificate does not cover {', '.join(missing)}"
    return f"the current certificate expired at {utc(certificate.ends)}" if certificate.ends < time.time() else ""


def last_rejection(site):
    """The CA's rejection, if it is recent and the settings have not changed since."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = json.loads(read(site.problem_file))
        recent = record["refused"] and time.time() - record["at"] < REJECTION_RETRY_SECONDS
        if recent and site.settings_file.stat().st_mtime < record["at"]:
            return Problem(record["found"], record["fix"], refused=True)
    return None


# -- requesting a certificate ------------------------------------------------------------------------------------------


def issue(site):
    """Create a key and obtain a certificate for it. The ACME client gets a signing request, never the key."""
    new = site.file.with_name("certificate.pem.new")
    try:
        # detect a full disk before the CA counts another certificate against its limits
        write(new, "#" * 65536)
        key = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        names = ",".join(f"DNS:{name}" for name in site.domains)
        request = openssl("req", "-new", "-key", "/dev/stdin", "-subj", "/", "-addext", f"subjectAltName={names}", given=key)
        certificate = Certificate(f"{site.mark()}{key}{obtain_chain(site, request)}")
        own, public_key = certificate.own, openssl("pkey", "-pubout", given=key)
        if not own or openssl("x509", "-noout", "-pubkey", given=own) != public_key or why_invalid(site, certificate):
            raise Problem("The CA did not return the requested certificate", f"See {site.state}/log on the host.", refused=True)
        write(new, certificate.text)
        new.rename(site.file)
    except OSError as error:
        raise Problem(f"The certificate can't be written: {error}", "Check the host's disk with `df -h` and `df -i`.") from None
    finally:
        new.unlink(missing_ok=True)
        shutil.rmtree(site.given, ignore_errors=True)
        remove_challenges(site)
    return certificate


def obtain_chain(site, request):
    """Run the ACME client as its own user, which can write only to its account directory and to the challenge directory."""
    user, end = pwd.getpwnam(site.user), time.monotonic() + CLIENT_SECONDS
    remove_challenges(site)
    if site.settings["probe"]:
        probe(site)
    write_client_files(site, user.pw_gid, request=request, ca=site.settings["ca"], secrets=secret_options(site.settings))
    for _attempt in range(3):
        code, output, log, chain = run_client(site, end - time.monotonic())
        errors = CA_ERROR.findall(log)
        if code == 0:
            return "".join(PEM.findall(chain))
        kind = errors[-1][0] if errors else ""
        if kind == "accountDoesNotExist":
            # the CA has lost the account, or the account was closed
            as_client(site, 'rm -rf -- "$1"', site.state / "accounts", seconds=end - time.monotonic())
        elif kind != "badNonce":
            break
    raise client_problem(site, output, log)


def write_client_files(site, group, **files):
    """Files that the client can read but not change."""
    shutil.rmtree(site.given, ignore_errors=True)
    site.given.mkdir(mode=0o700, parents=True)
    for name, text in files.items():
        (site.given / name).write_text(text)
        os.chown(site.given / name, -1, group)
        (site.given / name).chmod(0o640)
    os.chown(site.given, -1, group)
    site.given.chmod(0o750)


def run_client(site, seconds):
    """Return certbot's exit code, its output, its log, and the certificate with its chain."""
    email, mark = site.settings["email"], secrets.token_hex(16)
    arguments = [
        *("certonly", "--non-interactive", "--agree-tos", "--config", f"{site.given}/secrets"),
        *(("--email", email, "--no-eff-email") if email else ("--register-unsafely-without-email",)),
        *("--server", site.settings["directory"], "--csr", f"{site.given}/request"),
        *("--webroot", "--webroot-path", str(site.webroot), "--preferred-challenges", "http"),
        *("--config-dir", str(site.state), "--work-dir", "work", "--logs-dir", str(site.state / "log")),
        *("--fullchain-path", "chain", "--cert-path", "own", "--chain-path", "others"),
    ]
    environment = {"REQUESTS_CA_BUNDLE": f"{site.given}/ca"} if site.settings["ca"] else {}
    code, printed = as_client(site, CERTBOT_SCRIPT, site.state / "log", mark, FILE_BYTES, *arguments, seconds=seconds, **environment)
    parts = printed.split(f"\n{mark}\n")
    return (code, *parts[1:]) if len(parts) == 4 else (code or 1, printed, "", "")


def as_client(site, script, *arguments, seconds, **environment):
    """Run a shell script as the client's user. Return its exit code and its output, without control characters."""
    environment = {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8", **environment}
    lines = [
        *(f"User={site.user}", f"StateDirectory=flaskhost-acme/{site.name}"),
        *(f"RuntimeDirectory={site.challenges.relative_to(RUN)}", f"RuntimeMaxSec={CLIENT_SECONDS + 30}", *CLIENT_UNIT.split("\n")[1:-1]),
    ]
    command = [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec", f"--unit={site.client}"),
        *(f"--property={line}" for line in lines),
        *(f"--setenv={name}={value}" for name, value in environment.items()),
        *("--", "sh", "-c", script, "sh", *map(str, arguments)),
    ]
    # left over from a killed run
    systemctl("stop", site.client)
    try:
        code, printed = bounded(command, seconds)
    except OSError as error:
        return 1, f"systemd-run can't be run: {error}"
    finally:
        systemctl("stop", site.client)
    return code, printable(printed.decode(errors="replace"))


def bounded(command, seconds):
    """Run a command with limits on its time and its output. Return its exit code and its output."""
    end, printed = time.monotonic() + seconds, b""
    with subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while len(printed) < PRINTED_BYTES and select.select([process.stdout], [], [], max(0, end - time.monotonic()))[0]:
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                return process.wait(), printed
            printed += part
        process.kill()
    if len(printed) < PRINTED_BYTES:
        return 1, f"no answer within {CLIENT_SECONDS} seconds".encode()
    return 1, f"certbot printed more than {PRINTED_BYTES} bytes".encode()


def remove_challenges(site):
    """Stopping the unit removes the directory that the client can write to. The parent directories belong to root and are empty."""
    systemctl("stop", site.client)
    if site.challenges.exists():
        # left over from a killed run, or from a version that did not use a unit
        as_client(site, "true", seconds=CLIENT_SECONDS)
    for directory in (site.challenges.parent, site.webroot):
        with contextlib.suppress(OSError):
            directory.rmdir()


def secret_options(settings):
    if not settings["eab_id"]:
        return ""
    return f"eab-kid = {settings['eab_id']}\neab-hmac-key = {settings['eab_secret']}\n"


def client_problem(site, output, log):
    """Why the client got no certificate, with the CA's own message if there is one."""
    by_name = re.findall(r"Domain: (\S+)\s+Type:\s+(\S+)\s+Detail: (.*)", output)
    if by_name:
        found = "; ".join(f"{name}: {detail.rstrip('.')} ({kind})" for name, kind, detail in by_name)
        return Problem(f"The CA rejected the request: {found}", FIXES.get(by_name[0][1], REACHABILITY_FIX), refused=True)
    if errors := CA_ERROR.findall(log):
        kind, detail = errors[-1]
        found = f"The CA rejected the request: {detail.rpartition(' :: ')[2].rstrip('.')} ({kind})"
        return Problem(found, FIXES.get(kind, f"See {site.state}/log on the host."), refused=True)
    last = re.sub(r"^\S*Error: ", "", (re.findall(r":ERROR:[\w.]+:(.*)", log) or output.strip().splitlines() or ["no output"])[-1])[:300]
    if re.search(r"requests\.exceptions|urllib3|Requesting |no answer within", output):
        fix = "Check the host's outbound DNS and HTTPS connections, tls_acme_directory and tls_acme_ca_file."
        return Problem(f"The connection to the CA failed ({site.settings['directory']}): {last}", fix)
    fix = FIXES["externalAccountRequired"] if "external account binding" in last else f"See {site.state}/log on the host."
    return Problem(f"The ACME client failed: {last}", fix)


def probe(site):
    """Check each name as the CA will, because the CA allows only a few failures an hour. Root owns the directory during the check."""
    answer, file = secrets.token_hex(16), site.challenges / f"probe-{secrets.token_hex(8)}"
    site.challenges.mkdir(parents=True)
    file.write_text(answer)
    try:
        failures = [failure for name in site.domains for failure in probe_failures(name, f"/{CHALLENGES}/{file.name}", answer)]
    finally:
        file.unlink()
        site.challenges.rmdir()
    if failures:
        hint = "If the names are correct and only this host can't connect to its own public address, set tls_acme_probe: false."
        raise Problem(f"No certificate was requested: {'; '.join(failures)}", f"{REACHABILITY_FIX} {hint}")


def probe_failures(name, path, answer):
    try:
        addresses = sorted({info[4][0] for info in socket.getaddrinfo(name, HTTP_PORT, type=socket.SOCK_STREAM)})
    except OSError:
        return [f"{name} does not resolve"]
    failures = []
    for address in addresses:
        try:
            with deadline(PROBE_SECONDS):
                status, body = fetch(name, address, path)
            if (status, body) != (200, answer.encode()):
                failures.append(f"http://{name} at {address} is answered by a server other than this site's nginx (HTTP status {status})")
        except (OSError, http.client.HTTPException, ValueError) as error:
            # a CA falls back to IPv4 if it can't connect by IPv6
            if ":" not in address or all(":" in other for other in addresses):
                failures.append(f"http://{name} at {address} does not answer ({getattr(error, 'strerror', '') or str(error)[:200]})")
    return failures


def fetch(name, address, path):
    """GET as a CA does: it follows redirects and accepts any certificate."""
    url = f"http://{name}{path}"
    for _hop in range(5):
        parts = urlsplit(url)
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(parts.hostname, parts.port or 443, timeout=10, context=unverified())
        else:
            connection = http.client.HTTPConnection(address or parts.hostname, parts.port or HTTP_PORT, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", headers={"Host": parts.netloc})
            response = connection.getresponse()
            if response.status not in (301, 302, 303, 307, 308):
                return response.status, response.read(1000)
            url, address = urljoin(url, response.getheader("Location", "")), None
    return response.status, b""


# -- reloading nginx ---------------------------------------------------------------------------------------------------


def reload_nginx(site, certificate):
    """Reload nginx if it does not serve the certificate on the disk. Return whether a reload was needed."""
    if not certificate.own or is_served(site, certificate):
        return False
    # runs write nginx's configuration under this lock, so that a reload never reads a part of it
    (RUN / "flaskhost").mkdir(mode=0o755, exist_ok=True)
    with lock(RUN / "flaskhost/host.lock", HOST_LOCK_SECONDS, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW):
        done = subprocess.run(["systemctl", "reload", "nginx"], capture_output=True, text=True, check=False)
    end = time.monotonic() + RELOAD_SECONDS
    while done.returncode == 0 and time.monotonic() < end:
        if is_served(site, certificate):
            return True
        time.sleep(0.1)
    found = f"nginx does not serve the certificate on the disk, {site.file}"
    reason = f" ({done.stderr.strip()})" if done.returncode else ""
    fix = "To find the cause, run `nginx -t` and `journalctl -u nginx` on the host. To repair nginx, run deploy.yml."
    raise Problem(found + reason, fix)


def is_served(site, certificate):
    return served_certificate(site) == ssl.PEM_cert_to_DER_cert(certificate.own)


def served_certificate(site):
    """The certificate that nginx sends to visitors; empty if it does not answer."""
    try:
        with socket.create_connection(HTTPS, 5) as tcp, unverified().wrap_socket(tcp, server_hostname=site.domains[0]) as tls:
            return tls.getpeercert(binary_form=True)
    except OSError:
        return b""


# -- user, units and files on the host ---------------------------------------------------------------------------------


def prepare(site):
    if not Certificate(read(site.file)).own:
        names = ",".join(f"DNS:{name}" for name in site.domains)
        options = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90", "-subj", "/CN=temporary")
        write(site.file, openssl("req", "-x509", *options, "-addext", f"subjectAltName={names}", "-keyout", "-", "-out", "-"))
        say("Created a temporary certificate, so that nginx can start.")
    have_user(site)
    timer = f"{site.unit}.timer"
    state = systemctl("show", "--property=NeedDaemonReload,UnitFileState,ActiveState", timer, f"{site.unit}.service")
    if "NeedDaemonReload=yes" in state:
        systemctl("daemon-reload")
        systemctl("restart", timer)
    if "UnitFileState=enabled" not in state or "ActiveState=active" not in state:
        systemctl("enable", "--now", timer)
        say("Started the timer that renews the certificate.")
    return 0


def have_user(site):
    """Create the client's user. It owns only the directories of its unit, and can't log in."""
    if not has_user(site) or site.user not in members(GROUP):
        lines = [f'u {site.user} - "certificates of {site.name}" /nonexistent /usr/sbin/nologin', f"m {site.user} {GROUP}"]
        subprocess.run(["systemd-sysusers", "--inline", *lines], check=True, stderr=subprocess.DEVNULL)
        say(f"Set up user {site.user} of the ACME client, in group {GROUP}.")
    entry = pwd.getpwnam(site.user)
    shadow = subprocess.run(["getent", "shadow", site.user], capture_output=True, text=True, check=False).stdout.strip().split(":")
    if (entry.pw_dir, entry.pw_shell, *shadow[7:8]) != ("/nonexistent", "/usr/sbin/nologin", "1"):
        # PAM rejects every login of an expired account
        change_user(site, "usermod", "--home", "/nonexistent", "--shell", "/usr/sbin/nologin", "--expiredate", "1")
        say(f"Disabled logins of user {site.user}.")


def change_user(site, *command):
    """End the user's processes first: versions that ran the client without a unit may have left some."""
    become = ("setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--clear-groups", "--no-new-privs", "--")
    for _attempt in range(20):
        subprocess.run([*become, "sh", "-c", "kill -KILL -1"], capture_output=True, check=False)
        done = subprocess.run([*command, site.user], capture_output=True, text=True, check=False)
        # 8: the user still has processes
        if done.returncode != 8:
            break
        time.sleep(0.1)
    if done.returncode != 0:
        raise Problem(f"`{command[0]} {site.user}` failed: {done.stderr.strip()}", "End that user's processes, and run deploy.yml again.")


def has_user(site):
    try:
        return bool(pwd.getpwnam(site.user))
    except KeyError:
        return False


def members(group):
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return []


def remove(site, options):
    """Remove this program and the ACME client: another tls_source provides the certificate now."""
    if options.check:
        say("Would remove the ACME client's user, files and units.")
        return 0
    if options.timer:
        # the timer's sandbox is read-only
        subprocess.run(["systemd-run", "--quiet", "--collect", __file__, site.directory], check=True)
        return 0
    systemctl("disable", "--now", f"{site.unit}.timer")
    for path in (UNITS / f"{site.unit}.timer", UNITS / f"{site.unit}.service", site.problem_file):
        path.unlink(missing_ok=True)
    systemctl("daemon-reload")
    systemctl("reset-failed", f"{site.unit}.service")
    # systemd records the timer's last run here
    Path(f"/var/lib/systemd/timers/stamp-{site.unit}.timer").unlink(missing_ok=True)
    if has_user(site):
        code, printed = as_client(site, EMPTY_DIRECTORY_SCRIPT, site.state, seconds=CLIENT_SECONDS)
        if code != 0:
            raise Problem(f"{site.state} can't be emptied: {printed.strip()[-300:]}", "Remove it, and run deploy.yml again.")
        remove_challenges(site)
        change_user(site, "userdel")
    shutil.rmtree(site.given, ignore_errors=True)
    for directory in (site.state, site.state.parent, site.webroot.parent):
        with contextlib.suppress(OSError):
            directory.rmdir()
    if site.state.exists():
        raise Problem(
            f"{site.state} is not empty, and its owner, user {site.user}, no longer exists", "Remove it, and run deploy.yml again."
        )
    # last: if this run is killed, the next one can finish the removal
    Path(__file__).unlink()
    say("Removed the ACME client's user, files and units.")
    return 0


# -- helpers -----------------------------------------------------------------------------------------------------------


def openssl(*arguments, given=""):
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Problem(
            f"`openssl {arguments[0]}` failed: {done.stderr.strip()}", "Check the files in the site's directory below /etc/ssl/flaskhost."
        )
    return done.stdout


def systemctl(*arguments):
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False).stdout


def unverified():
    """A context that accepts any certificate: the callers compare certificates or answers instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextlib.contextmanager
def lock(path, seconds, flags):
    handle, end = os.open(path, flags, 0o600), time.monotonic() + seconds
    try:
        while not locked(handle):
            if time.monotonic() > end:
                found = f"{path} has been locked by {holder(handle)} for more than {seconds} seconds"
                raise Problem(found, "Wait until that process exits, or end it if it hangs. Then run certificate.yml.")
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def locked(handle):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(handle):
    """The process that holds a lock, according to /proc/locks."""
    inode = f":{os.fstat(handle).st_ino}"
    for line in read("/proc/locks").splitlines():
        fields = line.split()
        if fields[1:2] == ["FLOCK"] and fields[5].endswith(inode):
            command = printable(read(f"/proc/{fields[4]}/cmdline").replace("\0", " ")).strip()
            return f"process {fields[4]} ({command[:200] or 'unknown'})"
    return "another process"


@contextlib.contextmanager
def deadline(seconds):
    """Raise TimeoutError if the block takes longer, even if the peer sends data slowly."""

    def end(_signal, _frame):
        raise TimeoutError(f"no answer within {seconds} seconds")

    previous = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def printable(text):
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def read(path):
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def write(path, text):
    """Replace the file atomically. Only root can read it."""
    new = path if path.suffix == ".new" else path.with_name(f"{path.name}.new")
    with open(new, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    if new != path:
        new.rename(path)


def utc(seconds):
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def say(text, stream=None):
    if text:
        # the text may contain untrusted answers from other servers
        print(printable(text), file=stream)


if __name__ == "__main__":
    sys.exit(main())
