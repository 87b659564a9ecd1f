"""Erasing the personal data of users who have left. What the ledger says stays."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import QuerySet
from django.utils import timezone

from billing import answers, events, ledger
from billing.errors import ForgottenUser, NotClosed
from billing.models import Channel, Event, Subscription, WebhookAttempt
from billing.operations import exports
from billing.operations._common import one_transaction
from billing.operations.customers import lock
from users.models import User

# The texts that are not about the person.
KEPT: Final = frozenset({"email", "first_name", "last_name", "legal_type"})


@dataclass(frozen=True)
class Forgotten:
    """A user, and the duplicates forgotten with them; the events, that of the user first."""

    user: User
    duplicates: tuple[User, ...]
    events: tuple[Event, ...]

    @property
    def sentence(self) -> str:
        return events.sentence(self.events[0])


def forget(
    user_id: int, *, actor: User | None, channel: Channel, dry_run: bool = False
) -> Forgotten:
    """Erases the personal data of a user and of the user's duplicates, for good.

    Erased are the profile, stored answers of the API about the user, exports that may name the
    user, what receivers of webhooks answered, and what events and the log before them say about the
    person. Transactions stay as they are, with their descriptions.

    Raises UnknownUser, ForgottenUser if it was done before, and NotClosed unless the user is
    deactivated, has no money, and all subscriptions have ended.
    """
    with one_transaction(dry_run=dry_run):
        ids = sorted({user_id, *duplicates_of(user_id).values_list("pk", flat=True)})
        users = {each: lock(each) for each in ids}
        user = users.pop(user_id)
        if user.forgotten_at is not None:
            raise ForgottenUser(user_id=user.pk)
        ledger.lock_balances([user.pk, *users])
        ledger.expire_grants([user.pk, *users])
        refuse_open(user)
        at = timezone.now()
        noted = []
        for each in (user, *users.values()):
            _erase(each, at)
            noted.append(events.record_forgetting(each.pk, actor=actor, channel=channel))
        exports.forget_about(ids)
        return Forgotten(user, tuple(users.values()), tuple(noted))


def duplicates_of(user_id: int) -> QuerySet[User]:
    """Returns the duplicates of a user who are not forgotten yet: the same person."""
    rows = User.objects.customers().filter(duplicate_of=user_id, forgotten_at=None)
    return rows.order_by("pk")


def refuse_open(user: User) -> None:
    """Raises NotClosed, with what stands in the way of forgetting this user."""
    balance = ledger.balance(user)
    subscriptions = Subscription.objects.live().filter(user=user).count()
    if user.is_active or balance.real or balance.bonus or subscriptions:
        raise NotClosed(
            user_id=user.pk,
            is_active=user.is_active,
            real=str(balance.real),
            bonus=str(balance.bonus),
            subscriptions=subscriptions,
        )


def _erase(user: User, at: datetime) -> None:
    erased: dict[str, Any] = {name: "" for name in User.texts() if name not in KEPT}
    User.objects.filter(pk=user.pk).update(
        **erased,
        email=_address(user.pk),
        first_name="Forgotten user",
        last_name=f"No. {user.pk}",
        legal_type=User.LegalType.INDIVIDUAL,
        forgotten_at=at,
    )
    user.refresh_from_db()
    answers.forget_about(user.pk)
    WebhookAttempt.objects.filter(delivery__user_id=user.pk).exclude(answer="").update(answer="")


def _address(user_id: int) -> str:
    """Returns an address that nobody else has, of a domain that never exists."""
    address = f"forgotten-{user_id}@forgotten.invalid"
    others = 1
    while User.objects.with_mailbox(address).exclude(pk=user_id).exists():
        others += 1
        address = f"forgotten-{user_id}-{others}@forgotten.invalid"
    return address
