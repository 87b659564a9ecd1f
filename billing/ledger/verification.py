"""Checks the `rules` of the ledger by its rows alone: `manage.py verify_ledger`. Reads only.

The database does the work, in sets: it reads each user's transactions once, in the order of their
numbers, each beside the one before it. Users are checked in stretches, which bounds memory and
shows progress. Each stretch is one snapshot, so the panel may keep working. Several stretches can
be checked at the same time, each on a connection of its own.

The check trusts nothing that somebody could have put into the database. Its SQL uses only what
comes with PostgreSQL; names are looked up in `pg_catalog`, tables in `public`
(`billing.sql.guards.untrusting_cursor`). Values are converted to text by the types' own output
functions, because anybody can create a cast. `billing.sql.guards` checks that PostgreSQL's own
functions are the original ones.
"""
# ruff: noqa: S608 - all SQL here is put together from the constants below and whole numbers

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Any, Final, NamedTuple

from django.db import connection
from django.db.backends.utils import CursorWrapper

from billing.ledger import turnovers
from billing.ledger.rules import (
    ACTOR,
    BALANCE_RULES,
    BATCH,
    CLOCK,
    COLUMNS,
    EVENT_RULES,
    FIGURES,
    GRANT_RULES,
    GRANTS_OF_TRANSACTION,
    HAS_USER,
    HEAD,
    KEPT_SUMS,
    REASON,
    SEPARATE_RULES,
    TRANSACTION_RULES,
    UNIQUE_ID,
    UNIQUE_KEY,
    USE_RULES,
    USES_OF_GRANT,
    Rule,
)
from billing.sql.guards import untrusting_cursor

ROWS_PER_STRETCH: Final = 25_000
PARTS_MAX: Final = 1_000  # of one user's history
MEMORY: Final = "64MB"  # of each sort and join of a stretch


@dataclass(frozen=True)
class Problem:
    """The first row that breaks a rule. `number` is None for a balance."""

    rule: Rule
    user_id: int | None
    number: int | None
    row: dict[str, Any]

    def __str__(self) -> str:
        if self.rule in (HEAD, KEPT_SUMS):
            return str(self.row["said"])
        if self.rule in EVENT_RULES:
            return (
                f"Event {self.number} of {self.row['subject']} {self.row['subject_id']} breaks "
                f"{self.rule.guarantee}: it does not hold that {self.rule.says}."
            )
        if self.rule is CLOCK:
            clock, posted = (f"{self.row[it]:%Y-%m-%d %H:%M:%S} UTC" for it in ("clock", "posted"))
            return (
                f"The database's clock is wrong: it says {clock}, and transaction {self.number} of "
                f"user {self.user_id} was posted at {posted}. All rows are as they should be. "
                "Postings of such users are refused (clock_behind) until the clock is set right; "
                "then run this again."
            )
        if self.rule in (*GRANT_RULES, *USE_RULES):
            use = f"Use {self.row['place']} of grant" if self.rule in USE_RULES else "Grant"
            return (
                f"{use} {self.number} of user {self.user_id} breaks {self.rule.guarantee}: "
                f"it does not hold that {self.rule.says}."
            )
        if self.rule is FIGURES:
            return (
                f"Batch {self.number} breaks {self.rule.guarantee}: it does not hold that "
                f"{self.rule.says}."
            )
        what = "Balance" if self.number is None else f"Transaction {self.number}"
        return (
            f"{what} of user {self.user_id} breaks {self.rule.guarantee}: "
            f"it does not hold that {self.rule.says}."
        )


class Stretch(NamedTuple):
    """The users with IDs above `after`, up to `up_to`; None: no limit.

    Of a single user with a long history, only the transactions numbered above `above`, up to `to`.
    """

    after: int | None
    up_to: int | None
    transactions: int  # approximate, for progress
    above: int | None = None
    to: int | None = None

    @property
    def has_end(self) -> bool:
        """True if the end of the users' histories is in it."""
        return self.to is None

    def covers(self, column: str) -> str:
        """Returns an SQL condition on a column of user IDs."""
        limits = [f"{column} > {self.after}::bigint"] if self.after is not None else []
        limits += [f"{column} <= {self.up_to}::bigint"] if self.up_to is not None else []
        return " AND ".join(limits) or "true"

    def covers_number(self, column: str, *, and_one_before: bool = False) -> str:
        """Returns an SQL condition on a column of numbers. NULL belongs to the end."""
        limits = []
        if self.above is not None:
            more = f"{column} {'>=' if and_one_before else '>'} {self.above}::bigint"
            limits += [f"({more} OR {column} IS NULL)" if self.has_end else more]
        if self.to is not None:
            limits += [f"{column} <= {self.to}::bigint"]
        return " AND ".join(limits) or "true"


class Checked(NamedTuple):
    """The figures of one stretch, and its first problem, if any."""

    transactions: int
    users: int
    problem: Problem | None


def stretches(rows_per_stretch: int = ROWS_PER_STRETCH) -> list[Stretch]:
    """Divides all possible user IDs into stretches of about `rows_per_stretch` transactions.

    A longer history of one user is divided, too. Uses the numbers in the balances. A wrong balance
    makes a stretch longer or shorter, but leaves nothing out.
    """
    with untrusting_cursor() as cursor:
        cursor.execute(
            f"""
            SELECT max(user_id), sum(greatest(last_number, 0)) FROM (
                SELECT user_id, last_number, floor(
                    sum(greatest(last_number, 0) + 1) OVER (ORDER BY user_id) / {rows_per_stretch}
                ) AS part
                FROM public.billing_balance WHERE user_id IS NOT NULL
            ) parts GROUP BY part ORDER BY part
            """
        )
        parts = cursor.fetchall() or [(None, 0)]
    ends = [None, *(last for last, _ in parts[:-1]), None]
    found = [Stretch(ends[i], ends[i + 1], int(size or 0)) for i, (_, size) in enumerate(parts)]
    return divided(found, rows_per_stretch)


def divided(parts: list[Stretch], rows_per_stretch: int = ROWS_PER_STRETCH) -> list[Stretch]:
    """Divides users with more than `rows_per_stretch` transactions by their numbers."""
    with untrusting_cursor() as cursor:
        cursor.execute(
            "SELECT user_id, max(last_number) FROM public.billing_balance "
            f"WHERE last_number > {rows_per_stretch} AND user_id IS NOT NULL "
            "GROUP BY user_id ORDER BY user_id"
        )
        long_histories = dict(cursor.fetchall())
    return [each for part in parts for each in _divided(part, long_histories, rows_per_stretch)]


def _divided(part: Stretch, long_histories: dict[int, int], rows: int) -> Iterator[Stretch]:
    after, up_to, left = part[:3]
    for user_id, length in long_histories.items():
        is_before = after is not None and user_id <= after
        if is_before or (up_to is not None and user_id > up_to):
            continue
        if after is None or after < user_id - 1:
            yield Stretch(after, user_id - 1, 0)
        # Not too many parts, whatever number somebody wrote into the balance.
        step = max(rows, length // PARTS_MAX)
        ends = [None, *range(step, length, step), None]
        for above, to in pairwise(ends):
            yield Stretch(user_id - 1, user_id, min(step, length), above, to)
        after, left = user_id, max(left - length, 0)
    if after is None or after != up_to:
        yield Stretch(after, up_to, left)


def stretch_of(user_id: int) -> Stretch | None:
    """Returns the stretch of a single user; None if the user does not exist."""
    with untrusting_cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(max(b.last_number), 0) FROM public.users_user u "
            "LEFT JOIN public.billing_balance b ON b.user_id = u.id "
            f"WHERE u.id = {user_id}::bigint GROUP BY u.id"
        )
        found = cursor.fetchone()
    return None if found is None else Stretch(user_id - 1, user_id, found[0])


def check(parts: list[Stretch], *, processes: int = 1) -> Iterator[Checked]:
    """Checks the stretches, then what needs all of them together, then the clock.

    Stops after the first problem.
    """
    return in_order(tasks(parts), processes)


Task = Callable[[], Checked]


def tasks(parts: list[Stretch]) -> Iterator[Task]:
    """Yields the single checks of `check`."""
    yield from (partial(_check_stretch, stretch) for stretch in parts)
    all_of_them = Stretch(parts[0].after, parts[-1].up_to, 0)
    for ask in (nobodys, _same_id, _broken_event, wrong_figures, wrong_kept_sums, clock_behind):
        yield partial(ask_once, ask, all_of_them)


def in_order(checks: Iterable[Task], processes: int) -> Iterator[Checked]:
    """Yields the results in the order of the checks, and stops after the first problem.

    With several processes of the database, so many checks run at the same time, each on a
    connection of its own. The results are the same. Inside a database transaction there is only one
    connection: others would not see what is not yet committed.
    """
    if processes == 1 or connection.in_atomic_block:
        for task in checks:
            checked = task()
            yield checked
            if checked.problem:
                return
        return
    left, running = iter(checks), deque[Future[Checked]]()
    with ThreadPoolExecutor(processes) as pool:
        try:
            while True:
                for each in islice(left, 2 * processes - len(running)):
                    running.append(pool.submit(_on_its_own_connection, each))
                if not running:
                    return
                checked = running.popleft().result()
                yield checked
                if checked.problem:
                    return
        finally:
            for future in running:
                future.cancel()


def _on_its_own_connection(task: Task) -> Checked:
    try:
        return task()
    finally:
        connection.close()


def ask_once(ask: Callable[[CursorWrapper, Stretch], Problem | None], stretch: Stretch) -> Checked:
    with untrusting_cursor() as cursor:
        return Checked(0, 0, ask(cursor, stretch))


def _check_stretch(stretch: Stretch) -> Checked:
    with untrusting_cursor() as cursor:
        return _check(cursor, stretch)


def nobodys(cursor: CursorWrapper, stretch: Stretch) -> Problem | None:
    """Returns a row without a user: NULL is in no stretch."""
    if stretch.after is not None or stretch.up_to is not None:
        return None
    for table, number in (("billing_transaction", "number"), ("billing_balance", "NULL")):
        cursor.execute(f"SELECT {number} FROM public.{table} WHERE user_id IS NULL LIMIT 1")
        if found := cursor.fetchone():
            return Problem(HAS_USER, None, found[0], {})
    return None


def _same_id(cursor: CursorWrapper, stretch: Stretch) -> Problem | None:
    """Returns a transaction whose ID another one has, too, of any user."""
    ids = "true"
    if stretch.after is not None or stretch.up_to is not None:
        ids = f"id IN (SELECT id FROM public.billing_transaction WHERE {stretch.covers('user_id')})"
    cursor.execute(
        "SELECT id FROM (SELECT id, lag(id) OVER (ORDER BY id) AS before "
        f"FROM public.billing_transaction WHERE {ids}) ids "
        "WHERE id = before OR id IS NULL LIMIT 1"
    )
    if (found := cursor.fetchone()) is None:
        return None
    is_it = f"id = {found[0]}::bigint" if found[0] is not None else "id IS NULL"
    return problem_at(cursor, UNIQUE_ID, f"{is_it} AND {stretch.covers('user_id')}")


def _broken_event(cursor: CursorWrapper, stretch: Stretch) -> Problem | None:
    """Returns the first event that breaks a rule: of all subjects, or of a stretch of users."""
    limits = "true"
    if stretch.after is not None or stretch.up_to is not None:
        limits = f"subject = 'user' AND {stretch.covers('subject_id')}"
    return first_broken_event(cursor, judged_events(f"public.billing_event e WHERE {limits}"))


def judged_events(rows: str, also: str = "", only: str = "true") -> str:
    """Returns the same as `judged_transactions` for events, selected from `rows` as `e`."""
    return f"""(
        SELECT v.*, {place_of_first_broken(EVENT_RULES)} AS broken FROM (
            SELECT id, e.subject, e.subject_id, e.number, action, actor_id, channel, request_id,
                data, created_at, digest{also},
                lag(e.number) OVER w AS before_number,
                lag(created_at) OVER w AS before_at,
                lag(digest) OVER w AS before_digest
            FROM {rows}
            WINDOW w AS (PARTITION BY e.subject, e.subject_id ORDER BY e.number)
        ) v WHERE {only}
    ) judged"""


def first_broken_event(cursor: CursorWrapper, judged: str) -> Problem | None:
    cursor.execute(
        f"SELECT subject, subject_id, number, action, broken FROM {judged} "
        "WHERE broken IS NOT NULL ORDER BY subject, subject_id, number LIMIT 1"
    )
    if (found := cursor.fetchone()) is None:
        return None
    subject, subject_id, number, action, broken = found
    row = {"subject": subject, "subject_id": subject_id, "action": action}
    return Problem(EVENT_RULES[broken], None, number, row)


def wrong_figures(cursor: CursorWrapper, stretch: Stretch) -> Problem | None:
    """Returns the first batch whose figures are not those of its transactions."""
    if stretch.after is not None or stretch.up_to is not None:
        return None
    cursor.execute(
        """
        SELECT b.id FROM public.billing_batch b LEFT JOIN (
            SELECT batch_id, count(*) AS posted, sum(amount) AS real, sum(bonus_amount) AS bonus
            FROM public.billing_transaction WHERE batch_id IS NOT NULL GROUP BY batch_id
        ) t ON t.batch_id = b.id
        WHERE (b.posted, b.real, b.bonus) IS DISTINCT FROM
            (coalesce(t.posted, 0), coalesce(t.real, 0), coalesce(t.bonus, 0))
        ORDER BY b.id LIMIT 1
        """
    )
    found = cursor.fetchone()
    return None if found is None else Problem(FIGURES, None, found[0], {})


def wrong_kept_sums(cursor: CursorWrapper, stretch: Stretch) -> Problem | None:
    """Returns the first sum kept for the start page that is not that of the rows."""
    if stretch.after is not None or stretch.up_to is not None:
        return None
    said = turnovers.difference(cursor)
    return None if said is None else Problem(KEPT_SUMS, None, None, {"said": said})


def clock_behind(cursor: CursorWrapper, stretch: Stretch) -> Problem | None:
    """Returns the first transaction dated more than a day after the database's clock."""
    # The limit in a subquery of its own, so that an index by time can find the few beyond it.
    cursor.execute(
        "SELECT user_id, number, created_at, clock_timestamp() FROM public.billing_transaction "
        "WHERE created_at > (SELECT clock_timestamp() + interval '1 day') "
        f"AND {stretch.covers('user_id')} AND NOT ({CLOCK.holds}) "
        "ORDER BY created_at, user_id, number LIMIT 1"
    )
    found = cursor.fetchone()
    if found is None:
        return None
    user_id, number, created_at, clock = found
    return Problem(CLOCK, user_id, number, {"posted": created_at, "clock": clock})


def _check(cursor: CursorWrapper, stretch: Stretch) -> Checked:
    rows = judged_transactions(
        "public.billing_transaction t",
        _beside_all(stretch),
        where=f"{stretch.covers('t.user_id')} "
        f"AND {stretch.covers_number('t.number', and_one_before=True)}",
        only=stretch.covers_number("number"),
        also=_OF_GRANTS,
        common=_all_grants(stretch),
    )
    problems: list[Problem | None] = []
    with _joined_in_sets(cursor):
        of_rows = _summary_of_stretch(cursor, rows)
        has_grants_in_order = of_rows.has_grants_in_order and _has_uses_in_order(
            cursor, stretch, of_rows
        )
    if (bad_user := of_rows.bad_user) is not None:
        problems.append(first_broken(cursor, rows, bad_user, TRANSACTION_RULES))
    problems.append(actor_of_nowhere(cursor, stretch, of_rows.actors))
    if of_rows.reasons:
        problems.append(_unknown_reason(cursor, stretch, of_rows.reasons))
    if of_rows.batches:
        problems.append(_unknown_batch(cursor, stretch, of_rows.batches))
    if not has_grants_in_order:
        problems.append(broken_grant(cursor, judged_uses(stretch), USE_RULES))
        problems.append(broken_grant(cursor, judged_grants(stretch), GRANT_RULES))
    user_count = 0
    if stretch.has_end:
        problems.append(_key_used_twice(cursor, stretch))
        balances = judged_balances(stretch)
        user_count, bad_user = summary(cursor, balances)
        if bad_user is not None:
            problems.append(first_broken(cursor, balances, bad_user, BALANCE_RULES))
    found = [problem for problem in problems if problem is not None]
    return Checked(of_rows.transactions, user_count, min(found, key=place, default=None))


@contextmanager
def _joined_in_sets(cursor: CursorWrapper) -> Iterator[None]:
    """Has the planner join whole stretches at once, in memory, whatever it expects.

    Where statistics are missing or old, it expects one row and would go through all of the other
    side for each. Another stretch has the other processors.
    """
    cursor.execute(
        "SET LOCAL enable_nestloop = off; SET LOCAL max_parallel_workers_per_gather = 0;"
        f"SET LOCAL work_mem = '{MEMORY}'"
    )
    yield
    cursor.execute("SET LOCAL enable_nestloop = on")


class _Summary(NamedTuple):
    """What the transactions of a stretch come to, and what they refer to."""

    transactions: int
    bad_user: int | None
    has_grants_in_order: bool
    uses: int
    grants: int
    actors: list[int]
    reasons: list[str]
    batches: list[int]


def _summary_of_stretch(cursor: CursorWrapper, judged: str) -> _Summary:
    cursor.execute(
        # OFFSET 0: judges rows before it groups them, so that only a few columns may need sorting.
        "SELECT actor_id, reason_id, batch_id, count(*), min(user_id) FILTER (WHERE is_broken), "
        "bool_and(has_grants_in_order), sum(use_count), sum(grants) FROM ("
        "SELECT actor_id, reason_id, batch_id, user_id, broken IS NOT NULL AS is_broken, "
        f"({GRANTS_OF_TRANSACTION}) IS TRUE AS has_grants_in_order, use_count, grants "
        f"FROM {judged} OFFSET 0) judged GROUP BY actor_id, reason_id, batch_id"
    )
    found = cursor.fetchall()
    actors, reasons, batches, counts, bad, have_grants_in_order, uses, grants = (
        zip(*found, strict=True) if found else ((),) * 8
    )
    return _Summary(
        transactions=sum(counts),
        bad_user=min(_known(bad), default=None),
        has_grants_in_order=all(have_grants_in_order),
        uses=int(sum(uses)),
        grants=int(sum(grants)),
        actors=_known(actors),
        reasons=_known(reasons),
        batches=_known(batches),
    )


def _known(values: Iterable[Any]) -> list[Any]:
    return sorted({value for value in values if value is not None})


def _has_uses_in_order(cursor: CursorWrapper, stretch: Stretch, of_rows: _Summary) -> bool:
    """True if all uses follow each other, and each use and each grant has its transaction."""
    these = f"{stretch.covers('user_id')} AND {stretch.covers_number('number')}"
    out_of_order = "false"
    if stretch.has_end:
        rows = _uses_in_order(stretch)
        out_of_order = f"EXISTS (SELECT FROM {rows} WHERE ({USES_OF_GRANT}) IS NOT TRUE)"
    cursor.execute(
        f"SELECT (SELECT count(*) FROM public.billing_grantuse WHERE {these}), "
        f"(SELECT count(*) FROM public.billing_grant WHERE {these}), {out_of_order}"
    )
    uses, grants, is_out_of_order = cursor.fetchone()
    return not is_out_of_order and (uses, grants) == (of_rows.uses, of_rows.grants)


def _unknown_reason(cursor: CursorWrapper, stretch: Stretch, reasons: list[str]) -> Problem | None:
    cursor.execute("SELECT code FROM public.billing_reason")
    if set(reasons) <= {code for (code,) in cursor.fetchall()}:
        return None
    return reference_to_nothing(cursor, stretch, REASON, "reason_id", "reason", "code")


def _unknown_batch(cursor: CursorWrapper, stretch: Stretch, batches: list[int]) -> Problem | None:
    asked = f"'{{{','.join(map(str, batches))}}}'"
    cursor.execute(f"SELECT id FROM public.billing_batch WHERE id = ANY ({asked}::bigint[])")
    if set(batches) <= {found for (found,) in cursor.fetchall()}:
        return None
    return reference_to_nothing(cursor, stretch, BATCH, "batch_id", "batch", "id")


def place(problem: Problem) -> tuple[int, int, int]:
    """Returns a sort key: by user; the head, transactions by number, the balance, grants, …"""
    user_id = -1 if problem.user_id is None else problem.user_id
    kinds = (
        (HEAD,),
        TRANSACTION_RULES + SEPARATE_RULES,
        BALANCE_RULES[:-1],
        USE_RULES,
        GRANT_RULES,
    )
    kind = next((i for i, rules in enumerate(kinds) if problem.rule in rules), len(kinds))
    return user_id, kind, problem.number or 0


def judged_transactions(
    rows: str,
    beside: str,
    *,
    where: str = "true",
    also: str = "",
    only: str = "true",
    common: str = "",
) -> str:
    """Returns SQL for transactions with `broken`: the place of the first broken rule, or NULL.

    `rows` is what to select them from, as `t`; `beside` joins what `_BESIDE` names. Of these, only
    those for which `only` is true are judged; the others are only the rows before them. `also` adds
    columns, `common` what they come from (WITH).
    """
    # Named one by one, so that an added column cannot shift the others. Those that are read again
    # for the next row come first: a value is found by reading over those before it.
    others = (name for name in COLUMNS if name not in _READ_TWICE)
    columns = ", ".join(f"t.{name}" for name in (*_READ_TWICE, *others))
    return f"""({common}
        SELECT v.*, {place_of_first_broken(TRANSACTION_RULES)} AS broken FROM (
            SELECT {columns}{_BESIDE}{also},
                lag(t.number) OVER w AS before_number,
                lag(t.new_balance) OVER w AS before_balance,
                lag(t.new_bonus) OVER w AS before_bonus,
                lag(t.refilled) OVER w AS before_refilled,
                lag(t.bonus_refilled) OVER w AS before_bonus_refilled,
                lag(t.created_at) OVER w AS before_at,
                lag(t.digest) OVER w AS before_digest
            FROM {rows} {beside} WHERE {where}
            WINDOW w AS (PARTITION BY t.user_id ORDER BY t.number)
        ) v WHERE {only}
    ) judged"""


_READ_TWICE: Final = (
    *("user_id", "number", "created_at", "digest"),
    *("new_balance", "new_bonus", "refilled", "bonus_refilled"),
)

# What the rules need beside a transaction. Each is one row, whatever the tables hold.
_BESIDE: Final = ", b.grants_since, g.given, n.used, n.uses"
_GRANTS_SINCE: Final = "min(grants_since) AS grants_since FROM public.billing_balance"
_GIVEN: Final = "min(g.amount) AS given"
# Of uses in the order of their lines. (To sort them for each transaction takes much longer.)
_USES: Final = """sum(amount) AS used,
    string_agg(concat('["', grant_number, '", "', amount, '"]'), ', ') AS uses"""


def beside_each() -> str:
    """Returns SQL that looks up what is beside each transaction: for a few of many."""
    return f"""
        LEFT JOIN LATERAL (
            SELECT {_GRANTS_SINCE} WHERE user_id = t.user_id
        ) b ON true
        LEFT JOIN LATERAL (
            SELECT {_GIVEN} FROM public.billing_grant g
            WHERE g.user_id = t.user_id AND g.number = t.number
        ) g ON t.bonus_amount > 0
        LEFT JOIN LATERAL (
            SELECT {_USES} FROM (
                SELECT amount, grant_number FROM public.billing_grantuse
                WHERE user_id = t.user_id AND number = t.number ORDER BY line
            ) u
        ) n ON t.form = 2"""


# Of a grant or a use, for `GRANTS_OF_TRANSACTION`.
_OF_GRANTS: Final = """, coalesce(g.grants, 0) AS grants, g.expires_at, g.is_moved, g.moved_to,
    coalesce(n.use_count, 0) AS use_count, n.last_grant, n.least_use, n.most_use, n.first_expiry"""


def _beside_all(stretch: Stretch) -> str:
    """Returns SQL that joins the same, for whole stretches; and what `_OF_GRANTS` names."""
    return f"""
        LEFT JOIN (
            SELECT user_id, {_GRANTS_SINCE} WHERE {stretch.covers("user_id")} GROUP BY user_id
        ) b ON b.user_id = t.user_id
        LEFT JOIN all_grants g ON g.user_id = t.user_id AND g.number = t.number
        LEFT JOIN (
            SELECT user_id, number, {_USES}, count(*) AS use_count,
                max(grant_number) AS last_grant, min(amount) AS least_use, max(amount) AS most_use,
                min(expires_at) AS first_expiry
            FROM (
                SELECT u.user_id, u.number, u.amount, u.grant_number,
                    CASE WHEN g.is_moved THEN NULL ELSE g.expires_at END AS expires_at
                FROM public.billing_grantuse u
                LEFT JOIN all_grants g ON g.user_id = u.user_id AND g.number = u.grant_number
                WHERE {stretch.covers("u.user_id")} AND {stretch.covers_number("u.number")}
                ORDER BY u.user_id, u.number, u.line
            ) u GROUP BY user_id, number
        ) n ON n.user_id = t.user_id AND n.number = t.number"""


def _all_grants(stretch: Stretch) -> str:
    """Returns SQL for `all_grants` of a stretch, each with its expiry, and whether it was moved."""
    return f"""WITH all_grants AS MATERIALIZED (
        SELECT g.user_id, g.number, {_GIVEN}, count(*) AS grants, min(g.expires_at) AS expires_at,
            bool_or(moved.is_moved) AS is_moved, min(moved.moved_to) AS moved_to
        FROM public.billing_grant g LEFT JOIN (
            SELECT DISTINCT ON (e.subject_id, e.data ->> 'number') e.subject_id,
                e.data ->> 'number' AS number, true AS is_moved,
                timestamptz_in(textout(e.data ->> 'after'), 0, -1) AS moved_to
            FROM public.billing_event e
            WHERE e.subject = 'user' AND e.action = 'grant_expiry_changed'
                AND {stretch.covers("e.subject_id")}
            ORDER BY e.subject_id, e.data ->> 'number', e.number DESC
        ) moved ON moved.subject_id = g.user_id AND moved.number = textin(int8out(g.number))
        WHERE {stretch.covers("g.user_id")} GROUP BY g.user_id, g.number
    )"""


def _uses_in_order(stretch: Stretch) -> str:
    """Returns SQL for the uses of all grants, and grants without uses, for `USES_OF_GRANT`."""
    users = stretch.covers("user_id")
    return f"""(
        SELECT coalesce(u.user_id, g.user_id) AS user_id, g.number AS grant_number,
            g.amount AS granted, g.uses, g.remaining AS left_over,
            u.place, u.amount, u.remaining,
            lag(u.place) OVER w AS before_place, lag(u.remaining) OVER w AS before_remaining,
            lead(u.place) OVER w AS next_place
        FROM (SELECT * FROM public.billing_grantuse WHERE {users}) u
        FULL JOIN (SELECT * FROM public.billing_grant WHERE {users}) g
            ON g.user_id = u.user_id AND g.number = u.grant_number
        WINDOW w AS (
            PARTITION BY coalesce(u.user_id, g.user_id), coalesce(u.grant_number, g.number)
            ORDER BY u.place
        )
    ) uses"""


def judged_balances(stretch: Stretch) -> str:
    """Returns the same for balances, and for users without one."""
    return f"""(
        SELECT coalesce(u.id, b.user_id) AS user_id, NULL AS number,
            b.real, b.bonus, b.refilled, b.bonus_refilled, b.last_number, b.last_at, b.last_digest,
            {place_of_first_broken(BALANCE_RULES)} AS broken
        FROM (SELECT id FROM public.users_user WHERE {stretch.covers("id")}) u
        FULL JOIN (
            SELECT *, row_number() OVER (PARTITION BY user_id) AS place
            FROM public.billing_balance WHERE {stretch.covers("user_id")}
        ) b ON b.user_id = u.id
        LEFT JOIN LATERAL (
            SELECT * FROM public.billing_transaction x WHERE x.user_id = coalesce(u.id, b.user_id)
            ORDER BY x.number DESC LIMIT 1
        ) t ON true
    ) judged"""


# When a grant expires: as its transaction says or, if that was changed, the last event about it.
_EXPIRY_CHANGES: Final = """
    LEFT JOIN LATERAL (
        SELECT true AS is_moved,
            timestamptz_in(textout(e.data ->> 'after'), 0, -1) AS after
        FROM public.billing_event e
        WHERE e.subject = 'user' AND e.subject_id = g.user_id AND e.action = 'grant_expiry_changed'
            AND e.data ->> 'number' = textin(int8out(g.number))
        ORDER BY e.number DESC LIMIT 1
    ) moved ON true"""


def judged_uses(stretch: Stretch, only: str = "true") -> str:
    """Returns SQL for uses of grants with `broken`, and `grant_number` as their number.

    `only` is a condition on whole grants; it must not leave some uses of a grant out.
    """
    return f"""(
        SELECT v.*, {place_of_first_broken(USE_RULES)} AS broken FROM (
            SELECT u.user_id, u.grant_number, u.place, u.number, u.amount, u.remaining,
                g.amount AS grant_amount, g.expires_at, moved.is_moved,
                lag(u.place) OVER w AS before_place,
                lag(u.remaining) OVER w AS before_remaining
            FROM public.billing_grantuse u
            LEFT JOIN public.billing_grant g
                ON g.user_id = u.user_id AND g.number = u.grant_number
            {_EXPIRY_CHANGES}
            WHERE {stretch.covers("u.user_id")} AND {only}
            WINDOW w AS (PARTITION BY u.user_id, u.grant_number ORDER BY u.place)
        ) v
    ) judged"""


def judged_grants(stretch: Stretch, only: str = "true") -> str:
    """Returns the same for grants."""
    return f"""(
        SELECT v.*, v.number AS grant_number, {place_of_first_broken(GRANT_RULES)} AS broken
        FROM (
            SELECT g.user_id, g.number, g.amount, g.remaining, g.uses, g.expires_at,
                CASE WHEN moved.is_moved THEN moved.after ELSE t.bonus_expires_at END
                    AS said_expires_at,
                last.place AS last_place, last.remaining AS last_remaining
            FROM public.billing_grant g
            LEFT JOIN LATERAL (
                SELECT x.bonus_expires_at FROM public.billing_transaction x
                WHERE x.user_id = g.user_id AND x.number = g.number LIMIT 1
            ) t ON true
            LEFT JOIN LATERAL (
                SELECT u.place, u.remaining FROM public.billing_grantuse u
                WHERE u.user_id = g.user_id AND u.grant_number = g.number
                ORDER BY u.place DESC LIMIT 1
            ) last ON true
            {_EXPIRY_CHANGES}
            WHERE {stretch.covers("g.user_id")} AND {only}
        ) v
    ) judged"""


def broken_grant(cursor: CursorWrapper, judged: str, rules: tuple[Rule, ...]) -> Problem | None:
    """Returns the first grant, or use of a grant, that breaks a rule."""
    cursor.execute(
        f"SELECT * FROM {judged} WHERE broken IS NOT NULL ORDER BY user_id, grant_number LIMIT 1"
    )
    if (found := cursor.fetchone()) is None:
        return None
    assert cursor.description  # noqa: S101 - of a SELECT
    row = dict(zip([column.name for column in cursor.description], found, strict=True))
    rule = rules[row.pop("broken")]
    row.pop("number")
    return Problem(rule, row.pop("user_id"), row.pop("grant_number"), row)


def place_of_first_broken(rules: tuple[Rule, ...]) -> str:
    cases = (f"WHEN ({rule.holds}) IS NOT TRUE THEN {i}" for i, rule in enumerate(rules))
    return f"CASE {' '.join(cases)} END"


def summary(cursor: CursorWrapper, judged: str) -> tuple[int, int | None]:
    """Returns the number of rows, and the first user with a bad one."""
    cursor.execute(f"SELECT count(*), min(user_id) FILTER (WHERE broken IS NOT NULL) FROM {judged}")
    count, first_user = cursor.fetchone()
    return count, first_user


def summary_by_actor(cursor: CursorWrapper, judged: str) -> tuple[int, int | None, list[int]]:
    """Returns the same, and the actors of the rows."""
    cursor.execute(
        "SELECT actor_id, count(*), min(user_id) FILTER (WHERE broken IS NOT NULL) "
        f"FROM {judged} GROUP BY actor_id"
    )
    found = cursor.fetchall()
    bad_users = [user for _, _, user in found if user is not None]
    actors = sorted(actor for actor, _, _ in found if actor is not None)
    return sum(count for _, count, _ in found), min(bad_users, default=None), actors


def _key_used_twice(cursor: CursorWrapper, stretch: Stretch) -> Problem | None:
    cursor.execute(
        # From an index alone: it does not have the number.
        "SELECT user_id FROM public.billing_transaction "
        f"WHERE {stretch.covers('user_id')} AND idempotency_key IS NOT NULL "
        "GROUP BY user_id, idempotency_key HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
    )
    if (found := cursor.fetchone()) is None:
        return None
    [user_id] = found
    cursor.execute(
        "SELECT max(number) FROM public.billing_transaction "
        f"WHERE user_id = {user_id}::bigint AND idempotency_key IS NOT NULL "
        "GROUP BY idempotency_key HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
    )
    [number] = cursor.fetchone()
    return problem_at(
        cursor, UNIQUE_KEY, f"user_id = {user_id}::bigint AND number = {number}::bigint"
    )


def actor_of_nowhere(cursor: CursorWrapper, stretch: Stretch, actors: list[int]) -> Problem | None:
    if not actors:
        return None
    asked = f"'{{{','.join(map(str, actors))}}}'"
    cursor.execute(f"SELECT id FROM public.users_user WHERE id = ANY ({asked}::bigint[])")
    if not (nowhere := set(actors) - {found for (found,) in cursor.fetchall()}):
        return None
    asked = f"'{{{','.join(map(str, nowhere))}}}'"
    return problem_at(
        cursor, ACTOR, f"{stretch.covers('user_id')} AND actor_id = ANY ({asked}::bigint[])"
    )


def reference_to_nothing(  # noqa: PLR0917 - a table of two calls
    cursor: CursorWrapper, stretch: Stretch, rule: Rule, column: str, table: str, key: str
) -> Problem | None:
    """Returns the first transaction whose reason, or batch, does not exist."""
    cursor.execute(
        "SELECT user_id, number FROM public.billing_transaction t "
        f"WHERE {stretch.covers('t.user_id')} AND t.{column} IS NOT NULL AND NOT EXISTS ("
        f"SELECT FROM public.billing_{table} x WHERE x.{key} = t.{column}) "
        "ORDER BY 1, 2 LIMIT 1"
    )
    if (found := cursor.fetchone()) is None:
        return None
    user_id, number = found
    return problem_at(cursor, rule, f"user_id = {user_id}::bigint AND number = {number}::bigint")


def problem_at(cursor: CursorWrapper, rule: Rule, condition: str) -> Problem:
    """Returns the first transaction for which `condition` is true."""
    cursor.execute(
        f"SELECT {', '.join(COLUMNS)} FROM public.billing_transaction WHERE {condition} "
        "ORDER BY user_id, number LIMIT 1"
    )
    row = dict(zip(COLUMNS, cursor.fetchone(), strict=True))
    return Problem(rule, row.pop("user_id"), row.pop("number"), row)


def first_broken(
    cursor: CursorWrapper, judged: str, user_id: int, rules: tuple[Rule, ...]
) -> Problem:
    cursor.execute(
        f"SELECT * FROM {judged} WHERE user_id = {user_id}::bigint AND broken IS NOT NULL "
        "ORDER BY number LIMIT 1"
    )
    assert cursor.description  # noqa: S101 - of a SELECT
    names = [column.name for column in cursor.description]
    found = dict(zip(names, cursor.fetchone(), strict=True))
    row = {name: found[name] for name in dict.fromkeys((*COLUMNS, *names)) if name in found}
    rule = rules[row.pop("broken")]
    return Problem(rule, row.pop("user_id"), row.pop("number"), row)
