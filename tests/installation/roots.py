"""Makes a bare Debian in a directory, and runs a machine from it that is isolated from this one.

debootstrap makes the Debian from its default mirror. The machine has its own namespaces and no
network. Either systemd-nspawn boots it with systemd, or it is a chroot in which nothing starts by
itself.
"""

import fcntl
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

PATIENCE_SECONDS: Final = 120
AUTHORITIES: Final = Path("etc/ssl/certs/ca-certificates.crt")
PLAIN: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}
MOUNT: Final = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc"'
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def wait_for(what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE_SECONDS} seconds"
        time.sleep(0.2)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a command. Shows its output only if it fails."""
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, (
        f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}"
    )


class Root:
    """A directory with the root file system of a bare Debian."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def own(self) -> Path:
        """The directory with the files that belong to this root alone."""
        return self.path

    def called(self, suite: str) -> str:
        return f"debootstrap {suite}"

    def make(self, suite: str) -> None:
        self.path.chmod(0o755)  # it becomes / for all accounts there
        _run(["debootstrap", "--variant=minbase", suite, str(self.path)])
        # So that pip and apt reach the same servers as on this machine.
        (self.path / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())

    def trust_what_this_machine_trusts(self) -> None:
        (self.path / AUTHORITIES).write_bytes((Path("/") / AUTHORITIES).read_bytes())

    def run(self, *command: str, **environment: str) -> None:
        """Runs a command in the root, with this machine's network. Kills processes it leaves."""
        _run(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                *("sh", "-c", f'{MOUNT} && exec chroot "$0" "$@"', str(self.path), *command),
            ],
            PLAIN | environment,
        )

    def install(self, *packages: str) -> None:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        self.run("apt-get", "update", "-qq", **quiet)
        self.run(
            *("apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages), **quiet
        )

    def bring(self, folder: Path, place: str) -> None:
        shutil.copytree(folder, self.path / place, symlinks=True)

    def remove(self) -> None:
        shutil.rmtree(self.path)

    def snapshot(self, *, without: tuple[str, ...]) -> dict[str, str]:
        """Returns, by path, a text for each file and directory that changes when it does."""
        found = {}
        for folder, folders, files in os.walk(self.own):
            inside = "/" + str(Path(folder).relative_to(self.own)).removeprefix(".")

            for names in (folders, files):
                names[:] = [
                    name for name in names if f"{inside}/{name}".replace("//", "/") not in without
                ]
            for name in [*folders, *files]:
                path = Path(folder) / name
                status = path.lstat()
                state = f"{status.st_mode:o} {status.st_uid}:{status.st_gid}"
                if path.is_symlink():
                    state += f" -> {path.readlink()}"
                elif path.is_file():
                    state += f" {status.st_size} {hash(path.read_bytes())}"
                found[f"{inside}/{name}".replace("//", "/")] = state
        return found


class CopyOfThisMachine(Root):
    """A copy of this machine's files. Changes to it stay in memory, and vanish with this process.

    It has one new PostgreSQL cluster instead of this machine's clusters.
    """

    def called(self, suite: str) -> str:
        return "a copy of this machine"

    def make(self, suite: str) -> None:
        os.unshare(os.CLONE_NEWNS)
        _run(["mount", "--make-rprivate", "/"])
        _run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(self.path)])
        layers = {name: self.path / name for name in ("upperdir", "workdir", "root")}
        for folder in layers.values():
            folder.mkdir()
        self.path = layers.pop("root")
        options = ",".join(f"{name}={folder}" for name, folder in layers.items())
        _run(["mount", "-t", "overlay", "-o", f"lowerdir=/,{options}", "overlay", str(self.path)])

    @property
    def own(self) -> Path:
        return self.path.with_name("upperdir")

    def install(self, *packages: str) -> None:
        super().install(*packages)
        for name in ("etc/postgresql", "var/lib/postgresql"):
            shutil.rmtree(self.path / name)
        remake = 'pg_createcluster "$(ls /usr/lib/postgresql | sort -n | tail -n 1)" main'
        self.run("sh", "-c", f"install -d -o postgres -g postgres /var/lib/postgresql && {remake}")

    def bring(self, folder: Path, place: str) -> None:
        (self.path / place).mkdir(parents=True)
        _run(["mount", "--bind", str(folder), str(self.path / place)])

    def remove(self) -> None:
        """Removes the mount point. The rest of the machine sees it as an empty directory."""
        place = self.path.parent
        _run(["umount", "--recursive", "--lazy", str(place)])
        place.rmdir()


class Machine:
    """A machine that runs from a root, as a chroot.

    Entering starts it and moves this process into its network; leaving kills it.
    """

    has_systemd = False

    def __init__(self, root: Root) -> None:
        self.root = root
        self.output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - until it ends

    def command(self) -> list[str]:
        script = f'{MOUNT} && mount -t tmpfs tmpfs "$0/run" && exec chroot "$0" sleep infinity'
        return [
            *("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"),
            *("sh", "-c", script, str(self.root.path)),
        ]

    def __enter__(self) -> "Machine":
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for("the machine runs", self._has_begun)
            self.first = self._children()[0]
            self._join_its_network()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        self.output.seek(0)
        return self.output.read()

    def _children(self) -> list[int]:
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def _has_begun(self) -> bool:
        assert self.process.poll() is None, self.said
        children = self._children()
        if not children:
            return False
        name = Path(f"/proc/{children[0]}/comm").read_text().strip()
        return name == "sleep"

    def _join_its_network(self) -> None:
        with Path(f"/proc/{self.first}/ns/net").open() as network:
            os.setns(network.fileno(), os.CLONE_NEWNET)
        with socket.socket() as any_socket:
            asked = struct.pack("16sH14x", b"lo", 0)
            _, flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked))
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))

    def popen(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [
                *("nsenter", f"--target={self.first}", "--all", "--root", "--wd"),
                *(
                    "env",
                    "-i",
                    *(f"{name}={value}" for name, value in (PLAIN | environment).items()),
                ),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        """Runs a command on the machine. Returns its status and its output."""
        process = self.popen(*command, **environment)
        output, _ = process.communicate(timeout=10 * PATIENCE_SECONDS)
        return process.returncode, output

    def do(self, *command: str, **environment: str) -> str:
        """Runs a command that has to succeed, and returns its output."""
        status, output = self.run(*command, **environment)
        assert status == 0, f"{shlex.join(command)} ended with {status}:\n{output}"
        return output


class Booted(Machine):
    """A machine that is booted with systemd."""

    has_systemd = True

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_SECONDS)
        finally:
            super().__exit__()

    def command(self) -> list[str]:
        return [
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root.path}"),
            *("--register=no", "--keep-unit", "--private-network", "--link-journal=no"),
            "--console=pipe",
        ]

    def _has_begun(self) -> bool:
        assert self.process.poll() is None, self.said
        children = self._children()
        if not children:
            return False
        self.first = children[0]
        return self.run("systemctl", "is-system-running")[1].strip() in ("running", "degraded")


def settings_of(file: Path) -> Mapping[str, str]:
    """Returns the variables in a file for systemd's EnvironmentFile."""
    lines = [line for line in file.read_text().splitlines() if "=" in line and line[0] not in "#;"]
    return {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
