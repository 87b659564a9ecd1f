"""Checks that the tables and numbers of docs/charging.md agree with the code."""

import re
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from billing.models import (
    ActiveDay,
    ChargingBatch,
    ChargingFailure,
    ChargingRun,
    Plan,
    Service,
    ServicePrice,
    Subscription,
    Transaction,
    UserDefaults,
)
from billing.plans import charging, schedule, services, subscriptions
from billing.plans.pricing import PRICE_IS_PER, Cycle, Terms, charge_on
from tests.billing.histories import BY_PANEL
from tests.factories import PlanFactory, ServiceFactory, plan_with, subscribed, user_with

PAGE = (Path(__file__).parents[2] / "docs" / "charging.md").read_text()


def table(after: str) -> list[list[str]]:
    """Returns the rows of the table that follows this text, without its heading."""
    lines = PAGE.split(after, 1)[1].split("\n|", 1)[1].split("\n\n", 1)[0].split("\n")
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


def named(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_the_cycles_are_described() -> None:
    described = {(row[0], row[1].strip("`"), row[2]) for row in table("Days are UTC days.")}
    assert described == {(c.label, c.value, PRICE_IS_PER[c]) for c in Cycle}


@pytest.mark.parametrize("row", table("### Worked examples"), ids=" ".join)
def test_the_worked_examples_are_what_is_charged(row: list[str]) -> None:
    cycle, price, proportional, day, amount, through = row
    terms = Terms(cycle.strip("`"), Decimal(price), proportional == "yes")
    charge = charge_on(date.fromisoformat(day), terms)
    assert (f"{charge.amount:.4f}", f"{charge.last}") == (amount, through)


@pytest.mark.django_db
@pytest.mark.parametrize("row", table("An example: a monthly plan of 30.00"), ids=" ".join)
def test_the_changes_of_plan_post_what_is_said(row: list[str]) -> None:
    pay_back, charge_now, *rest = row
    said, charged_on = rest if len(rest) == 2 else ("", rest[0].strip("| "))
    user = user_with(real=100)
    subscription = subscribed(user, PlanFactory(price=30), day=date(2026, 4, 1))
    changed = subscriptions.change_plan(
        subscription,
        PlanFactory(price=10),
        day=date(2026, 4, 10),
        pay_back=pay_back == "yes",
        charge_now=charge_now == "yes",
        **BY_PANEL,
    )
    assert ", ".join(f"{t.amount}".replace("-", "−") for t in changed.posted) == said
    first = changed.subscription.charged_from if charge_now == "yes" else None
    assert f"{first or changed.subscription.due_on}" == charged_on


@pytest.mark.django_db
def test_what_transactions_say_is_described() -> None:
    sms = ServiceFactory()
    user = user_with(real=100)
    subscription = subscribed(user, plan_with({sms: 1}), day=date(2026, 4, 10))
    row = Transaction.objects.get(user=user, number=2)
    described = set().union(*(named(line[0]) for line in table("What it was for is in")))
    [back] = subscriptions.cancel(
        subscribed(user, PlanFactory(price=30), day=date(2026, 4, 10), device="8617"),
        day=date(2026, 4, 20),
        pay_back=True,
        **BY_PANEL,
    ).posted
    assert described == set(back.metadata)
    assert described - {"charge"} == set(row.metadata)
    form = re.search(r"idempotency key is `(\S+)`", PAGE)
    assert form is not None
    assert row.idempotency_key == form[1].replace("ID", f"{subscription.pk}").replace(
        "TERM", "1"
    ).replace("DAY", "2026-04-10")
    charge = services.charge_service(user, service=sms.code, quantity=1, **BY_PANEL)
    said = re.search(r"under `(\w+)`: (.*)\.", PAGE)
    assert said is not None
    assert (services.PRICING, named(said[2])) == (said[1], set(charge.metadata[said[1]]))


def test_the_figures_of_a_run_are_described() -> None:
    described = set().union(*(named(line[0]) for line in table("Its figures, on the run")))
    assert described == {"due", *vars(charging.Figures())}


def test_the_constraints_are_described() -> None:
    models = (
        ActiveDay, ChargingBatch, ChargingFailure, ChargingRun, Plan, Service, ServicePrice,
        Subscription, UserDefaults,
    )  # fmt: skip
    declared = {c.name for model in models for c in model._meta.constraints}
    described = set().union(*(named(row[0]) for row in table("## What the database keeps")))
    assert described == declared


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    assert f"batches of {charging.USERS_PER_BATCH:,} users" in PAGE
    assert f"up to {subscriptions.ACTIVE_DAYS_BACK} days back" in PAGE
    assert f"due at {schedule.RUN_TIME:%H:%M} UTC" in PAGE
