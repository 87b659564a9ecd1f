"""Reads DATABASE_URL the way libpq does: an address means the same here as to `psql` and `pg_dump`.

`manage.py dbshell`, the workers' queue, the tests and the benchmark all take the database from the
settings that are made here.
"""

from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

SCHEMES: Final = ("postgres://", "postgresql://")
# Django's own options, which libpq would refuse.
FLAGS: Final = frozenset({"atomic_requests", "disable_server_side_cursors"})
OWN_OPTIONS: Final = frozenset(
    {"assume_role", "isolation_level", "prepare_threshold", "server_side_binding"}
)
# The panel decides these; in the address they are ignored.
IGNORED: Final = frozenset({"autocommit", "conn_health_checks", "conn_max_age"})
TRUE: Final = ("true", "yes", "on", "1")
# Parameters of a connection that belong to Django or the driver, not to libpq.
NOT_OF_LIBPQ: Final = OWN_OPTIONS | {"context", "cursor_factory", "pool"}


def settings_from(url: str) -> dict[str, Any]:
    """Returns Django's settings of the database at `url`. Raises ValueError if it is no address."""
    if not url.startswith(SCHEMES):
        raise ValueError
    address, own = _without_djangos(url)
    try:
        place: dict[str, Any] = dict(conninfo_to_dict(address))
    except ProgrammingError:
        raise ValueError from None
    ports = str(place.get("port", ""))
    if not all(port.isascii() and (port.isdigit() or not port) for port in ports.split(",")):
        raise ValueError
    if not (place.get("dbname") or place.get("service")):
        raise ValueError
    return {
        "NAME": place.pop("dbname", ""),
        "USER": place.pop("user", ""),
        "PASSWORD": place.pop("password", ""),
        "HOST": place.pop("host", ""),
        "PORT": place.pop("port", ""),
        "OPTIONS": place | {name: own[name] for name in own if name in OWN_OPTIONS},
        **{name.upper(): own[name] for name in own if name in FLAGS},
    }


def url_of(parameters: dict[str, Any]) -> str:
    """Returns the address for the parameters of a connection, to be passed to other processes."""
    place = {
        name: str(value)
        for name, value in parameters.items()
        if name not in NOT_OF_LIBPQ and value not in (None, "")
    }
    user, password, name = (
        quote(place.pop(each, ""), safe="") for each in ("user", "password", "dbname")
    )
    # Spaces as %20: libpq does not read a plus as a space.
    options = urlencode(place, quote_via=quote)
    return f"postgres://{user}{password and f':{password}'}@/{name}?{options}"


def _without_djangos(url: str) -> tuple[str, dict[str, Any]]:
    """Returns the address without the options that are Django's, and these options."""
    address, _, query = url.partition("?")
    own: dict[str, Any] = {}
    kept = []
    for part in query.split("&") if query else []:
        name, _, value = part.partition("=")
        name, value = name.lower(), unquote(value)
        if name in FLAGS or name == "server_side_binding":
            own[name] = value.lower() in TRUE
        elif name in OWN_OPTIONS:
            own[name] = int(value) if value.isdigit() else value
        elif name not in IGNORED:
            kept.append(part)
    return f"{address}?{'&'.join(kept)}" if kept else address, own
