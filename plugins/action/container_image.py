"""Have an app's image on a host: `container_image`, an action on the controller.

An image is built once on the controller, by podman, and brought to each host that lacks it, where podman keeps it under its name. Of
its layers only those are brought that the host hasn't got: most releases bring the app's code and nothing else.

On the host, the directories of `shared` become links in the image, which lead to the app's data. They are followed in the container
alone: root mounts nothing by a path that the app could have replaced by a link.

`ROOT/venvs/KEY/` tells of the image as of a venv: `image.json` is its configuration, `image` its id, and `complete` says that it is whole.

Options: `root` (the app's folder), `group` (who may read in there), `key`, `image` (the name it gets on the host), `pulled` (the id of an
image that the host has pulled; empty to build one), `archive` (the packed source, on the controller), `file` (the Dockerfile),
`build_args`, `build_options`, `cache` (folder for what is on its way), `shared` (directories of the image's WORKDIR), `state` (where they are
on the host, and in the container).
"""

import gzip
import json
import os
import re
import shlex
import subprocess
import tarfile
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from ansible.plugins.action import ActionBase

spec = spec_from_file_location("flaskhost_lock", Path(__file__).resolve().parents[1] / "module_utils/lock.py")
lock = module_from_spec(spec)
spec.loader.exec_module(lock)

# another app's image may be built meanwhile
LOCK_SECONDS = 3600
KEPT_ON_CONTROLLER = 3
# what a host has: whether the image is whole, or there at least; and all layers of all images
LOOK = """
command -v podman >/dev/null || {{ echo podman is not installed there: run deploy.yml, which installs it >&2; exit 1; }}
if podman image exists {image}; then
    [ ! -e {venv}/complete ] || {{ echo complete; exit; }}
    echo there
fi
podman image ls --quiet --no-trunc | sort -u |
    xargs --no-run-if-empty podman image inspect --format '{{{{range .RootFS.Layers}}}}{{{{.}}}} {{{{end}}}}' || true
"""
LOAD = """
set -e
folder=$(mktemp -d /var/tmp/flaskhost-image.XXXXXX)
trap 'rm -rf "$folder"' EXIT
tar --extract --gzip --file {packed} --directory "$folder"
podman tag "$(podman load --quiet --input "$folder" | sed -n 's/^Loaded image: //p')" {image}
"""
CONFIG = """
set -e
{tag}
podman image inspect --format '{{{{json .Config}}}}' {image}
"""
# nothing of the image runs, and paths are resolved within it
SHARE = """
set -e
folder=$(mktemp -d /var/tmp/flaskhost-image.XXXXXX)
trap 'rm -rf "$folder"; [ -z "$container" ] || podman rm --force "$container" >/dev/null' EXIT
container=$(podman create --pull=never {image})
umask 022
chmod 0755 "$folder"
cd "$folder"
{links}
podman cp --overwrite "$folder/." "$container":{workdir} ||
    {{ echo app_shared: see that the Dockerfile makes WORKDIR, {workdir} >&2; exit 1; }}
podman commit --quiet "$container" {image}
"""
MARK = """
set -e
mkdir -p {root}/venvs
chmod 0711 {root}/venvs
umask 027
mkdir -p {venv}
podman image inspect --format '{{{{json .Config}}}}' {image} > {venv}/image.json
podman image inspect --format '{{{{.Id}}}}' {image} > {venv}/image
chgrp -R {group} {venv}
touch {venv}/complete
"""
WORKDIR = re.compile(r"/([\w.@+-]+(/[\w.@+-]+)*)?", re.ASCII)


class ImageError(Exception):
    """Its text is for the owner."""


class HostError(ImageError):
    pass


class ActionModule(ActionBase):
    TRANSFERS_FILES = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        words = {name: shlex.quote(args[name]) for name in ("root", "group", "image")}
        words["venv"] = shlex.quote(f"{args['root']}/venvs/{args['key']}")
        if self._task.check_mode:
            return dict(result, changed=True)
        try:
            found = self.on_host(LOOK.format(**words)).split()
            if "complete" in found:
                return dict(result, changed=False)
            if not args["pulled"] and "there" not in found:
                try:
                    self.bring(args, words, {*found})
                except HostError:
                    # another app's run may have removed what was there
                    self.bring(args, words, set())
            tag = f"podman tag {shlex.quote(args['pulled'])} {words['image']}" if args["pulled"] else ""
            config = json.loads(self.on_host(CONFIG.format(tag=tag, **words)))
            check(config, "app_image" if args["pulled"] else args["file"])
            if args["shared"]:
                workdir = shlex.quote(config.get("WorkingDir") or "/")
                self.on_host(SHARE.format(links=links(args["shared"], args["state"]), workdir=workdir, **words))
            self.on_host(MARK.format(**words))
        except (ImageError, lock.LockTimeout) as error:
            return dict(result, failed=True, msg=str(error))
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return dict(result, changed=True)

    def on_host(self, script):
        done = self._low_level_execute_command(f"sh -c {shlex.quote(script)}")
        if done["rc"] != 0:
            raise HostError(f"the image could not be had on the host: {(done['stderr'] or done['stdout']).strip()}")
        return done["stdout"]

    def bring(self, args, words, there):
        cache = os.path.expanduser(args["cache"])
        os.makedirs(cache, mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            packed = os.path.join(folder, "image.tar.gz")
            # hosts are handled in parallel; the image is built once
            with lock.locked(os.path.join(cache, "lock"), f"building image {args['image']}", LOCK_SECONDS):
                build(args, os.path.join(folder, "source"))
                pack(save(args["image"], folder), packed, there)
            remote = self._connection._shell.join_path(self._connection._shell.tmpdir, "image.tar.gz")
            self._transfer_file(packed, remote)
            self.on_host(LOAD.format(packed=shlex.quote(remote), **words))


def check(config, source):
    """What of the image's configuration is used. Its author is not its operator."""
    workdir = config.get("WorkingDir") or "/"
    if not WORKDIR.fullmatch(workdir) or ".." in workdir.split("/"):
        raise ImageError(
            f"{source}: the image's working directory is {workdir!a}. Set WORKDIR in its Dockerfile to an absolute path of letters, digits "
            "and the characters . _ @ + -, such as /app. No unit was written."
        )
    if not config.get("Entrypoint") and not config.get("Cmd"):
        raise ImageError(f"{source}: the image has no command (CMD, ENTRYPOINT), so nothing would serve. Add one to its Dockerfile.")


def links(shared, state):
    """The shell's lines that make them, in a directory that is empty."""
    # a directory within another one that is shared comes with it
    tops = [name for name in shared if not any(name.startswith(f"{other}/") for other in shared)]
    return "\n".join(
        f"mkdir -p {shlex.quote(os.path.dirname(name) or '.')}; ln -s {shlex.quote(f'{state}/{name}')} {shlex.quote(name)}" for name in tops
    )


def build(args, source):
    try:
        if subprocess.run(["podman", "image", "exists", args["image"]]).returncode == 0:
            return
    except FileNotFoundError:
        raise ImageError(
            "app_runtime: podman is not installed on this controller, and has to build the image. Install it, or name an image to pull in app_image."
        ) from None
    try:
        with tarfile.open(args["archive"]) as tar:
            tar.extractall(source, filter="data")
    except tarfile.TarError as error:
        raise ImageError(f"app_source: it can't be unpacked on this controller: {error}") from None
    values = [f"--build-arg={name}={value}" for name, value in args["build_args"].items()]
    command = ["podman", "build", *values, *args["build_options"], f"--tag={args['image']}", f"--file={source}/{args['file']}", source]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-20:])
        raise ImageError(f"{args['file']}: the image could not be built on this controller; podman says:\n{last}")
    forget(args["image"])


def forget(newest):
    """The app's former images, but for some, whose layers make the next build quick."""
    repository = newest.rpartition(":")[0]
    listing = ["podman", "image", "ls", f"--filter=reference={repository}", "--sort=created", "--format={{.Repository}}:{{.Tag}}"]
    images = subprocess.run(listing, capture_output=True, text=True, errors="replace").stdout.split()
    for image in [image for image in images if image != newest][KEPT_ON_CONTROLLER:]:
        subprocess.run(["podman", "image", "rm", image], capture_output=True)


def save(image, folder):
    """As an OCI layout, whose layers are not packed: so a layer's digest is the one by which a host knows it."""
    path = os.path.join(folder, "image.tar")
    done = subprocess.run(
        ["podman", "save", "--format=oci-archive", "--uncompressed", f"--output={path}", image],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise ImageError(f"the image could not be saved on this controller: {done.stderr.strip()}")
    return path


def pack(layout, packed, there):
    """All but the layers that the host has."""
    with tarfile.open(layout) as source, gzip.open(packed, "wb", compresslevel=1) as target, tarfile.open(fileobj=target, mode="w|") as tar:
        for member in source.getmembers():
            if f"sha256:{os.path.basename(member.name)}" not in there:
                tar.addfile(member, source.extractfile(member) if member.isfile() else None)
