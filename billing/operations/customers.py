"""Finding, adding, editing, activating and deactivating customers."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from billing import events
from billing.errors import BillingError, DuplicateUser, EmailTaken, ForgottenUser, UnknownUser
from billing.events import Note
from billing.expiry import end_of_bonus, usual_last_day
from billing.models import Channel, Event, Plan, Subject, Subscription, Transaction
from billing.money import ZERO
from billing.operations._common import one_transaction, record_subscription, subscription_data
from billing.plans import subscriptions
from users import database
from users.models import ONE_MAILBOX, User, constraint_of, customer_sql

# Events store the values of these fields. The other fields are personal data, which has to be
# erasable, and events are not: of these, an event stores only the names.
VALUES_ARE_KEPT: Final = frozenset({"is_active", "legal_type", "time_zone"})
LABELS: Final[Mapping[str, str]] = {"email": "e-mail", "is_active": "active", "tin": "TIN"}


@dataclass(frozen=True)
class NewCustomer:
    """A customer who was just added, and the event."""

    user: User
    event: Event

    @property
    def sentence(self) -> str:
        return events.sentence(self.event)


def find_customer(user_id: int, *, with_balance: bool = False) -> User:
    """Returns a customer. Raises UnknownUser, also for an operator's own account.

    `with_balance` reads the balance too, for callers that only show it: it is as old as the user.
    """
    customers = User.objects.customers()
    if with_balance:
        customers = customers.select_related("balance")
    user = customers.filter(pk=user_id).first()
    if user is None:
        raise UnknownUser(user_id=user_id)
    return user


def customer_id(user_id: int) -> int:
    """Returns `user_id` if it is a customer's. Raises UnknownUser.

    Faster than `find_customer`, because it reads no columns.
    """
    if 0 < user_id < 2**63:
        with database.prepared_cursor() as cursor:
            # As text: numbers have types by their size, and each type is another statement.
            cursor.execute(customer_sql(), [str(user_id)])
            if cursor.fetchone() is not None:
                return user_id
    raise UnknownUser(user_id=user_id)


@contextmanager
def unknown_user_first(user_id: int) -> Iterator[None]:
    """For an operation that finds the customer only when it posts.

    If it is refused before, or for something else, UnknownUser is raised instead where it applies.
    """
    try:
        yield
    except BillingError:
        customer_id(user_id)
        raise


def existing_customer_ids(user_ids: Collection[int]) -> set[int]:
    """Returns those of these IDs that belong to customers."""
    rows = User.objects.customers().filter(pk__in=user_ids)
    return set(rows.values_list("pk", flat=True))


def create(
    user: User,
    *,
    plan: Plan | None = None,
    is_validated: bool = False,
    day: date,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
) -> NewCustomer:
    """Saves a new customer, who gets what the defaults for new users say.

    With `plan`, the customer is subscribed to it instead of the default plan, suspended until there
    is money. `is_validated`: the caller has validated the fields by its own rules.

    Raises ValidationError and EmailTaken.
    """
    is_active = user.is_active
    user.is_staff = False
    user.set_unusable_password()  # customers log in elsewhere
    with one_transaction(dry_run=dry_run):
        if plan is not None:
            user.is_active = True
        save(user, is_validated=is_validated)
        if plan is not None:
            # Before `welcome`, which then leaves out the default plan.
            subscriptions.start(
                user, plan, day=day, wait_for_money=True, actor=actor, channel=channel
            )
        if user.is_active != is_active:
            # Only now, because only active users can be subscribed.
            user.is_active = is_active
            user.save(update_fields=["is_active"])
        subscriptions.welcome(
            user,
            day=day,
            bonus_expires_at=end_of_bonus(usual_last_day()),
            actor=actor,
            channel=channel,
        )
        event = events.record(
            Subject.USER, user.pk, "added", actor=actor, channel=channel, **_given_to(user)
        )
    return NewCustomer(user, event)


def _given_to(user: User) -> dict[str, Any]:
    """Returns what a new customer got: bonus, subscriptions and transactions."""
    posted = list(Transaction.objects.filter(user=user).order_by("number"))
    bonus = sum((row.bonus_amount for row in posted), ZERO)
    rows = Subscription.objects.filter(user=user).select_related("plan").order_by("pk")
    return {
        "bonus": str(bonus) if bonus else None,
        "subscriptions": [subscription_data(row, posted) for row in rows],
        "transactions": [row.number for row in posted],
    }


def edit(
    user_id: int,
    change: Callable[[User], Mapping[str, Any]],
    *,
    is_validated: bool = False,
    if_unchanged: Callable[[User], None] | None = None,
    plan: Callable[[User], Plan | None] = lambda user: None,
    day: date,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
) -> User:
    """Changes fields of a customer to what `change` returns for the locked customer.

    `plan` returns the plan for the account as a whole; None: no change. The plan is set before the
    fields if the user is active, otherwise after them, because only active users can be subscribed.

    Raises UnknownUser, ForgottenUser, DuplicateUser for activating a duplicate, ValidationError,
    EmailTaken, and the errors of subscribing and changing a plan. Records nothing if nothing
    changed.
    """
    with one_transaction(dry_run=dry_run):
        user = lock(user_id)
        if user.forgotten_at is not None:
            raise ForgottenUser(user_id=user.pk)
        if if_unchanged is not None:
            if_unchanged(user)
        given, new_plan = change(user), plan(user)
        if user.duplicate_of_id is not None and (given.get("is_active") or new_plan is not None):
            raise DuplicateUser(user_id=user.pk, duplicate_of=user.duplicate_of_id)
        before = {name: getattr(user, name) for name in given}
        was_active = user.is_active
        if new_plan is not None and was_active:
            _put_on_plan(user, new_plan, day=day, actor=actor, channel=channel)
        for name, value in given.items():
            setattr(user, name, value)
        changed = [name for name, value in given.items() if before[name] != value]
        save(user, changed, is_validated=is_validated)
        if new_plan is not None and not was_active:
            _put_on_plan(user, new_plan, day=day, actor=actor, channel=channel)
        record_changes(Subject.USER, user, before, actor=actor, channel=channel)
    return user


def own_subscription(user: User) -> Subscription | None:
    """Returns the live subscription of the account as a whole."""
    return Subscription.objects.live().filter(user=user, device="").first()


def _put_on_plan(
    user: User, plan: Plan, *, day: date, actor: User | None, channel: Channel
) -> None:
    """Puts the account as a whole on a plan. What was paid ahead is used up first."""
    present = own_subscription(user)
    if present is None:
        changed = subscriptions.start(
            user, plan, day=day, wait_for_money=True, actor=actor, channel=channel
        )
        record_subscription("subscription_started", changed, actor=actor, channel=channel)
    elif present.plan_id != plan.pk:
        old_plan = present.plan
        changed = subscriptions.change_plan(
            present,
            plan,
            day=day,
            pay_back=False,
            charge_now=False,
            actor=actor,
            channel=channel,
        )
        record_subscription("plan_changed", changed, old_plan, actor=actor, channel=channel)


def lock(user_id: int) -> User:
    """Returns a customer, locked within the caller's database transaction. Raises UnknownUser."""
    find_customer(user_id)
    user = database.lock_row(User.objects.filter(pk=user_id), user_id)
    assert user is not None  # noqa: S101 - users are not deleted
    return user


def save(user: User, changed: Sequence[str] | None = None, *, is_validated: bool = False) -> None:
    """Saves a new user, or the `changed` fields of an existing one.

    Raises ValidationError, and EmailTaken if somebody else has the mailbox.
    """
    if changed is None or "email" in changed:
        user.email = User.objects.normalize_email(user.email)
        if user.shares_mailbox():
            raise EmailTaken
    if not is_validated:
        try:
            user.full_clean(exclude=["password"])
        except ValidationError:
            if user.shares_mailbox():  # taken just now
                raise EmailTaken from None
            raise
    try:
        with transaction.atomic():
            user.save(update_fields=changed)
    except IntegrityError as problem:
        # Of two requests at once, the second fails only here.
        if constraint_of(problem) not in ONE_MAILBOX:
            raise
        raise EmailTaken from None


def set_active(
    subject: Subject,
    user_ids: Iterable[int],
    *,
    is_active: bool,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
) -> int:
    """Activates or deactivates users: customers or operators, by `subject`.

    Returns how many changed. Leaves out duplicates and forgotten users, who stay deactivated. A
    trigger resumes the subscriptions of activated users.
    """
    with one_transaction(dry_run=dry_run):
        rows = User.objects.select_for_update(of=("self",)).filter(
            pk__in=list(user_ids),
            is_active=not is_active,
            is_staff=subject == Subject.OPERATOR,
            duplicate_of=None,
            forgotten_at=None,
        )
        changed = list(rows.order_by("pk").values_list("pk", flat=True))
        User.objects.filter(pk__in=changed).update(is_active=is_active)
        action = "activated" if is_active else "deactivated"
        events.record_all(
            [Note(subject, user_id, action, {}) for user_id in changed],
            actor=actor,
            channel=channel,
        )
    return len(changed)


def record_changes(
    subject: Subject,
    user: User,
    before: Mapping[str, Any],
    *,
    actor: User | None,
    channel: Channel,
) -> Event | None:
    """Records which of the fields in `before` have another value now."""
    changed = [name for name, value in before.items() if getattr(user, name) != value]
    if not changed:
        return None
    values = {
        name: [before[name], getattr(user, name)] for name in changed if name in VALUES_ARE_KEPT
    }
    labels = [LABELS.get(name, name.replace("_", " ")) for name in changed]
    return events.record(
        subject, user.pk, "changed", actor=actor, channel=channel, fields=labels, values=values
    )
