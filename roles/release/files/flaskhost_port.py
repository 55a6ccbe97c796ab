"""Choose a free loopback port, and find the owners of a port. Managed by Flaskhost.

Any user of the host can listen on a free loopback port, so a server must check who listens on its port. Run as a program, this prints a
free port.
"""

import errno
import os
import random
import socket
import struct
import sys

# sock_diag(7) and linux/inet_diag.h: a request is a netlink header, inet_diag_req_v2 and the socket's ID
HEADER, REQUEST_FIELDS, NO_COOKIE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), b"\xff" * 8
SOCK_DIAG, BY_FAMILY, REQUEST, ERROR = 4, 20, 1, 2
ANY_STATE, USER = 0xFFFFFFFF, 64
# above the well-known ports, and below the ports of outgoing connections, on which the sandbox forbids listening
FIRST, LAST = 20000, 32767


def free():
    for port in random.sample(range(FIRST, LAST + 1), 1000):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    sys.exit(f"no free port found on the loopback: tried 1,000 ports between {FIRST} and {LAST}; check `ss -tlnp` on the host")


def owners(port):
    """Return the user IDs of the listeners that receive connections to 127.0.0.1 on this port."""
    try:
        return {owner_by_netlink(port)}
    except OSError:
        # no process listens, or the sandbox forbids netlink
        return owners_by_proc(port)


def owner_by_netlink(port):
    """The kernel looks the listener up as it does for a connection, so the time doesn't depend on the number of sockets."""
    loopback = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    socket_id = struct.pack("!HH", port, 0) + loopback + loopback + struct.pack("=I", 0) + NO_COOKIE
    request = REQUEST_FIELDS.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, ANY_STATE) + socket_id
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as netlink:
        netlink.settimeout(1)
        netlink.send(HEADER.pack(HEADER.size + len(request), BY_FAMILY, REQUEST, 1, 0) + request)
        response = netlink.recv(4096)
    if HEADER.unpack_from(response)[1] == ERROR:
        code = -struct.unpack_from("=i", response, HEADER.size)[0]
        raise OSError(code or errno.EPROTO, os.strerror(code))
    return struct.unpack_from("=I", response, HEADER.size + USER)[0]


def owners_by_proc(port):
    """Read the tables of all sockets (proc_pid_net(5)). The kernel lists listening sockets first."""
    for table, addresses in (("tcp", ("0.0.0.0", "127.0.0.1")), ("tcp6", ("::", "::ffff:127.0.0.1"))):
        local_addresses, found = {f"{hexadecimal(address)}:{port:04X}" for address in addresses}, set()
        if os.path.exists(f"/proc/self/net/{table}"):  # a host may have no IPv6
            with open(f"/proc/self/net/{table}") as handle:
                next(handle)
                for fields in map(str.split, handle):
                    if fields[3] != "0A":
                        break
                    if fields[1] in local_addresses:
                        found.add(int(fields[7]))
        if found:
            return found
    return set()


def hexadecimal(address):
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return "".join(f"{int.from_bytes(packed[start : start + 4], sys.byteorder):08X}" for start in range(0, len(packed), 4))


if __name__ == "__main__":
    print(free())
