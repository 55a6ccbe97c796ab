#!/usr/bin/python3
"""Keeps a site's certificate good. Managed by Flaskhost (roles/tls).

Asks an ACME CA for a new one when it is due, and sees that nginx serves the one that is on the disk. It is what the playbooks run
and what the timer runs, and says nothing if nothing was to be done. Its settings are acme.json in FOLDER, beside certificate.pem,
which holds the key, the certificate and those that vouch for it in one file, so that all change by one rename. Without
settings it removes all that it ever made.

Exits with 0 if all is as it should be; 3 if it isn't, but visitors don't notice yet; 1 if they do.
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
# a CA that has refused is not asked again by the timer for so long; it counts failures
PATIENCE_SECONDS = 12 * 3600
CLIENT_SECONDS = 300
PROBE_SECONDS = 30
RELOAD_SECONDS = 15
# longer than another run of this program takes
SITE_LOCK_SECONDS = 480
HOST_LOCK_SECONDS = 120
# of each file that the client leaves, and of all that it prints
FILE_BYTES = 60_000
PRINTED_BYTES = 4 * FILE_BYTES
# users of this group may not log in
GROUP = "flaskhost"

# The client talks to strangers and could be taken over. It runs in a transient unit, which ends with all of its processes and with its
# /tmp. Root reads what the unit prints, and opens, moves or removes nothing where the client can write.
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
# Its log is the only place where it tells some of the CA's errors.
ASK = """
log=$1 mark=$2 bytes=$3
shift 3
# a client that never ends its output fills no disk (blocks of 512 bytes)
ulimit -f 65536
rm -rf -- "$log"
certbot "$@" >said 2>&1
code=$?
for file in said "$log/letsencrypt.log" chain; do
  printf '\\n%s\\n' "$mark"
  timeout 5 tail -c "$bytes" -- "$file" 2>/dev/null
done
exit $code
"""
EMPTY = 'chmod -R u+rwX -- "$1"; find "$1" -mindepth 1 -delete'

AGAIN = "The timer tries again by itself; to try now, run certificate.yml."
REACH = "Let each name lead to this host, by its A and AAAA records, and open port 80 to the whole world, in the cloud's own firewall too."
# what helps, by the CA's word for what is wrong (RFC 8555, section 6.7)
CURES = {
    "caa": "The domain's CAA record has to name the CA, or to go.",
    "connection": REACH,
    "dns": REACH,
    "externalAccountRequired": "Set tls_acme_eab_id and tls_acme_eab_secret, which this CA gives you.",
    "rateLimited": "Only waiting helps. For trying things out there is tls_acme_staging: true.",
    "rejectedIdentifier": "The CA gives none for such a name: take it out of app_domains, or choose another tls_source.",
    "unauthorized": REACH,
}


class Problem(Exception):
    """What is wrong, and what helps. `refused` is a CA's answer."""

    def __init__(self, found, cure, refused=False):
        super().__init__(found)
        self.found, self.cure, self.refused = found, cure, refused


class Site:
    """A site: its folder, its settings, and where what belongs to it is."""

    def __init__(self, folder, name):
        self.folder, self.name = Path(folder), name
        self.file, self.settings_file, self.problem_file = (self.folder / part for part in ("certificate.pem", "acme.json", "problem.json"))
        self.settings = json.loads(self.settings_file.read_text()) if self.settings_file.exists() else {}
        self.user = f"{name}-tls"
        self.state = Path("/var/lib/flaskhost-acme") / name
        self.webroot = RUN / "flaskhost-acme" / name
        self.challenges = self.webroot / CHALLENGES
        # what the client is given to read
        self.given = self.webroot.with_name(f"{name}.given")
        self.unit = f"{name}-certificate"
        self.client = f"{name}-certificate-client.service"

    @property
    def domains(self):
        return [name.lower() for name in self.settings["domains"]]

    def mark(self):
        """The first line of a certificate that came from this CA."""
        return f"# Issued by {self.settings['directory']}\n"


class Certificate:
    """The one on the disk."""

    def __init__(self, text):
        self.text, self.own, told = text, "", ""
        with contextlib.suppress(IndexError, Problem):
            own = PEM.findall(text)[0]
            told = openssl("x509", "-noout", "-startdate", "-enddate", "-subject", "-issuer", "-ext", "subjectAltName", given=own)
            self.own = own
        found = dict(line.split("=", 1) for line in told.splitlines() if re.match(r"(not\w+|subject|issuer)=", line))
        self.begins, self.ends = (ssl.cert_time_to_seconds(found[key]) if key in found else 0 for key in ("notBefore", "notAfter"))
        self.self_signed = found.get("subject") == found.get("issuer")
        self.names = [name.lower() for name in re.findall(r"DNS:([^,\s]+)", told)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--prepare", action="store_true", help="have a certificate for nginx to start with, and the timer")
    parser.add_argument("--check", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--renew", action="store_true", help="ask for a new one, though this one is good")
    parser.add_argument("--timer", action="store_true", help="be patient with a CA that has refused")
    options = parser.parse_args()
    os.umask(0o022)
    site = Site(options.folder, Path(__file__).name.removesuffix("-certificate"))
    try:
        # one at a time
        with lock(site.folder, SITE_LOCK_SECONDS, os.O_RDONLY | os.O_DIRECTORY):
            if not site.settings:
                return remove(site, options)
            if options.prepare:
                return prepare(site)
            return keep(site, options)
    except Problem as problem:
        say(f"{problem.found.rstrip('.')}. {problem.cure}", sys.stderr)
        return 1


# -- keeping it good ---------------------------------------------------------------------------------------------------


def keep(site, options):
    certificate = Certificate(read(site.file))
    due = why_due(site, certificate) or ("a new one was asked for" if options.renew else "")
    if options.check:
        if due:
            say(f"would ask for a certificate: {due}")
        elif not serves(site, certificate):
            say("would reload nginx, which serves another certificate than the one on the disk")
        return 0
    problems, refused = [], last_refusal(site) if due and options.timer else None
    if due and not refused:
        try:
            certificate = issue(site)
            say(f"a certificate was issued: {due}")
        except Problem as problem:
            problems.append(problem)
    try:
        if serve(site, certificate):
            say("nginx was reloaded, and serves the certificate that is on the disk")
    except Problem as problem:
        problems.append(problem)
    if problems:
        noted = {"found": "; ".join(problem.found for problem in problems), "cure": problems[0].cure}
        refusing = any(problem.refused for problem in problems)
        write(site.problem_file, json.dumps({**noted, "refused": refusing, "at": int(time.time())}))
    elif refused:
        problems.append(refused)
    else:
        if site.problem_file.exists():
            site.problem_file.unlink()
            systemctl("reset-failed", f"{site.unit}.service")
        return 0
    now = served(site)
    noticed = why_bad(site, Certificate(ssl.DER_cert_to_PEM_cert(now))) if now else "nginx doesn't answer"
    left = f"Visitors do notice: {noticed}." if noticed else "Visitors don't notice yet."
    say(" ".join([*(f"{problem.found.rstrip('.')}. {problem.cure}" for problem in problems), left, AGAIN]), sys.stderr)
    return 1 if noticed else 3


def why_due(site, certificate):
    """Why a new one has to be asked for; empty if this one will do."""
    bad = why_bad(site, certificate)
    if bad:
        return bad
    if not certificate.text.startswith(site.mark()):
        return f"it isn't from {site.settings['directory']}"
    if set(certificate.names) != set(site.domains):
        return f"it is also for {', '.join(sorted(set(certificate.names) - set(site.domains)))}"
    # what CAs advise, however long theirs last
    if certificate.ends - time.time() < (certificate.ends - certificate.begins) / 3:
        return f"it ends at {moment(certificate.ends)}"
    return ""


def why_bad(site, certificate):
    """Why browsers warn of it; empty if they don't."""
    missing = [name for name in site.domains if name not in certificate.names]
    if not certificate.own:
        return "there is none"
    if certificate.self_signed:
        return "it is self-signed"
    if missing:
        return f"it isn't for {', '.join(missing)}"
    return f"it ended at {moment(certificate.ends)}" if certificate.ends < time.time() else ""


def last_refusal(site):
    """What the CA said less than half a day ago, to these very settings."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        noted = json.loads(read(site.problem_file))
        patient = noted["refused"] and time.time() - noted["at"] < PATIENCE_SECONDS
        if patient and site.settings_file.stat().st_mtime < noted["at"]:
            return Problem(noted["found"], noted["cure"], refused=True)
    return None


# -- asking the CA -----------------------------------------------------------------------------------------------------


def issue(site):
    """A new key, and a certificate for it. The key stays here; who talks to the CA gets a request to be signed, no more."""
    new = site.file.with_name("certificate.pem.new")
    try:
        # a full disk is noticed before the CA has counted one more certificate
        write(new, "#" * 65536)
        key = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        names = ",".join(f"DNS:{name}" for name in site.domains)
        request = openssl("req", "-new", "-key", "/dev/stdin", "-subj", "/", "-addext", f"subjectAltName={names}", given=key)
        certificate = Certificate(f"{site.mark()}{key}{ask(site, request)}")
        own, ours = certificate.own, openssl("pkey", "-pubout", given=key)
        if not own or openssl("x509", "-noout", "-pubkey", given=own) != ours or why_bad(site, certificate):
            raise Problem("the CA's answer isn't the certificate that was asked for", f"See {site.state}/log on the host.", refused=True)
        write(new, certificate.text)
        new.rename(site.file)
    except OSError as error:
        raise Problem(f"no certificate can be written: {error}", "See the host's disk: `df -h` and `df -i`.") from None
    finally:
        new.unlink(missing_ok=True)
        shutil.rmtree(site.given, ignore_errors=True)
        remove_challenges(site)
    return certificate


def ask(site, request):
    """The client does so as a user of its own, who can write to its account and to the answers to challenges, and to nothing else."""
    owner, end = pwd.getpwnam(site.user), time.monotonic() + CLIENT_SECONDS
    remove_challenges(site)
    if site.settings["probe"]:
        probe(site)
    give(site, owner.pw_gid, request=request, ca=site.settings["ca"], secrets=secret_options(site.settings))
    for _attempt in range(3):
        code, said, log, chain = run_client(site, end - time.monotonic())
        errors = CA_ERROR.findall(log)
        if code == 0:
            return "".join(PEM.findall(chain))
        kind = errors[-1][0] if errors else ""
        if kind == "accountDoesNotExist":
            # the CA has forgotten our account, or somebody has closed it
            as_client(site, 'rm -rf -- "$1"', site.state / "accounts", seconds=end - time.monotonic())
        elif kind != "badNonce":
            break
    raise refusal(site, said, log)


def give(site, group, **files):
    """The client can read these, and change none."""
    shutil.rmtree(site.given, ignore_errors=True)
    site.given.mkdir(mode=0o700, parents=True)
    for name, text in files.items():
        (site.given / name).write_text(text)
        os.chown(site.given / name, -1, group)
        (site.given / name).chmod(0o640)
    os.chown(site.given, -1, group)
    site.given.chmod(0o750)


def run_client(site, seconds):
    """Its exit code, what it said, its log, and the certificate with its chain."""
    email, mark = site.settings["email"], secrets.token_hex(16)
    words = [
        *("certonly", "--non-interactive", "--agree-tos", "--config", f"{site.given}/secrets"),
        *(("--email", email, "--no-eff-email") if email else ("--register-unsafely-without-email",)),
        *("--server", site.settings["directory"], "--csr", f"{site.given}/request"),
        *("--webroot", "--webroot-path", str(site.webroot), "--preferred-challenges", "http"),
        *("--config-dir", str(site.state), "--work-dir", "work", "--logs-dir", str(site.state / "log")),
        *("--fullchain-path", "chain", "--cert-path", "own", "--chain-path", "others"),
    ]
    environment = {"REQUESTS_CA_BUNDLE": f"{site.given}/ca"} if site.settings["ca"] else {}
    code, printed = as_client(site, ASK, site.state / "log", mark, FILE_BYTES, *words, seconds=seconds, **environment)
    parts = printed.split(f"\n{mark}\n")
    return (code, *parts[1:]) if len(parts) == 4 else (code or 1, printed, "", "")


def as_client(site, script, *words, seconds, **environment):
    """The exit code of a shell script, and what it prints, as text that does nothing to a terminal."""
    environment = {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8", **environment}
    lines = [
        *(f"User={site.user}", f"StateDirectory=flaskhost-acme/{site.name}"),
        *(f"RuntimeDirectory={site.challenges.relative_to(RUN)}", f"RuntimeMaxSec={CLIENT_SECONDS + 30}", *CLIENT_UNIT.split("\n")[1:-1]),
    ]
    command = [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec", f"--unit={site.client}"),
        *(f"--property={line}" for line in lines),
        *(f"--setenv={name}={value}" for name, value in environment.items()),
        *("--", "sh", "-c", script, "sh", *map(str, words)),
    ]
    # of a run that was killed
    systemctl("stop", site.client)
    try:
        code, printed = bounded(command, seconds)
    except OSError as error:
        return 1, f"systemd-run can't be run: {error}"
    finally:
        systemctl("stop", site.client)
    return code, printable(printed.decode(errors="replace"))


def bounded(command, seconds):
    """The exit code and output of a command that might not end, nor its output."""
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
    """The folder that the client can write to goes with its unit; those above it are root's, and empty."""
    systemctl("stop", site.client)
    if site.challenges.exists():
        # of a run that was killed, or of one that had no unit yet
        as_client(site, "true", seconds=CLIENT_SECONDS)
    for folder in (site.challenges.parent, site.webroot):
        with contextlib.suppress(OSError):
            folder.rmdir()


def secret_options(settings):
    if not settings["eab_id"]:
        return ""
    return f"eab-kid = {settings['eab_id']}\neab-hmac-key = {settings['eab_secret']}\n"


def refusal(site, said, log):
    """In the CA's own words, if there are any."""
    by_name = re.findall(r"Domain: (\S+)\s+Type:\s+(\S+)\s+Detail: (.*)", said)
    if by_name:
        found = "; ".join(f"{name}: {detail.rstrip('.')} ({kind})" for name, kind, detail in by_name)
        return Problem(f"The CA refuses: {found}", CURES.get(by_name[0][1], REACH), refused=True)
    if errors := CA_ERROR.findall(log):
        kind, detail = errors[-1]
        found = f"The CA refuses: {detail.rpartition(' :: ')[2].rstrip('.')} ({kind})"
        return Problem(found, CURES.get(kind, f"See {site.state}/log on the host."), refused=True)
    last = re.sub(r"^\S*Error: ", "", (re.findall(r":ERROR:[\w.]+:(.*)", log) or said.strip().splitlines() or ["no word"])[-1])[:300]
    if re.search(r"requests\.exceptions|urllib3|Requesting |no answer within", said):
        cure = "See the host's way out (DNS, HTTPS), tls_acme_directory and tls_acme_ca_file."
        return Problem(f"The CA can't be asked ({site.settings['directory']}): {last}", cure)
    cure = CURES["externalAccountRequired"] if "external account binding" in last else f"See {site.state}/log on the host."
    return Problem(f"The ACME client failed: {last}", cure)


def probe(site):
    """What the CA will do, done from here first: it lets us fail a few times an hour only. The folder is root's, as long as this lasts."""
    answer, file = secrets.token_hex(16), site.challenges / f"probe-{secrets.token_hex(8)}"
    site.challenges.mkdir(parents=True)
    file.write_text(answer)
    try:
        lost = [words for name in site.domains for words in wrong_ways(name, f"/{CHALLENGES}/{file.name}", answer)]
    finally:
        file.unlink()
        site.challenges.rmdir()
    if lost:
        own = "If they do already, and this host just can't reach itself by them, set tls_acme_probe: false."
        raise Problem(f"The CA was not asked: {'; '.join(lost)}", f"{REACH} {own}")


def wrong_ways(name, path, answer):
    try:
        addresses = sorted({info[4][0] for info in socket.getaddrinfo(name, HTTP_PORT, type=socket.SOCK_STREAM)})
    except OSError:
        return [f"{name} is not in the DNS"]
    lost = []
    for address in addresses:
        try:
            with deadline(PROBE_SECONDS):
                status, body = fetch(name, address, path)
            if (status, body) != (200, answer.encode()):
                lost.append(f"http://{name} leads to {address}, where another than this site's nginx answers ({status})")
        except (OSError, http.client.HTTPException, ValueError) as error:
            # where IPv6 doesn't lead anywhere a CA takes IPv4, if there is one
            if ":" not in address or all(":" in other for other in addresses):
                lost.append(
                    f"http://{name} leads to {address}, where nobody answers ({getattr(error, 'strerror', '') or str(error)[:200]})"
                )
    return lost


def fetch(name, address, path):
    """As a CA does, over redirects, whatever the certificate on the way."""
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


# -- serving it --------------------------------------------------------------------------------------------------------


def serve(site, certificate):
    """Have nginx serve what is on the disk; whether it had to be told."""
    if not certificate.own or serves(site, certificate):
        return False
    # whoever writes nginx's configuration does so under this lock, and is done with it
    (RUN / "flaskhost").mkdir(mode=0o755, exist_ok=True)
    with lock(RUN / "flaskhost/host.lock", HOST_LOCK_SECONDS, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW):
        done = subprocess.run(["systemctl", "reload", "nginx"], capture_output=True, text=True, check=False)
    end = time.monotonic() + RELOAD_SECONDS
    while done.returncode == 0 and time.monotonic() < end:
        if serves(site, certificate):
            return True
        time.sleep(0.1)
    found = f"nginx doesn't serve the certificate that is on the disk, {site.file}"
    said = f" ({done.stderr.strip()})" if done.returncode else ""
    raise Problem(found + said, "`nginx -t` and `journalctl -u nginx` on the host tell why; deploy.yml puts nginx right.")


def serves(site, certificate):
    return served(site) == ssl.PEM_cert_to_DER_cert(certificate.own)


def served(site):
    """What visitors get, by asking nginx as they do."""
    try:
        with socket.create_connection(HTTPS, 5) as tcp, unverified().wrap_socket(tcp, server_hostname=site.domains[0]) as tls:
            return tls.getpeercert(binary_form=True)
    except OSError:
        return b""


# -- what it needs on the host -----------------------------------------------------------------------------------------


def prepare(site):
    if not Certificate(read(site.file)).own:
        names = ",".join(f"DNS:{name}" for name in site.domains)
        words = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90", "-subj", "/CN=temporary")
        write(site.file, openssl("req", "-x509", *words, "-addext", f"subjectAltName={names}", "-keyout", "-", "-out", "-"))
        say("nginx starts with a temporary certificate")
    have_user(site)
    timer = f"{site.unit}.timer"
    known = systemctl("show", "--property=NeedDaemonReload,UnitFileState,ActiveState", timer, f"{site.unit}.service")
    if "NeedDaemonReload=yes" in known:
        systemctl("daemon-reload")
        systemctl("restart", timer)
    if "UnitFileState=enabled" not in known or "ActiveState=active" not in known:
        systemctl("enable", "--now", timer)
        say("the timer that renews the certificate was started")
    return 0


def have_user(site):
    """Of the client: it owns nothing but what its unit gives it, and can't log in."""
    if not has_user(site) or site.user not in members(GROUP):
        lines = [f'u {site.user} - "certificates of {site.name}" /nonexistent /usr/sbin/nologin', f"m {site.user} {GROUP}"]
        subprocess.run(["systemd-sysusers", "--inline", *lines], check=True, stderr=subprocess.DEVNULL)
        say(f"user {site.user}, who talks to the CA, was made a member of the group {GROUP}")
    entry = pwd.getpwnam(site.user)
    shadow = subprocess.run(["getent", "shadow", site.user], capture_output=True, text=True, check=False).stdout.strip().split(":")
    if (entry.pw_dir, entry.pw_shell, *shadow[7:8]) != ("/nonexistent", "/usr/sbin/nologin", "1"):
        # whose account has expired, PAM lets in by no way
        change_user(site, "usermod", "--home", "/nonexistent", "--shell", "/usr/sbin/nologin", "--expiredate", "1")
        say(f"user {site.user} can't log in any more")


def change_user(site, *command):
    """It may have processes that a former version, which gave the client no unit, let live."""
    become = ("setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--clear-groups", "--no-new-privs", "--")
    for _attempt in range(20):
        subprocess.run([*become, "sh", "-c", "kill -KILL -1"], capture_output=True, check=False)
        done = subprocess.run([*command, site.user], capture_output=True, text=True, check=False)
        # 8: it is still in use
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
    """Another source sees to the certificate from now on."""
    if options.check:
        say("would remove what has renewed the certificate")
        return 0
    if options.timer:
        # in here the system is read-only
        subprocess.run(["systemd-run", "--quiet", "--collect", __file__, site.folder], check=True)
        return 0
    systemctl("disable", "--now", f"{site.unit}.timer")
    for path in (UNITS / f"{site.unit}.timer", UNITS / f"{site.unit}.service", site.problem_file):
        path.unlink(missing_ok=True)
    systemctl("daemon-reload")
    systemctl("reset-failed", f"{site.unit}.service")
    # systemd's own note of when a timer last went off
    Path(f"/var/lib/systemd/timers/stamp-{site.unit}.timer").unlink(missing_ok=True)
    if has_user(site):
        code, printed = as_client(site, EMPTY, site.state, seconds=CLIENT_SECONDS)
        if code != 0:
            raise Problem(f"{site.state} can't be emptied: {printed.strip()[-300:]}", "Remove it, and run deploy.yml again.")
        remove_challenges(site)
        change_user(site, "userdel")
    shutil.rmtree(site.given, ignore_errors=True)
    for folder in (site.state, site.state.parent, site.webroot.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()
    if site.state.exists():
        raise Problem(
            f"{site.state} is not empty, and user {site.user}, who could empty it, is gone", "Remove it, and run deploy.yml again."
        )
    # last: while it is there, the work isn't done
    Path(__file__).unlink()
    say("what has renewed the certificate was removed")
    return 0


# -- small things ------------------------------------------------------------------------------------------------------


def openssl(*words, given=""):
    done = subprocess.run(["openssl", *words], input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Problem(f"`openssl {words[0]}` failed: {done.stderr.strip()}", "See what is in the site's folder below /etc/ssl/flaskhost.")
    return done.stdout


def systemctl(*words):
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False).stdout


def unverified():
    """Which certificate it is, is the question; whether it is trusted isn't."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextlib.contextmanager
def lock(path, seconds, flags):
    handle, end = os.open(path, flags, 0o600), time.monotonic() + seconds
    try:
        while not locked(handle):
            if time.monotonic() > end:
                found = f"{path} is locked by {holder(handle)}, and was for {seconds} seconds"
                raise Problem(found, "Wait until that process ends, or end it if it hangs; then run certificate.yml.")
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
    """The process that holds a lock, as the kernel tells it."""
    inode = f":{os.fstat(handle).st_ino}"
    for line in read("/proc/locks").splitlines():
        words = line.split()
        if words[1:2] == ["FLOCK"] and words[5].endswith(inode):
            command = printable(read(f"/proc/{words[4]}/cmdline").replace("\0", " ")).strip()
            return f"process {words[4]} ({command[:200] or 'unknown'})"
    return "another process"


@contextlib.contextmanager
def deadline(seconds):
    """For all of what is done within, however slowly others answer."""

    def end(_signal, _frame):
        raise TimeoutError(f"no answer within {seconds} seconds")

    former = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def printable(text):
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def read(path):
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def write(path, text):
    """Whole, or not at all; for root's eyes."""
    new = path if path.suffix == ".new" else path.with_name(f"{path.name}.new")
    with open(new, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    if new != path:
        new.rename(path)


def moment(seconds):
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def say(text, stream=None):
    if text:
        # some of it is what others have answered
        print(printable(text), file=stream)


if __name__ == "__main__":
    sys.exit(main())
