#!/usr/bin/env python3
"""Django's command line: `.venv/bin/python manage.py <command>`."""

import os
import sys


def main() -> None:
    if sys.version_info < (3, 12):  # noqa: UP036 - this file is also started by older Pythons
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit("This panel needs Python 3.12, 3.13 or 3.14; this is Python " + found + ".")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
        from django.db import NotSupportedError, OperationalError
    except ModuleNotFoundError as missing:
        sys.exit(f"{missing.name} is not installed; `make run` sets everything up.")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as problem:
        sys.exit(f"Error: {problem}")
    except NotSupportedError as problem:
        sys.exit(f"Error: the database cannot be used: {problem}")
    except OperationalError as problem:
        from django.conf import settings

        if settings.DEBUG:
            raise
        # With a code of its own there was an answer: it is full, or stopped in the midst.
        is_there = getattr(problem.__cause__, "sqlstate", None)
        what = "could not do this" if is_there else "cannot be reached"
        sys.exit(f"Error: the database {what}: {_first_sentence(problem)}")


def _first_sentence(problem: Exception) -> str:
    """What the driver says first; below it are hints, and the same for each address of a host."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0].removeprefix("connection failed: ") if lines else "it does not answer"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl-C, as shells count it
