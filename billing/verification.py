"""Re-computes the ledger's guarantees from its rows alone. Reads only; `manage.py verify_ledger`.

Everything is done by the database, in sets: each user's transactions are read once, in the order
of their numbers, each next to the one before it. Work goes by stretches of users, so that memory
stays bounded and progress can be shown. Each stretch is read as of one moment, so the panel may
go on working meanwhile.
"""
# ruff: noqa: S608 - all SQL here is put together from the constants below and whole numbers

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from billing.models import Balance
from billing.money import MAX_MONEY

ROWS_PER_STRETCH: Final = 200_000


class Rule(NamedTuple):
    """What must hold for each row, and the guarantee (docs/ledger.md) it belongs to.

    `holds` is SQL over the row and, as `before_…`, the user's row before it; NULL fails.
    """

    guarantee: str
    says: str
    holds: str


# In this order: the first one that a row breaks is reported. The digest comes last: it covers all
# of the row, so that it says least about what is wrong.
TRANSACTION_RULES: Final = (
    Rule(
        "G1",
        "its user has a balance",
        # Asked once for each user.
        "before_number IS NOT NULL OR "
        "(SELECT true FROM billing_balance b WHERE b.user_id = v.user_id LIMIT 1)",
    ),
    Rule(
        "G2",
        "numbers run 1, 2, 3, … without gaps",
        "number = coalesce(before_number, 0) + 1",
    ),
    Rule(
        "G2",
        "the old balances are the new balances of the transaction before it",
        "old_balance = coalesce(before_balance, 0) AND old_bonus = coalesce(before_bonus, 0)",
    ),
    Rule(
        "G2",
        "old balance and amount add up to the new balance, for both balances",
        "old_balance + amount = new_balance AND old_bonus + bonus_amount = new_bonus",
    ),
    Rule(
        "G2",
        "all refills so far are those before it and its own, for both balances",
        "refilled = coalesce(before_refilled, 0) + greatest(amount, 0) AND "
        "bonus_refilled = coalesce(before_bonus_refilled, 0) + greatest(bonus_amount, 0)",
    ),
    Rule(
        "G2",
        "it is not earlier than the transaction before it",
        "created_at >= coalesce(before_at, created_at)",
    ),
    Rule(
        "G2",
        "it is not from before this century",
        "created_at >= '2000-01-01Z'",
    ),
    Rule(
        "G4",
        "no balance is negative, out of range or not a number",
        f"new_balance BETWEEN 0 AND {MAX_MONEY} AND new_bonus BETWEEN 0 AND {MAX_MONEY}",
    ),
    Rule(
        "G4",
        "it changes something",
        "(amount, bonus_amount) <> (0, 0)",
    ),
    Rule(
        "G5",
        "what is paid with falls on the balances by the debit order",
        """CASE type
            WHEN 'bonus_charge' THEN amount = 0 AND bonus_amount > 0
            WHEN 'main_charge' THEN bonus_amount = 0 AND (amount > 0) = (subtype = 'remainder')
            WHEN 'tariff_charge' THEN amount <= 0 AND bonus_amount <= 0
                AND (amount = 0 OR new_bonus = 0)
            ELSE true
        END""",
    ),
    Rule(
        "G2",
        "a reversal, and nothing else, takes back one earlier transaction, whole and only once",
        # Scalar subqueries: they are asked for reversals only, and always through an index.
        """CASE type WHEN 'reversal' THEN reverses < number AND (
            SELECT o.type <> 'reversal' AND o.type = v.subtype
                AND (o.amount, o.bonus_amount) = (-v.amount, -v.bonus_amount)
            FROM billing_transaction o
            WHERE o.user_id = v.user_id AND o.number = v.reverses LIMIT 1
        ) AND (
            SELECT count(*) FROM billing_transaction o
            WHERE o.user_id = v.user_id AND o.reverses = v.reverses
        ) = 1
        ELSE reverses IS NULL END""",
    ),
    Rule(
        "G9",
        "its digest is that of its fields and the digest before it",
        "digest = billing_digest(entry, coalesce(before_digest, ''))",
    ),
)

# Asked last, and of no row: those of a clock that went back are as they should be.
CLOCK: Final = Rule(
    "G2",
    "the database's clock is at most a day behind it",
    "created_at <= clock_timestamp() + interval '1 day'",
)

BALANCE_RULES: Final = (
    Rule(
        "G1",
        "every user has a balance",
        "b.user_id IS NOT NULL",
    ),
    Rule(
        "G1",
        "every balance has its user",
        "u.id IS NOT NULL",
    ),
    Rule(
        "G1",
        "both balances are what the last transaction left; before the first, zero",
        "b.real = coalesce(t.new_balance, 0) AND b.bonus = coalesce(t.new_bonus, 0)",
    ),
    Rule(
        "G1",
        "number, time and refills so far are those of the last transaction",
        """(b.last_number, b.last_at, b.refilled, b.bonus_refilled) IS NOT DISTINCT FROM
        (coalesce(t.number, 0), t.created_at,
         coalesce(t.refilled, 0), coalesce(t.bonus_refilled, 0))""",
    ),
    Rule(
        "G9",
        "the last digest is that of the last transaction",
        "b.last_digest = coalesce(t.digest, '')",
    ),
)


@dataclass(frozen=True)
class Problem:
    """The first row that breaks a rule. `number` is None where it is a balance."""

    rule: Rule
    user_id: int
    number: int | None
    row: dict[str, Any]

    def __str__(self) -> str:
        if self.rule is CLOCK:
            clock, posted = (f"{self.row[it]:%Y-%m-%d %H:%M:%S} UTC" for it in ("clock", "posted"))
            return (
                f"The database's clock is wrong: it says {clock}, and transaction {self.number} of "
                f"user {self.user_id} was posted at {posted}. All rows are as they should be. "
                "Postings of such users are refused (clock_behind) until the clock is set right; "
                "then run this again."
            )
        what = "Balance" if self.number is None else f"Transaction {self.number}"
        return (
            f"{what} of user {self.user_id} breaks {self.rule.guarantee}: "
            f"it does not hold that {self.rule.says}."
        )


class Stretch(NamedTuple):
    """Users with IDs above `after`, up to `up_to`; None: without a limit."""

    after: int | None
    up_to: int | None
    transactions: int  # about as many as there are, for progress

    def covers(self, column: str) -> str:
        """A condition in SQL on a column of user IDs."""
        limits = [f"{column} > {self.after}"] if self.after is not None else []
        limits += [f"{column} <= {self.up_to}"] if self.up_to is not None else []
        return " AND ".join(limits) or "true"


class Checked(NamedTuple):
    """What one stretch held, and the first problem in it, if any."""

    transactions: int
    users: int
    problem: Problem | None


def stretches(rows_per_stretch: int = ROWS_PER_STRETCH) -> list[Stretch]:
    """All user IDs there can be, cut so that each stretch has about so many transactions.

    They are cut by what the balances say; a wrong balance makes a stretch longer or shorter, and
    leaves nothing out.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT max(user_id), sum(greatest(last_number, 0))::bigint FROM (
                SELECT user_id, last_number,
                    (sum(greatest(last_number, 0) + 1) OVER (ORDER BY user_id) / %s)::bigint AS part
                FROM billing_balance
            ) parts GROUP BY part ORDER BY part
            """,
            [rows_per_stretch],
        )
        parts = cursor.fetchall() or [(None, 0)]
    ends = [None, *(last for last, _ in parts[:-1]), None]
    return [Stretch(ends[i], ends[i + 1], size) for i, (_, size) in enumerate(parts)]


def stretch_of(user_id: int) -> Stretch:
    """One user alone."""
    sizes = Balance.objects.filter(pk=user_id).values_list("last_number", flat=True)
    return Stretch(user_id - 1, user_id, next(iter(sizes), 0))


def check(parts: list[Stretch]) -> Iterator[Checked]:
    """Checks stretch after stretch, and stops after the first one that has a problem; then the
    clock.
    """
    for stretch in parts:
        checked = _check(stretch)
        yield checked
        if checked.problem:
            return
    for stretch in parts:
        if problem := _clock_behind(stretch):
            yield Checked(0, 0, problem)
            return


def _clock_behind(stretch: Stretch) -> Problem | None:
    """The first transaction that the database's clock is more than a day behind."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT user_id, number, created_at, clock_timestamp() FROM billing_transaction "
            f"WHERE {stretch.covers('user_id')} AND NOT ({CLOCK.holds}) "
            "ORDER BY created_at, user_id, number LIMIT 1"
        )
        found = cursor.fetchone()
    if found is None:
        return None
    user_id, number, created_at, clock = found
    return Problem(CLOCK, user_id, number, {"posted": created_at, "clock": clock})


def _check(stretch: Stretch) -> Checked:
    rows, balances = _judged_transactions(stretch), _judged_balances(stretch)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL jit = off")  # would compile the queries anew each time
        row_count, bad_row_user = _summary(cursor, rows)
        user_count, bad_balance_user = _summary(cursor, balances)
        problem = None
        if bad_row_user is not None and bad_row_user <= (bad_balance_user or bad_row_user):
            problem = _first_problem(cursor, rows, bad_row_user, TRANSACTION_RULES)
        elif bad_balance_user is not None:
            problem = _first_problem(cursor, balances, bad_balance_user, BALANCE_RULES)
    return Checked(row_count, user_count, problem)


def _judged_transactions(stretch: Stretch) -> str:
    """Each transaction with the place of the first rule that it breaks as `broken`, or NULL."""
    return f"""(
        SELECT v.*, {_first_broken(TRANSACTION_RULES)} AS broken FROM (
            SELECT t.*, t AS entry,
                lag(number) OVER w AS before_number,
                lag(new_balance) OVER w AS before_balance,
                lag(new_bonus) OVER w AS before_bonus,
                lag(refilled) OVER w AS before_refilled,
                lag(bonus_refilled) OVER w AS before_bonus_refilled,
                lag(created_at) OVER w AS before_at,
                lag(digest) OVER w AS before_digest
            FROM billing_transaction t WHERE {stretch.covers("user_id")}
            WINDOW w AS (PARTITION BY user_id ORDER BY number)
        ) v
    ) judged"""


def _judged_balances(stretch: Stretch) -> str:
    """The same for balances, and for users without one."""
    return f"""(
        SELECT coalesce(u.id, b.user_id) AS user_id, NULL::bigint AS number,
            b.real, b.bonus, b.refilled, b.bonus_refilled, b.last_number, b.last_at, b.last_digest,
            {_first_broken(BALANCE_RULES)} AS broken
        FROM (SELECT id FROM users_user WHERE {stretch.covers("id")}) u
        FULL JOIN (SELECT * FROM billing_balance WHERE {stretch.covers("user_id")}) b
            ON b.user_id = u.id
        LEFT JOIN LATERAL (
            SELECT * FROM billing_transaction x WHERE x.user_id = coalesce(u.id, b.user_id)
            ORDER BY x.number DESC LIMIT 1
        ) t ON true
    ) judged"""


def _first_broken(rules: tuple[Rule, ...]) -> str:
    cases = (f"WHEN ({rule.holds}) IS NOT TRUE THEN {i}" for i, rule in enumerate(rules))
    return f"CASE {' '.join(cases)} END"


def _summary(cursor: CursorWrapper, judged: str) -> tuple[int, int | None]:
    """How many rows there are, and the first user that has a bad one."""
    cursor.execute(f"SELECT count(*), min(user_id) FILTER (WHERE broken IS NOT NULL) FROM {judged}")
    count, first_user = cursor.fetchone()
    return count, first_user


def _first_problem(
    cursor: CursorWrapper, judged: str, user_id: int, rules: tuple[Rule, ...]
) -> Problem:
    cursor.execute(
        f"SELECT * FROM {judged} WHERE user_id = {user_id} AND broken IS NOT NULL "
        "ORDER BY number LIMIT 1"
    )
    assert cursor.description  # noqa: S101 - of a SELECT
    names = [column.name for column in cursor.description]
    row = dict(zip(names, cursor.fetchone(), strict=True))
    row.pop("entry", None)
    rule = rules[row.pop("broken")]
    return Problem(rule, row.pop("user_id"), row.pop("number"), row)
