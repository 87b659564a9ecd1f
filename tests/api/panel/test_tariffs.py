"""Plans over the Panel API, which calls them tariffs."""

from decimal import Decimal
from typing import Any

import pytest

from billing.api.panel.tariffs import ORDERS
from billing.models import Plan
from billing.plans.pricing import Cycle
from tests.api.panel.client import Program
from tests.factories import PlanFactory, ServiceFactory, plan_with

NO_ORDER = f"Should be one of [{', '.join(ORDERS)}]"


@pytest.fixture
def plans(db: None) -> dict[str, Plan]:
    sms = ServiceFactory(code="outgoing_sms", name="Text")
    return {
        plan.name: plan
        for plan in (
            plan_with({sms: "0.3000"}, name="Premium", price="12.5500", proportional_charge=True),
            PlanFactory(name="Per day", cycle=Cycle.ACTIVE_DAY, price="0.5"),
            PlanFactory(name="Annual Premium", cycle=Cycle.ANNUAL, price="120", is_active=False),
            PlanFactory(name="Daily", cycle=Cycle.EVERY_DAY, price="30"),
        )
    }


def test_a_plan_is_told_in_full(program: Program, plans: dict[str, Plan]) -> None:
    answer = program("tariff/read", tariff_id=plans["Premium"].pk)
    assert set(answer.body) == {"success", "value"}
    assert answer["value"] == {
        "id": plans["Premium"].pk,
        "name": "Premium",
        "group_id": 1,
        "active": True,
        "type": "monthly",
        "cycle": "monthly",
        "price": Decimal("12.55"),
        "early_change_price": None,
        "device_limit": 2**31 - 1,
        "has_reports": True,
        "store_period": "100y",
        "proportional_charge": True,
        "auto_prolong": True,
        "features": [],
        "map_filter": {"exclusion": True, "values": []},
        "service_prices": {"outgoing_sms": Decimal("0.3")},
        "device_type": "tracker",
    }
    assert '"price": 12.55,' in answer.content.decode()


def test_only_active_days_are_a_type_of_their_own(program: Program, plans: dict[str, Plan]) -> None:
    told = {row["name"]: (row["type"], row["cycle"]) for row in program("tariff/list")["list"]}
    assert told == {
        "Premium": ("monthly", "monthly"),
        "Per day": ("activeday", "activeday"),
        "Annual Premium": ("monthly", "every_year"),
        "Daily": ("monthly", "everyday"),
    }


@pytest.mark.parametrize(
    ("given", "names", "count"),
    [
        ({}, ["Premium", "Per day", "Annual Premium", "Daily"], 4),
        ({"ascending": False}, ["Daily", "Annual Premium", "Per day", "Premium"], 4),
        ({"order_by": "name"}, ["Annual Premium", "Daily", "Per day", "Premium"], 4),
        ({"order_by": "price"}, ["Per day", "Premium", "Daily", "Annual Premium"], 4),
        (
            {"order_by": "price", "ascending": "false"},
            ["Annual Premium", "Daily", "Premium", "Per day"],
            4,
        ),
        ({"order_by": "group_id"}, ["Premium", "Per day", "Annual Premium", "Daily"], 4),
        ({"offset": 1, "limit": 2}, ["Per day", "Annual Premium"], 4),
        ({"limit": 0}, [], 4),
        ({"offset": 10}, [], 4),
        ({"filter": "premium"}, ["Premium", "Annual Premium"], 2),
        ({"filter": "premium annual"}, ["Annual Premium"], 1),
        ({"filter": "12.55"}, ["Premium"], 1),
        ({"filter": "tracker"}, ["Premium", "Per day", "Annual Premium", "Daily"], 4),
        ({"filter": "  "}, ["Premium", "Per day", "Annual Premium", "Daily"], 4),
        ({"filter": "%"}, [], 0),
        ({"device_type": "tracker"}, ["Premium", "Per day", "Annual Premium", "Daily"], 4),
        ({"device_type": "camera"}, [], 0),
    ],
)
def test_the_list(
    program: Program,
    plans: dict[str, Plan],
    given: dict[str, Any],
    names: list[str],
    count: int,
) -> None:
    answer = program("tariff/list", **given)
    assert [row["name"] for row in answer["list"]] == names
    assert answer["count"] == count
    assert answer["wholesale_service_prices"] == {}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"order_by": "secret"}, NO_ORDER),
        ({"order_by": ["id"]}, NO_ORDER),
        ({"device_type": "lamp"}, "Should be one of [tracker, camera, socket]"),
        ({"ascending": "maybe"}, "Should be true or false"),
        ({"offset": -1}, "Should be from 0 to 2147483647"),
        ({"limit": 2**31}, "Should be from 0 to 2147483647"),
        ({"filter": "x" * 201}, "Should have at most 200 characters"),
        ({"filter": "\0"}, "Contains a null character"),
    ],
)
def test_what_is_wrong_is_named(
    program: Program, plans: dict[str, Plan], given: dict[str, Any], error: str
) -> None:
    answer = program("tariff/list", **given)
    assert (answer.code, answer.wrong) == (7, {next(iter(given)): error})


def test_an_unknown_plan_is_not_found(program: Program, plans: dict[str, Plan]) -> None:
    assert program("tariff/read", tariff_id=2**63 - 1).code == 201
    assert program("tariff/read").wrong == {"tariff_id": "Is required"}
