"""Importing the history of another system: customers, plans, subscriptions and what was paid.

`import_history` takes a folder of CSV files (docs/import.md). It checks everything before it writes
anything. Then it writes customers in groups, each with its whole history, so that an interrupted
import continues where it stopped when it is started again.

`add_customers`, `add_transactions` and `add_subscriptions` write prepared rows; the demo data use
them, too. All of this needs the rights of the tables' owner.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from billing import events, ledger
from billing.errors import BillingError, EmailTaken
from billing.events import Note
from billing.imports.balances import Account, account_of, paying_for
from billing.imports.folder import Folder
from billing.imports.records import PastPlan, PastSubscription, PastUser, Problem
from billing.imports.staging import History, Staged
from billing.ledger.history import PastTransaction, as_jsonb, load_history
from billing.models import (
    ActiveDay,
    Balance,
    Channel,
    Event,
    Plan,
    Service,
    Subject,
    Subscription,
    WebhookEndpoint,
)
from billing.models.transactions import SUBTYPE_LABELS
from billing.money import DECIMALS
from billing.operations import configuration
from billing.plans.takeover import Payment, paid_period, take_over
from users.models import ONE_MAILBOX, User, constraint_of

IMPORTED: Final = "imported"  # the action of the event that each imported customer gets
PROBLEMS_MAX: Final = 1_000  # further ones are only counted
ROWS_AT_ONCE: Final = 2_000
RUNNING: Final = 0x696D706F7274  # the advisory lock of an import


class ImportRefused(Exception):
    """The import did not start, or stopped. The message says why and what to do."""


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


# --- Writing what is made already ---------------------------------------------------------------


def add_customers(users: Sequence[User]) -> None:
    """Saves new customers, whose fields are valid. They get nothing from the defaults for users.

    Raises EmailTaken.
    """
    try:
        with transaction.atomic():
            User.objects.bulk_create(users, batch_size=ROWS_AT_ONCE)
    except IntegrityError as problem:
        if constraint_of(problem) not in ONE_MAILBOX:
            raise
        raise EmailTaken from None


def add_transactions(transactions: Iterable[PastTransaction], *, expected: int) -> int:
    """Writes the transactions of customers who have none: see `billing.ledger.history`."""
    return load_history(transactions, expected=expected)


def add_subscriptions(
    subscriptions: Sequence[Subscription], active_days: Sequence[ActiveDay] = ()
) -> None:
    """Saves subscriptions as they are, and days on which devices were active."""
    Subscription.objects.bulk_create(subscriptions, batch_size=ROWS_AT_ONCE)
    ActiveDay.objects.bulk_create(active_days, batch_size=ROWS_AT_ONCE)


# --- Importing a folder -------------------------------------------------------------------------


def import_history(
    folder: Folder,
    *,
    now: datetime,
    actor: User | None,
    fill_gaps: bool = False,
    skip_users: bool = False,
    tell_programs: bool = False,
    dry_run: bool = False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Imported:
    """Imports a folder's history; with `dry_run`, checks it only.

    With `fill_gaps`, a difference between operations becomes a transaction of its own. With
    `skip_users`, users with problems are left out; otherwise one problem stops everything.
    `progress` is called with "check" or "import", and how many users of all are done.

    Raises ImportRefused if this database role may not write the ledger, if another import is
    running, or if active webhook endpoints would be told of the past, unless `tell_programs`.
    """
    with _alone(), Staged(folder) as staged:
        if not dry_run:
            _refuse_without_rights()
            if not tell_programs:
                _refuse_to_tell_programs()
        run = _Import(staged, now, actor, fill_gaps=fill_gaps)
        checked = run.check(progress)
        if dry_run or checked.stops or (checked.problem_count and not skip_users):
            return checked
        return run.write(checked, progress)


@contextmanager
def _alone() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [RUNNING])
        if not cursor.fetchone()[0]:
            raise ImportRefused("Another import is running. Wait for its end.")
    try:
        yield
    finally:
        if connection.is_usable():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [RUNNING])


def _refuse_without_rights() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, pg_get_userbyid(relowner), "
            "has_table_privilege('billing_transaction', 'INSERT') "
            "AND has_table_privilege('billing_balance', 'UPDATE') "
            "FROM pg_class WHERE oid = 'billing_transaction'::regclass"
        )
        role, owner, may = cursor.fetchone()
    if not may:
        raise ImportRefused(
            f"The database role {role} may not write a history into the ledger. Nothing was "
            f"imported. Run this as the owner of the tables, {owner}, as for migrate."
        )


def _refuse_to_tell_programs() -> None:
    endpoints = list(WebhookEndpoint.objects.filter(is_active=True).values_list("name", flat=True))
    if endpoints:
        names = ", ".join(f"“{name}”" for name in endpoints)
        raise ImportRefused(
            f"Webhook endpoints are active: {names}. They would be told of every transaction of "
            "the past. Nothing was imported. Switch them off until the import is through, or say "
            "that programs are to be told."
        )


@dataclass
class _Customer:
    """A user of the folder, prepared for the import."""

    history: History
    user: User
    is_new: bool
    is_done: bool = False  # by an earlier import
    problems: list[Problem] = field(default_factory=list)
    account: Account = field(default_factory=Account)


class _Import:
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

    # --- Checking ---------------------------------------------------------------------------

    def check(self, progress: Callable[[str, int, int], None]) -> Imported:
        """Returns what would be imported, and every problem."""
        found = Imported()
        found.note(self.staged.problems)
        found.note(self._check_plans(found))
        looked_at = 0
        for histories in self.staged.histories():
            for customer in self._customers(histories):
                problems = customer.problems or customer.account.problems
                if customer.is_done:
                    found.kept += 1
                elif problems or self.unreadable[customer.history.user.id]:
                    found.note(problems)
                    found.skipped += 1
                else:
                    self._count(found, customer)
            looked_at += len(histories)
            progress("check", looked_at, self.staged.users)
        return found

    @staticmethod
    def _count(found: Imported, customer: _Customer) -> None:
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
                plan = _plan(past)
                found.plans += 1
                yield from _invalid(plan, past.place)
            elif plan.cycle != past.cycle:
                yield Problem(
                    f"There is a plan {past.name} here already, with another billing cycle: "
                    f"{plan.cycle}, not {past.cycle}. Give one of the two another name.",
                    past.place,
                )
            names[past.name] = past.id
            self.plans[past.id] = plan or _plan(past)
        for price in self.staged.service_prices:
            if price.plan_id not in self.staged.plans:
                yield Problem(f"There is no plan {price.plan_id} in plans.csv.", price.place)
            yield from _invalid(_service(price.service, price.name, price.unit), price.place)

    def _customers(self, histories: Sequence[History]) -> Iterator[_Customer]:
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
            customer = _Customer(history, user or _user(past, self.now), is_new=user is None)
            if user is not None and user.pk in imported and imported[user.pk] == past.id:
                customer.is_done = True
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
        customer: _Customer,
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
                f"Users {other} and {past.id} have one mailbox: {past.email}.", past.place, past.id
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

    def _wrong_subscriptions(self, customer: _Customer) -> Iterator[Problem]:
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
            if each.started_on > self.now.date():
                yield Problem(
                    f"It starts in the future, on {each.started_on}.", each.place, each.user_id
                )

    # --- Writing ----------------------------------------------------------------------------

    def write(self, checked: Imported, progress: Callable[[str, int, int], None]) -> Imported:
        done = Imported(
            problems=checked.problems, problem_count=checked.problem_count, is_written=True
        )
        done.plans = self._write_plans()
        looked_at = 0
        for histories in self.staged.histories():
            with transaction.atomic():
                self._write_users(done, list(self._customers(histories)))
            looked_at += len(histories)
            progress("import", looked_at, self.staged.users)
        return done

    def _write_plans(self) -> int:
        """Saves the plans that are new, with the prices of their services. Returns how many."""
        added = 0
        with transaction.atomic():
            services = {service.code: service for service in Service.objects.all()}
            of_plan = {
                plan_id: list(prices)
                for plan_id, prices in groupby(
                    sorted(self.staged.service_prices, key=lambda each: each.plan_id),
                    key=lambda each: each.plan_id,
                )
            }
            for plan_id, plan in self.plans.items():
                if not plan._state.adding:
                    continue  # what is here already stays as it is
                prices = {}
                for price in of_plan.get(plan_id, ()):
                    if price.service not in services:
                        service = _service(price.service, price.name, price.unit)
                        configuration.save(service, actor=self.actor, channel=Channel.IMPORT)
                        services[price.service] = service
                    prices[services[price.service].pk] = price.price
                configuration.save(plan, prices=prices, actor=self.actor, channel=Channel.IMPORT)
                added += 1
        return added

    def _write_users(self, done: Imported, customers: Sequence[_Customer]) -> None:
        """Writes some users with all that belongs to them, in the caller's transaction."""
        to_write = []
        for customer in customers:
            if customer.is_done:
                done.kept += 1
            elif (
                customer.problems
                or customer.account.problems
                or self.unreadable[customer.history.user.id]
            ):
                done.skipped += 1
            else:
                to_write.append(customer)
        add_customers([customer.user for customer in to_write if customer.is_new])
        locked = ledger.lock_balances([customer.user.pk for customer in to_write])
        if any(balances.number for balances in locked.values()):
            raise ImportRefused(
                "Somebody has changed the balance of a user who was to be imported. What was "
                "imported so far stays. Start the import again."
            )
        subscriptions: list[Subscription] = []
        transactions: list[PastTransaction] = []
        for customer in to_write:
            account = customer.account
            account.transactions = [
                each._replace(user_id=customer.user.pk) for each in account.transactions
            ]
            subscriptions += self._take_over(customer)
            transactions += account.transactions
            self._count(done, customer)
        add_transactions(transactions, expected=len(transactions))
        add_subscriptions(subscriptions)
        events.record_all(
            [
                Note(
                    Subject.USER,
                    customer.user.pk,
                    IMPORTED,
                    {
                        "id": customer.history.user.id,
                        "transactions": len(customer.account.transactions),
                        "subscriptions": len(customer.history.subscriptions),
                    },
                )
                for customer in to_write
            ],
            actor=self.actor,
            channel=Channel.IMPORT,
        )

    def _take_over(self, customer: _Customer) -> Iterator[Subscription]:
        """Makes a user's subscriptions, and marks the transactions that paid for them."""
        for past in customer.history.subscriptions:
            plan = self.plans[past.plan_id]
            subscription = Subscription(
                pk=_next_subscription_id(),
                user=customer.user,
                plan=plan,
                device=ledger.checked_device(past.device),
                started_on=past.started_on,
            )
            take_over(
                subscription,
                paid_through=past.paid_through,
                payment=self._payment(customer, past, subscription),
                is_suspended=past.is_suspended,
                is_user_active=customer.user.is_active,
                now=self.now,
            )
            yield subscription

    def _payment(
        self, customer: _Customer, past: PastSubscription, subscription: Subscription
    ) -> Payment | None:
        """Finds the charge that paid the present period, and adds the period to its metadata.

        So what was paid ahead there can be paid back here.
        """
        if past.paid_through is None or past.paid_through < self.now.date():
            return None
        plan = subscription.plan
        first, last = paid_period(plan.cycle, past.started_on, past.paid_through)
        since = datetime.combine(first, time.min, UTC) - timedelta(days=1)
        rows = customer.account.transactions
        number = next(paying_for(rows, subscription.device, since), None)
        if number is None:
            return None
        row = rows[number - 1]
        metadata = json.loads(row.metadata) | {
            "subscription": subscription.pk,
            "plan": plan.pk,
            "from": f"{first}",
            "through": f"{last}",
        }
        rows[number - 1] = row._replace(metadata=as_jsonb(metadata))
        return Payment(number, -Decimal(row.amount).scaleb(-DECIMALS))


def _next_subscription_id() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_subscription_id_seq')")
        return int(cursor.fetchone()[0])


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


def _plan(past: PastPlan) -> Plan:
    return Plan(
        name=past.name,
        cycle=past.cycle,
        price=past.price,
        proportional_charge=past.is_proportional,
        is_active=past.is_active,
    )


def _service(code: str, name: str, unit: str) -> Service:
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
