#!/usr/bin/env python3
"""Django's command line: `.venv/bin/python manage.py <command>`."""

import os
import sys


def main() -> None:
    if sys.version_info < (3, 12):  # noqa: UP036 - this file is also started by older Pythons
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"This panel needs Python 3.12 or newer; this is Python {found}.")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
        from django.db import OperationalError
    except ModuleNotFoundError as missing:
        sys.exit(f"{missing.name} is not installed; `make run` sets everything up.")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as problem:
        sys.exit(f"Error: {problem}")
    except OperationalError as problem:
        from django.conf import settings

        if settings.DEBUG:
            raise
        reason = str(problem).strip().splitlines()[-1] if str(problem).strip() else "no answer"
        sys.exit(f"Error: the database cannot be reached: {reason}")


if __name__ == "__main__":
    main()
