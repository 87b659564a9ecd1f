"""Lists of subscriptions of all users, and whether a service was ever charged."""

from dataclasses import dataclass

from django.db.models import Q, QuerySet

from billing.models import Subscription, Transaction, TransactionType
from users.search import found_by


@dataclass(frozen=True, kw_only=True)
class SubscriptionListing:
    """Which subscriptions a list shows: its filters. Every word of `text` has to match."""

    plan_id: int | None = None
    status: str = ""  # "live": active or suspended
    cycle: str = ""
    text: str = ""

    @property
    def rows(self) -> QuerySet[Subscription]:
        rows = Subscription.objects.select_related("user", "plan")
        if self.plan_id is not None:
            rows = rows.filter(plan=self.plan_id)
        if self.cycle:
            rows = rows.filter(plan__cycle=self.cycle)
        if self.status == "live":
            rows = rows.live()
        elif self.status:
            rows = rows.filter(status=self.status)
        return rows.filter(subscriptions_with(self.text))


def subscriptions_with(text: str) -> Q:
    """Returns a condition: every word is found in the name of the device or in its user."""
    return found_by(text, "user", beside=lambda word: Q(device__icontains=word.typed))


def was_charged(service_code: str) -> bool:
    """Returns whether any user was ever charged for a service. May read all transactions."""
    return Transaction.objects.filter(type=TransactionType.SERVICE, subtype=service_code).exists()
