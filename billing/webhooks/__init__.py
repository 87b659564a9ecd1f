"""Tells other programs what happened, by HTTP: at least once, and in order for each user.

Triggers (`billing/sql/`) record an event in the same database transaction as what happened. This
package decides what is due (`deliveries`), makes signed messages (`messages`), sends them
(`sending`) to allowed addresses only (`network`), stores the results and decides about retries and
pauses (`results`), finds what operators should know (`watching`), tells of gifts that expire
soon (`expiring`) and deletes what is over (`cleanup`). For receivers: docs/webhooks.md.
"""

from billing.webhooks.cleanup import delete_old
from billing.webhooks.deliveries import (
    endpoints_to_wake,
    forget_failures,
    send_again,
    send_given_up_again,
    wake,
)
from billing.webhooks.expiring import tell_of_expiring
from billing.webhooks.messages import body_of, new_secret, sign
from billing.webhooks.network import Reply, check_url
from billing.webhooks.sending import send_due, send_test
from billing.webhooks.watching import (
    failing,
    given_up_lately,
    oldest_waiting,
    stalled_since,
    waiting,
)

__all__ = [
    "Reply",
    "body_of",
    "check_url",
    "delete_old",
    "endpoints_to_wake",
    "failing",
    "forget_failures",
    "given_up_lately",
    "new_secret",
    "oldest_waiting",
    "send_again",
    "send_due",
    "send_given_up_again",
    "send_test",
    "sign",
    "stalled_since",
    "tell_of_expiring",
    "waiting",
    "wake",
]
