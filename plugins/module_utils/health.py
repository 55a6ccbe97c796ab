"""Request the health page of an app, which may send anything, send endless data, or not respond at all."""

import contextlib
import http.client
import io
import socket
import ssl
import time

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.text import one_line

# maximum size to read of a response, including headers; the rest does not affect the result
MAX_BYTES = 65536
REQUEST = "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: https\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"


class Page:
    """The health page, requested over a release's own socket (`path`), or through nginx as a browser on this host would.

    nginx limits the request rate of this host like that of any visitor, and another app on the host can use up the limit. If nginx returns
    429, the page is requested over the socket of the live release (`live`) instead.
    """

    def __init__(self, params, path=None, live=None):
        self.params, self.path, self.live, self.status = params, path, live, 0

    def probe(self):
        """Return why the response is unhealthy, or an empty string if it is healthy."""
        why = self.request()
        if self.status == http.client.TOO_MANY_REQUESTS and self.live:
            page = Page(self.params, self.live)
            why, self.status = page.request(), page.status
        return why

    def request(self):
        name, seconds = self.params["path"], self.params["answer_seconds"]
        deadline = time.monotonic() + seconds
        try:
            with self.connect(deadline) as connection:
                connection.sendall(REQUEST.format(path=name, host=self.params["host"]).encode())
                answer = http.client.HTTPResponse(LimitedSocket(connection, deadline), method="GET")
                answer.begin()
                self.status = answer.status
                # a long page is not an error
                with contextlib.suppress(TooLong):
                    answer.read(MAX_BYTES)
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
