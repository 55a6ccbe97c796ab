"""The filter `remedy`: suggest a fix for a failed release, based on the output of the run and the app's log.

The app controls the text, so the filter only searches lines for fixed strings. Its run time is proportional to the length of the text.
"""

import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text

DATA_DIRECTORY = (
    "The app can write only to its data directory, {data} ($STATE_DIRECTORY), and to /tmp, and it cannot see /home and /root. If it writes "
    "to a directory of its source, add that directory to app_shared (for example app_shared: [logs]). Store other files in "
    "$STATE_DIRECTORY. To let the app write to another directory of the host, add it to systemd_writable. Then run this again. (If the app "
    "already follows these rules, the disk itself is read-only: check `dmesg` on the host.)"
)
READ_ONLY = (
    "The file system is read-only. Linux remounts a file system read-only when a disk fails; check `dmesg` on the host. Repair the disk, "
    "and run this again."
)
# Each remedy has one or more alternatives. An alternative matches if one line contains all of its strings. The first remedy that matches is
# returned, so specific ones come first.
REMEDIES = [
    (
        "The disk is full or has no free inodes; check `df -h` and `df -i` on the host. Free some space, and run this again.",
        ["No space left on device"],
        ["os error 28"],
        ["Disk quota exceeded"],
        ["disk is full"],
    ),
    # -- the sandbox: messages of Python, psutil, cffi, node and chromium on Debian 12 and 13 --
    (
        (
            "The sandbox forbids memory that is both writable and executable, but cffi callbacks and JIT compilers (node, chromium, numba) "
            "need it. Set systemd_allow_writable_code: true, and run this again."
        ),
        ["write+execute memory"],
        ["Fatal javascript OOM in MemoryChunk allocation"],
        ["Fatal process OOM", "CodeRange"],
        ["V8_Fatal("],
        ["# Fatal error in , line 0"],
        ["LLVM ERROR: Unable to allocate section memory"],
        ["cannot enable executable stack"],
        # node aborts with SIGTRAP
        ["killed by signal 5"],
        ["crashed with signal 5"],
        ["SIGTRAP"],
    ),
    (
        (
            "The sandbox hides the host's information in /proc, which psutil reads. Set systemd_service_lines: [ProcSubset=all], and run "
            "this again. (To also see processes of other users, add ProtectProc=default.)"
        ),
        ["No such file or directory", "/proc/"],
        ["ENOENT", "/proc/"],
        # os.getloadavg() does not name the file
        ["Load averages are unobtainable"],
    ),
    (
        (
            "The sandbox allows only IPv4, IPv6 and Unix sockets. To list network interfaces (psutil.net_if_addrs, socket.if_nameindex), "
            "set systemd_service_lines: [RestrictAddressFamilies=AF_NETLINK], and run this again. (On a host without IPv6, the app must "
            "not use IPv6.)"
        ),
        ["[Errno 97]"],
        ["Address family not supported"],
        ["EAFNOSUPPORT"],
        ["uv_interface_addresses"],
    ),
    (
        (
            "The sandbox's system call filter killed the app. On the host, `journalctl -k --grep SECCOMP` shows the number of the call. "
            "Allow the call by name with systemd_service_lines: [SystemCallFilter=NAME], and run this again."
        ),
        ["Bad system call"],
        ["SIGSYS"],
        ["killed by signal 31"],
        ["crashed with signal 31"],
        ["exit code 159"],
    ),
    (
        (
            "The sandbox forbids namespaces, which chromium uses for its own sandbox. Start chromium with --no-sandbox (the app's sandbox "
            "still applies to it), set systemd_allow_writable_code: true for its JavaScript, and run this again."
        ),
        ["No usable sandbox"],
        ["Failed to move to new namespace"],
        ["zygote_host_impl"],
        ["unshare", "Operation not permitted"],
    ),
    (
        (
            "The sandbox's user namespace contains only the app's own user and groups, so the app cannot change the owner or group of "
            "a file. Keep the owner and group, or set systemd_service_lines: [PrivateUsers=no], and run this again."
        ),
        ["chown", "Invalid argument"],
        ["changing group", "Invalid argument"],
        ["changing ownership", "Invalid argument"],
    ),
    (
        (
            "The sandbox lets the app listen only on ports 1024 to 32767, because the host uses higher ports for outgoing connections. "
            "Choose a port in this range, or set systemd_service_lines: [SocketBindAllow=any], and run this again."
        ),
        ["bind", "Operation not permitted"],
        ["EPERM", "listen"],
        ["error while attempting to bind on address", "not permitted"],
    ),
    # the run itself is not sandboxed, and the sandbox lets the app write to its data
    (READ_ONLY, ["run: ", "Read-only file system"], ["Read-only file system", "{data}/"], ["EROFS", "{data}/"], ["os error 30"]),
    (
        DATA_DIRECTORY,
        ["Read-only file system"],
        ["EROFS"],
        ["readonly database"],
        ["unable to open database file"],
        ["[Errno 13] Permission denied: "],
        ["EACCES: permission denied, "],
    ),
    # -- memory, databases, packages --
    (
        "Give the app more memory (systemd_memory_max, base_swap_mb, a larger host) or reduce its memory usage, and run this again.",
        ["run: ", "not enough memory"],
        ["more memory than"],
        ["by signal 9"],
        ["MemoryError"],
        ["Cannot allocate memory"],
        ["cannot allocate memory"],
    ),
    (
        "The database rejects the login. Check the user, password and database name in DATABASE_URL, and run this again.",
        ["password authentication failed"],
        ["no pg_hba.conf entry"],
        ["Peer authentication failed"],
        ["FATAL:", "role", "does not exist"],
        ["FATAL:", "database", "does not exist"],
    ),
    (
        "The database is unreachable. Check the host in DATABASE_URL and whether the database is running, and run this again.",
        ["connection to server ", " failed"],
        ["OperationalError", "refused"],
        ["OperationalError", "translate host name"],
        ["OperationalError", "timeout"],
    ),
    (
        "Redis is unreachable. Add redis to app_services and run deploy.yml, or check REDIS_URL and run this again.",
        ["redis.exceptions.ConnectionError"],
        ["Redis URL must specify"],
    ),
    (
        (
            "The app requires another version of {package} than Flaskhost ({requirement}). Remove the app's version, or set {server}_requirement "
            "to it, and run this again."
        ),
        ["requirements are unsatisfiable", "you require {package}"],
    ),
    (
        (
            "The app does not accept Python {python}. Set app_python to a version that it accepts, or change the app's dependencies, and run "
            "this again."
        ),
        ["does not satisfy Python"],
        ["is incompatible with the project's Python requirement"],
    ),
    (
        (
            "These packages conflict with each other or have no such version for Python {python}. Fix the app's dependencies, or replace a "
            "requirement with app_overrides, and run this again."
        ),
        ["requirements are unsatisfiable"],
    ),
    (
        (
            "A package comes from a git server, but git is not installed on the host. Set python_venv_extra_packages: [git], and run deploy.yml, "
            "which installs it."
        ),
        ["Git executable not found"],
        ["failed to execute", "git"],
    ),
    (
        (
            "The git server or package index asks for credentials. Set app_build_secrets, such as {{'github.com': 'USER:TOKEN'}}. Its key is the "
            "host in this message, and Flaskhost then also uses https for ssh URLs of this host. Then run this again."
        ),
        ["could not read Username"],
        ["Authentication failed for"],
        ["Permission denied (publickey"],
        ["Host key verification failed"],
        ["401 Unauthorized"],
        ["403 Forbidden"],
        ["lack of valid authentication credentials"],
    ),
    (
        (
            "A package is not the one that the lock file describes. If its publisher replaced it, create the lock file again. Otherwise, check "
            "python_venv_index_url. Then run this again."
        ),
        ["Hash mismatch for"],
    ),
    (
        (
            "setuptools does not know which directories are the app's package. Name them in [tool.setuptools] of pyproject.toml, or remove "
            "[build-system], and Flaskhost installs only the dependencies. Then run this again."
        ),
        ["Multiple top-level packages discovered"],
        ["Multiple top-level modules discovered"],
    ),
    (
        (
            "{install}If the package must be compiled, add the required system packages (gcc, python3-dev, libpq-dev …) to "
            "python_venv_extra_packages, and run deploy.yml."
        ),
        ["Failed to build"],
        ["Python.h"],
        ["python.h"],
        ["pg_config"],
    ),
    (
        "Check that the host can connect to the server in this message (python_venv_index_url is the package index), and run this again.",
        ["dns error"],
        ["error sending request"],
        ["Failed to fetch"],
        ["Connection refused"],
        ["Name or service not known"],
        ["name resolution"],
    ),
    (
        "The code does not match the database schema. Check that app_release_command migrates the database, and run this again.",
        ["no such table"],
        ["no such column"],
        ["UndefinedTable"],
        ["UndefinedColumn"],
        ["Can't locate revision"],
    ),
    (
        (
            "If the missing module is a package, add it to the app's dependencies. If it is part of the app, check app_module. Then run "
            "this again."
        ),
        ["No module named"],
    ),
    (
        (
            "This file, directory or program is missing on the host. git stores no empty directories: if the app writes to a directory of "
            "its source, add it to app_shared (for example app_shared: [logs]), which creates it. Store other files in {data} "
            "($STATE_DIRECTORY). A program comes from a package of the distribution: add it to python_venv_extra_packages, and run "
            "deploy.yml. Otherwise, add the file to the source. Then run this again."
        ),
        ["FileNotFoundError: "],
        ["ENOENT: no such file or directory"],
        ["command not found"],
        ["exit code 127"],
    ),
    ("Add this page to the app, or set app_health_path to an existing page, and run this again.", ["run: ", "returned 404"]),
    (
        (
            "The sandbox denied this operation: the app cannot gain privileges or make privileged system calls. Memory that is writable "
            "and executable (mmap with PROT_EXEC) requires systemd_allow_writable_code: true. To allow another system call, set "
            "systemd_service_lines: [SystemCallFilter=NAME]. The app cannot use sudo, setuid programs or raw sockets. Fix the app or its "
            "settings, and run this again."
        ),
        ["Operation not permitted"],
        ["EPERM"],
        ["no new privileges"],
    ),
    (
        (
            "The app crashed in compiled code. If it works elsewhere, the sandbox may be the cause: try systemd_allow_writable_code: true, "
            "and run this again."
        ),
        ["by signal 11"],
        ["with signal 11"],
        ["SIGSEGV"],
    ),
]
DEFAULT_REMEDY = "Fix the app or its settings, then run this again."


class FilterModule:
    def filters(self):
        return {"remedy": remedy}


def remedy(failure, log="", data="/var/lib/APP", python="", server="", packages=(), requirement=""):
    """Return a remedy. `failure` is the message of the run, `log` the output and log of the app. The others are inserted into the text."""
    run = [f"run: {line}" for line in text.printable(text.shortened(failure)).split("\n")]
    lines = "\n".join([*run, text.printable(text.shortened(log))])
    install = f"Run deploy.yml, which installs the packages that {server} needs ({', '.join(packages)}). " if packages else ""
    package = re.split(r"[^\w.-]", requirement)[0]
    values = {"data": data, "python": python, "install": install, "server": server, "package": package, "requirement": requirement}
    for template, *alternatives in REMEDIES:
        if any(
            in_one_line(lines, [part.replace("{data}", data).replace("{package}", package) for part in parts]) for parts in alternatives
        ):
            return template.format(**values)
    return DEFAULT_REMEDY


def in_one_line(lines, parts):
    # the fast check on the whole text usually decides
    return all(part in lines for part in parts) and any(all(part in line for part in parts) for line in lines.split("\n"))
