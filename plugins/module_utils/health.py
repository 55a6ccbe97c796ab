"""Request the health page of an app, which may send anything, send endless data, or not respond at all."""

import contextlib
import http.client
import io
import os
import re
import socket
import ssl
import time
import urllib.parse

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import one_line

# maximum size to read of a response, including headers; the rest does not affect the result
MAX_BYTES = 65536
# The request is like one that nginx forwards for a visitor on this host. nginx sets the forwarded headers itself, and answers
# X-Flaskhost-Check with the directory of the release (roles/nginx/templates/nginx.conf.j2).
REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\nConnection: close\r\nX-Flaskhost-Check: release\r\n"
    "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: {host}\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Proto: https\r\n\r\n"
)
# names of pages that let a visitor log in, or install the app
LOGIN_OR_SETUP = re.compile(
    r"(?:log|sign)[-_]?(?:in|on|up)|auth|sso|oauth2?|saml|oidc|register|set[-_]?up|install(?:er|ation)?|wizard|onboarding|first[-_]?run",
    re.IGNORECASE,
)
FIND_STRANGER = (
    "On the host, `nginx -T` shows which sites have this server_name, and `ss -ltnp` which program listens on the port. Remove the other one. "
    "If an earlier version of Flaskhost wrote the site, run deploy.yml"
)


class Page:
    """The health page, requested over a release's own socket (`path`), or through nginx as a browser on this host would.

    nginx limits the request rate of this host like that of any visitor, and another app on the host can use up the limit. If nginx returns
    429, the page is requested over the socket of the live release (`live`) instead.

    Through nginx, the response must come from the site of this app, and from the release in the directory `release`.
    """

    def __init__(self, params, path=None, live=None, release=None):
        self.params, self.path, self.live, self.release, self.status = params, path, live, release, 0
        self.location = ""

    def probe(self):
        """Return why the response is unhealthy, or an empty string if it is healthy."""
        why = self.request()
        if self.status == http.client.TOO_MANY_REQUESTS and self.live:
            page = Page(self.params, self.live)
            why, self.status, self.location = page.request(), page.status, page.location
        return why

    def warning(self):
        """Return why a healthy response proves little about the app, or an empty string. A redirect (a status from 300 to 399) is healthy."""
        if not self.location:
            return ""
        name, host = self.params["path"], self.params["host"]
        try:
            target = urllib.parse.urlsplit(urllib.parse.urljoin(f"https://{host}{name}", self.location))
        except ValueError:
            target = urllib.parse.urlsplit("")
        if target.hostname != host.lower():
            kind = "another site"
        elif target.path == name:
            kind = "itself"
        elif any(map(LOGIN_OR_SETUP.fullmatch, re.split(r"[/.]", target.path))):
            kind = "a login or setup page"
        else:
            return ""
        return (
            f"{name} returned {self.status}, a redirect to {kind} ({one_line(self.location, 200)}). It counts as healthy, but it does not show "
            "that the app works. Set app_health_path to a page that returns 200 without a login."
        )

    def request(self):
        name, seconds = self.params["path"], self.params["answer_seconds"]
        deadline = time.monotonic() + seconds
        try:
            with self.connect(deadline) as connection:
                connection.sendall(REQUEST.format(path=name, host=self.params["host"]).encode())
                answer = http.client.HTTPResponse(LimitedSocket(connection, deadline), method="GET")
                answer.begin()
                self.status = answer.status
                self.location = answer.getheader("Location", "") if 300 <= self.status < 400 else ""
                # a long page is not an error
                with contextlib.suppress(TooLong):
                    answer.read(MAX_BYTES)
            if self.release and (stranger := self.stranger(answer)):
                return f"{name} is not answered by this release, but by {stranger}. {FIND_STRANGER}"
            return "" if 200 <= self.status < 400 else f"{name} returned {self.status}"
        except FileNotFoundError:
            return "the server has not opened its socket"
        except ConnectionRefusedError:
            return f"the request to {name} failed: {'the server' if self.path else 'nginx'} refused the connection"
        except TimeoutError:
            return f"{name} did not respond within {seconds:g} seconds"
        except (OSError, ValueError, http.client.HTTPException) as error:
            # the app may control this text
            return f"the request to {name} failed ({one_line(str(error), 200) or type(error).__name__})"

    def stranger(self, answer):
        """Return who answered instead of the release. If no release answers, nginx sends an error page, which is in another directory."""
        found = answer.getheader("X-Flaskhost-Release", "")
        if found in (os.path.realpath(self.release), f"/var/www/{self.params['app']}"):
            return ""
        server = one_line(answer.getheader("Server", "") or "without a name", 80)
        return f"the site in {one_line(found, 200)}" if found else f"another site or program (Server: {server})"

    def connect(self, deadline):
        """Connect without verifying the certificate, which is the task of the role tls."""
        if self.path:
            return connected(socket.AF_UNIX, self.path, deadline)
        connection = connected(socket.AF_INET, ("127.0.0.1", self.params["port"]), deadline)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = context.wrap_socket(connection, server_hostname=self.params["host"])
        connection.settimeout(left(deadline))
        return connection


class TooLong(http.client.HTTPException):
    pass


def connected(family, address, deadline):
    connection = socket.socket(family)
    try:
        connection.settimeout(left(deadline))
        connection.connect(address)
        connection.settimeout(left(deadline))
        return connection
    except OSError:
        connection.close()
        raise


class LimitedSocket:
    """The part of a socket that http.client needs, with a deadline and a maximum size."""

    def __init__(self, sock, deadline):
        self.sock, self.deadline = sock, deadline

    def makefile(self, mode):
        return io.BufferedReader(LimitedReader(self.sock, self.deadline))


class LimitedReader(io.RawIOBase):
    def __init__(self, sock, deadline):
        self.sock, self.deadline, self.left = sock, deadline, MAX_BYTES

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self.left:
            raise TooLong(f"more than {MAX_BYTES // 1024} KB")
        self.sock.settimeout(left(self.deadline))
        size = self.sock.recv_into(memoryview(buffer)[: self.left])
        self.left -= size
        return size


def left(deadline):
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
