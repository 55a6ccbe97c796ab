"""Write what the sandbox allows this process to do to the given file, as JSON."""

import ctypes
import json
import mmap
import os
import resource
import socket
import sys
import tempfile

libc = ctypes.CDLL(None, use_errno=True)


def attempt(act, *arguments):
    try:
        act(*arguments)
    except OSError as error:
        return f"denied ({error.strerror})"
    return "allowed"


def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def in_child(act, *arguments):
    """Try it in a child process, because it would change this one."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, attempt(act, *arguments).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.wait()
    return answer


def make_setuid_file():
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)


def write_to(directory):
    with tempfile.NamedTemporaryFile(dir=directory):
        pass


def sees_others():
    return any(os.stat(f"/proc/{name}").st_uid not in (os.getuid(), 65534) for name in os.listdir("/proc") if name.isdigit())


with open("/proc/self/status") as file:
    status = dict(line.rstrip().split(":\t", 1) for line in file if ":\t" in line)
found = {
    "no new privileges": status["NoNewPrivs"],
    "capabilities": status["CapEff"],
    "capability bounding set": status["CapBnd"],
    "system calls are filtered": status["Seccomp"],
    "core dumps": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "sees processes of other users": sees_others(),
    "user namespace": in_child(call, "unshare", 0x10000000),
    "netlink": attempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "writable and executable memory": attempt(mmap.mmap, -1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_WRITE | mmap.PROT_EXEC),
    "setuid file": attempt(make_setuid_file),
    "trace": in_child(call, "ptrace", 0, 0, 0, 0),
    "real time": in_child(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
    "personality": in_child(call, "personality", 0x0040000),
    "key ring": in_child(call, "syscall", 248, b"user", b"key", b"value", 5, -2),
    "homes": attempt(os.listdir, "/home"),
    "kernel's log": attempt(open, "/dev/kmsg"),
    "disks": [name for name in ("vda", "sda", "mem", "fuse") if os.path.exists(f"/dev/{name}")],
    **{
        f"write to {directory}": attempt(write_to, directory)
        for directory in ("/etc", "/srv", "/usr", "/var", "/var/cache", "/var/tmp", "/run", "/dev/shm")
    },
}
with open(sys.argv[1], "w") as file:
    json.dump(found, file, indent=1, sort_keys=True)
