"""Measures bytes: of a transaction in tables and indexes, of the log (WAL), and HOT updates."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from django.db import connection, connections

from billing import ledger
from billing.models import Channel
from tests.benchmarks import charging, pgledger, ways
from tests.benchmarks.database import checkpoint
from tests.benchmarks.options import Options
from tests.benchmarks.posting import entries
from tests.benchmarks.results import Line, not_measured
from tests.benchmarks.ways import Way

# Way → its table of transactions, and all that a posting writes to.
TABLES: Final = {
    ways.LEDGER: ["billing_transaction", "billing_balance"],
    ways.BARE_FLOOR: ["plain_transaction", "plain_balance"],
    ways.RULED_FLOOR: ["ruled_transaction", "ruled_balance"],
    ways.PGLEDGER: ["pgledger_entries", "pgledger_transfers", "pgledger_accounts"],
}
POSTINGS: Final = 4_000
MIXED_PER_ROUND: Final = 3
MIXED_SINGLES: Final = 50
MIXED_BATCH: Final = 1_000
RUN_SUBSCRIPTIONS: Final = 800


class Written(NamedTuple):
    table: int
    indexes: int
    log: int
    images: int  # full images of pages in the log


def measure(user_ids: Sequence[int], options: Options) -> Iterator[Line]:
    postings = min(POSTINGS, options.calls * 40)
    for way, tables in TABLES.items():
        if way is ways.PGLEDGER and not pgledger.accounts:
            yield not_measured(f"Bytes of a posting: {way.name}", pgledger.MISSING)
            continue
        yield from _of_way(way, tables, user_ids, postings)
    yield from _batch_log(user_ids)
    rounds = options.rounds * MIXED_PER_ROUND
    yield _hot_updates("singles", lambda: _singles(user_ids, rounds * MIXED_SINGLES))
    yield _hot_updates("batches", lambda: _batches(user_ids, rounds))
    yield _hot_updates(
        "batches of charges of the bonus", lambda: _batches_from_bonus(user_ids, rounds)
    )
    yield _hot_updates("singles beside batches and charging runs", lambda: _mixed(user_ids, rounds))


def _of_way(way: Way, tables: list[str], user_ids: Sequence[int], postings: int) -> Iterator[Line]:
    def post(count: int) -> Callable[[], None]:
        def work() -> None:
            for place in range(count):
                way.post(user_ids[place % len(user_ids)])

        return work

    checkpoint()
    first = _written(tables, post(len(user_ids)))  # each balance's page once since the checkpoint
    found = _written(tables, post(postings))
    yield _bytes(f"Bytes of a posting in tables: {way.name}", found.table / postings)
    yield _bytes(f"Bytes of a posting in indexes: {way.name}", found.indexes / postings)
    yield _bytes(
        f"Log (WAL) of a posting: {way.name}",
        found.log / postings,
        f"{found.images / postings:.2f} full pages each",
    )
    yield _bytes(
        f"Log (WAL) of a posting just after a checkpoint: {way.name}",
        first.log / len(user_ids),
        f"{first.images / len(user_ids):.2f} full pages each",
    )


def _batch_log(user_ids: Sequence[int]) -> Iterator[Line]:
    _batches(user_ids, 1)
    found = _written(TABLES[ways.LEDGER], lambda: _batches(user_ids, 4))
    yield _bytes(
        "Log (WAL) of an entry of a batch: ledger",
        found.log / (4 * MIXED_BATCH),
        f"{found.images / (4 * MIXED_BATCH):.2f} full pages each",
    )


def _bytes(what: str, value: float, detail: str = "") -> Line:
    return Line(what=what, shown=f"{value:,.0f} B", value=value, detail=detail)


def _written(tables: list[str], work: Callable[[], None]) -> Written:
    before = _counters(tables)
    work()
    after = _counters(tables)
    return Written(*(b - a for a, b in zip(before, after, strict=True)))


def _counters(tables: list[str]) -> tuple[int, ...]:
    _execute("SELECT pg_stat_force_next_flush()")
    return tuple(
        map(
            int,
            _execute(
                "SELECT (SELECT sum(pg_table_size(t::regclass)) FROM unnest(%s::text[]) t), "
                "(SELECT sum(pg_indexes_size(t::regclass)) FROM unnest(%s::text[]) t), "
                "pg_current_wal_insert_lsn() - '0/0', wal_fpi FROM pg_stat_wal",
                [tables, tables],
            ),
        )
    )


def _hot_updates(of_what: str, work: Callable[[], None]) -> Line:
    # Updates leave room in a page once a vacuum has removed earlier versions; begin after one.
    _execute("VACUUM billing_balance")
    before = _updates()
    work()
    after = _updates()
    updates, hot = (b - a for a, b in zip(before, after, strict=True))
    share = hot / updates
    return Line(
        what=f"HOT updates of balances: {of_what}",
        shown=f"{share:.0%}",
        value=share,
        detail=f"of {updates:,} updates",
    )


def _updates() -> tuple[int, int]:
    connection.close()  # a process reports its counts when it ends, at the latest
    _execute("SELECT pg_stat_force_next_flush()")
    found = _execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'billing_balance'"
    )
    return found[0], found[1]


def _singles(user_ids: Sequence[int], calls: int) -> None:
    for place in range(calls):
        ways.by_ledger(user_ids[place % len(user_ids)])


def _batches(user_ids: Sequence[int], count: int) -> None:
    """Posts batches in which each user has two entries, which are written together."""
    half = user_ids[: MIXED_BATCH // 2]
    for _ in range(count):
        ledger.post_batch(entries(half, 2 * len(half)), actor=None, channel=Channel.API)


def _batches_from_bonus(user_ids: Sequence[int], count: int) -> None:
    """Posts batches in which each user has two charges of the bonus."""
    half = user_ids[: MIXED_BATCH // 2]
    gifts = [
        ledger.bonus_entry(user, amount=3 * count, subtype="gift", description="A gift")
        for user in half
    ]
    ledger.post_batch(gifts, actor=None, channel=Channel.API)
    for _ in range(count):
        charges = [
            ledger.service_entry(user, service="sms", cost=1, description="One message")
            for user in half
            for _ in range(2)
        ]
        ledger.post_batch(charges, actor=None, channel=Channel.API)


def _mixed(user_ids: Sequence[int], rounds: int) -> None:
    """Posts singles while another process posts batches and charging runs.

    Then a version of a row that a batch has replaced stays in its page until the batch ends.
    """
    charging.fill(RUN_SUBSCRIPTIONS)
    connections.close_all()  # a connection must not be shared with a child
    context = multiprocessing.get_context("fork")
    others = context.Process(target=_batches_and_runs, args=[user_ids, rounds])
    others.start()
    while others.is_alive():
        _singles(user_ids, MIXED_SINGLES)
    others.join()
    if others.exitcode:
        raise SystemExit("The process that posts batches has failed.")


def _batches_and_runs(user_ids: Sequence[int], rounds: int) -> None:
    for place in range(rounds):
        _batches(user_ids, 2)
        _batches_from_bonus(user_ids, 1)
        if place % 5 == 0:
            charging.run_rate(charging.first_of(place // 5), 1, RUN_SUBSCRIPTIONS)
    connections.close_all()


def _execute(statement: str, values: Sequence[Any] = ()) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchone() if cursor.description else None
