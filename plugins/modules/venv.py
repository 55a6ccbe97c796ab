#!/usr/bin/python
"""Build a venv from untrusted packages, without root privileges."""

DOCUMENTATION = r"""
module: venv
short_description: Build a venv as an unprivileged user
description:
  - Two scripts build the venv, each in a transient unit with the lines in O(sandbox). The first fetches packages into the app's cache,
    C(/var/cache/APP-build), and runs no code from packages. The second may run such code. It cannot write to that cache, and uses a
    temporary cache instead, so a package cannot affect later builds. If nothing is left to build, O(finish) runs instead of the second
    script. It may run code from packages, and gets no credentials of the package index.
  - The venv is built in a directory that only root can enter, and mounted at its final path for the scripts. When all processes of the
    scripts have ended, the module changes the owner to root, makes the venv readable for the app's group, and moves it to its final path.
    The venv is complete when it contains a file C(complete).
  - The link C(var) in the venv points to the app's data directory, because Flask puts the instance directory of an installed package there.
author: The Flaskhost authors (@flaskhost)
options:
  app:
    description: The name of the app. The module holds the app's lock, and the scripts run as the user C(APP-build).
    type: str
    required: true
  root:
    description: The app's directory, such as C(/srv/APP).
    type: path
    required: true
  key:
    description: The name of the venv in C(ROOT/venvs).
    type: str
    required: true
  release:
    description: The ID of the release that needs the venv. The scripts find its source in C(ROOT/releases/ID/app).
    type: str
    required: true
  sandbox:
    description: Lines for the [Service] section of the units.
    type: list
    elements: str
    required: true
  environment:
    description: Environment variables for all scripts.
    type: dict
    required: true
  index:
    description: Additional environment variables for O(fetch) and O(build). They can contain credentials.
    type: dict
    required: true
  secrets:
    description: Credentials for O(fetch) and O(build), as C(USER:PASSWORD) by host name, or environment variables. A name with a dot is a host.
    type: dict
    default: {}
  files:
    description: Content of files to write into the venv before O(fetch), by name.
    type: dict
    default: {}
  fetch:
    description:
      - The first script, which must not run code from packages. If it fails, O(build) must do all of the work.
      - It must exit with 0 if nothing is left to build, and with 100 if only the source itself is left to build.
    type: str
    required: true
  build:
    description: The second script, which may run code from packages.
    type: str
    required: true
  finish:
    description: The script to run after O(build), or instead of it.
    type: str
    required: true
  seconds:
    description: Maximum run time of each script in seconds.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Build the venv
  flaskhost.flaskhost.venv:
    app: shop
    root: /srv/shop
    key: 0123456789ab
    release: 1a2b3c-4d5e6f
    sandbox: [User=shop-build, ProtectSystem=strict]
    environment: {UV_NO_PROGRESS: "1"}
    index: {UV_DEFAULT_INDEX: https://pypi.org/simple}
    fetch: uv venv /srv/shop/venvs/0123456789ab && exit 100
    build: uv pip install --python /srv/shop/venvs/0123456789ab flask
    finish: /srv/shop/venvs/0123456789ab/bin/python -m compileall -q /srv/shop/venvs/0123456789ab/lib
    seconds: 900
"""

RETURN = r"""
stdout: {description: "The end of the output of the scripts, at most 64 KiB.", type: str, returned: failure}
"""

import contextlib
import grp
import os
import pwd
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.layout import Layout
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.lock import LockTimeout, acquire
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.sandbox import SandboxError, failure, run
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.trees import remove, seal

# exit code of the fetch script: only the source is left to build
SOURCE_LEFT = 100


def main():
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "key": {"type": "str", "required": True, "no_log": False},
            "release": {"type": "str", "required": True},
            "sandbox": {"type": "list", "elements": "str", "required": True},
            "environment": {"type": "dict", "required": True},
            "index": {"type": "dict", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "files": {"type": "dict", "default": {}},
            "fetch": {"type": "str", "required": True},
            "build": {"type": "str", "required": True},
            "finish": {"type": "str", "required": True},
            "seconds": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    os.umask(0o022)
    venv = Venv(module.params)
    # Ansible removes these from the output, and the values of `secrets` itself
    module.no_log_values |= {value.partition(":")[2] for value in venv.credentials.values() if ":" in value} - {""}
    try:
        # a run that lost its connection may have left a build running; wait for it and use its result
        acquire(module.params["app"], "building the venv")
        if venv.is_complete():
            module.exit_json(changed=False)
        venv.make()
    except BuildFailed as error:
        module.fail_json(msg=str(error), stdout=error.output)
    except (LockTimeout, SandboxError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or venv.path}: {error.strerror or error}")
    finally:
        # a partial venv is useless, and if the disk is full, the services need the space
        venv.remove_unfinished()
    module.exit_json(changed=True)


class BuildFailed(Exception):
    def __init__(self, reason, output):
        super().__init__(reason)
        self.output = output


class Venv:
    def __init__(self, params):
        self.params, self.layout = params, Layout(params["root"], params["app"])
        self.path = self.layout.venv(params["key"])
        # only root can enter the parent directory
        self.building = self.layout.building_venv(params["key"])
        self.environment = f"{self.building}.env"
        secrets = {name: str(value) for name, value in (params.get("secrets") or {}).items()}
        self.credentials = {name: value for name, value in secrets.items() if "." in name}
        self.variables = {name: value for name, value in secrets.items() if "." not in name}

    def is_complete(self):
        return os.path.exists(os.path.join(self.path, "complete"))

    def make(self):
        self.remove_unfinished()
        # other users can traverse the directory to their own venv, but cannot list it
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        os.chmod(os.path.dirname(self.path), 0o711)
        # the mount point for the scripts; it stays empty for all other processes
        os.mkdir(self.path, 0o711)
        os.makedirs(os.path.dirname(self.building), mode=0o700, exist_ok=True)
        os.mkdir(self.building, 0o700)
        user = pwd.getpwnam(f"{self.params['app']}-build")
        for name, content in (self.params.get("files") or {}).items():
            with open(os.path.join(self.building, name), "w") as file:
                file.write(content)
        os.chown(self.building, user.pw_uid, user.pw_gid)
        cache = f"{self.params['app']}-build"
        shared = f"/var/cache/{cache}/uv"
        index, finish = {**self.params["index"], **self.variables, "FLASKHOST_NETRC": self.netrc()}, self.params["finish"]
        lines = [f"CacheDirectory={cache}", "CacheDirectoryMode=0700", f"Environment=UV_CACHE_DIR={shared}"]
        fetched = self.step("fetch", self.params["fetch"], index, lines)
        if fetched == 0:
            self.step("build", finish, {}, [f"InaccessiblePaths=-/var/cache/{cache}"])
        else:
            lines = [f"Environment=UV_CACHE_DIR=/tmp/uv FETCHED={'yes' if fetched == SOURCE_LEFT else ''} SHARED_CACHE={shared}"]
            self.step("build", f"{self.params['build']}\n{finish}", index, lines)
        self.seal()

    def step(self, name, script, environment, lines):
        """Run a script and return its exit code. Raise BuildFailed if the second script fails."""
        source, unpacked = self.layout.release(self.params["release"], "app"), self.layout.building(self.params["release"])
        # the script and its environment may contain credentials, so they must not appear in a command line, which every user can read
        with open(self.environment, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            values = {**self.params["environment"], **environment, "SCRIPT": script}
            file.writelines(f"{key}={quoted(value)}\n" for key, value in values.items())
        lines = [
            *self.params["sandbox"],
            f"EnvironmentFile={self.environment}",
            f"BindPaths={self.building}:{self.path}",
            f"BindReadOnlyPaths={unpacked}:{source}",
            *lines,
        ]
        started = time.monotonic()
        unit = f"{self.params['app']}-{name}-venv"
        code, out, err = run(unit, lines, ["/bin/sh", "-euc", 'eval "$SCRIPT"'], self.params["seconds"])
        if code and name == "build":
            raise BuildFailed(failure(code, self.params["seconds"], time.monotonic() - started), out + err)
        return code

    def netrc(self):
        """Return the content of the file from which uv and git read credentials."""
        parts = [(host, *value.partition(":")) for host, value in sorted(self.credentials.items())]
        return "".join(f"machine {host} login {user} password {password}\n" for host, user, _colon, password in parts)

    def seal(self):
        seal(self.building, grp.getgrnam(self.params["app"]).gr_gid)
        with open(
            os.path.join(self.building, "complete"), "w", opener=lambda name, flags: os.open(name, flags | os.O_EXCL | os.O_NOFOLLOW)
        ):
            pass
        # Flask puts the instance directory of an installed package into the venv's var/, but the app can write only to its data
        with contextlib.suppress(FileExistsError):
            os.symlink(f"/var/lib/{self.params['app']}", os.path.join(self.building, "var"))
        os.rename(self.building, self.path)

    def remove_unfinished(self):
        remove(self.building, self.environment, *([] if self.is_complete() else [self.path]))


def quoted(value):
    """Quote a value for a systemd EnvironmentFile."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
    return f'"{escaped}"'


if __name__ == "__main__":
    main()
