"""Ports of the loopback, which any user of the host can take while they are free. Managed by Flaskhost.

As a program, it prints one that is free.
"""

import errno
import os
import random
import socket
import struct
import sys

# sock_diag(7) and linux/inet_diag.h: a header, a question, and what both have in common with the answer, the socket's id
HEADER, QUESTION, NO_COOKIE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), b"\xff" * 8
SOCK_DIAG, BY_FAMILY, REQUEST, ERROR = 4, 20, 1, 2
ANY_STATE, USER = 0xFFFFFFFF, 64
# above those that programs are known by, and below those of outgoing connections, which the sandbox lets nobody listen on
FROM, TO = 20000, 32767


def free():
    for port in random.sample(range(FROM, TO + 1), 1000):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    sys.exit(f"of 1,000 ports of the loopback between {FROM} and {TO}, none is free: see `ss -tlnp` on the host")


def owners(port):
    """The users whose listeners get connections to 127.0.0.1 at this port."""
    try:
        return {asked(port)}
    except OSError:
        # nobody listens, or a sandbox without netlink
        return listed(port)


def asked(port):
    """The kernel looks it up as it does for a connection, however many others listen."""
    loopback = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    place = struct.pack("!HH", port, 0) + loopback + loopback + struct.pack("=I", 0) + NO_COOKIE
    question = QUESTION.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, ANY_STATE) + place
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as netlink:
        netlink.settimeout(1)
        netlink.send(HEADER.pack(HEADER.size + len(question), BY_FAMILY, REQUEST, 1, 0) + question)
        answer = netlink.recv(4096)
    if HEADER.unpack_from(answer)[1] == ERROR:
        code = -struct.unpack_from("=i", answer, HEADER.size)[0]
        raise OSError(code or errno.EPROTO, os.strerror(code))
    return struct.unpack_from("=I", answer, HEADER.size + USER)[0]


def listed(port):
    """The same from the tables of all sockets (proc_pid_net(5)). The kernel tells those that listen first."""
    for table, addresses in (("tcp", ("0.0.0.0", "127.0.0.1")), ("tcp6", ("::", "::ffff:127.0.0.1"))):
        places, found = {f"{hexadecimal(address)}:{port:04X}" for address in addresses}, set()
        if os.path.exists(f"/proc/self/net/{table}"):  # a host may have no IPv6
            with open(f"/proc/self/net/{table}") as handle:
                next(handle)
                for fields in map(str.split, handle):
                    if fields[3] != "0A":
                        break
                    if fields[1] in places:
                        found.add(int(fields[7]))
        if found:
            return found
    return set()


def hexadecimal(address):
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return "".join(f"{int.from_bytes(packed[start : start + 4], sys.byteorder):08X}" for start in range(0, len(packed), 4))


if __name__ == "__main__":
    print(free())
