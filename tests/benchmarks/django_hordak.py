"""django-hordak, https://github.com/adamcharnock/django-hordak, in a process of another Python.

It needs apps and settings that the panel does not have. So `django_hordak_worker.py` runs in the
Python of an environment that has it (`pip install django-hordak psycopg`), with settings of its
own, on a database of its own on the same server.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from django.db import connection

NAME: Final = "django-hordak"
MISSING: Final = "--hordak names no Python that has it"
DATABASE: Final = "benchmark_hordak"
WORKER: Final = Path(__file__).with_name("django_hordak_worker.py")


@contextmanager
def transfers(python: str) -> Iterator[Callable[[int], float]]:
    """Yields a function that makes so many transfers, and returns the transfers per second."""
    place = connection.get_connection_params()
    names = {name: str(place.get(name) or "") for name in ("host", "port", "user", "password")}
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {DATABASE}")
    try:
        with subprocess.Popen(
            [python, "-P", WORKER, DATABASE, *names.values()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{python} cannot run django-hordak; its message is above.")

            def run(calls: int) -> float:
                assert process.stdin
                assert process.stdout
                process.stdin.write(f"{calls}\n")
                process.stdin.flush()
                return calls / float(process.stdout.readline())

            try:
                yield run
            finally:
                process.stdin.close()
    finally:
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
