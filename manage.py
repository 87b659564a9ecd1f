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
        # An error with an SQLSTATE came from the server: its disk is full, or it was stopped.
        has_answered = getattr(problem.__cause__, "sqlstate", None)
        failure = "could not do this" if has_answered else "cannot be reached"
        sys.exit(f"Error: the database {failure}: {_first_sentence(problem)}")


def _first_sentence(problem: Exception) -> str:
    """Returns the first line of the driver's message.

    The other lines are hints, or repeat the same for each address of the host.
    """
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0].removeprefix("connection failed: ") if lines else "it does not answer"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # the exit status of shells for Ctrl-C
