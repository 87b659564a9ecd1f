"""Checks the history of another system, before `history` writes it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import connection

from billing import ledger
from billing.errors import BillingError
from billing.imports.balances import Account, account_of
from billing.imports.records import PastPlan, PastSubscription, PastUser, Problem
from billing.imports.staging import History, Staged
from billing.models import Balance, Event, Plan, Service, Subject, Subscription
from billing.models.transactions import SUBTYPE_LABELS
from billing.money import DECIMALS
from billing.plans.takeover import ends_with_its_period
from users.models import User

IMPORTED: Final = "imported"  # the action of the event that each imported customer gets
PROBLEMS_MAX: Final = 1_000  # further ones are only counted

Progress = Callable[[str, int, int], None]


@dataclass
class Imported:
    """What was imported or, in a dry run, would be.

    `kept` counts users who were imported earlier, `skipped` those with problems. Of the
    transactions, `differences` explain a gap in a history, and `as_payments` had a type that the
    ledger does not allow them. `real` and `bonus` are the sums of the users' balances. `problems`
    holds the first problems; `problem_count` counts all, and `stops` says that one of them is of no
    single user. `is_written` says that it was imported, and not only checked.
    """

    users: int = 0
    transactions: int = 0
    subscriptions: int = 0
    plans: int = 0
    kept: int = 0
    skipped: int = 0
    differences: int = 0
    as_payments: int = 0
    real: Decimal = Decimal(0)
    bonus: Decimal = Decimal(0)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    stops: bool = False
    is_written: bool = False

    def note(self, problems: Iterable[Problem]) -> None:
        for each in problems:
            self.problem_count += 1
            self.stops = self.stops or each.user_id is None
            if len(self.problems) < PROBLEMS_MAX:
                self.problems.append(each)


@dataclass
class Customer:
    """A user of the folder, prepared for the import."""

    history: History
    user: User
    is_new: bool
    is_done: bool = False  # by an earlier import
    problems: list[Problem] = field(default_factory=list)
    account: Account = field(default_factory=Account)


class Checks:
    """The checks of one import. `customers` also prepares what is to be written."""

    def __init__(
        self, staged: Staged, now: datetime, actor: User | None, *, fill_gaps: bool
    ) -> None:
        self.staged = staged
        self.now = now
        self.actor = actor
        self.fill_gaps = fill_gaps
        self.unreadable = Counter(each.user_id for each in staged.problems if each.user_id)
        self.plans: dict[str, Plan] = {}  # by their IDs there; saved in `write`
        self.addresses: dict[str, str] = {}  # mailboxes, and their users' IDs there
        # Users of earlier imports: their IDs here by their IDs there.
        self.earlier = {
            event.data["id"]: event.subject_id
            for event in Event.objects.filter(subject=Subject.USER, action=IMPORTED)
        }

    def check(self, progress: Progress) -> Imported:
        """Returns what would be imported, and every problem."""
        found = Imported()
        found.note(self.staged.problems)
        found.note(self._check_plans(found))
        looked_at = 0
        for histories in self.staged.histories():
            for customer in self.customers(histories):
                problems = customer.problems or customer.account.problems
                if customer.is_done:
                    found.kept += 1
                elif problems or self.unreadable[customer.history.user.id]:
                    found.note(problems)
                    found.skipped += 1
                else:
                    self.count(found, customer)
            looked_at += len(histories)
            progress("check", looked_at, self.staged.users)
        return found

    @staticmethod
    def count(found: Imported, customer: Customer) -> None:
        account = customer.account
        found.users += 1
        found.transactions += len(account.transactions)
        found.subscriptions += len(customer.history.subscriptions)
        found.differences += account.differences
        found.as_payments += account.as_payments
        found.real += Decimal(account.real).scaleb(-DECIMALS)
        found.bonus += Decimal(account.bonus).scaleb(-DECIMALS)

    def _check_plans(self, found: Imported) -> Iterator[Problem]:
        names: dict[str, str] = {}
        known = {plan.name: plan for plan in Plan.objects.all()}
        for past in self.staged.plans.values():
            plan = known.get(past.name)
            if past.name in names:
                yield Problem(f"Two plans are called {past.name}.", past.place)
            elif plan is None:
                plan = plan_of(past)
                found.plans += 1
                yield from _invalid(plan, past.place)
            elif plan.cycle != past.cycle:
                yield Problem(
                    f"There is a plan {past.name} here already, with another billing cycle: "
                    f"{plan.cycle}, not {past.cycle}. Give one of the two another name.",
                    past.place,
                )
            names[past.name] = past.id
            self.plans[past.id] = plan or plan_of(past)
        for price in self.staged.service_prices:
            if price.plan_id not in self.staged.plans:
                yield Problem(f"There is no plan {price.plan_id} in plans.csv.", price.place)
            yield from _invalid(service_of(price.service, price.name, price.unit), price.place)

    def customers(self, histories: Sequence[History]) -> Iterator[Customer]:
        """Finds or makes the users of these histories, and checks all that belongs to them."""
        mailboxes = _mailboxes([history.user.email for history in histories])
        known = {
            user.email_identity: user
            for user in User.objects.filter(email_identity__in=mailboxes.values())
        }
        ids = [user.pk for user in known.values()]
        numbers = dict(Balance.objects.filter(pk__in=ids).values_list("pk", "last_number"))
        imported = {
            event.subject_id: event.data["id"]
            for event in Event.objects.filter(
                subject=Subject.USER, subject_id__in=ids, action=IMPORTED
            )
        }
        subscribed = set(
            Subscription.objects.live().filter(user__in=ids).values_list("user", flat=True)
        )
        for history in histories:
            past = history.user
            mailbox = mailboxes[past.email]
            user = known.get(mailbox)
            customer = Customer(history, user or _user(past, self.now), is_new=user is None)
            earlier = self.earlier.get(past.id)
            if user is not None and user.pk in imported and imported[user.pk] == past.id:
                customer.is_done = True
            elif earlier is not None:
                customer.problems.append(
                    Problem(
                        f"User {past.id} was imported before, as user {earlier} here, who has "
                        f"another address than {past.email}. If this is another system, give its "
                        "users other IDs.",
                        past.place,
                        past.id,
                    )
                )
            else:
                customer.problems += self._wrong_user(
                    customer,
                    mailbox,
                    is_imported=user is not None and user.pk in imported,
                    number=numbers.get(user.pk, 0) if user else 0,
                    is_subscribed=user is not None and user.pk in subscribed,
                )
                customer.problems += self._wrong_subscriptions(customer)
                customer.account = account_of(
                    past,
                    history.operations,
                    user_id=customer.user.pk or 0,
                    now=self.now,
                    fill_gaps=self.fill_gaps,
                    actor_id=self.actor.pk if self.actor else None,
                )
            yield customer

    def _wrong_user(
        self,
        customer: Customer,
        mailbox: str,
        *,
        is_imported: bool,
        number: int,
        is_subscribed: bool,
    ) -> Iterator[Problem]:
        past, user = customer.history.user, customer.user
        other = self.addresses.setdefault(mailbox, past.id)
        if other != past.id:
            yield Problem(
                f"Users {other} and {past.id} share one mailbox: {past.email}.", past.place, past.id
            )
        if customer.is_new:
            yield from _invalid(user, past.place, past.id)
        elif user.is_staff:
            yield Problem(f"{past.email} is an operator here.", past.place, past.id)
        elif is_imported:
            yield Problem(f"{past.email} was imported here as another user.", past.place, past.id)
        elif number or is_subscribed:
            what = "transactions" if number else "a subscription"
            yield Problem(
                f"{past.email} is a user here already (ID {user.pk}) and has {what}.",
                past.place,
                past.id,
            )

    def _wrong_period(self, past: PastSubscription) -> Iterator[Problem]:
        """Refuses periods whose next charge would be a full one for the rest of a period here."""
        plan, paid_through = self.plans.get(past.plan_id), past.paid_through
        if (
            plan is not None
            and paid_through is not None
            and paid_through >= self.now.date()
            and not plan.proportional_charge
            and not ends_with_its_period(plan.cycle, paid_through)
        ):
            yield Problem(
                f"It is paid through {paid_through}, but periods of plan {plan.name} end with the "
                "month or year here, and its next charge would be a full one. Make the plan "
                "proportional, or change paid_through.",
                past.place,
                past.user_id,
            )

    def _wrong_subscriptions(self, customer: Customer) -> Iterator[Problem]:
        devices = set()
        for each in customer.history.subscriptions:
            device = each.device
            try:
                device = ledger.checked_device(each.device)
            except BillingError as refusal:
                yield Problem(f"{refusal}", each.place, each.user_id)
            if each.plan_id not in self.plans:
                yield Problem(
                    f"There is no plan {each.plan_id} in plans.csv.", each.place, each.user_id
                )
            if device in devices:
                what = f"Device {device}" if device else "The user as a whole"
                yield Problem(f"{what} has two subscriptions.", each.place, each.user_id)
            devices.add(device)
            yield from self._wrong_period(each)
            if each.started_on > self.now.date():
                yield Problem(
                    f"It starts in the future, on {each.started_on}.", each.place, each.user_id
                )


def _mailboxes(addresses: Sequence[str]) -> Mapping[str, str]:
    """Returns which mailbox each address is, by the rule that makes a user's address unique."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT address, users_email_identity(address) FROM unnest(%s::text[]) AS address",
            [[*addresses]],
        )
        return dict(cursor.fetchall())


def _user(past: PastUser, now: datetime) -> User:
    user = User(
        email=User.objects.normalize_email(past.email),
        is_active=past.is_active,
        created_at=min(past.created_at or now, now),
        **past.profile,
    )
    user.set_unusable_password()  # customers log in elsewhere
    return user


def plan_of(past: PastPlan) -> Plan:
    return Plan(
        name=past.name,
        cycle=past.cycle,
        price=past.price,
        proportional_charge=past.is_proportional,
        is_active=past.is_active,
    )


def service_of(code: str, name: str, unit: str) -> Service:
    name = name or SUBTYPE_LABELS.get(code) or code.replace("_", " ").capitalize()
    return Service(code=code, name=name, unit=unit)


def _invalid(row: Any, place: str, user_id: str | None = None) -> Iterator[Problem]:
    """Yields what is wrong with the fields of an unsaved row."""
    try:
        row.full_clean(exclude=["password"], validate_unique=False, validate_constraints=False)
    except ValidationError as problem:
        for name, sentences in problem.message_dict.items():
            where = "" if name == "__all__" else f"{name}: "
            yield Problem(f"{where}{' '.join(sentences)}", place, user_id)
