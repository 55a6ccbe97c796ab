"""Action plugin `container_image`: build an app's image on the controller and copy it to a host.

podman builds an image once on the controller. The plugin copies it to each host that does not have it and loads it into the host's podman.
It copies only the layers that are missing on the host, so most releases transfer nothing but the app's code.

On the host, the directories in `shared` become symbolic links in the image that point to the app's data. They are resolved only inside the
container, so root never mounts a path in which the app could have placed a link.

`ROOT/venvs/KEY/` on the host describes the image: `image.json` contains its configuration, `image` its ID, and `complete` marks it as
complete, as it does for a venv.

The Dockerfile is not trusted. The build has a time limit, cannot run git, and cannot use the controller's network. Images of other apps
have names on the controller that a Dockerfile cannot guess. docs/security.md describes the remaining risks.
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
# long enough to wait for the build of another app's image
LOCK_SECONDS = BUILD_SECONDS + SAVE_SECONDS + 600
KEPT_ON_CONTROLLER = 3
MESSAGE_LINES, MESSAGE_LINE = 20, 400
# For ADD https://….git, podman runs git with all credentials of the operator's git, including ~/.netrc.
NO_GIT = {"GIT_ALLOW_PROTOCOL": "none", "GIT_TERMINAL_PROMPT": "0"}
# In podman's environment, a build argument with such a name would change podman's own configuration.
READ_BY_PODMAN = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|DOCKER_(CONFIG|HOST)|REGISTRY_AUTH_FILE|STORAGE_(DRIVER|OPTS)|(LD|XDG|_?CONTAINERS?|BUILDAH|PODMAN)_\w+"
)
# an option of an instruction, split the way podman does
OPTION = r"""--(?:\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s"'\\])*"""
RUN = re.compile(rf"^[^\S\n]*(?:ONBUILD[^\S\n]+)?RUN((?:[^\S\n]+{OPTION})+)", re.IGNORECASE | re.MULTILINE)
DOCKERFILE_BYTES = 2**20
# prints "complete" or "present" for the state of the image on the host, and the layers of all images
INSPECT = """
command -v podman >/dev/null || {{ echo podman is not installed there. Run deploy.yml, which installs it. >&2; exit 1; }}
if podman image exists {image}; then
    [ ! -e {venv}/complete ] || {{ echo complete; exit; }}
    echo present
fi
podman image ls --quiet --no-trunc | sort -u |
    xargs --no-run-if-empty podman image inspect --format '{{{{range .RootFS.Layers}}}}{{{{.}}}} {{{{end}}}}' || true
"""
LOAD = """
set -e
umask 022
directory=$(mktemp -d /var/tmp/flaskhost-image.XXXXXX)
trap 'rm -rf "$directory"' EXIT
tar --extract --gzip --file {packed} --directory "$directory"
podman tag "$(podman load --quiet --input "$directory" | sed -n 's/^Loaded image: //p')" {image}
"""
CONFIG = """
set -e
{tag}
podman image inspect --format '{{{{json .Config}}}}' {image}
"""
# The container never starts, and podman resolves paths inside the image.
SHARE = """
set -e
directory=$(mktemp -d /var/tmp/flaskhost-image.XXXXXX)
trap 'rm -rf "$directory"; [ -z "$container" ] || podman rm --force "$container" >/dev/null' EXIT
container=$(podman create --pull=never {image})
umask 022
chmod 0755 "$directory"
cd "$directory"
{links}
podman cp --overwrite "$directory/." "$container":{workdir} ||
    {{ echo app_shared: make sure that the Dockerfile creates {workdir}, its WORKDIR. >&2; exit 1; }}
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
    """An error whose message is for the operator."""


class HostError(ImageError):
    """A script failed on the host."""


class ActionModule(ActionBase):
    TRANSFERS_FILES = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = checked(self, "container_image")
        values = {name: shlex.quote(args[name]) for name in ("group", "image")}
        values["venv"] = shlex.quote(Layout(args["root"], args["group"]).venv(args["key"]))
        if self._task.check_mode:
            return dict(result, changed=True)
        try:
            found = self.run_on_host(INSPECT.format(**values)).split()
            if "complete" in found:
                return dict(result, changed=False)
            if not args["pulled"] and "present" not in found:
                try:
                    self.transfer(args, values, {*found})
                except HostError:
                    # a run for another app may have removed layers that were present
                    self.transfer(args, values, set())
            tag = f"podman tag {shlex.quote(args['pulled'])} {values['image']}" if args["pulled"] else ""
            config = json.loads(self.run_on_host(CONFIG.format(tag=tag, **values)))
            check(config, "app_image" if args["pulled"] else args["file"])
            if args["shared"]:
                workdir = shlex.quote(config.get("WorkingDir") or "/")
                self.run_on_host(SHARE.format(links=link_commands(args["shared"], args["state"]), workdir=workdir, **values))
            self.run_on_host(MARK.format(**values))
        except (ImageError, lock.LockTimeout) as error:
            # the message contains output of the Dockerfile, the registry and the host
            return dict(result, failed=True, msg=credentials.without_credentials(text.printable(str(error))))
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return dict(result, changed=True)

    def run_on_host(self, script):
        done = self._low_level_execute_command(f"sh -c {shlex.quote(script)}")
        if done["rc"] != 0:
            raise HostError(f"could not prepare the image on the host: {last_lines(done['stderr'] or done['stdout'])}")
        return done["stdout"]

    def transfer(self, args, values, present_layers):
        cache = os.path.expanduser(args["cache"])
        os.makedirs(cache, mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            packed = os.path.join(directory, "image.tar.gz")
            # Ansible handles hosts in parallel; the lock makes sure that the image is built once.
            with lock.locked(os.path.join(cache, "lock"), f"building image {args['image']}", LOCK_SECONDS):
                image = controller_name(args["image"], cache)
                build(args, image, os.path.join(directory, "source"))
                pack(save(image, args["image"], directory), packed, present_layers)
            remote = self._connection._shell.join_path(self._connection._shell.tmpdir, "image.tar.gz")
            self._transfer_file(packed, remote)
            self.run_on_host(LOAD.format(packed=shlex.quote(remote), **values))


def check(config, source):
    """Check the parts of the image's configuration that end up in units. The author of the image is not trusted."""
    workdir = config.get("WorkingDir") or "/"
    if not WORKDIR.fullmatch(workdir) or ".." in workdir.split("/"):
        raise ImageError(
            f"{source}: the image's working directory {workdir!a} is not supported. Set WORKDIR in its Dockerfile to an absolute path, "
            "such as /app, that contains only letters, digits and the characters . _ @ + -. No unit was written."
        )
    if not config.get("Entrypoint") and not config.get("Cmd"):
        raise ImageError(f"{source}: the image has no command to start the app. Add CMD or ENTRYPOINT to its Dockerfile.")


def link_commands(shared, state):
    """Return shell commands that create the links in an empty directory."""
    # a shared directory inside another shared directory needs no link
    tops = [name for name in shared if not any(name.startswith(f"{other}/") for other in shared)]
    return "\n".join(
        f"mkdir -p {shlex.quote(os.path.dirname(name) or '.')}; ln -s {shlex.quote(f'{state}/{name}')} {shlex.quote(name)}" for name in tops
    )


def controller_name(image, cache):
    """Return the image's name on this controller. It contains a secret, so that another app's Dockerfile cannot use it in FROM."""
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
        raise ImageError(f"app_source: cannot unpack the source on this controller: {error}") from None
    check_dockerfile(source, args["file"])
    # every user of the controller can read command lines, so the values are passed in the environment where possible
    hidden = {name: str(value) for name, value in args["build_args"].items() if not READ_BY_PODMAN.fullmatch(name)}
    arguments = [f"--build-arg={name}" if name in hidden else f"--build-arg={name}={value}" for name, value in args["build_args"].items()]
    agent = {} if any(option.startswith("--ssh") for option in args["build_options"]) else {"SSH_AUTH_SOCK": None}
    arguments += [*args["build_options"], f"--tag={image}", f"--file={source}/{args['file']}", source]
    started = time.monotonic()
    code, output = podman("build", *arguments, seconds=BUILD_SECONDS, environment={**hidden, **NO_GIT, **agent})
    if code != 0:
        late = time.monotonic() - started >= BUILD_SECONDS
        problem = f"did not finish within {BUILD_SECONDS // 60} minutes" if late else "failed"
        raise ImageError(
            f"{args['file']}: the build of the image {problem} on this controller. Final output of podman:\n{last_lines(output)}"
        )
    remove_old_images(image)


def check_dockerfile(source, name):
    """Reject a step that uses this controller's own network, which includes its loopback interface."""
    try:
        with open(os.path.join(source, name), errors="replace", newline="") as file:
            content = file.read(DOCKERFILE_BYTES + 1)
    except OSError as error:
        raise ImageError(f"{name}: cannot read the file ({error.strerror}). Check container_file, which names it.") from None
    if len(content) > DOCKERFILE_BYTES:
        raise ImageError(f"{name}: the file is larger than {DOCKERFILE_BYTES // 1024} KB. Make it smaller.")
    lines = [line.removesuffix("\r") for line in content.lstrip("\ufeff").split("\n")]
    plain = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    # A directive in the file selects the character that continues a line; lines of a here-document are not continued. Check all variants.
    for variant in plain, *(re.sub(rf"{re.escape(end)}[ \t]*\n", "", plain) for end in "\\`"):
        for options in RUN.findall(variant):
            for option in re.findall(OPTION, options):
                key, _equals, value = re.sub(r"[\\\"']", "", option).partition("=")
                if key == "--network" and value not in ("none", "default"):
                    raise ImageError(
                        f"{name}: RUN {option} is not allowed: a build must not use this controller's own network. Remove the option."
                    )


def podman(*arguments, seconds=PODMAN_SECONDS, environment=None):
    """Run podman. Return its exit code and the end of its output."""
    if not shutil.which("podman"):
        raise ImageError(
            "app_runtime: podman, which builds the image, is not installed on this controller. Install it, or pull an image with app_image."
        )
    # one stream, so that lines of stdout and stderr stay in order
    code, output, _stderr = command.run(
        ["/bin/sh", "-c", 'exec podman "$@" 2>&1', "sh", *arguments], seconds=seconds, environment=environment
    )
    return code, output


def last_lines(output):
    return text.shortened("\n".join(output.strip().split("\n")[-MESSAGE_LINES:]), line=MESSAGE_LINE, size=MESSAGE_LINES * MESSAGE_LINE)


def remove_old_images(newest):
    """Remove the app's previous images. Keep the latest ones, whose layers speed up the next build."""
    repository = newest.rpartition(":")[0]
    images = podman("image", "ls", f"--filter=reference={repository}", "--sort=created", "--format={{.Repository}}:{{.Tag}}")[1].split()
    for image in [image for image in images if image.startswith(f"{repository}:") and image != newest][KEPT_ON_CONTROLLER:]:
        podman("image", "rm", image)


def save(image, name, directory):
    """Save the image as an OCI archive with uncompressed layers, whose digests are those that podman reports on a host."""
    path = os.path.join(directory, "image.tar")
    try:
        # The archive needs the image's name on the host. The image has that name only while no build runs.
        code, output = podman("tag", image, name)
        if code == 0:
            code, output = podman("save", "--format=oci-archive", "--uncompressed", f"--output={path}", name, seconds=SAVE_SECONDS)
    finally:
        podman("untag", name, name)
    if code != 0:
        raise ImageError(f"could not save the image on this controller: {last_lines(output)}")
    return path


def pack(archive, packed, present_layers):
    """Compress the archive without the layers that the host already has."""
    with (
        tarfile.open(archive) as source,
        gzip.open(packed, "wb", compresslevel=1) as target,
        tarfile.open(fileobj=target, mode="w|") as tar,
    ):
        for member in source.getmembers():
            if f"sha256:{os.path.basename(member.name)}" not in present_layers:
                tar.addfile(member, source.extractfile(member) if member.isfile() else None)
