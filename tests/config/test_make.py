"""What `make run` installs and starts, with a fake Python that only prints its arguments."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.config.processes import PATIENCE_SECONDS, ROOT, environment

# For `-m venv`, it copies itself as the environment's Python.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip") echo "install $(basename "$(echo "$*" | sed 's/.* //')")" >&2 ;;
    "-c "*) echo 1 ;;
    *) echo "$*" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "install-packages", tmp_path / "deploy")
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "find-python").write_text(f"echo {tmp_path}/python\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(checkout: Path, *arguments: str, **variables: str) -> list[str]:
    """Runs make, and returns the lines about what was installed and started, in order."""
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        env=environment(**variables),
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    return [line for line in lines if line.startswith(("install ", "manage.py ", "-m pytest"))]


def test_make_run_brings_a_database_only_where_none_is_named(checkout: Path) -> None:
    url = "postgres://panel@127.0.0.1/billing"
    assert make(checkout, "run", DATABASE_URL=url) == ["install production.txt", "manage.py serve"]
    assert make(checkout, "run", f"DATABASE_URL={url}") == ["manage.py serve"]
    assert make(checkout, "run") == ["install embedded.txt", "manage.py serve"]
    assert make(checkout, "run", DATABASE_URL="") == ["manage.py serve"]


def test_make_installs_again_what_was_locked_again(checkout: Path) -> None:
    make(checkout, "run")
    lock, installed = checkout / "requirements/embedded.txt", checkout / ".venv/installed-embedded"
    os.utime(lock, (installed.stat().st_mtime + 1,) * 2)
    assert make(checkout, "run") == ["install embedded.txt", "manage.py serve"]


def test_an_environment_whose_python_is_gone_is_made_and_filled_anew(checkout: Path) -> None:
    make(checkout, "run")
    (checkout / ".venv" / "bin" / "python").unlink()
    assert make(checkout, "run") == ["install embedded.txt", "manage.py serve"]
    assert make(checkout, "run") == ["manage.py serve"]
    (checkout / ".venv" / "bin" / "python").unlink()
    assert make(checkout, "test", "ARGS=--lf")[0] == "install development.txt"
