"""Find the SSH session that Ansible uses to connect to this host."""

import os
import re

CONNECTION = re.compile(rb"(?:^|\0)SSH_CONNECTION=(\S+) \S+ \S+ (\d+)\0")


def ssh_session():
    """Return the address of the client and the port of the host, or ("", 0) if there is no SSH session.

    They are read from the ancestors of this process, because sudo removes the variable from its environment.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            with open(f"/proc/{pid}/environ", "rb") as handle:
                found = CONNECTION.search(handle.read())
            if found:
                return found[1].decode(), int(found[2])
        except PermissionError:
            # without root, the process of sshd is not readable, but its child, the shell, was already checked
            pass
        except OSError:
            return "", 0
        try:
            with open(f"/proc/{pid}/stat") as handle:
                pid = int(handle.read().rpartition(")")[2].split()[1])
        except OSError:
            return "", 0
    return "", 0
