"""Have an app's image on a host: `container_image`, an action on the controller.

An image is built once on the controller, by podman, and brought to each host that lacks it, where podman keeps it under its name. Of
its layers only those are brought that the host hasn't got: most releases bring the app's code and nothing else.

On the host, the directories of `shared` become links in the image, which lead to the app's data. They are followed in the container
alone: root mounts nothing by a path that the app could have replaced by a link.

`ROOT/venvs/KEY/` tells of the image as of a venv: `image.json` is its configuration, `image` its id, and `complete` says that it is whole.

The Dockerfile is not trusted. It is built with an end and with no git, its steps don't get the controller's network, and no other app's image
has a name on the controller that it could know. What remains possible is in docs/security.md.
"""

import contextlib
import gzip
import json
import os
import re
import secrets
import shlex
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible_collections.flaskhost.flaskhost.plugins.module_utils import command, credentials, lock, text
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import Layout
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.arguments import checked

BUILD_SECONDS = 2700
SAVE_SECONDS = 900
PODMAN_SECONDS = 60
# another app's image may be built meanwhile
LOCK_SECONDS = BUILD_SECONDS + SAVE_SECONDS + 600
KEPT_ON_CONTROLLER = 3
MESSAGE_LINES, MESSAGE_LINE = 20, 400
# podman runs git for ADD https://….git, with all credentials that the operator's git has (~/.netrc too)
NO_GIT = {"GIT_ALLOW_PROTOCOL": "none", "GIT_TERMINAL_PROMPT": "0"}
# an ARG of such a name would be another setting of podman's if it were in podman's environment
READ_BY_PODMAN = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|DOCKER_(CONFIG|HOST)|REGISTRY_AUTH_FILE|STORAGE_(DRIVER|OPTS)|(LD|XDG|_?CONTAINERS?|BUILDAH|PODMAN)_\w+"
)
# an option of an instruction, as podman splits it
OPTION = r"""--(?:\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s"'\\])*"""
RUN = re.compile(rf"^[^\S\n]*(?:ONBUILD[^\S\n]+)?RUN((?:[^\S\n]+{OPTION})+)", re.IGNORECASE | re.MULTILINE)
DOCKERFILE_BYTES = 2**20
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
umask 022
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
mkdir -p "$(dirname {venv})"
chmod 0711 "$(dirname {venv})"
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
        args = checked(self, "container_image")
        words = {name: shlex.quote(args[name]) for name in ("group", "image")}
        words["venv"] = shlex.quote(Layout(args["root"], args["group"]).venv(args["key"]))
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
            # what the Dockerfile, a registry and the host print is in there
            return dict(result, failed=True, msg=credentials.without_credentials(text.printable(str(error))))
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return dict(result, changed=True)

    def on_host(self, script):
        done = self._low_level_execute_command(f"sh -c {shlex.quote(script)}")
        if done["rc"] != 0:
            raise HostError(f"the image could not be had on the host: {last_lines(done['stderr'] or done['stdout'])}")
        return done["stdout"]

    def bring(self, args, words, there):
        cache = os.path.expanduser(args["cache"])
        os.makedirs(cache, mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            packed = os.path.join(folder, "image.tar.gz")
            # hosts are handled in parallel; the image is built once
            with lock.locked(os.path.join(cache, "lock"), f"building image {args['image']}", LOCK_SECONDS):
                image = name_here(args["image"], cache)
                build(args, image, os.path.join(folder, "source"))
                pack(save(image, args["image"], folder), packed, there)
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


def name_here(image, cache):
    """Its name on this controller. Another app's Dockerfile can't know it, or it could begin with FROM and have the code of this one."""
    path = os.path.join(cache, "secret")
    with contextlib.suppress(FileExistsError), open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(secrets.token_hex(16))
    return f"{image}-{Path(path).read_text()}"


def build(args, image, source):
    if podman("image", "exists", image)[0] == 0:
        return
    try:
        with tarfile.open(args["archive"]) as tar:
            tar.extractall(source, filter="data")
    except tarfile.TarError as error:
        raise ImageError(f"app_source: it can't be unpacked on this controller: {error}") from None
    check_dockerfile(source, args["file"])
    # a command line can be read by every user of the controller
    hidden = {name: str(value) for name, value in args["build_args"].items() if not READ_BY_PODMAN.fullmatch(name)}
    words = [f"--build-arg={name}" if name in hidden else f"--build-arg={name}={value}" for name, value in args["build_args"].items()]
    agent = {} if any(option.startswith("--ssh") for option in args["build_options"]) else {"SSH_AUTH_SOCK": None}
    words += [*args["build_options"], f"--tag={image}", f"--file={source}/{args['file']}", source]
    started = time.monotonic()
    code, said = podman("build", *words, seconds=BUILD_SECONDS, environment={**hidden, **NO_GIT, **agent})
    if code != 0:
        late = time.monotonic() - started >= BUILD_SECONDS
        why = f"was not built within {BUILD_SECONDS // 60} minutes" if late else "could not be built"
        raise ImageError(f"{args['file']}: the image {why} on this controller; podman says:\n{last_lines(said)}")
    forget(image)


def check_dockerfile(source, name):
    """Refuse a step that asks for this controller's own network, where its loopback is."""
    try:
        with open(os.path.join(source, name), errors="replace", newline="") as file:
            content = file.read(DOCKERFILE_BYTES + 1)
    except OSError as error:
        raise ImageError(f"{name}: it can't be read ({error.strerror}). See container_file, which names it.") from None
    if len(content) > DOCKERFILE_BYTES:
        raise ImageError(f"{name}: it is larger than {DOCKERFILE_BYTES // 1024} KB. Make it smaller.")
    lines = [line.removesuffix("\r") for line in content.lstrip("\ufeff").split("\n")]
    plain = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    # the file itself says which character continues a line; a here-document has none
    for one in plain, *(re.sub(rf"{re.escape(end)}[ \t]*\n", "", plain) for end in "\\`"):
        for options in RUN.findall(one):
            for option in re.findall(OPTION, options):
                key, _equals, value = re.sub(r"[\\\"']", "", option).partition("=")
                if key == "--network" and value not in ("none", "default"):
                    raise ImageError(
                        f"{name}: RUN {option} is refused, since a build must not reach this controller's own network. Remove the option."
                    )


def podman(*words, seconds=PODMAN_SECONDS, environment=None):
    """Its exit code, and the end of what it printed."""
    if not shutil.which("podman"):
        raise ImageError(
            "app_runtime: podman is not installed on this controller, and has to build the image. Install it, or name an image to pull in app_image."
        )
    # in the order in which it was printed
    code, said, _stderr = command.run(["/bin/sh", "-c", 'exec podman "$@" 2>&1', "sh", *words], seconds=seconds, environment=environment)
    return code, said


def last_lines(said):
    return text.shortened("\n".join(said.strip().split("\n")[-MESSAGE_LINES:]), line=MESSAGE_LINE, size=MESSAGE_LINES * MESSAGE_LINE)


def forget(newest):
    """The app's former images, but for some, whose layers make the next build quick."""
    repository = newest.rpartition(":")[0]
    images = podman("image", "ls", f"--filter=reference={repository}", "--sort=created", "--format={{.Repository}}:{{.Tag}}")[1].split()
    for image in [image for image in images if image.startswith(f"{repository}:") and image != newest][KEPT_ON_CONTROLLER:]:
        podman("image", "rm", image)


def save(image, name, folder):
    """As an OCI layout, whose layers are not packed: so a layer's digest is the one by which a host knows it."""
    path = os.path.join(folder, "image.tar")
    try:
        # it has the name that the host will know while nothing is built
        code, said = podman("tag", image, name)
        if code == 0:
            code, said = podman("save", "--format=oci-archive", "--uncompressed", f"--output={path}", name, seconds=SAVE_SECONDS)
    finally:
        podman("untag", name, name)
    if code != 0:
        raise ImageError(f"the image could not be saved on this controller: {last_lines(said)}")
    return path


def pack(layout, packed, there):
    """All but the layers that the host has."""
    with tarfile.open(layout) as source, gzip.open(packed, "wb", compresslevel=1) as target, tarfile.open(fileobj=target, mode="w|") as tar:
        for member in source.getmembers():
            if f"sha256:{os.path.basename(member.name)}" not in there:
                tar.addfile(member, source.extractfile(member) if member.isfile() else None)
