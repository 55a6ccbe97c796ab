#!/usr/bin/env python3
"""Virtual machines for the lab: hosts with their own kernel, on the image that a cloud would have. Run it as `lab vm`.

  lab vm up NAME IMAGE [PORT:PORT...]   create a VM, boot it, and wait until root can log in by ssh
  lab vm boot NAME [MB]                 boot one that is off, with another size of memory if MB is given (1024)
  lab vm kill NAME                      cut its power
  lab vm save NAME STATE                save the state of a running VM, disk and memory
  lab vm load NAME STATE                return to a saved state
  lab vm down NAME                      remove it

QEMU runs with KVM where KVM works, and otherwise emulates the processor, which is about ten times slower. PORT:PORT
publishes a port of the VM on the controller's loopback address, as `lab up` does.
"""

import argparse
import fcntl
import functools
import hashlib
import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAB = Path(os.environ["FLASKHOST_LAB"]) / "vm"
KEY = LAB.parent / "id_ed25519"
# packages of a cloud image that matter to the roles; the kernel is the one for virtual machines
COMMON = (
    "apparmor apport? ca-certificates cloud-init dbus initramfs-tools iproute2 libpam-systemd needrestart? netplan.io openssh-server polkitd? "
    "python3 snapd? sudo systemd-resolved? systemd-timesyncd udev unattended-upgrades"
)
DISTRIBUTIONS = {
    "debian12": ("bookworm", "linux-image-cloud-amd64"),
    "debian13": ("trixie", "linux-image-cloud-amd64"),
    "ubuntu22.04": ("jammy", "linux-image-virtual"),
    "ubuntu24.04": ("noble", "linux-image-virtual"),
    "ubuntu26.04": ("resolute", "linux-image-virtual"),
}
BOOT_SECONDS = 900
"""What cloud-init does at the first boot. It is still running when ssh answers, as on a new droplet."""
USER_DATA = """#cloud-config
disable_root: false
users:
  - default
  - name: root
    ssh_authorized_keys: [KEY]
ssh_authorized_keys: [KEY]
runcmd:
  - [sleep, "20"]
"""
FILES = {
    "etc/cloud/cloud.cfg.d/90_lab.cfg": "datasource_list: [NoCloud, None]\n",
    "var/lib/cloud/seed/nocloud/meta-data": "instance-id: flaskhost-lab\nlocal-hostname: flaskhost-lab\n",
    "var/lib/cloud/seed/nocloud/network-config": "version: 2\nethernets: {all: {match: {name: 'e*'}, dhcp4: true}}\n",
    # what the images of Ubuntu and of EC2 add to sshd's configuration
    "etc/ssh/sshd_config.d/60-cloudimg-settings.conf": "PasswordAuthentication no\n",
    "usr/lib/systemd/system/ssh.service.d/ec2-instance-connect.conf": (
        "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D -o AuthorizedKeysCommandUser=nobody -o AuthorizedKeysCommand=/bin/true $SSHD_OPTS\n"
    ),
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/apt/apt.conf.d/50lab": 'Acquire::Languages "none";\n',
}


def main():
    parser = argparse.ArgumentParser(prog="lab vm", usage=__doc__.partition("\n\n")[2])
    parser.add_argument("verb", choices=["up", "boot", "kill", "save", "load", "down"])
    parser.add_argument("name")
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args()
    LAB.mkdir(exist_ok=True)
    getattr(VM(args.name), args.verb)(*args.rest)


class VM:
    def __init__(self, name):
        self.name, self.directory = name, LAB / name
        self.disk, self.console = self.directory / "disk.qcow2", self.directory / "console.log"
        self.socket, self.pid_file, self.settings = self.directory / "monitor", self.directory / "pid", self.directory / "settings.json"

    def up(self, image, *ports):
        if not self.disk.exists():
            image = Image(image)
            with open(LAB / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                image.build()
            self.create(image, dict(port.split(":")[::-1] for port in ports))
            shutil.copyfile(image.booted, self.disk)
            self.load("first-boot")
        elif not self.pid():
            self.boot()

    def create(self, image, ports):
        self.down()
        self.directory.mkdir()
        self.settings.write_text(json.dumps({"image": str(image.directory), "ports": ports}))

    def boot(self, memory="1024"):
        kvm = self.start(memory)
        say(f"booting {self.name}{'' if kvm else '; the processor is emulated, which takes minutes'}")
        self.wait_for_ssh()

    def kill(self):
        if pid := self.pid():
            os.kill(pid, signal.SIGKILL)
            self.wait_until(lambda: not self.pid(), 30, "can't be killed")

    def save(self, state):
        self.monitor("stop")
        self.human(f"savevm {state}")
        self.monitor("cont")

    def load(self, state):
        """Start QEMU with the saved state: connections to the VM end, and none waits for an answer that never comes."""
        self.kill()
        self.start("1024", "-loadvm", state)
        self.wait_for_ssh()
        # the saved clock stood still
        run(*self.ssh(), f"date --utc --set=@{time.time():.0f} >/dev/null")

    def down(self):
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, memory, *options):
        """Start QEMU in the background. Returns whether it uses KVM."""
        settings = json.loads(self.settings.read_text())
        image = Path(settings["image"])
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{outer}-:{inner}" for inner, outer in settings["ports"].items())
        run(
            *qemu(image, kvm := kvm_works(image), memory),
            *("-append", "root=/dev/vda console=ttyS0 apparmor=1 security=apparmor"),
            *("-drive", f"file={self.disk},format=qcow2,if=virtio,cache=unsafe"),
            *("-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"),
            *("-serial", f"file:{self.console}", "-qmp", f"unix:{self.socket},server=on,wait=off"),
            *("-pidfile", self.pid_file, "-daemonize", *options),
        )
        return kvm

    # -- the process ----------------------------------------------------------------------------------------------

    def pid(self):
        """QEMU's process ID, if it runs."""
        try:
            pid = int(self.pid_file.read_text())
            return pid if str(self.disk) in Path(f"/proc/{pid}/cmdline").read_text() else 0
        except (OSError, ValueError):
            return 0

    def monitor(self, command, **arguments):
        """Run a command of QEMU's machine protocol, and return its result."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            lines = connection.makefile("rw")
            lines.readline()  # the greeting
            for request in {"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}:
                lines.write(json.dumps(request) + "\n")
                lines.flush()
                answer = {}
                while not {"return", "error"} & answer.keys():
                    answer = json.loads(lines.readline())
            if "error" in answer:
                sys.exit(f"lab: QEMU: {answer['error']['desc']}")
            return answer["return"]

    def human(self, line):
        if problem := self.monitor("human-monitor-command", **{"command-line": line}).strip():
            sys.exit(f"lab: QEMU, {line}: {problem}")

    def ssh(self):
        port = json.loads(self.settings.read_text())["ports"]["22"]
        options = ("BatchMode=yes", "ConnectTimeout=10", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        return ["ssh", "-p", port, "-i", str(KEY), *(word for option in options for word in ("-o", option)), "root@127.0.0.1"]

    def wait_for_ssh(self):
        def answers():
            if not self.pid():
                sys.exit(f"lab: {self.name} stopped while it booted. The end of {self.console}:\n{tail(self.console)}")
            return subprocess.run([*self.ssh(), "true"], capture_output=True).returncode == 0

        self.wait_until(answers, BOOT_SECONDS, f"does not let root log in by ssh; see {self.console}")

    def wait_until(self, condition, seconds, problem):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                sys.exit(f"lab: {self.name} {problem} ({seconds} seconds).")
            time.sleep(1)


class Image:
    """A distribution's disk and kernel, built by debootstrap once."""

    def __init__(self, name):
        if name not in DISTRIBUTIONS:
            sys.exit(f"lab: there is no image {name}. Images are {', '.join(DISTRIBUTIONS)}.")
        self.name, self.public_key = name, KEY.with_suffix(".pub").read_text().strip()
        self.suite, self.kernel_package = DISTRIBUTIONS[name]
        self.ubuntu = name.startswith("ubuntu")
        # VMs keep using the image that they were created from, so another one gets another directory
        inputs = [COMMON, DISTRIBUTIONS[name], USER_DATA, FILES, self.public_key, inspect.getsource(Image), inspect.getsource(qemu)]
        inputs = hashlib.sha256(repr(inputs).encode()).hexdigest()
        self.directory = LAB / f"image-{name}-{inputs[:12]}"
        self.disk, self.booted = self.directory / "disk.qcow2", self.directory / "booted.qcow2"

    def build(self):
        if not self.disk.exists():
            say(f"building the disk of a VM with {self.name} (some minutes)")
            self.remove_unused()
            self.make_disk()
        if not self.booted.exists():
            self.boot()

    def make_disk(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        # not below /tmp, which may be small, or forbid device files
        with tempfile.TemporaryDirectory(prefix="flaskhost-lab-", dir="/var/tmp") as root:
            self.install(Path(root))
            self.configure(Path(root))
            for file in "vmlinuz", "initrd.img":
                newest = max(Path(root, "boot").glob(f"{file}-*"))
                shutil.copyfile(newest, self.directory / file)
            raw = self.directory / "disk.raw"
            with open(raw, "wb") as file:
                file.truncate(12 << 30)
            run("mke2fs", "-q", "-t", "ext4", "-d", root, raw)
        complete = self.directory / "disk.new"
        run("qemu-img", "convert", "-O", "qcow2", raw, complete)
        raw.unlink()
        complete.rename(self.disk)

    def boot(self):
        """Boot for the first time, and save the state in which ssh answers while cloud-init is still at work: VMs start there."""
        vm = VM(f"first-boot-{self.name}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        vm.create(self, {"22": str(port)})
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.disk, vm.disk)
        vm.boot()
        vm.save("first-boot")
        vm.kill()
        vm.disk.rename(self.booted)
        vm.down()

    def remove_unused(self):
        """Remove earlier images of this distribution, but those of existing VMs."""
        used = {json.loads(path.read_text())["image"] for path in LAB.glob("*/settings.json")}
        for directory in LAB.glob(f"image-{self.name}-*"):
            if str(directory) not in used:
                shutil.rmtree(directory)

    def install(self, root):
        mirror, security = (
            ("http://archive.ubuntu.com/ubuntu", "http://security.ubuntu.com/ubuntu")
            if self.ubuntu
            else ("http://deb.debian.org/debian", "http://deb.debian.org/debian-security")
        )
        components = "main universe" if self.ubuntu else "main"
        # an older debootstrap does not know the newest release by its name; all are installed alike
        script = "gutsy" if self.ubuntu else "sid"
        self.log("debootstrap", "--variant=minbase", f"--components={components.replace(' ', ',')}", self.suite, root, mirror, script)
        sources = (f"{mirror} {self.suite}", f"{mirror} {self.suite}-updates", f"{security} {self.suite}-security")
        (root / "etc/apt/sources.list").write_text("".join(f"deb {source} {components}\n" for source in sources))
        # no daemon may start in the chroot
        (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (root / "usr/sbin/policy-rc.d").chmod(0o755)
        self.chroot(root, "apt-get", "update", "-qq")
        known = subprocess.run(["chroot", root, "apt-cache", "pkgnames"], check=True, capture_output=True, text=True).stdout.split()
        # those with a question mark are not in every distribution
        wanted = [name.rstrip("?") for name in COMMON.split() if not name.endswith("?") or (self.ubuntu and name[:-1] in known)]
        self.chroot(root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted, self.kernel_package)
        self.chroot(root, "apt-get", "clean")
        (root / "usr/sbin/policy-rc.d").unlink()

    def configure(self, root):
        for name, text in {**FILES, "var/lib/cloud/seed/nocloud/user-data": USER_DATA.replace("KEY", self.public_key)}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        # behind a proxy that inspects TLS, the VM needs the controller's certificate authorities
        for path in Path("/usr/local/share/ca-certificates").glob("*.crt"):
            shutil.copy(path, root / "usr/local/share/ca-certificates")
        self.chroot(root, "update-ca-certificates")
        for path in [*(root / "etc/ssh").glob("ssh_host_*"), root / "etc/hostname"]:
            path.unlink(missing_ok=True)
        (root / "etc/machine-id").write_text("")

    def chroot(self, root, *command):
        self.log("chroot", root, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", *command)

    def log(self, *command):
        path = self.directory / "build.log"
        with open(path, "ab") as log:
            if subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL).returncode:
                sys.exit(f"lab: {' '.join(map(str, command[:4]))} … failed. The end of {path}:\n{tail(path)}")


def qemu(image, kvm, memory):
    return [
        *("qemu-system-x86_64", "-smp", "2", "-m", memory, "-display", "none", "-nodefaults"),
        *(("-accel", "kvm", "-cpu", "host") if kvm else ("-accel", "tcg,thread=multi", "-cpu", "max")),
        *("-kernel", image / "vmlinuz", "-initrd", image / "initrd.img"),
    ]


@functools.cache
def kvm_works(image):
    """Whether the kernel comes as far as to miss its disk. A machine may have /dev/kvm and not let it be used."""
    if not os.access("/dev/kvm", os.W_OK):
        return False
    append = "root=/dev/none rootwait=0 panic=-1 console=ttyS0"
    command = [*qemu(image, True, "256")[:-2], "-no-reboot", "-append", append, "-serial", "stdio"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return False
    return b"Kernel panic" in done.stdout


def tail(path):
    return re.sub(r"\x1b\S*", "", "\n".join(Path(path).read_text(errors="replace").splitlines()[-15:]))


def run(*command):
    subprocess.run([str(word) for word in command], check=True)


def say(text):
    print(f"\033[36mlab:\033[0m {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
