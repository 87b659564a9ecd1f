"""Marking a user as a duplicate of another, who gets the money and the subscriptions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from billing import events, ledger
from billing.errors import (
    DuplicateUser,
    ForgottenUser,
    KeptUserDeactivated,
    OwnDuplicate,
)
from billing.events import Note
from billing.ledger import Balances, MovedPart
from billing.models import Channel, Event, Subject, Transaction
from billing.money import ZERO
from billing.operations._common import one_transaction, plan_data
from billing.operations.customers import lock
from billing.plans import handover
from billing.plans.handover import HandedOver
from users.models import User


@dataclass(frozen=True)
class Merged:
    """What was moved, with the balances of both users before and after, by ID."""

    user: User
    kept: User
    before: Mapping[int, Balances]
    after: Mapping[int, Balances]
    posted: Sequence[Transaction]
    moved: Sequence[MovedPart]
    subscriptions: Sequence[HandedOver]
    event: Event  # of the user who is kept

    @property
    def sentence(self) -> str:
        return events.sentence(self.event)


def merge(
    user_id: int,
    into_user_id: int,
    *,
    description: str = "",
    day: date,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
) -> Merged:
    """Marks a user as a duplicate of another, for good, and deactivates the duplicate.

    Both balances and all gifts move, each gift with its own expiry; subscriptions go on at the user
    who is kept (`billing.plans.handover`). Duplicates of the duplicate become duplicates of the
    user who is kept. With `description`, both transactions of each part have it.

    Raises UnknownUser, also for an operator's account; OwnDuplicate for the same user;
    DuplicateUser if one of both is a duplicate already; ForgottenUser; and KeptUserDeactivated.
    """
    if user_id == into_user_id:
        raise OwnDuplicate(user_id=user_id)
    with one_transaction(dry_run=dry_run):
        users = {each: lock(each) for each in sorted((user_id, into_user_id))}
        user, kept = users[user_id], users[into_user_id]
        _refuse_closed(user)
        _refuse_closed(kept)
        if not kept.is_active:
            raise KeptUserDeactivated(user_id=kept.pk)
        ledger.lock_balances([user.pk, kept.pk])
        ledger.expire_grants([user.pk, kept.pk])
        before = {each: ledger.balance(each) for each in users}
        by: dict[str, Any] = {"actor": actor, "channel": channel}
        handed_over = handover.end_all(user, kept, day=day, **by)
        moved = ledger.move_all(
            user.pk,
            kept.pk,
            descriptions=(
                description or f"Moved to user No. {kept.pk}, who is the same person",
                description or f"Moved from user No. {user.pk}, who is the same person",
            ),
            **by,
        )
        handover.go_on(handed_over, kept, day=day, **by)
        was_active = user.is_active
        user.is_active, user.duplicate_of = False, kept
        user.save(update_fields=["is_active", "duplicate_of"])
        User.objects.filter(duplicate_of=user).update(duplicate_of=kept)
        event = _record(user, kept, moved, handed_over, was_active=was_active, **by)
        return Merged(
            user=user,
            kept=kept,
            before=before,
            after={each: ledger.balance(each) for each in users},
            posted=list(_posted_since(before)),
            moved=moved,
            subscriptions=handed_over,
            event=event,
        )


def _refuse_closed(user: User) -> None:
    if user.duplicate_of_id is not None:
        raise DuplicateUser(user_id=user.pk, duplicate_of=user.duplicate_of_id)
    if user.forgotten_at is not None:
        raise ForgottenUser(user_id=user.pk)


def _posted_since(before: Mapping[int, Balances]) -> Sequence[Transaction]:
    """Returns what was posted since, of both users, in the order in which it happened."""
    rows: list[Transaction] = []
    for user_id, balance in before.items():
        rows += Transaction.objects.filter(user=user_id, number__gt=balance.number)
    return sorted(rows, key=lambda row: row.pk)


def _record(
    user: User,
    kept: User,
    moved: Sequence[MovedPart],
    handed_over: Sequence[HandedOver],
    *,
    was_active: bool,
    actor: User | None,
    channel: Channel,
) -> Event:
    """Records the merge in the history of both. Returns the event of the user who is kept."""
    taken = [each.taken for each in moved]
    given = [each.given for each in moved]
    told = {
        "real": str(sum((row.amount for row in given), ZERO)),
        "bonus": str(sum((row.bonus_amount for row in given), ZERO)),
        "subscriptions": [_handed_over_data(each) for each in handed_over],
    }
    _, event = events.record_all(
        [
            Note(
                Subject.USER,
                user.pk,
                "merged_into",
                {
                    "user_id": kept.pk,
                    "transactions": [row.number for row in taken],
                    "was_active": was_active,
                    **told,
                },
            ),
            Note(
                Subject.USER,
                kept.pk,
                "merged",
                {"user_id": user.pk, "transactions": [row.number for row in given], **told},
            ),
        ],
        actor=actor,
        channel=channel,
    )
    return event


def _handed_over_data(each: HandedOver) -> dict[str, Any]:
    paid_back, charged = handover.amounts(each)
    return {
        "subscription": each.before.pk,
        "continued_as": each.continued and each.continued.pk,
        "device": each.before.device,
        "plan": plan_data(each.before.plan),
        "status": each.before.status,
        "paid_back": paid_back,
        "charged": charged,
    }
