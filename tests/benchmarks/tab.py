"""Pages of the Transactions tab, of a long history and of a short one in the same large table."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter
from typing import Any, Final

from django.db import connection
from django.test import Client

from billing.management.demo import bulk
from billing.management.demo.story import Operation
from billing.models import Channel, TransactionType
from tests.benchmarks.report import Line, progress
from users.models import User

SHORT_HISTORY: Final = 100
OTHER_HISTORIES: Final = 10_000  # about so many transactions has each of the other users
TARGET: Final = 1.5
BEGIN: Final = datetime(2020, 1, 1, tzinfo=UTC)


def fill(transactions: int) -> tuple[User, User]:
    """Users with a tenth of the transactions and with a hundred; the rest is of others."""
    long, short, *others = User.objects.bulk_create(
        User(email=f"reader-{place}@example.com", password="!")
        for place in range(2 + max(1, transactions // OTHER_HISTORIES))
    )
    bulk.load(
        progress(_operations(long.pk, short.pk, [u.pk for u in others], transactions),
                 "Filling the table", total=transactions),
        expected=transactions,
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return long, short


def _operations(long: int, short: int, others: list[int], transactions: int) -> Iterator[Operation]:
    step = timedelta(days=5 * 365) / transactions
    each_short = transactions // SHORT_HISTORY
    for place in range(transactions):
        if place % 10 == 0:
            user_id = long
        elif place % each_short == 1:
            user_id = short
        else:
            user_id = others[place % len(others)]
        yield Operation(
            user_id=user_id,
            at=BEGIN + place * step,
            type=TransactionType.PAYMENT,
            subtype="partner",
            description="Bank transfer",
            device="",
            amount=10_0000,
            bonus_amount=0,
            actor_id=None,
            channel=Channel.API,
            idempotency_key=None,
            reverses=None,
            metadata="{}",
        )


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
    """Seconds for the whole page, and of these in the database."""
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
