"""Transactions in the past, posted by the ledger itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import connection

from tests.roles import as_owner

CLOCK = "'billing_clock()'::regprocedure"
POST = "'billing_post(jsonb, bigint, text, boolean)'::regprocedure"


@contextmanager
def database_clock_at(moment: datetime) -> Iterator[None]:
    """Lets the posting function's clock stand at `moment`, within a test that is rolled back.

    The function runs as it is, but for its one call of the clock. Times still never go back: a
    user's moments have to come in order.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_get_functiondef({POST})")
        [as_it_is] = cursor.fetchone()
        assert as_it_is.count("clock_timestamp()") == 1
        standing = as_it_is.replace("clock_timestamp()", f"timestamptz '{moment.isoformat()}'")
        with as_owner():
            cursor.execute(standing)
        try:
            yield
        finally:
            with as_owner():
                cursor.execute(as_it_is)


@contextmanager
def movable_clock(moment: datetime) -> Iterator[Callable[[datetime], None]]:
    """The same for all that the database dates, within a test that is rolled back.

    The clock stands at `moment` until what this answers puts it to another one.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_get_functiondef({POST}), pg_get_functiondef({CLOCK})")
        functions = cursor.fetchone()

        def put(to: datetime) -> None:
            with connection.cursor() as moving:
                moving.execute("SELECT set_config('tests.clock', %s, false)", [to.isoformat()])

        put(moment)
        for function in functions:
            assert function.count("clock_timestamp()") == 1
            standing = "current_setting('tests.clock')::timestamptz"
            with as_owner():
                cursor.execute(function.replace("clock_timestamp()", standing))
        try:
            yield put
        finally:
            with as_owner():
                for function in functions:
                    cursor.execute(function)
