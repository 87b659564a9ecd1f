"""What a reason adds to a balance change: its description, and the expiry of a bonus."""

from datetime import date, datetime
from typing import NamedTuple

from django.conf import settings

from billing.errors import ReasonRequired, UnknownReason
from billing.expiry import days_from_today, end_of_bonus
from billing.ledger.entries import checked_amount
from billing.models import Channel, Reason, Transaction
from billing.money import Amount


class Terms(NamedTuple):
    """A change's description and the moment at which its bonus expires; None: never."""

    description: str
    bonus_expires_at: datetime | None


def terms(
    reason: Reason | None,
    *,
    description: str,
    bonus_amount: Amount,
    bonus_expires_at: date | datetime | None,
) -> Terms:
    """Returns what a change says itself or, where it says nothing, what its reason says."""
    if reason is not None:
        description = description if description.strip() else reason.template
        if (
            bonus_expires_at is None
            and reason.bonus_days
            and checked_amount("bonus_amount", bonus_amount) > 0
        ):
            bonus_expires_at = days_from_today(reason.bonus_days)
    return Terms(description, end_of_bonus(bonus_expires_at))


def terms_of_repeat(said: Terms, user_id: int, key: str | None, *, is_said: bool) -> Terms:
    """Returns the terms of a change whose idempotency key may have been used before.

    An expiry that the reason sets (`is_said` is false) depends on the day. A repeated call gets
    that of the first one, so that it is the same change.
    """
    if is_said or key is None or said.bonus_expires_at is None:
        return said
    rows = Transaction.objects.filter(user=user_id, idempotency_key=key)
    first = rows.values_list("bonus_expires_at", flat=True).first()
    return said if first is None else said._replace(bonus_expires_at=first)


def by_code(code: str | None) -> Reason | None:
    """Returns the reason with this code; None for None. Raises UnknownReason."""
    if code is None:
        return None
    found = Reason.objects.filter(code=code).first()
    if found is None:
        raise UnknownReason(reason=code)
    return found


def of_wording(description: str) -> Reason | None:
    """Returns the reason whose wording somebody has typed as it stands, if it is still used."""
    return Reason.objects.filter(is_active=True, template=description).first()


def refuse_none(reason: str | None, channel: Channel) -> None:
    """Raises ReasonRequired for an operator's change without a reason, if the setting says so."""
    if reason is None and settings.REASON_REQUIRED and channel == Channel.PANEL:
        raise ReasonRequired
