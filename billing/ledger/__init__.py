"""The ledger: the only writer of balances and transactions.

It knows users, amounts and descriptions; what a service or a subscription costs is decided in
`billing.plans`. Everything is posted by one database function, `billing_post` (`billing/sql/`).

Common to all functions that post:

- `actor` is the operator who caused the change, None the system itself; `channel` is the way it
  came in. Both are named every time.
- `idempotency_key`: the same key with the same content returns the first transaction, marked
  `replayed`, and changes nothing; with other content it raises IdempotencyConflict. Actor and
  channel are not part of the content: a repeated call by somebody else gets the transaction, too.
- `expected_number`: the number of the user's last transaction that the caller knows of. If there
  is a later one, BalanceMoved is raised.
- What is posted for a request (`for_request`) keeps the request's ID in its metadata.
- Refusals are BillingErrors (`billing/errors.py`). Nothing has changed then, and a surrounding
  `atomic` block goes on.

A transaction, once written, is never updated or deleted. To correct one, `reverse` it, or post
the difference.
"""

from billing.ledger.balances import (
    Balances,
    balance,
    balance_at,
    lock_balances,
    refuse_closed,
    refuse_if_moved,
)
from billing.ledger.entries import (
    CODE,
    LONGEST_TEXT,
    MAX_METADATA,
    OWN_KEYS,
    REQUEST_ID,
    Entry,
    Options,
    balance_change_entry,
    bonus_entry,
    callers_key,
    checked_amount,
    checked_device,
    checked_text,
    json_object,
    remainder_entry,
    reversal_entry,
    service_entry,
    shorten_description,
    subscription_entry,
    user_id_of,
)
from billing.ledger.moving import (
    MOVED_FROM,
    MOVED_TO,
    MovedPart,
    MovedPayment,
    is_movable,
    move,
    move_all,
)
from billing.ledger.posting import (
    Left,
    Posted,
    change_balance,
    current_request,
    dry_run,
    expire_due,
    expire_grants,
    for_request,
    give_bonus,
    left_of,
    paid_back_of,
    paid_back_of_number,
    post,
    post_batch,
    post_for_numbers,
    reverse,
    set_expiry,
)

__all__ = [
    "CODE",
    "LONGEST_TEXT",
    "MAX_METADATA",
    "MOVED_FROM",
    "MOVED_TO",
    "OWN_KEYS",
    "REQUEST_ID",
    "Balances",
    "Entry",
    "Left",
    "MovedPart",
    "MovedPayment",
    "Options",
    "Posted",
    "balance",
    "balance_at",
    "balance_change_entry",
    "bonus_entry",
    "callers_key",
    "change_balance",
    "checked_amount",
    "checked_device",
    "checked_text",
    "current_request",
    "dry_run",
    "expire_due",
    "expire_grants",
    "for_request",
    "give_bonus",
    "is_movable",
    "json_object",
    "left_of",
    "lock_balances",
    "move",
    "move_all",
    "paid_back_of",
    "paid_back_of_number",
    "post",
    "post_batch",
    "post_for_numbers",
    "refuse_closed",
    "refuse_if_moved",
    "remainder_entry",
    "reversal_entry",
    "reverse",
    "service_entry",
    "set_expiry",
    "shorten_description",
    "subscription_entry",
    "user_id_of",
]
