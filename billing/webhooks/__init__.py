"""Tells other programs what happened, by HTTP: at least once, and in order for each user.

What is to be told is noted by the database itself (`sql/functions/`), with what it
tells of. Here it is put into words and signed (`messages`), sent only where it may go (`network`),
and its deliveries are kept (`sending`); how that goes is told to operators (`watching`).
docs/webhooks.md tells receivers all of it.
"""

from billing.webhooks.messages import body_of, new_secret, sign
from billing.webhooks.network import Reply, check_url
from billing.webhooks.sending import (
    delete_old,
    endpoints_to_wake,
    send_again,
    send_due,
    send_given_up_again,
    send_test,
    start_anew,
    wake,
)
from billing.webhooks.watching import (
    failing,
    given_up_lately,
    oldest_waiting,
    unsent_since,
    waiting,
)

__all__ = [
    "Reply",
    "body_of",
    "check_url",
    "delete_old",
    "endpoints_to_wake",
    "failing",
    "given_up_lately",
    "new_secret",
    "oldest_waiting",
    "send_again",
    "send_due",
    "send_given_up_again",
    "send_test",
    "sign",
    "start_anew",
    "unsent_since",
    "waiting",
    "wake",
]
