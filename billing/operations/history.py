"""Importing the history of another system: customers, plans, subscriptions and what was paid.

`import_history` takes a folder of CSV files (docs/import.md). It checks everything before it writes
anything. Then it writes customers in groups, each with its whole history, so that an interrupted
import continues where it stopped when it is started again.

`add_customers`, `add_transactions` and `add_subscriptions` write prepared rows; the demo data use
them, too. All of this needs the rights of the tables' owner.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import groupby
from typing import Final

from django.db import IntegrityError, connection, transaction

from billing import events, ledger
from billing.errors import EmailTaken
from billing.events import Note
from billing.imports.balances import paying_for
from billing.imports.folder import Folder
from billing.imports.records import PastSubscription
from billing.imports.staging import Staged
from billing.ledger.history import PastTransaction, as_jsonb, load_history
from billing.models import (
    ActiveDay,
    Batch,
    Channel,
    Service,
    Subject,
    Subscription,
    WebhookEndpoint,
)
from billing.money import DECIMALS
from billing.operations import batches, configuration
from billing.operations._history_checks import (
    IMPORTED,
    Checks,
    Customer,
    Imported,
    Progress,
    service_of,
)
from billing.plans.pricing import Cycle
from billing.plans.takeover import Payment, take_over
from users.models import ONE_MAILBOX, User, constraint_of

__all__ = [
    "ImportRefused",
    "Imported",
    "add_customers",
    "add_subscriptions",
    "add_transactions",
    "import_history",
]

ROWS_AT_ONCE: Final = 2_000
ONE_LIVE_SUBSCRIPTION: Final = "a_device_has_one_live_subscription"
# How long before the last paid day the charge for it can have been posted.
LONGEST_CYCLES: Final[Mapping[str, timedelta]] = {
    Cycle.MONTHLY: timedelta(days=32),
    Cycle.ANNUAL: timedelta(days=367),
    Cycle.EVERY_DAY: timedelta(days=1),
    Cycle.ACTIVE_DAY: timedelta(days=1),
}
RUNNING: Final = 0x696D706F7274  # the advisory lock of an import


class ImportRefused(Exception):
    """The import did not start, or stopped. The message says why and what to do."""


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


def add_transactions(
    transactions: Iterable[PastTransaction],
    *,
    expected: int,
    batch: int | None = None,
    is_always_checked: bool = False,
) -> int:
    """Writes the transactions of customers who have none: see `billing.ledger.history`."""
    return load_history(
        transactions, expected=expected, batch=batch, is_always_checked=is_always_checked
    )


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
    progress: Progress = lambda stage, done, total: None,
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
        run.tells_programs = tell_programs
        checked = run.check(progress)
        if dry_run or checked.stops or (checked.problem_count and not skip_users):
            return checked
        return run.write(checked, progress)


@contextmanager
def _alone() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [RUNNING])
        if not cursor.fetchone()[0]:
            raise ImportRefused("Another import is running. Wait until it has ended.")
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
            f"The database role {role} may not import a history. Nothing was imported. Run this "
            f"as the owner of the tables, {owner}, as for migrate."
        )


def _refuse_to_tell_programs() -> None:
    endpoints = list(WebhookEndpoint.objects.filter(is_active=True).values_list("name", flat=True))
    if endpoints:
        names = ", ".join(f"“{name}”" for name in endpoints)
        raise ImportRefused(
            f"Webhook endpoints are active: {names}. They would be told of every past "
            "transaction, so the import was stopped. Switch them off until the import is done, or "
            "say that programs are to be told."
        )


class _Import(Checks):
    """An import: checks everything, then writes it."""

    tells_programs = False

    @cached_property
    def sheet(self) -> batches.Sheet:
        """What the batch of this import says. A folder that is imported again is the same batch."""
        folder = self.staged.folder
        return batches.Sheet(
            kind=Batch.Kind.HISTORY,
            title="History of the previous system",
            file_name=folder.path.resolve().name,
            file_hash=folder.fingerprint(),
        )

    def write(self, checked: Imported, progress: Progress) -> Imported:
        done = Imported(
            problems=checked.problems, problem_count=checked.problem_count, is_written=True
        )
        done.plans = self._write_plans()
        looked_at = 0
        for histories in self.staged.histories():
            with transaction.atomic():
                if not self.tells_programs:
                    _refuse_to_tell_programs()  # an endpoint may have been switched on since
                self._write_users(done, list(self.customers(histories)))
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
                        service = service_of(price.service, price.name, price.unit)
                        configuration.save(service, actor=self.actor, channel=Channel.IMPORT)
                        services[price.service] = service
                    prices[services[price.service].pk] = price.price
                configuration.save(plan, prices=prices, actor=self.actor, channel=Channel.IMPORT)
                added += 1
        return added

    def _write_users(self, done: Imported, customers: Sequence[Customer]) -> None:
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
                "Somebody has changed the balance of a user during the import. Everything "
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
            self.count(done, customer)
        # The panel is at work: no table is locked, however long one user's history is.
        batch = batches.begin(self.sheet, actor=self.actor, channel=Channel.IMPORT)
        add_transactions(
            transactions, expected=len(transactions), batch=batch.pk, is_always_checked=True
        )
        batches.add_figures(
            batch,
            entries=len(transactions),
            posted=len(transactions),
            real=_money(sum(each.amount for each in transactions)),
            bonus=_money(sum(each.bonus_amount for each in transactions)),
        )
        try:
            with transaction.atomic():
                add_subscriptions(subscriptions)
        except IntegrityError as error:
            if constraint_of(error) != ONE_LIVE_SUBSCRIPTION:
                raise
            raise ImportRefused(
                "Somebody has added a subscription to a user during the import. Everything "
                "imported so far stays. Start the import again."
            ) from None
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

    def _take_over(self, customer: Customer) -> Iterator[Subscription]:
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
        self, customer: Customer, past: PastSubscription, subscription: Subscription
    ) -> Payment | None:
        """Finds the charge that paid the present period, and adds the period to its metadata.

        So what was paid ahead there can be paid back here.
        """
        if past.paid_through is None or past.paid_through < self.now.date():
            return None
        plan = subscription.plan
        since = datetime.combine(past.paid_through, time.min, UTC) - LONGEST_CYCLES[plan.cycle]
        rows = customer.account.transactions
        number = next(paying_for(rows, subscription.device, since), None)
        if number is None:
            return None
        row = rows[number - 1]
        first = min(max(row.at.date(), past.started_on), past.paid_through)
        metadata = json.loads(row.metadata) | {
            "subscription": subscription.pk,
            "plan": plan.pk,
            "from": f"{first}",
            "through": f"{past.paid_through}",
        }
        rows[number - 1] = row._replace(metadata=as_jsonb(metadata))
        return Payment(number, -_money(row.amount), first)


def _next_subscription_id() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_subscription_id_seq')")
        return int(cursor.fetchone()[0])


def _money(units: int) -> Decimal:
    """Returns an amount given in the ledger's smallest unit."""
    return Decimal(units).scaleb(-DECIMALS)
