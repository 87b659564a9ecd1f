"""The embedded PostgreSQL: a Django database backend that brings its own server.

It is for one machine without a database server: `make run` and `make test`. Production sets
DATABASE_URL and does not install it. Nothing outside this package knows how it works. Others use:

- `database(data_dir)`, an entry of Django's DATABASES. The first connection creates the data if
  there is none, and starts the server; the last process to leave stops it. Problems are raised as
  an OperationalError of one sentence, a missing package as ImproperlyConfigured.
- `manage.py dbshell`, which opens the psql that belongs to the server.
- `server.Server.at(data_dir)`, for tests that kill, stop or damage the server.

The data is in `data_dir`/postgres, the server's log in `data_dir`/postgres.log. `base.py` is the
backend; `server.py` starts and stops the server; `programs.py` finds PostgreSQL's programs.
"""

from pathlib import Path
from typing import Any


def database(data_dir: Path) -> dict[str, Any]:
    """Returns the entry of DATABASES for the server whose data is in `data_dir`/postgres."""
    return {"ENGINE": __name__, "NAME": "billing", "DATA_DIR": data_dir}
