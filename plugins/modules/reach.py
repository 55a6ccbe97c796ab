#!/usr/bin/python
"""Whether a host can reach a service of another."""

DOCUMENTATION = r"""
module: reach
short_description: Whether the host can reach a service elsewhere
description:
  - Connects, and goes again. It changes nothing, and needs no password. Of a PostgreSQL it asks whether it is one.
author: The Flaskhost authors (@flaskhost)
options:
  host:
    description: Its name or address.
    type: str
    required: true
  port:
    description: Its port.
    type: int
    required: true
  kind:
    description: What it should be.
    type: str
    default: ''
  seconds:
    description: How long it may take to answer.
    type: float
    default: 5
"""

EXAMPLES = r"""
- name: Check that the database is reachable from the host
  flaskhost.flaskhost.reach:
    host: db.example.com
    port: 5432
    kind: postgresql
  register: database
  failed_when: database.why != ''
"""

RETURN = r"""
why: {description: Why it can't be reached; empty if it can., type: str, returned: always}
"""

import contextlib
import socket
import struct

from ansible.module_utils.basic import AnsibleModule

# "do you speak TLS?", as a PostgreSQL client asks before it says anything else (PostgreSQL's protocol, SSLRequest)
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
    module.exit_json(changed=False, why=why(**module.params))


def why(host, port, kind="", seconds=5):
    try:
        with socket.create_connection((host, port), seconds) as connection:
            if kind == "postgresql":
                connection.sendall(SSL_REQUEST)
                with contextlib.suppress(ConnectionResetError):
                    if connection.recv(1) in (b"S", b"N"):
                        return ""
                return "what answers there is no PostgreSQL"
        return ""
    except socket.gaierror:
        return "no address is known for this name"
    except TimeoutError:
        return f"no answer within {seconds:g} seconds"
    except OSError as error:
        return (error.strerror or str(error)).lower()


if __name__ == "__main__":
    main()
