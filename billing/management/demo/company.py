"""Loads the demo data in one database transaction: people, history and today."""

import json
from collections.abc import Iterable, Iterator
from copy import copy
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby, islice
from operator import attrgetter
from random import Random
from typing import Final

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group
from django.db import connection, transaction
from tqdm import tqdm

from billing import ledger
from billing.ledger.history import PastTransaction
from billing.management.demo import catalogue, people
from billing.management.demo.accounts import Account, Staff
from billing.management.demo.contracts import Contracts
from billing.management.demo.story import tell
from billing.models import Channel, Reason, TransactionType
from billing.money import DECIMALS
from billing.operations import history
from users.models import User

BY_LEDGER_MAX: Final = 100  # so many of the last operations are posted, not loaded

_ADDS, _TAKES = Reason.Direction.ADDS, Reason.Direction.TAKES
_REAL, _BONUS = Reason.Balances.REAL, Reason.Balances.BONUS
REASONS: Final = (
    Reason(label="Bank transfer", template="Bank transfer", direction=_ADDS, balances=_REAL),
    Reason(
        label="Bank transfer by reference",
        template="Bank transfer {reference}",
        direction=_ADDS,
        balances=_REAL,
    ),
    Reason(
        label="Card payment by phone",
        template="Card payment by phone",
        direction=_ADDS,
        balances=_REAL,
    ),
    Reason(label="Cash payment", template="Cash payment", direction=_ADDS, balances=_REAL),
    Reason(
        label="Traffic counted twice",
        template="Credit: traffic was counted twice",
        direction=_ADDS,
    ),
    Reason(
        label="Service not available",
        template="Credit: service was not available",
        direction=_ADDS,
    ),
    Reason(label="Goodwill credit", template="Goodwill credit", direction=_ADDS),
    Reason(
        label="Payment credited twice",
        template="Debit: payment credited twice",
        direction=_TAKES,
        balances=_REAL,
    ),
    Reason(
        label="SIM card replaced",
        template="Debit: SIM card replaced",
        direction=_TAKES,
        balances=_REAL,
    ),
    Reason(label="Unpaid fee", template="Debit: unpaid fee", direction=_TAKES, balances=_REAL),
    Reason(
        label="Seasonal campaign",
        template="Gift: seasonal campaign",
        direction=_ADDS,
        balances=_BONUS,
        bonus_days=90,
    ),
    Reason(
        label="Recommended us to a friend",
        template="Gift: recommended us to a friend",
        direction=_ADDS,
        balances=_BONUS,
        bonus_days=365,
    ),
    Reason(
        label="Contract ended",
        template="Contract ended: balance paid out, bonus expired",
        direction=_TAKES,
    ),
)


def _coded(reason: Reason, place: int) -> Reason:
    """Returns a new reason with a code made from its label."""
    coded = copy(reason)
    coded.code = reason.label.lower().replace(" ", "_")[:32]
    coded.position = place
    return coded


class UsersExist(Exception):
    """The installation has users. Demo data is only for an empty one."""


def found(*, users: int, transactions: int, seed: int, now: datetime) -> None:
    """Loads the demo data: all of it or, if anything stops it, nothing.

    The history is imported like that of another system; the last operations, which happen now,
    are posted. A charging run afterwards has nothing left to do today.
    """
    rng = Random(seed)  # noqa: S311 - nothing secret is made with it
    with transaction.atomic():
        with connection.cursor() as cursor:
            # A second seed_demo waits here, then sees the users of the first.
            cursor.execute("LOCK TABLE users_user IN SHARE ROW EXCLUSIVE MODE")
        if User.objects.exists():
            raise UsersExist
        staff = _hire(now)
        Reason.objects.bulk_create(_coded(reason, place) for place, reason in enumerate(REASONS))
        offered = catalogue.draw_up()
        catalogue.publish(offered)
        accounts = _sign_up(rng, users, now)
        by_ledger = min(BY_LEDGER_MAX, transactions // 20)
        contracts = Contracts(first_id=_next_subscription())
        operations = iter(
            tell(
                accounts,
                contracts=contracts,
                catalogue=offered,
                transactions=transactions,
                closing=by_ledger,
                until=now,
                staff=staff,
                rng=rng,
            )
        )
        by_bulk = transactions - by_ledger
        history.add_transactions(_shown(islice(operations, by_bulk), by_bulk), expected=by_bulk)
        last = list(operations)
        contracts.save()
        _go_on_after(contracts)
        _post(last)
    _tidy()


def _next_subscription() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_subscription_id_seq')")
        return int(cursor.fetchone()[0])


def _go_on_after(contracts: Contracts) -> None:
    """Sets the sequence behind the story's subscriptions, whose IDs its charges name."""
    if contracts.subscriptions:
        with connection.cursor() as cursor:
            last = contracts.subscriptions[-1].pk
            cursor.execute("SELECT setval('billing_subscription_id_seq', %s)", [last])


def _hire(now: datetime) -> Staff:
    groups = {group.name: group for group in Group.objects.all()}
    password = make_password(people.PASSWORD)
    operators = []
    for job in people.JOBS:
        operator = User.objects.create(
            email=job.email,
            password=password if job.logs_in else people.NO_LOGIN,
            first_name=job.first_name,
            last_name=job.last_name,
            is_staff=True,
            is_superuser=job is people.JOBS[0],
            created_at=now - people.JOINED_WITHIN - timedelta(days=30),
        )
        if job.group in groups:
            operator.groups.add(groups[job.group])
        operators.append(operator)
    first, billing, _viewer, night_shift, gateway, platform = (each.pk for each in operators)
    return Staff(clerks=(first, billing, night_shift), gateway=gateway, platform=platform)


def _sign_up(rng: Random, count: int, now: datetime) -> list[Account]:
    """Saves the customers and returns their accounts."""
    users = list(people.customers(rng, count, now))
    left: dict[int, datetime] = {}
    for place, user in enumerate(users[8:], start=8):
        if rng.random() < 0.1:
            user.is_active = False
            left[place] = user.created_at + (now - user.created_at) * rng.uniform(0.6, 0.98)
    history.add_customers(users)
    return [
        Account(
            user.pk,
            user.created_at,
            left.get(place),
            # Some registered, and never came back.
            idle_from=user.created_at if place % 15 == 14 else None,
        )
        for place, user in enumerate(users)
    ]


def _shown(operations: Iterable[PastTransaction], count: int) -> Iterator[PastTransaction]:
    """Shows a progress bar on a terminal once it takes longer than two seconds."""
    yield from tqdm(
        operations, total=count, desc="History", unit=" rows", unit_scale=True,
        delay=2, disable=None, mininterval=0.5,
    )  # fmt: skip


def _post(operations: Iterable[PastTransaction]) -> None:
    """Posts operations through the ledger."""
    for (actor_id, channel), group in groupby(operations, key=attrgetter("actor_id", "channel")):
        actor = None if actor_id is None else User.objects.get(pk=actor_id)
        entries = [_entry(operation) for operation in group]
        ledger.post_batch(entries, actor=actor, channel=Channel(channel))


def _entry(operation: PastTransaction) -> ledger.Entry:
    amount, bonus_amount = (
        Decimal(units).scaleb(-DECIMALS) for units in (operation.amount, operation.bonus_amount)
    )
    user_id, subtype = operation.user_id, operation.subtype
    said = {
        "description": operation.description,
        "device": operation.device,
        "metadata": json.loads(operation.metadata),
        "idempotency_key": operation.idempotency_key,
    }
    match operation.type:
        case TransactionType.PAYMENT:
            return ledger.balance_change_entry(
                user_id, amount=amount, bonus_amount=bonus_amount, subtype=subtype, **said
            )
        case TransactionType.BONUS_REFILL:
            return ledger.bonus_entry(user_id, amount=bonus_amount, subtype=subtype, **said)
        case TransactionType.SERVICE:
            cost = -amount - bonus_amount
            return ledger.service_entry(user_id, service=subtype, cost=cost, **said)
        case TransactionType.SUBSCRIPTION if subtype == "remainder":
            return ledger.remainder_entry(user_id, amount=amount, **said)
        case TransactionType.SUBSCRIPTION:
            return ledger.subscription_entry(user_id, cycle=subtype, price=-amount, **said)
        case TransactionType.REVERSAL:
            assert operation.reverses is not None  # noqa: S101 - the story names it
            return ledger.reversal_entry(user_id, number=operation.reverses, **said)
        case TransactionType.BONUS_EXPIRY:
            raise ValueError("The ledger itself posts what has expired.")


def _tidy() -> None:
    """Collects planner statistics and sets the visibility map for index-only scans."""
    if connection.in_atomic_block:  # a caller's, or a test's: VACUUM is not possible there
        return
    with connection.cursor() as cursor:
        cursor.execute(_TIDY)


_TIDY: Final = """
    VACUUM (ANALYZE) users_user, billing_balance, billing_transaction, billing_subscription,
        billing_activeday, billing_chargingrun
"""
