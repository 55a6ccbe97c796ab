#!/usr/bin/python3
"""Read and write an app's data as the app's user, in the app's sandbox. backup.py starts this program.

  appdata.py save DIRECTORY         write a tar stream with a dump of the database and the directory's files
  appdata.py dump                   write a dump of the database
  appdata.py database               write the database dump at the beginning of a tar stream
  appdata.py extract                unpack the files of a tar stream into a directory
  appdata.py merge                  check a directory's SQLite databases and copy them into another directory
  appdata.py copy SOURCE TARGET     copy a directory's content into another directory; "-" stands for an open descriptor
  appdata.py empty DIRECTORY        remove a directory's content, except mount points
  appdata.py check                  read the table of contents of a database dump
  appdata.py load                   replace the database's content with a dump

Descriptor 3 is the input, descriptor 4 the output. Descriptor 2 is a file that begins with the options as JSON; the report follows.

The app's files may be hostile: names with any bytes, links, FIFOs, huge holes, databases that take forever to read. None of them may
prevent the backup of the rest. Directories are opened by descriptor, never by path.

Managed by Flaskhost (role backup).
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# Python's isolated mode (-I) leaves out this program's directory
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
from appdata_files import (
    DEPTH,
    DIRECTORY,
    MB,
    Archive,
    Failure,
    NotRegular,
    Patterns,
    Warnings,
    members,
    opened,
    shown,
    unpack,
    walk,
    write_all,
)
from appdata_sqlite import CHECK_SECONDS, Databases, Worker, check_sqlite

INPUT, OUTPUT, REPORT = 3, 4, 2
PR_SET_DUMPABLE = 4
OPTIONS_BYTES = 256 * 1024
# bytes of the dump to hold in memory
PIECE = 32 * MB
# If the app owns the schema `public`, the schema is dropped too, and no dump creates it again.
EMPTY = """
drop owned by current_user cascade;
do $$ begin if to_regnamespace('public') is null then create schema public; end if; end $$;
"""


def main():
    options = json.loads(os.pread(REPORT, OPTIONS_BYTES, 0).rstrip(b"\0") or b"{}")
    verb, arguments = sys.argv[1], sys.argv[2:]
    # the app runs as the same user and must not trace this process or take its descriptors
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
    # two descriptors per directory level, for two trees
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * DEPTH)), hard))
    os.umask(0o077)
    warnings = Warnings()
    try:
        VERBS[verb](options, warnings, *arguments)
    except Failure as error:
        sys.exit(str(error))
    except (OSError, tarfile.TarError) as error:
        sys.exit(f"{verb}: {shown(error)}")
    print(json.dumps({"count": warnings.count, "first": warnings.first}), file=sys.stderr)


# -- verbs ----------------------------------------------------------------------------------------------------------


def save(options, warnings, directory):
    with Archive(OUTPUT, warnings) as archive, Databases(directory, warnings) as databases:
        # dump the database before the files, so that no row names an upload that is missing from the backup
        if options["service"]:
            archive.add_pieces("database", pieces_of_dump(options["service"]))
        archive.add_tree(os.open(directory, DIRECTORY), Patterns(options["exclude"], options["roots"]), databases)


def dump(options, _warnings):
    for piece in pieces_of_dump(options["service"]):
        write_all(OUTPUT, piece)


def database(_options, _warnings):
    for member, content in members(INPUT):
        if not member.name.startswith("database/"):
            return
        for piece in content:
            write_all(OUTPUT, piece)


def extract(_options, warnings):
    unpack(INPUT, OUTPUT, warnings)


def copy(_options, warnings, source, target):
    """Copy through a tar stream to a second process, so that files are read and written as for a backup."""
    if source != "-":
        restore_access(source)
    source = INPUT if source == "-" else os.open(source, DIRECTORY)
    target = OUTPUT if target == "-" else os.open(target, DIRECTORY)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reader)
            unread = Warnings()
            with Archive(writer, unread) as archive:
                archive.add_tree(source)
            # the caller may remove the source next, so an incomplete copy must fail
            if unread.lost:
                raise Failure("; ".join(unread.first))
            status = 0
        except (Failure, OSError) as error:
            print(shown(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(writer)
    failed = None
    try:
        unpack(reader, target, warnings)
    except Failure as error:
        failed = error
    os.close(reader)
    if os.waitpid(child, 0)[1]:
        raise Failure("Some files could not be copied.")
    if failed:
        raise failed


def merge(options, warnings):
    """Copy the databases of a backup in the previous format to their paths among the files, and nowhere else."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        worker, copy_path = Worker(), f"{scratch}/db"
        for path, parent, name, _state in walk(os.dup(INPUT), warnings):
            with contextlib.suppress(NotRegular, IsADirectoryError), opened(parent, name) as (file, _state):
                with open(os.dup(file), "rb") as source, open(copy_path, "wb") as target:
                    shutil.copyfileobj(source, target)
                state, text = worker.do(check_sqlite, CHECK_SECONDS, resource.RLIM_INFINITY, copy_path)
                if state == "damaged":
                    raise Failure(f"{shown(path)} in the backup is damaged ({text})")
                if state != "done":
                    warnings.add(path, f"could not be checked ({text})")
        worker.end()
    copy(options, warnings, "-", "-")


def empty(_options, _warnings, directory):
    """Remove the content with find, which has no depth limit. Mount points and the directories above them remain."""
    restore_access(directory)
    find(directory, "-mindepth", "1", "-delete")
    left = find(directory, "-mindepth", "1", "!", "-type", "d", "-print", "-quit")
    if left:
        raise Failure(
            f"{shown(left.decode(errors='replace').strip())} could not be removed. Change its owner to the app's user and try again."
        )


def restore_access(directory):
    """The app may have removed its own permissions."""
    find(directory, "-user", str(os.geteuid()), "-type", "d", "!", "-perm", "-700", "-exec", "chmod", "u+rwx", "{}", ";")
    find(directory, "-user", str(os.geteuid()), "-type", "f", "!", "-perm", "-400", "-exec", "chmod", "u+r", "{}", "+")


def find(directory, *arguments):
    """Run find. Ignore its errors: mount points and directories of other users are expected."""
    return subprocess.run(["find", ".", *arguments], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout


def check(_options, _warnings):
    if is_postgresql(INPUT):
        run(["pg_restore", "--list"], stdin=INPUT, stdout=subprocess.DEVNULL)
    elif b"-- Dump completed" not in os.pread(INPUT, 200, max(0, os.fstat(INPUT).st_size - 200)):
        raise Failure("its dump is incomplete")


def load(options, _warnings):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch, connection(options["service"]) as database:
        (load_mariadb if database.is_mariadb else load_postgresql)(database, scratch)


VERBS = {verb.__name__: verb for verb in (save, dump, database, extract, merge, copy, empty, check, load)}


# -- databases ------------------------------------------------------------------------------------------------------


class Connection:
    """How to connect to the database: a service file of libpq, or an option file of MariaDB's clients."""

    def __init__(self, text, path):
        self.is_mariadb, self.name = text.startswith("[client]"), text.rpartition("\ndatabase=")[2].strip()
        self.path, self.environment = path, {**os.environ, "PGSERVICEFILE": path, "PGCONNECT_TIMEOUT": "60"}

    def dump_command(self):
        if self.is_mariadb:
            # a snapshot of transactional tables, without locks; binary data as hexadecimal numbers
            options = ["--single-transaction", "--quick", "--routines", "--events", "--hex-blob", "--no-tablespaces"]
            return ["mariadb-dump", f"--defaults-file={self.path}", *options, "--", self.name]
        # uncompressed, so that restic recognizes unchanged data and stores it once
        return ["pg_dump", "--format=custom", "--compress=0", "--lock-wait-timeout=300s", "--dbname=service=app"]


@contextlib.contextmanager
def connection(text):
    """Pass the database password in a file that only the app can read: every user can read command lines."""
    with tempfile.NamedTemporaryFile("w", dir="/var/tmp") as file:
        file.write(text)
        file.flush()
        yield Connection(text, file.name)


def pieces_of_dump(text):
    with (
        connection(text) as database,
        subprocess.Popen(database.dump_command(), env=database.environment, stdout=subprocess.PIPE) as program,
    ):
        while piece := program.stdout.read(PIECE):
            yield piece
    if program.returncode:
        raise Failure("the database could not be dumped")


def is_postgresql(descriptor):
    return os.pread(descriptor, 5, 0) == b"PGDMP"


def load_postgresql(database, scratch):
    """Load the dump from a file: from a broken pipe, psql would load an incomplete dump."""
    path = f"{scratch}/sql"
    with open(path, "w") as sql:
        sql.write(EMPTY)
        sql.flush()
        run(["pg_restore", "--no-owner", "--no-comments", "--file=-"], stdin=INPUT, stdout=sql)
    # pg_restore 17 and newer writes a setting that older servers reject
    run(["sed", "--in-place", "1,40{/^SET transaction_timeout = 0;$/d}", path])
    psql_options = ["--no-psqlrc", "--quiet", "--output=/dev/null", "--single-transaction", "--set=ON_ERROR_STOP=1"]
    run(["psql", *psql_options, f"--file={path}", "--dbname=service=app"], env=database.environment)


def load_mariadb(database, scratch):
    """MariaDB commits each statement that creates a table, so the current content is dumped first, and loaded again after a failure."""
    if is_postgresql(INPUT):
        raise Failure("the backup contains a PostgreSQL database, and DATABASE_URL is that of MariaDB or MySQL")
    with open(f"{scratch}/before", "w+b") as before:
        run(database.dump_command(), stdout=before)
        try:
            replace_mariadb(database, INPUT)
        except Failure:
            before.seek(0)
            replace_mariadb(database, before)
            raise


def replace_mariadb(database, dump):
    client, name = ["mariadb", f"--defaults-file={database.path}", "--batch", "--skip-column-names"], database.name.replace("`", "``")
    query = f"SHOW CREATE DATABASE `{name}`"
    shown_statement = subprocess.run([*client, f"--execute={query}"], stdout=subprocess.PIPE, text=True, check=False).stdout
    # with its character set
    create = shown_statement.rstrip("\n").partition("\t")[2]
    if not create.startswith("CREATE DATABASE "):
        raise Failure("the database could not be read")
    run([*client, f"--execute=DROP DATABASE `{name}`; {create}"])
    run([*client, "--", database.name], stdin=dump, stdout=subprocess.DEVNULL)


def run(command, **options):
    done = subprocess.run(command, **options, check=False)
    if done.returncode:
        raise Failure(f"{command[0]} failed with exit code {done.returncode}")


if __name__ == "__main__":
    main()
