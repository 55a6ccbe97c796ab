"""Process an untrusted source as the user APP-build, in a separate process with limits that root enforces."""

import contextlib
import os
import resource
import select
import signal
import subprocess
import tarfile

# limits for an untrusted source: compiling a few bytes of Python can take gigabytes of memory
WORK_SECONDS, WORK_BYTES = 900, 2**30


class LayoutError(Exception):
    """The source, or the result of its build, is rejected. The message says why."""


def as_builder(user, directory, work, seconds=None):
    """Call WORK as this user, in this directory. Raise LayoutError if it fails, or uses too much time or memory."""
    seconds = seconds or WORK_SECONDS
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            os.close(reading)
            os.fchdir(at)
            drop_privileges(user)
            # the CPU limit still applies if root's process dies; the memory limit protects the services on the host
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_AS, (WORK_BYTES, WORK_BYTES))
            work()
            status = 0
        except MemoryError:
            os.write(writing, f"processing the source takes more than {WORK_BYTES // 2**20} MB of memory".encode())
        except (OSError, ValueError, LayoutError, tarfile.TarError, RecursionError, subprocess.SubprocessError) as error:
            os.write(writing, str(error).encode(errors="replace")[:2000])
        finally:
            os._exit(status)
    os.close(writing)
    os.close(at)
    with os.fdopen(os.pidfd_open(child), "rb") as process, os.fdopen(reading, "rb") as pipe:
        ended = select.select([process], [], [], seconds)[0]
        with contextlib.suppress(ProcessLookupError):
            # including all processes that it started
            os.killpg(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        message = os.read(pipe.fileno(), 2000).decode(errors="replace") if select.select([pipe], [], [], 0)[0] else ""
    if not ended:
        raise LayoutError(f"processing the source took longer than {seconds} seconds. Remove large files from it")
    if status:
        raise LayoutError(message or f"the process for the source ended with status {status}")


def drop_privileges(user):
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.umask(0o022)
