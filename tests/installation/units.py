"""Starts the service of a systemd unit without systemd."""

import shlex
from pathlib import Path
from typing import Any

from tests.installation.roots import Machine, settings_of


def read_unit(file: Path) -> dict[str, list[str]]:
    """Returns the settings of the section [Service]; each may have several values."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in file.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and line[0] != "#":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def start(machine: Machine, unit: str) -> Any:
    service = read_unit(machine.root.path / "etc/systemd/system" / unit)
    [user], [folder], [command], [settings] = (
        service[name] for name in ("User", "WorkingDirectory", "ExecStart", "EnvironmentFile")
    )
    variables = settings_of(machine.root.path / settings.lstrip("/"))
    return machine.popen(
        *("runuser", "-u", user, "--", "env", f"--chdir={folder}", *shlex.split(command)),
        **variables,
    )
