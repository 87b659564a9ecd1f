"""Operations: one function for each thing that can be done. All channels call these.

An operation finds its subject, locks it, acts, and leaves its record: the transaction that it posts
or, if that does not tell everything, an event (`billing.events`). All of this is one database
transaction. Channels call operations and show what they return. They do not look for customers,
take locks or write events themselves.

Common to all of them:

- `actor` is the operator who asks; None is the system. `channel` is the way the request came in.
- With `dry_run=True`, everything is done and rolled back: the result is what would happen now.
- `if_unchanged` is called with the locked subject before anything is done. A channel raises there
  if the subject is no longer as it was shown to somebody.
- Refusals are BillingErrors (`billing/errors.py`) and change nothing.
"""

from billing.operations import (
    batches,
    bonus,
    configuration,
    customers,
    duplicates,
    exports,
    forgetting,
    history,
    keys,
    money,
    reasons,
    staff,
    subscriptions,
    thresholds,
    vouchers,
    webhook_endpoints,
)

__all__ = [
    "batches",
    "bonus",
    "configuration",
    "customers",
    "duplicates",
    "exports",
    "forgetting",
    "history",
    "keys",
    "money",
    "reasons",
    "staff",
    "subscriptions",
    "thresholds",
    "vouchers",
    "webhook_endpoints",
]
