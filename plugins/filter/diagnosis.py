"""The filter `remedy`: what to do about a release that failed, by what was printed and logged.

Only whether a line contains strings is looked at: the text is the app's, and takes time in proportion to its length.
"""

from ansible_collections.flaskhost.flaskhost.plugins.module_utils import text

DATA_DIRECTORY = (
    "The app may write only to its data directory, {data} ($STATE_DIRECTORY), and to /tmp; it can't see /home and /root. If it writes to a "
    "directory of its source, name that in app_shared (such as app_shared: [logs]); put other files into $STATE_DIRECTORY; a further "
    "directory of the host goes into systemd_writable. Then run this again. (If it does all that, the disk itself is read-only: see `dmesg` on the host.)"
)
READ_ONLY = (
    "The file system is read-only; Linux makes it so when a disk fails (on the host, `dmesg` shows it). Repair it, and run this again."
)
# Each with the strings of which all are in one line, for one line at least; the first that fits counts. What is particular comes first.
REMEDIES = [
    (
        "The disk is full, or has no inodes left (on the host, see `df -h` and `df -i`). Free some, and run this again.",
        ["No space left on device"],
        ["os error 28"],
        ["Disk quota exceeded"],
        ["disk is full"],
    ),
    # -- the sandbox, with the messages of Python, psutil, cffi, node and chromium on Debian 12 and 13 --
    (
        (
            "The sandbox forbids memory that is both writable and executable, which cffi callbacks and JIT compilers (node, chromium, numba) need. "
            "Set systemd_allow_writable_code: true, and run this again."
        ),
        ["write+execute memory"],
        ["Fatal javascript OOM in MemoryChunk allocation"],
        ["Fatal process OOM", "CodeRange"],
        ["V8_Fatal("],
        ["# Fatal error in , line 0"],
        ["LLVM ERROR: Unable to allocate section memory"],
        ["cannot enable executable stack"],
        # node's own end
        ["killed by signal 5"],
        ["crashed with signal 5"],
        ["SIGTRAP"],
    ),
    (
        (
            "The sandbox hides what /proc says of the host, which psutil reads. Set systemd_service_lines: [ProcSubset=all], and run this again. "
            "(To see processes of other users too, add ProtectProc=default.)"
        ),
        ["No such file or directory", "/proc/"],
        ["ENOENT", "/proc/"],
    ),
    (
        (
            "The sandbox allows IPv4, IPv6 and Unix sockets only. To list network interfaces (psutil.net_if_addrs, socket.if_nameindex), set "
            "systemd_service_lines: [RestrictAddressFamilies=AF_NETLINK], and run this again. (On a host without IPv6, the app must not ask for it.)"
        ),
        ["[Errno 97]"],
        ["Address family not supported"],
        ["EAFNOSUPPORT"],
        ["uv_interface_addresses"],
    ),
    (
        (
            "The filter of system calls ended the app. On the host, `journalctl -k --grep SECCOMP` shows the number of the call; allow it by "
            "its name in systemd_service_lines: [SystemCallFilter=NAME], and run this again."
        ),
        ["Bad system call"],
        ["SIGSYS"],
        ["killed by signal 31"],
        ["crashed with signal 31"],
        ["exit code 159"],
    ),
    (
        (
            "The sandbox forbids namespaces, with which chromium makes a sandbox of its own. Start chromium with --no-sandbox (the app's sandbox "
            "still holds it), set systemd_allow_writable_code: true for its JavaScript, and run this again."
        ),
        ["No usable sandbox"],
        ["Failed to move to new namespace"],
        ["zygote_host_impl"],
        ["unshare", "Operation not permitted"],
    ),
    (
        (
            "The sandbox's user namespace has no users and groups but the app's own, so a file can't be given to another one. Leave its owner and "
            "group as they are, or set systemd_service_lines: [PrivateUsers=no], and run this again."
        ),
        ["chown", "Invalid argument"],
        ["changing group", "Invalid argument"],
        ["changing ownership", "Invalid argument"],
    ),
    (
        (
            "The sandbox lets the app listen on the ports 1024 to 32767, since those above are for the host's outgoing connections. Choose one of these, "
            "or set systemd_service_lines: [SocketBindAllow=any], and run this again."
        ),
        ["bind", "Operation not permitted"],
        ["EPERM", "listen"],
        ["error while attempting to bind on address", "not permitted"],
    ),
    # the run itself is in no sandbox, and the app may write to its data
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
        "Give it more memory (systemd_memory_max, base_swap_mb, a larger host), or let it take less; then run this again.",
        ["no memory for it"],
        ["more memory than"],
        ["by signal 9"],
        ["MemoryError"],
        ["Cannot allocate memory"],
        ["cannot allocate memory"],
    ),
    (
        "The database doesn't let it in: see the user, the password and the database that DATABASE_URL names. Then run this again.",
        ["password authentication failed"],
        ["no pg_hba.conf entry"],
        ["Peer authentication failed"],
        ["FATAL:", "role", "does not exist"],
        ["FATAL:", "database", "does not exist"],
    ),
    (
        "The database can't be reached: see the host that DATABASE_URL names, and whether the database runs. Then run this again.",
        ["connection to server ", " failed"],
        ["OperationalError", "refused"],
        ["OperationalError", "translate host name"],
        ["OperationalError", "timeout"],
    ),
    (
        "Redis can't be reached: put redis into app_services and run deploy.yml, or see REDIS_URL. Then run this again.",
        ["redis.exceptions.ConnectionError"],
        ["Redis URL must specify"],
    ),
    (
        "These packages can't be installed together, or not for this host's Python {python}. Fix the app's dependencies, and run this again.",
        ["requirements are unsatisfiable"],
        ["does not satisfy Python"],
    ),
    (
        (
            "{install}If the package has to be compiled, name what that needs (gcc, python3-dev, libpq-dev …) in python_venv_extra_packages, "
            "and run deploy.yml."
        ),
        ["Failed to build"],
        ["Python.h"],
        ["python.h"],
        ["pg_config"],
    ),
    (
        "See that the host can reach it (python_venv_index_url is the package index), and run this again.",
        ["dns error"],
        ["error sending request"],
        ["Failed to fetch"],
        ["Connection refused"],
        ["Name or service not known"],
        ["name resolution"],
    ),
    (
        "The code and the database's schema don't fit each other. See that app_release_command migrates it, and run this again.",
        ["no such table"],
        ["no such column"],
        ["UndefinedTable"],
        ["UndefinedColumn"],
        ["Can't locate revision"],
    ),
    (
        "If it is a package, add it to the app's dependencies; if it is a module of the app, see app_module. Then run this again.",
        ["No module named"],
    ),
    ("Give the app a page there, or name one that it has in app_health_path; then run this again.", ["answered 404"]),
    (
        (
            "The sandbox refused it: the app gains no privilege and makes no privileged system call. Memory that is writable and executable "
            "(mmap with PROT_EXEC) needs systemd_allow_writable_code: true; another call is allowed by its name in systemd_service_lines: "
            "[SystemCallFilter=NAME]; without sudo, setuid programs and raw sockets the app must do. Fix the app or its settings, and run this again."
        ),
        ["Operation not permitted"],
        ["EPERM"],
        ["no new privileges"],
    ),
    (
        "The app crashed in compiled code. If it works elsewhere, the sandbox may be why: try systemd_allow_writable_code: true, and run this again.",
        ["by signal 11"],
        ["with signal 11"],
        ["SIGSEGV"],
    ),
]
OTHERWISE = "Fix the app or its settings, then run this again."


class FilterModule:
    def filters(self):
        return {"remedy": remedy}


def remedy(failure, log="", data="/var/lib/APP", python="", server="", packages=()):
    """`failure` is what the run says, `log` what the app printed and logged; the others are named in the remedies."""
    run = [f"run: {line}" for line in text.printable(text.shortened(failure)).split("\n")]
    said = "\n".join([*run, text.printable(text.shortened(log))])
    install = f"Run deploy.yml, which installs what {server} needs ({', '.join(packages)}). " if packages else ""
    values = {"data": data, "python": python, "install": install}
    for words, *alternatives in REMEDIES:
        if any(in_one_line(said, [part.replace("{data}", data) for part in parts]) for parts in alternatives):
            return words.format(**values)
    return OTHERWISE


def in_one_line(said, parts):
    # the first test is quick, and most often the last
    return all(part in said for part in parts) and any(all(part in line for part in parts) for line in said.split("\n"))
