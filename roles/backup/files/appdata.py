#!/usr/bin/python3
"""Read and write an app's data, as the app's user, in the app's sandbox. backup.py starts this program; it needs nothing else.

  appdata.py save DIRECTORY     write a dump of the database and the directory's files, as a tar stream
  appdata.py dump               write a dump of the database
  appdata.py database           write the dump of the database that a tar stream begins with
  appdata.py extract            unpack the files of a tar stream into a directory
  appdata.py merge              check a directory's SQLite databases, and copy them into another directory
  appdata.py copy SOURCE TARGET     copy a directory's content into another directory; "-" is one that is already open
  appdata.py empty DIRECTORY    remove a directory's content, except mount points
  appdata.py check              read the table of contents of a dump of the database
  appdata.py load               replace the database's content by a dump of it

Descriptor 3 is the input and 4 the output. Descriptor 2 is a file: it begins with options, as JSON; what is written to it is the report.

Whatever is among the app's files may be hostile: names of any bytes, links, FIFOs, huge holes, databases that never end. None of it may
stop the rest from being saved. Directories are walked by descriptors, never by path.

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

# Python's isolated mode (-I) leaves this program's own directory out
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
# of the dump, held in memory
PIECE = 32 * MB
# The schema `public` goes with the rest if it is the app's own, and no dump brings it back.
EMPTY = """
drop owned by current_user cascade;
do $$ begin if to_regnamespace('public') is null then create schema public; end if; end $$;
"""


def main():
    options = json.loads(os.pread(REPORT, OPTIONS_BYTES, 0).rstrip(b"\0") or b"{}")
    verb, arguments = sys.argv[1], sys.argv[2:]
    # the app has the same user: it may not trace this process, nor take its descriptors
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
    # a directory at each level of depth, twice
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


# -- the verbs ------------------------------------------------------------------------------------------------------


def save(options, warnings, directory):
    with Archive(OUTPUT, warnings) as archive, Databases(directory, warnings) as databases:
        # the database before the files: a row never names an upload that isn't in the same backup
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
    """By a tar stream to a second process, which is how files are read and written here."""
    if source != "-":
        let_in(source)
    source = INPUT if source == "-" else os.open(source, DIRECTORY)
    target = OUTPUT if target == "-" else os.open(target, DIRECTORY)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reader)
            lost = Warnings()
            with Archive(writer, lost) as archive:
                archive.add_tree(source)
            # the source may be removed next
            if lost.lost:
                raise Failure("; ".join(lost.first))
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
        raise Failure("Not every file could be copied.")
    if failed:
        raise failed


def merge(options, warnings):
    """Databases of a backup in the former format go where they were among the files, and nowhere else."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        worker, whole = Worker(), f"{scratch}/db"
        for path, parent, name, _state in walk(os.dup(INPUT), warnings):
            with contextlib.suppress(NotRegular, IsADirectoryError), opened(parent, name) as (file, _state):
                with open(os.dup(file), "rb") as source, open(whole, "wb") as target:
                    shutil.copyfileobj(source, target)
                state, text = worker.do(check_sqlite, CHECK_SECONDS, resource.RLIM_INFINITY, whole)
                if state == "damaged":
                    raise Failure(f"{shown(path)} in that backup is damaged ({text})")
                if state != "done":
                    warnings.add(path, f"could not be checked ({text})")
        worker.end()
    copy(options, warnings, "-", "-")


def empty(_options, _warnings, directory):
    """find knows no depth that is too deep. Mount points stay, and the directories above them."""
    let_in(directory)
    find(directory, "-mindepth", "1", "-delete")
    left = find(directory, "-mindepth", "1", "!", "-type", "d", "-print", "-quit")
    if left:
        raise Failure(f"{shown(left.decode(errors='replace').strip())} could not be removed: give it to the app's user, and try again")


def let_in(directory):
    """The app may have shut itself out."""
    find(directory, "-user", str(os.geteuid()), "-type", "d", "!", "-perm", "-700", "-exec", "chmod", "u+rwx", "{}", ";")
    find(directory, "-user", str(os.geteuid()), "-type", "f", "!", "-perm", "-400", "-exec", "chmod", "u+r", "{}", "+")


def find(directory, *words):
    """What it says of mount points and of others' directories is no trouble by itself."""
    return subprocess.run(["find", ".", *words], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout


def check(_options, _warnings):
    run(["pg_restore", "--list"], stdin=INPUT, stdout=subprocess.DEVNULL)


def load(options, _warnings):
    """By a file: of a pipe that breaks, psql would take the half."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch, service(options["service"]) as environment:
        path = f"{scratch}/sql"
        with open(path, "w") as sql:
            sql.write(EMPTY)
            sql.flush()
            run(["pg_restore", "--no-owner", "--no-comments", "--file=-"], stdin=INPUT, stdout=sql)
        # the client of PostgreSQL 17 and newer begins with a setting that older servers don't know
        run(["sed", "--in-place", "1,40{/^SET transaction_timeout = 0;$/d}", path])
        quietly = ["--no-psqlrc", "--quiet", "--output=/dev/null", "--single-transaction", "--set=ON_ERROR_STOP=1"]
        run(["psql", *quietly, f"--file={path}", "--dbname=service=app"], env=environment)


VERBS = {verb.__name__: verb for verb in (save, dump, database, extract, merge, copy, empty, check, load)}


# -- PostgreSQL -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def service(text):
    """The database's password goes by a file that only the app can read; command lines, everybody can read."""
    with tempfile.NamedTemporaryFile("w", dir="/var/tmp") as file:
        file.write(text)
        file.flush()
        yield {**os.environ, "PGSERVICEFILE": file.name, "PGCONNECT_TIMEOUT": "60"}


def pieces_of_dump(text):
    # not compressed: what is as it was yesterday is then recognised, and stored once
    command = ["pg_dump", "--format=custom", "--compress=0", "--lock-wait-timeout=300s", "--dbname=service=app"]
    with service(text) as environment, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as program:
        while piece := program.stdout.read(PIECE):
            yield piece
    if program.returncode:
        raise Failure("the database could not be dumped")


def run(command, **options):
    done = subprocess.run(command, **options, check=False)
    if done.returncode:
        raise Failure(f"{command[0]} failed with exit code {done.returncode}")


if __name__ == "__main__":
    main()
