"""Everything that can be done, one function each. Panel, APIs, commands and jobs call these.

An operation finds what it is about, locks it, does it, and leaves its record: the transaction that
it posts or, where that does not tell all, an event (`billing.events`). All of it is one database
transaction. Channels ask an operation and show what it returns; they find no customer, take no lock
and write no event by themselves.

Common to all of them:

- `actor` is the operator who asks, None the system itself; `channel` is the way it came in.
- With `dry_run=True` everything is done and undone again: the result is what would come of it now.
- `if_unchanged` is called with what was found, once it is locked and before anything is done. A
  channel that has shown it to somebody raises there if it is not the same any more.
- Refusals are BillingErrors (`billing/errors.py`). Nothing has changed then.
"""

from billing.operations import (
    configuration,
    customers,
    history,
    keys,
    money,
    staff,
    subscriptions,
    thresholds,
    webhook_endpoints,
)

__all__ = [
    "configuration",
    "customers",
    "history",
    "keys",
    "money",
    "staff",
    "subscriptions",
    "thresholds",
    "webhook_endpoints",
]
