"""Sets the database's clock, so that the ledger itself posts transactions in the past."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import connection

from tests.roles import as_owner

CLOCK = "'billing_clock()'::regprocedure"
POST = "'billing_post(jsonb, bigint, text, boolean)'::regprocedure"


@contextmanager
def database_clock_at(moment: datetime) -> Iterator[None]:
    """Stops the posting function's clock at `moment`. Use it in tests that are rolled back.

    Only the function's one call of the clock is replaced. Times still never go back: the moments
    of a user have to come in order.
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
    """Stops the clock for everything that the database dates. Use it in tests that are rolled back.

    The clock stands at `moment` until the yielded function sets it to another one.
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
