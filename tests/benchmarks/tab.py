"""Measures pages of the Transactions tab, for a long and a short history in one large table."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter
from typing import Any, Final

from django.db import connection
from django.test import Client

from tests.benchmarks.report import Line, progress
from users.models import User

SHORT_HISTORY: Final = 100
OTHER_HISTORIES: Final = 10_000  # transactions of each other user, approximately
TARGET: Final = 1.5
YEARS: Final = timedelta(days=5 * 365)
BEGIN: Final = datetime(2020, 1, 1, tzinfo=UTC)


def fill(transactions: int) -> tuple[User, User]:
    """Creates and returns a user with a tenth of the transactions, and one with about a hundred.

    The other transactions belong to other users. All are refills of 10, so that each row can be
    computed from its number. Digests are not chained, because no list reads them. Guards and
    foreign keys stay disabled, because this database is only read from here on.
    """
    long, short, *others = User.objects.bulk_create(
        User(email=f"reader-{place}@example.com", password="!")
        for place in range(2 + max(1, transactions // OTHER_HISTORIES))
    )
    with connection.cursor() as cursor:
        cursor.execute(_DISARM)
        cursor.execute(
            _FILL,
            {
                "long": long.pk,
                "short": short.pk,
                "others": [user.pk for user in others],
                "transactions": transactions,
                "each_short": transactions // SHORT_HISTORY,
                "begin": BEGIN,
                "step": YEARS / transactions,
            },
        )
        cursor.execute(_CARRY_OVER)
        cursor.execute("VACUUM ANALYZE")
    return long, short


_DISARM: Final = """
    ALTER TABLE billing_balance DISABLE TRIGGER USER;
    ALTER TABLE billing_transaction DISABLE TRIGGER USER;
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT conname FROM pg_constraint
            WHERE conrelid = 'billing_transaction'::regclass AND contype = 'f'
        LOOP
            EXECUTE format('ALTER TABLE billing_transaction DROP CONSTRAINT %I', name);
        END LOOP;
    END $$
"""

_FILL: Final = """
    INSERT INTO billing_transaction (
        user_id, number, type, subtype, description, amount, old_balance, new_balance,
        bonus_amount, old_bonus, new_bonus, refilled, bonus_refilled, created_at, channel,
        metadata, digest
    )
    SELECT user_id, number, 'payment', 'partner', 'Bank transfer',
        10, 10 * (number - 1), 10 * number, 0, 0, 0, 10 * number, 0,
        %(begin)s + place * %(step)s::interval, 'api', '{}', sha256('')
    FROM (
        SELECT place, user_id, row_number() OVER (PARTITION BY user_id ORDER BY place) AS number
        FROM (
            SELECT place, CASE
                WHEN place %% 10 = 0 THEN %(long)s
                WHEN place %% %(each_short)s = 1 THEN %(short)s
                ELSE (%(others)s::bigint[])[1 + place %% cardinality(%(others)s::bigint[])]
            END AS user_id
            FROM generate_series(0, %(transactions)s - 1) place
        ) of_whom
    ) numbered
    ORDER BY place
"""

_CARRY_OVER: Final = """
    UPDATE billing_balance b SET
        real = t.new_balance, refilled = t.refilled, last_number = t.number,
        last_digest = t.digest, last_at = t.created_at
    FROM billing_transaction t
    WHERE t.user_id = b.user_id AND b.last_number = 0 AND t.number = (
        SELECT max(number) FROM billing_transaction x WHERE x.user_id = b.user_id
    )
"""


def measure_tab(long: User, short: User, *, transactions: int, rounds: int) -> Iterator[Line]:
    operator = User.objects.create_superuser("operator@example.com", "operator")
    client = Client(SERVER_NAME="localhost")
    client.force_login(operator)
    size = transactions // 10
    pages = {
        "first page": "",
        "last page": "?after=0",
        "a page at a quarter": f"?before={size // 4}",
        "a page in the middle": f"?before={size // 2}",
        "a page at three quarters": f"?after={size * 3 // 4}",
    }
    base = _address(short)
    addresses = {"base": base} | {name: _address(long) + query for name, query in pages.items()}
    for address in addresses.values():
        _page(client, address)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in addresses}
    for _ in progress(range(rounds), "Transactions tab"):
        for name, address in addresses.items():
            times[name].append(_page(client, address))
    for part, what in enumerate(("whole page", "its SQL alone")):
        for name in pages:
            ours = [time[part] for time in times[name]]
            first = [time[part] for time in times["base"]]
            ratio = median(a / b for a, b in zip(ours, first, strict=True))
            yield Line(
                what=f"Tab, {what}: {name} of {size:,}",
                measured=f"{median(ours) * 1000:.1f} ms",
                against=f"first page of {SHORT_HISTORY} {median(first) * 1000:.1f} ms",
                ratio=ratio,
                target=TARGET,
                is_met=ratio <= TARGET,
                target_text=f"≤ {TARGET}",
            )


def _address(user: User) -> str:
    return f"/admin/users/user/{user.pk}/transactions/"


def _page(client: Client, address: str) -> tuple[float, float]:
    """Requests a page. Returns the seconds for all of it, and the part spent in the database."""
    in_database = 0.0

    def timed(execute: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal in_database
        started = perf_counter()
        try:
            return execute(*arguments)
        finally:
            in_database += perf_counter() - started

    started = perf_counter()
    with connection.execute_wrapper(timed):
        response = client.get(address)
    elapsed = perf_counter() - started
    if response.status_code != 200:
        raise SystemExit(f"{address} answered {response.status_code}.")
    return elapsed, in_database
