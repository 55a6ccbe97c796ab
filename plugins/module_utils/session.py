"""The ssh session by which Ansible came to this host."""

import os
import re

CONNECTION = re.compile(rb"(?:^|\0)SSH_CONNECTION=(\S+) \S+ \S+ (\d+)\0")


def ssh_session():
    """Its client's address and the host's port; ("", 0) if there is none.

    Read from the ancestors of this process, since sudo removes the variable from our own environment.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            with open(f"/proc/{pid}/environ", "rb") as handle:
                found = CONNECTION.search(handle.read())
            if found:
                return found[1].decode(), int(found[2])
        except PermissionError:
            # sshd's own process, for a user who is not root: the shell below it has been asked already
            pass
        except OSError:
            return "", 0
        try:
            with open(f"/proc/{pid}/stat") as handle:
                pid = int(handle.read().rpartition(")")[2].split()[1])
        except OSError:
            return "", 0
    return "", 0
