"""A bare Debian in a directory, and a machine that runs from it, apart from this one.

Made with debootstrap, from the mirror that this machine's apt knows by itself. It runs in
namespaces of its own, without a network: with systemd, which systemd-nspawn boots, or as a chroot
in which nothing is started by itself.
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
    """Says nothing, unless it fails."""
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
    """The directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def own(self) -> Path:
        """Where its files lie that are not another machine's."""
        return self.path

    def called(self, suite: str) -> str:
        return f"debootstrap {suite}"

    def make(self, suite: str) -> None:
        self.path.chmod(0o755)  # it becomes what all accounts there see as /
        _run(["debootstrap", "--variant=minbase", suite, str(self.path)])
        # So that pip and apt reach what they reach on this machine.
        (self.path / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())

    def trust_what_this_machine_trusts(self) -> None:
        (self.path / AUTHORITIES).write_bytes((Path("/") / AUTHORITIES).read_bytes())

    def run(self, *command: str, **environment: str) -> None:
        """In the root, with this machine's network; nothing runs there afterwards."""
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
        """Each file and directory, with what would tell that it was changed."""
        found = {}
        for folder, folders, files in os.walk(self.own):
            inside = "/" + str(Path(folder).relative_to(self.own)).removeprefix(".")
            folders[:] = [
                name for name in folders if f"{inside}/{name}".replace("//", "/") not in without
            ]
            for name in [*folders, *files]:
                path = Path(folder) / name
                kept = path.lstat()
                what = f"{kept.st_mode:o} {kept.st_uid}:{kept.st_gid}"
                if path.is_symlink():
                    what += f" -> {path.readlink()}"
                elif path.is_file():
                    what += f" {kept.st_size} {hash(path.read_bytes())}"
                found[f"{inside}/{name}".replace("//", "/")] = what
        return found


class CopyOfThisMachine(Root):
    """This machine's own files. What is written over them is in memory, and goes with this process.

    It has no cluster of PostgreSQL but a new one, whatever this machine has.
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
        """The directory is another one to the rest of the machine, and empty."""
        place = self.path.parent
        _run(["umount", "--recursive", "--lazy", str(place)])
        place.rmdir()


class Machine:
    """Runs from a root. Entering starts it, and puts this process into its network."""

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
        """The status, and all that it says."""
        process = self.popen(*command, **environment)
        said, _ = process.communicate(timeout=10 * PATIENCE_SECONDS)
        return process.returncode, said

    def do(self, *command: str, **environment: str) -> str:
        status, said = self.run(*command, **environment)
        assert status == 0, f"{shlex.join(command)} ended with {status}:\n{said}"
        return said


class Booted(Machine):
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
    """What is set in a file of systemd's EnvironmentFile."""
    lines = [line for line in file.read_text().splitlines() if "=" in line and line[0] not in "#;"]
    return {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
