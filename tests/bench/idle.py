"""Idle keep-alive clients: `idle.py URL COUNT`. Prints "ready" and, after a line of input, how many connections the server has closed."""

import socket
import sys
from urllib.parse import urlsplit


def connect(url):
    """Open a keep-alive connection and send one request."""
    try:
        client = socket.create_connection((url.hostname, url.port), timeout=10)
        client.sendall(f"GET / HTTP/1.1\r\nHost: {url.hostname}\r\n\r\n".encode())
        client.recv(65536)
        return client
    except OSError:
        return None


def is_closed(client):
    """Whether the server has closed the connection, or it could not be opened."""
    if client is None:
        return True
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


clients = [connect(urlsplit(sys.argv[1])) for _ in range(int(sys.argv[2]))]
print("ready", flush=True)
sys.stdin.readline()
print(sum(map(is_closed, clients)))
