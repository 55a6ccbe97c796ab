#!/usr/bin/python
"""Check that a host can connect to a service on another host."""

DOCUMENTATION = r"""
module: probe
short_description: Check that the host can connect to a service on another host
description:
  - Connects to a TCP port and closes the connection. It changes nothing and needs no password.
  - For PostgreSQL, it also checks that the service speaks PostgreSQL's protocol.
author: The Flaskhost authors (@flaskhost)
options:
  host:
    description: The name or address to connect to.
    type: str
    required: true
  port:
    description: The TCP port.
    type: int
    required: true
  kind:
    description: The kind of service. Only V(postgresql) is checked beyond the connection.
    type: str
    default: ''
  seconds:
    description: Seconds to wait for a response.
    type: float
    default: 5
"""

EXAMPLES = r"""
- name: Check that the host can connect to the database
  flaskhost.flaskhost.probe:
    host: db.example.com
    port: 5432
    kind: postgresql
  register: database
  failed_when: database.why != ''
"""

RETURN = r"""
why: {description: Why the service is unreachable. Empty if it is reachable., type: str, returned: always}
"""

import contextlib
import socket
import struct

from ansible.module_utils.basic import AnsibleModule

# the SSLRequest message of PostgreSQL's protocol, which a client sends first
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def main():
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "kind": {"type": "str", "default": ""},
            "seconds": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, why=problem(**module.params))


def problem(host, port, kind="", seconds=5):
    try:
        with socket.create_connection((host, port), seconds) as connection:
            if kind == "postgresql":
                connection.sendall(SSL_REQUEST)
                with contextlib.suppress(ConnectionResetError):
                    if connection.recv(1) in (b"S", b"N"):
                        return ""
                return "the service is not PostgreSQL"
        return ""
    except socket.gaierror:
        return "no address found for this name"
    except TimeoutError:
        return f"no response within {seconds:g} seconds"
    except OSError as error:
        return (error.strerror or str(error)).lower()


if __name__ == "__main__":
    main()
