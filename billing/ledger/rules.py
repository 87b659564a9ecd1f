"""The rules that `manage.py verify_ledger` checks on rows, in SQL without functions of ours.

`billing.sql.guards` checks the database's functions, triggers, constraints and rights.

`verification` applies them to each balance, transaction and event. Values are converted to text by
their types' own output functions, because anybody can create a cast.
"""
# ruff: noqa: S608 - all SQL here is put together from the constants below

from typing import Final, NamedTuple

from billing.descriptions import DESCRIPTION_MAX_LENGTH, DESCRIPTION_MIN_LENGTH
from billing.money import MAX_MONEY

COLUMNS: Final = (
    *("id", "user_id", "number", "type", "subtype", "description", "device"),
    *("amount", "old_balance", "new_balance", "bonus_amount", "old_bonus", "new_bonus"),
    *("refilled", "bonus_refilled", "created_at", "actor_id", "channel", "idempotency_key"),
    *("reverses", "metadata", "digest", "payment_date", "bonus_expires_at", "form"),
    *("reason_id", "batch_id"),
)
AMOUNTS: Final = COLUMNS[7:15]


def _texts(writer: str, *columns: str) -> str:
    """Returns SQL that converts columns to text by their type's output function, without a cast."""
    return ", ".join(f"textin({writer}({column}))" for column in columns)


# The canonical forms of docs/ledger.md, put together from texts: `json_build_array` takes twice the
# time. For rows `v` beside the previous row that keep the rules before this one. So types, subtypes
# and channels need no escaping, and only what may be missing is missing. `concat` and `concat_ws`
# write a value by its type's output function, and skip NULL.


def _moment(column: str) -> str:
    """Returns SQL that writes a moment in UTC."""
    return f"""to_char({column} AT TIME ZONE INTERVAL '0', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


def _digest(form: str) -> str:
    return f"sha256(convert_to({form}, 'UTF8'))"


# What a transaction of form 2 says in addition, as `jsonb` orders it. `uses`: see `USES`.
_FURTHER: Final = f"""concat('{{', concat_ws(', ',
    '"uses": [' || uses || ']',
    '"batch": "' || {_texts("int8out", "batch_id")} || '"',
    '"reason": ' || textin(json_out(to_json(reason_id))),
    '"payment_date": "' || {_texts("date_out", "payment_date")} || '"',
    '"bonus_expires_at": "' || {_moment("bonus_expires_at")} || '"'
), '}}')"""
_FORM: Final = f"""concat(
    '["', concat_ws('", "', encode(coalesce(before_digest, ''), 'hex'),
        id, user_id, number, type, subtype),
    '", ', to_json(description), ', ', to_json(device),
    ', "', concat_ws('", "', {", ".join(AMOUNTS)}, {_moment("created_at")}),
    CASE WHEN actor_id IS NULL THEN '", null, "' ELSE concat('", "', actor_id, '", "') END,
    channel, '", ', coalesce(to_json(idempotency_key), 'null'),
    CASE WHEN reverses IS NULL THEN ', null, ' ELSE concat(', "', reverses, '", ') END,
    to_json(concat(metadata)),
    CASE form WHEN 2 THEN concat(', ', to_json({_FURTHER})) END, ']')"""
DIGEST: Final = _digest(_FORM)


def _at_most(length: int, column: str) -> str:
    """Returns SQL for the most characters of a text: no more than its bytes, which are known."""
    return f"(octet_length({column}) <= {length} OR char_length({column}) <= {length})"


# Without counting, where the text begins with no space and goes on at least as far as needed.
_LONG_ENOUGH: Final = f"""CASE
    WHEN ascii(description) <> 32
        AND substr(description, {DESCRIPTION_MIN_LENGTH}, 1) NOT IN ('', ' ') THEN true
    ELSE char_length(btrim(description)) >= {DESCRIPTION_MIN_LENGTH} END"""


class Rule(NamedTuple):
    """A condition on each row, and the guarantee (docs/ledger.md) that it checks.

    `holds` is SQL over the row and its user's previous row (`before_…`); NULL fails. Beside a
    transaction, `verification` puts `grants_since` of the balance, `given`, the amount of the grant
    that it gave, `used`, the sum of its uses of grants, and `uses`, how its digest has them.
    """

    guarantee: str
    says: str
    holds: str = "true"  # SEPARATE_RULES are checked by queries of their own


# The first rule that a row breaks is reported. The digest is last: it covers the whole row, so it
# says least about what is wrong.
TRANSACTION_RULES: Final = (
    Rule(
        "G1",
        "its user has a balance",
        "grants_since IS NOT NULL",
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
        "amount <> 0 OR bonus_amount <> 0",
    ),
    Rule(
        "G4",
        "its amounts and balances have four decimals",
        " AND ".join(f"scale({each}) = 4" for each in AMOUNTS),
    ),
    Rule(
        "G4",
        "its texts have their lengths, and none that has to be there is missing",
        f"{_LONG_ENOUGH} AND {_at_most(DESCRIPTION_MAX_LENGTH, 'description')} "
        f"AND {_at_most(100, 'device')} AND {_at_most(32, 'subtype')} "
        f"AND (idempotency_key IS NULL OR {_at_most(100, 'idempotency_key')}) "
        "AND metadata IS NOT NULL",
    ),
    Rule(
        "G8",
        "its type, subtype and channel are codes that there are",
        "type IN ('payment', 'bonus_charge', 'bonus_expiry', 'main_charge', 'tariff_charge', "
        "'reversal') AND channel IN ('panel', 'api', 'charging', 'import', 'system') "
        "AND subtype ~ '^[a-z][a-z0-9_]*$'",
    ),
    Rule(
        "G5",
        "what is paid with falls on the balances by the debit order",
        """CASE type
            WHEN 'bonus_charge' THEN amount = 0 AND bonus_amount > 0
            WHEN 'bonus_expiry' THEN amount = 0 AND bonus_amount < 0
            WHEN 'main_charge' THEN bonus_amount = 0 AND (amount > 0) = (subtype = 'remainder')
            WHEN 'tariff_charge' THEN amount <= 0 AND bonus_amount <= 0
                AND (amount = 0 OR new_bonus = 0)
            ELSE true
        END""",
    ),
    Rule(
        "G2",
        "a reversal, and nothing else, takes back from one earlier transaction, together never "
        "more than all of it",
        # Scalar subqueries run for reversals only, and always use an index.
        """CASE type WHEN 'reversal' THEN reverses < number AND (
            SELECT o.type NOT IN ('reversal', 'bonus_expiry') AND o.type = v.subtype
                AND o.amount * v.amount <= 0 AND o.bonus_amount * v.bonus_amount <= 0
                AND (
                    SELECT abs(o.amount) >= abs(sum(r.amount))
                        AND abs(o.bonus_amount) >= abs(sum(r.bonus_amount))
                    FROM public.billing_transaction r
                    WHERE r.user_id = v.user_id AND r.reverses = v.reverses
                        AND r.number <= v.number
                )
            FROM public.billing_transaction o
            WHERE o.user_id = v.user_id AND o.number = v.reverses LIMIT 1
        )
        ELSE reverses IS NULL END""",
    ),
    Rule(
        "G8",
        "its dates are those of payments and of added bonuses, its reason that of a change or "
        "reversal, and its form has a place for them",
        """form IN (1, 2) AND (payment_date IS NULL OR form = 2 AND type = 'payment'
            AND payment_date >= date_in('2000-01-01'))
        AND (bonus_expires_at IS NULL OR form = 2 AND bonus_amount > 0
            AND type IN ('payment', 'bonus_charge') AND bonus_expires_at > created_at)
        AND (reason_id IS NULL OR form = 2 AND type IN ('payment', 'bonus_charge', 'reversal'))
        AND (batch_id IS NULL OR form = 2)""",
    ),
    Rule(
        "G11",
        "what it adds to the bonus is a grant or goes back to grants, and what it takes comes "
        "from grants",
        """CASE WHEN bonus_amount = 0 OR number <= grants_since THEN true
        WHEN bonus_amount > 0 AND (type <> 'reversal' OR form = 1) THEN given = bonus_amount
        ELSE form = 2 AND used = -bonus_amount END""",
    ),
    Rule(
        "G9",
        "its digest is that of its fields and the digest before it",
        f"digest = {DIGEST}",
    ),
)

# These need more than a row and the one before it, so they are checked separately.
UNIQUE_KEY: Final = Rule("G6", "no other transaction of the user has its idempotency key")
ACTOR: Final = Rule("G8", "its actor is somebody who exists")
REASON: Final = Rule("G8", "its reason is one that there is")
BATCH: Final = Rule("G8", "its batch is one that there is")
FIGURES: Final = Rule("G8", "its figures are those of its transactions")
UNIQUE_ID: Final = Rule("G2", "no other transaction has its ID")
HAS_USER: Final = Rule("G1", "it says whose it is")
SEPARATE_RULES: Final = (UNIQUE_KEY, ACTOR, REASON, BATCH, UNIQUE_ID, HAS_USER)

# For the events of a subject, like `TRANSACTION_RULES` for the transactions of a user.
EVENT_DIGEST: Final = _digest(
    f"""concat(
    '["', concat_ws('", "', encode(coalesce(before_digest, ''), 'hex'), id),
    '", ', to_json(subject), ', "', subject_id, '", "', number, '", ', to_json(action),
    CASE WHEN actor_id IS NULL THEN ', null, ' ELSE concat(', "', actor_id, '", ') END,
    to_json(channel), ', ', coalesce(to_json(request_id), 'null'),
    ', "', {_moment("created_at")}, '", ', to_json(concat(data)), ']')"""
)
# How such an event `e` is listed.
_LISTED: Final = f"""jsonb_build_object(
    'number', e.number, 'digest', encode(e.digest, 'hex'),
    'sha256', encode(sha256(convert_to({_texts("jsonb_out", "e.data")}, 'UTF8')), 'hex'))"""
# The event `v` is what is left after its personal data was erased: a later event of the user, who
# was forgotten, lists its number, its digest, and the SHA-256 of its present data.
_ERASED: Final = f"""(
    SELECT e.action = 'noted'
        AND e.data ->> 'name' IS NULL AND e.data ->> 'message' IS NULL
    FROM public.billing_event e
    JOIN public.billing_event f ON f.subject = e.subject AND f.subject_id = e.subject_id
    JOIN public.users_user u ON u.id = f.subject_id
    WHERE e.subject = 'user' AND e.subject_id = v.subject_id AND e.number = v.number
        AND f.number > v.number AND f.action = 'forgotten' AND u.forgotten_at IS NOT NULL
        AND f.data -> 'events' @> jsonb_build_array({_LISTED})
    LIMIT 1
)"""
# The event `v` that says so lists exactly the events before it whose digest is not theirs.
_FORGOTTEN: Final = f"""(
    SELECT v.subject = 'user' AND u.forgotten_at IS NOT NULL AND NOT u.is_active
        AND v.data = jsonb_build_object('events', coalesce((
            SELECT jsonb_agg({_LISTED} ORDER BY e.number)
            FROM (
                SELECT x.*, lag(x.digest) OVER (ORDER BY x.number) AS before_digest
                FROM public.billing_event x
                WHERE x.subject = v.subject AND x.subject_id = v.subject_id
            ) e WHERE e.number < v.number AND e.digest <> {EVENT_DIGEST}
        ), jsonb_build_array()))
        AND NOT EXISTS (
            SELECT FROM public.billing_event e
            WHERE e.subject = v.subject AND e.subject_id = v.subject_id
                AND e.action = 'forgotten' AND e.number < v.number
        )
    FROM public.users_user u WHERE u.id = v.subject_id LIMIT 1
)"""
EVENT_RULES: Final = (
    Rule(
        "G2",
        "numbers of a subject's events run 1, 2, 3, … without gaps",
        "number = coalesce(before_number, 0) + 1",
    ),
    Rule(
        "G2",
        "it is not earlier than the event before it",
        "created_at >= coalesce(before_at, created_at)",
    ),
    Rule(
        "G8",
        "its actor is somebody who exists",
        "actor_id IS NULL OR "
        "(SELECT true FROM public.users_user u WHERE u.id = v.actor_id LIMIT 1)",
    ),
    Rule(
        "G9",
        "its digest is that of its fields and the digest before it, or its personal data was "
        "erased, as a later event records",
        f"CASE WHEN digest = {EVENT_DIGEST} THEN true ELSE {_ERASED} END",
    ),
    Rule(
        "G9",
        "it says of a forgotten user, once, which events were erased",
        f"action <> 'forgotten' OR {_FORGOTTEN}",
    ),
)

# Checked last: rows written before the clock went back are correct themselves.
CLOCK: Final = Rule(
    "G2",
    "the database's clock is at most a day behind it",
    "created_at <= clock_timestamp() + interval '1 day'",
)

# Of a file of signed heads (billing.ledger.heads): without one, nothing says how far a chain went.
HEAD: Final = Rule("G3", "the last row of each chain in the heads file is there, as it was")

# Of what is kept for the start page (billing.ledger.turnovers).
KEPT_SUMS: Final = Rule("G10", "sums that are kept are those of the transactions and users")

# For the uses of a grant, like `TRANSACTION_RULES` for the transactions of a user.
USE_RULES: Final = (
    Rule("G11", "its grant exists", "grant_amount IS NOT NULL"),
    Rule(
        "G2",
        "uses of a grant run 1, 2, 3, … without gaps",
        "place = coalesce(before_place, 0) + 1",
    ),
    Rule(
        "G11",
        "what was left of the grant less its amount is what is left, from nothing to all of it",
        "remaining = coalesce(before_remaining, grant_amount) - amount "
        "AND remaining BETWEEN 0 AND grant_amount AND amount <> 0",
    ),
    Rule(
        "G11",
        "its transaction, later than the grant, took it from the bonus balance or gave it back",
        """(
            SELECT sign(t.bonus_amount) = -sign(v.amount) AND t.form = 2 AND (
                t.created_at < v.expires_at OR v.expires_at IS NULL OR v.is_moved
                OR t.type IN ('bonus_expiry', 'reversal')
            ) FROM public.billing_transaction t
            WHERE t.user_id = v.user_id AND t.number = v.number AND t.number > v.grant_number
            LIMIT 1
        )""",
    ),
)

# All that USE_RULES and GRANT_RULES say, as two conditions that look up nothing for each row: on a
# transaction beside its grant and the sums of its uses, and on a use beside its grant. Where one
# does not hold, the rules say what is wrong.
GRANTS_OF_TRANSACTION: Final = """CASE WHEN grants = 0 THEN true
        WHEN expires_at IS DISTINCT FROM CASE WHEN is_moved THEN moved_to ELSE bonus_expires_at END
        THEN false
        WHEN number = grants_since THEN new_bonus = given
        ELSE number > grants_since AND bonus_amount = given END
    AND CASE WHEN use_count = 0 THEN true ELSE form = 2 AND number > last_grant
        AND CASE WHEN bonus_amount < 0 THEN least_use > 0
            WHEN bonus_amount > 0 THEN most_use < 0 END
        AND (created_at < first_expiry OR first_expiry IS NULL
            OR type IN ('bonus_expiry', 'reversal')) END"""
USES_OF_GRANT: Final = """grant_number IS NOT NULL
    AND CASE WHEN place IS NULL THEN uses = 0 AND left_over = granted
        ELSE place = coalesce(before_place, 0) + 1
            AND remaining = coalesce(before_remaining, granted) - amount
            AND remaining BETWEEN 0 AND granted AND amount <> 0
            AND (next_place IS NOT NULL OR uses = place AND left_over = remaining) END"""

GRANT_RULES: Final = (
    Rule(
        "G11",
        "a transaction gave it, or it is the bonus with which the user's grants began",
        """(
            SELECT CASE WHEN t.number = b.grants_since THEN t.new_bonus = v.amount
                ELSE t.number > b.grants_since AND t.bonus_amount = v.amount END
            FROM public.billing_transaction t
            JOIN public.billing_balance b ON b.user_id = t.user_id
            WHERE t.user_id = v.user_id AND t.number = v.number LIMIT 1
        )""",
    ),
    Rule(
        "G11",
        "what remains of it is what its last use left",
        "(uses, remaining) = (coalesce(last_place, 0), coalesce(last_remaining, amount))",
    ),
    Rule(
        "G11",
        "it expires when its transaction says or, if that was changed, the last such event",
        "expires_at IS NOT DISTINCT FROM said_expires_at",
    ),
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
        "no user has two",
        "b.place = 1",
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
    Rule(
        "G4",
        "its amounts have four decimals",
        "scale(b.real) = 4 AND scale(b.bonus) = 4 "
        "AND scale(b.refilled) = 4 AND scale(b.bonus_refilled) = 4",
    ),
    Rule(
        "G11",
        "what remains of the user's grants is the bonus balance",
        """b.bonus = coalesce((
            SELECT sum(g.remaining) FROM public.billing_grant g WHERE g.user_id = b.user_id
        ), 0)""",
    ),
)
