"""Checks the ledger against a file of signed heads (`billing.ledger.heads`). Reads only.

`check_heads` looks for the last row of each chain in the file. A tail that was cut off or rewritten
does not have it any more, whatever else was adjusted.

`check_since` checks in addition what came after these rows, and only that: each chain from the row
in the file, whose digest it must have, on. Balances, grants of which something is left, and all
grants of users with new transactions are checked as a whole, since they change. What was wrong
before the heads were written, or was edited there since without new digests, is found only by the
whole check in `verification`. Like that one, this trusts nothing in the database.
"""
# ruff: noqa: S608 - all SQL here is put together from constants, whole numbers and hexadecimal

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import Final

from django.db.backends.utils import CursorWrapper

from billing.ledger.heads import Head, Heads
from billing.ledger.rules import (
    BALANCE_RULES,
    BATCH,
    GRANT_RULES,
    HEAD,
    REASON,
    TRANSACTION_RULES,
    UNIQUE_ID,
    UNIQUE_KEY,
    USE_RULES,
    Rule,
)
from billing.ledger.verification import (
    Checked,
    Problem,
    Stretch,
    Task,
    actor_of_nowhere,
    ask_once,
    beside_each,
    broken_grant,
    clock_behind,
    first_broken,
    first_broken_event,
    in_order,
    judged_balances,
    judged_events,
    judged_grants,
    judged_transactions,
    judged_uses,
    nobodys,
    place,
    problem_at,
    summary,
    summary_by_actor,
)
from billing.sql.guards import untrusting_cursor

HEADS_AT_ONCE: Final = 10_000
HIGHEST: Final = 2**63 - 1
LOWEST: Final = -(2**63)


def check_heads(heads: Heads, *, user_id: int | None = None) -> Iterator[Task]:
    """Yields the checks that each head's row is still there."""
    for subject, _, found in _parts(heads, user_id):
        yield partial(_compare, str(heads), subject, found)


def check_since(heads: Heads, *, processes: int, user_id: int | None = None) -> Iterator[Checked]:
    """Checks the heads and what came after them; stops after the first problem."""
    return in_order(_tasks_since(heads, user_id), processes)


def _tasks_since(heads: Heads, user_id: int | None) -> Iterator[Task]:
    subjects: set[str] = set()
    for subject, stretch, found in _parts(heads, user_id):
        if subject is None:
            yield partial(_check_users, str(heads), stretch, found)
        else:
            subjects.add(subject)
            yield partial(_check_events, str(heads), subject, stretch, found)
    everything = Stretch(None, None, 0)
    if user_id is None:
        yield partial(_check_other_events, subjects)
        yield partial(ask_once, nobodys, everything)
    else:
        everything = Stretch(user_id - 1, user_id, 0)
        if not subjects:
            yield partial(_check_events, str(heads), "user", everything, [])
    yield partial(ask_once, clock_behind, everything)


def _parts(heads: Heads, user_id: int | None) -> Iterator[tuple[str | None, Stretch, list[Head]]]:
    """Divides the heads, and with them all possible IDs, into stretches for each subject.

    The subject None, for transactions, is always there. With `user_id`, there is only that user.
    """
    if user_id is not None:
        mine = [head for head in heads if head.id == user_id and head.subject in (None, "user")]
        stretch = Stretch(user_id - 1, user_id, 0)
        yield None, stretch, [head for head in mine if head.subject is None]
        if events := [head for head in mine if head.subject is not None]:
            yield "user", stretch, events
        return
    has_users = False
    for subject, of_subject in groupby(heads, key=lambda head: head.subject):
        has_users = has_users or subject is None
        after: int | None = None
        waiting: list[Head] = []
        for head in of_subject:
            if len(waiting) == HEADS_AT_ONCE:
                up_to = waiting[-1].id
                yield subject, Stretch(after, up_to, 0), waiting
                after, waiting = up_to, []
            waiting.append(head)
        yield subject, Stretch(after, None, 0), waiting
    if not has_users:
        yield None, Stretch(None, None, 0), []


# --- The heads themselves -----------------------------------------------------------------------


def _compare(called: str, subject: str | None, heads: list[Head]) -> Checked:
    with untrusting_cursor() as cursor:
        return Checked(0, 0, _lost_head(cursor, called, subject, heads))


def _lost_head(
    cursor: CursorWrapper, called: str, subject: str | None, heads: list[Head]
) -> Problem | None:
    """Returns the first head whose row is not there, or has another digest."""
    if not heads:
        return None
    if subject is None:
        digests = (
            "SELECT t.digest FROM public.billing_transaction t "
            "WHERE t.user_id = h.id AND t.number = h.number LIMIT 1"
        )
        is_there = (
            "CASE h.number WHEN 0 THEN "
            "(SELECT true FROM public.users_user u WHERE u.id = h.id LIMIT 1) "
            f"ELSE ({digests}) = h.digest END"
        )
    else:
        digests = (
            f"SELECT e.digest FROM public.billing_event e WHERE e.subject = '{subject}' "
            "AND e.subject_id = h.id AND e.number = h.number LIMIT 1"
        )
        is_there = f"({digests}) = h.digest"
    cursor.execute(
        f"SELECT h.id, h.number, h.digest, ({digests}) "
        f"FROM {_head_rows(heads, with_digests=True)} "
        f"WHERE ({is_there}) IS NOT TRUE ORDER BY h.id LIMIT 1"
    )
    if (found := cursor.fetchone()) is None:
        return None
    chain_id, number, digest, digest_now = found
    whose = f"user {chain_id}" if subject is None else f"{subject} {chain_id}"
    kind = "Transaction" if subject is None else "Event"
    if number == 0:
        said = f"User {chain_id} is missing, but is in {called}."
        return Problem(HEAD, chain_id, None, {"said": said})
    what = f"{kind} {number} of {whose} breaks {HEAD.guarantee}"
    if digest_now is None:
        said = f"{what}: it is missing, but was the last one in {called}."
    else:
        said = f"{what}: its digest is not the one in {called}, in which it was the last one."
    row = {"said": said, "digest": digest_now, "digest in the file": digest}
    return Problem(HEAD, chain_id if subject is None else None, number, row)


def _head_rows(heads: Iterable[Head], *, with_digests: bool = False) -> str:
    """Returns SQL for a table `h` of the heads: `id`, `number` and, if asked for, `digest`."""
    heads = list(heads)
    ids = ",".join(str(head.id) for head in heads)
    numbers = ",".join(str(head.number) for head in heads)
    if not with_digests:
        return f"unnest('{{{ids}}}'::bigint[], '{{{numbers}}}'::bigint[]) h (id, number)"
    digests = ",".join(rf'"\\x{head.digest.hex()}"' for head in heads)
    return (
        f"unnest('{{{ids}}}'::bigint[], '{{{numbers}}}'::bigint[], '{{{digests}}}'::bytea[]) "
        "h (id, number, digest)"
    )


# --- What came after them -----------------------------------------------------------------------


def _known(stretch: Stretch, heads: list[Head]) -> str:
    """Returns SQL for a table `k` of users, each with the number from which to check."""
    starts = [head._replace(number=head.number or LOWEST) for head in heads]
    return f"""(
        SELECT users.id AS user_id, coalesce(h.number, '{LOWEST}'::bigint) AS number FROM (
            SELECT id FROM public.users_user WHERE {stretch.covers("id")}
            UNION SELECT user_id FROM public.billing_balance WHERE {stretch.covers("user_id")}
        ) users LEFT JOIN {_head_rows(starts)} ON h.id = users.id
    ) k"""


def _since(known: str, compare: str) -> str:
    """Returns SQL for the transactions `t` of the users, from the head on (>=) or after it (>).

    One user after the other by index: OFFSET keeps the planner from reading all rows instead.
    """
    return f"""{known} CROSS JOIN LATERAL (
        SELECT * FROM public.billing_transaction x
        WHERE x.user_id = k.user_id AND x.number {compare} k.number OFFSET 0
    ) t"""


def _check_users(called: str, stretch: Stretch, heads: list[Head]) -> Checked:
    known = _known(stretch, heads)
    rows = judged_transactions(
        _since(known, ">="),
        beside_each(),
        also=", k.number AS head_number",
        # The head's own row is only the one before the first new one.
        only="NOT (number = head_number AND before_number IS NULL)",
    )
    changed = f"""(
        SELECT k.user_id FROM {known} CROSS JOIN LATERAL (
            SELECT FROM public.billing_transaction x
            WHERE x.user_id = k.user_id AND x.number > k.number LIMIT 1
        ) new
    )"""
    balances = judged_balances(stretch)
    with untrusting_cursor() as cursor:
        problems = [_lost_head(cursor, called, None, heads)]
        row_count, bad_user, actors = summary_by_actor(cursor, rows)
        if bad_user is not None:
            problems.append(first_broken(cursor, rows, bad_user, TRANSACTION_RULES))
        new = _since(known, ">")
        problems.append(_first_new(cursor, new, UNIQUE_KEY, _KEY_ELSEWHERE))
        problems.append(_first_new(cursor, new, UNIQUE_ID, _ID_ELSEWHERE))
        problems.append(_first_new(cursor, new, REASON, _NO_REASON))
        problems.append(_first_new(cursor, new, BATCH, _NO_BATCH))
        problems.append(actor_of_nowhere(cursor, stretch, actors))
        problems.append(_of_nobody(cursor, stretch, known))
        are_changed = f"user_id IN {changed}"
        uses = judged_uses(stretch, f"u.{are_changed}")
        problems.append(broken_grant(cursor, uses, USE_RULES))
        grants = judged_grants(stretch, f"(g.remaining <> 0 OR g.{are_changed})")
        problems.append(broken_grant(cursor, grants, GRANT_RULES))
        user_count, bad_user = summary(cursor, balances)
        if bad_user is not None:
            problems.append(first_broken(cursor, balances, bad_user, BALANCE_RULES))
    found = [problem for problem in problems if problem is not None]
    return Checked(row_count, user_count, min(found, key=place, default=None))


_KEY_ELSEWHERE: Final = """EXISTS (
    SELECT FROM public.billing_transaction o WHERE o.user_id = t.user_id
        AND o.idempotency_key = t.idempotency_key AND o.number <> t.number
)"""
_ID_ELSEWHERE: Final = """t.id IS NULL OR (
    SELECT count(*) FROM public.billing_transaction o WHERE o.id = t.id
) > 1"""


_NO_REASON: Final = """t.reason_id IS NOT NULL AND NOT EXISTS (
    SELECT FROM public.billing_reason r WHERE r.code = t.reason_id
)"""
_NO_BATCH: Final = """t.batch_id IS NOT NULL AND NOT EXISTS (
    SELECT FROM public.billing_batch b WHERE b.id = t.batch_id
)"""


def _first_new(cursor: CursorWrapper, new: str, rule: Rule, condition: str) -> Problem | None:
    """Returns the first new transaction for which `condition` is true."""
    cursor.execute(
        f"SELECT t.user_id, t.number FROM {new} WHERE {condition} "
        "ORDER BY t.user_id, t.number LIMIT 1"
    )
    if (found := cursor.fetchone()) is None:
        return None
    user_id, number = found
    where = f"user_id = {user_id}::bigint AND number = {number}::bigint"
    return problem_at(cursor, rule, where)


def _of_nobody(cursor: CursorWrapper, stretch: Stretch, known: str) -> Problem | None:
    """Returns a transaction of a user ID that nobody has: in the gaps between the users' IDs."""
    start = LOWEST if stretch.after is None else stretch.after
    cursor.execute(
        f"""
        SELECT found.user_id FROM (
            SELECT ids.id, lead(ids.id) OVER (ORDER BY ids.id) AS next FROM (
                SELECT k.user_id AS id FROM {known}
                UNION ALL SELECT '{start}'::bigint
            ) ids
        ) gap CROSS JOIN LATERAL (
            SELECT t.user_id FROM public.billing_transaction t
            WHERE t.user_id > gap.id AND t.user_id < coalesce(gap.next, {HIGHEST})
                AND {stretch.covers("t.user_id")}
            ORDER BY t.user_id LIMIT 1
        ) found
        WHERE gap.next IS NULL OR gap.next > gap.id + 1
        ORDER BY found.user_id LIMIT 1
        """
    )
    if (found := cursor.fetchone()) is None:
        return None
    return problem_at(cursor, TRANSACTION_RULES[0], f"user_id = {found[0]}::bigint")


# --- Events -------------------------------------------------------------------------------------


def _check_events(called: str, subject: str, stretch: Stretch, heads: list[Head]) -> Checked:
    rows = f"""(
        SELECT e.*, h.number AS head_number
        FROM public.billing_event e LEFT JOIN {_head_rows(heads)} ON h.id = e.subject_id
        WHERE e.subject = '{subject}' AND {stretch.covers("e.subject_id")}
            AND e.number >= coalesce(h.number, '{LOWEST}'::bigint)
    ) e"""
    judged = judged_events(
        rows,
        also=", head_number",
        only="(number = head_number AND before_number IS NULL) IS NOT TRUE",
    )
    with untrusting_cursor() as cursor:
        problem = _lost_head(cursor, called, subject, heads)
        return Checked(0, 0, problem or first_broken_event(cursor, judged))


def _check_other_events(subjects: set[str]) -> Checked:
    """Checks the events of subjects that had none when the heads were written."""
    others = " AND ".join(f"subject <> '{subject}'" for subject in sorted(subjects)) or "true"
    with untrusting_cursor() as cursor:
        rows = judged_events(f"public.billing_event e WHERE {others}")
        return Checked(0, 0, first_broken_event(cursor, rows))
