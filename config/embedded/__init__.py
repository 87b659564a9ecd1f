"""The embedded PostgreSQL: a Django database backend that brings its own server.

It is for one machine without a database server: `make run` and `make test`. Production sets
DATABASE_URL and does not install it. Nothing outside this package knows how it works; what others
use is this:

- `database(data_dir)` is an entry of Django's DATABASES. The first connection that is opened starts
  the server, after creating its data if need be; the last process to leave stops it. A problem is
  an OperationalError of one sentence, a package that is not installed an ImproperlyConfigured.
- `manage.py dbshell` opens the psql that belongs to the server.
- `server.Server.at(data_dir)` is for tests that do to the server what happens to servers.

The data is in `data_dir`/postgres, the server's log in `data_dir`/postgres.log. `base.py` is the
backend; `server.py` starts and stops the server; `programs.py` finds PostgreSQL's programs.
"""

from pathlib import Path
from typing import Any


def database(data_dir: Path) -> dict[str, Any]:
    """The entry of DATABASES for the server whose data is in `data_dir`/postgres."""
    return {"ENGINE": __name__, "NAME": "billing", "DATA_DIR": data_dir}
