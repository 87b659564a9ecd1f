"""Changing when a gift of bonus money expires."""

from datetime import date, datetime

from django.utils import timezone

from billing import events, ledger, representations
from billing.errors import InvalidExpiry, UnknownGrant
from billing.expiry import end_of_bonus
from billing.models import Channel, Grant, Subject
from billing.operations._common import one_transaction
from billing.operations.customers import customer_id
from users.models import User


def change_expiry(
    user_id: int,
    number: int,
    expires_at: date | datetime | None,
    *,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
) -> Grant:
    """Extends or cuts the time of a gift that is not used up; None: it never expires.

    A day is the last one, in the installation's time zone. Raises UnknownUser, UnknownGrant for a
    gift of which nothing is left, and InvalidExpiry for a time in the past. Records nothing if
    nothing changes.
    """
    until = end_of_bonus(expires_at)
    customer_id(user_id)
    with one_transaction(dry_run=dry_run):
        ledger.lock_balances([user_id])
        ledger.expire_grants([user_id])
        grant = Grant.objects.filter(user=user_id, number=number, is_open=True).first()
        if grant is None:
            raise UnknownGrant(number=number)
        if until is not None and until <= timezone.now():
            raise InvalidExpiry(reason="past")
        if until != grant.expires_at:
            events.record(
                Subject.USER,
                user_id,
                "grant_expiry_changed",
                actor=actor,
                channel=channel,
                number=number,
                left=str(grant.remaining),
                before=grant.expires_at and representations.moment(grant.expires_at),
                after=until and representations.moment(until),
            )
            ledger.set_expiry(user_id, number, until)
            grant.expires_at = until
    return grant
