"""Grants: what is left of which gift, when it expires, and what used it."""

from collections.abc import Sequence
from datetime import datetime

from django.db.models import F, Q

from billing.models import Grant, GrantUse, Transaction


def spendable_grants(user_id: int, now: datetime) -> Sequence[Grant]:
    """Returns what can be spent of a user's grants at `now`, in the order of spending."""
    return list(
        Grant.objects.filter(user=user_id, is_open=True)
        .filter(Q(expires_at=None) | Q(expires_at__gt=now))
        .order_by(F("expires_at").asc(nulls_last=True), "number")
    )


def grants_used(row: Transaction) -> Sequence[GrantUse]:
    """Returns what a transaction took from grants or, negative, gave back to them, in order."""
    return list(GrantUse.objects.filter(user=row.user_id, number=row.number).order_by("line"))


def grant_of(row: Transaction) -> Grant | None:
    """Returns the grant that a transaction gave, or the one that began with it."""
    return Grant.objects.filter(user=row.user_id, number=row.number).first()


def uses_of(grant: Grant, limit: int) -> Sequence[GrantUse]:
    """Returns up to `limit` uses of a grant, latest first."""
    uses = GrantUse.objects.filter(user=grant.user_id, grant_number=grant.number)
    return list(uses.order_by("-place")[:limit])
