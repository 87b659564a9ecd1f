"""Sends the requests of a published console in the same order: forms with JSON in their fields."""

import json
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from billing import ledger
from billing.api.panel import tariffs, trackers
from billing.api.panel import users as panel_users
from billing.models import Subscription, UserDefaults
from tests.api.panel.calls import INDIVIDUAL, LEGAL_ENTITY, REST_OF_CREATE, World
from tests.api.panel.client import Answer, Program
from tests.factories import AdministratorFactory, PlanFactory, UserFactory, subscribed, user_with
from users.models import User, time_zones

ZERO_DISCOUNT = {"value": 0, "min_trackers": 0, "end_date": None, "strategy": "no_summing"}


def console(program: Program, path: str, **parameters: Any) -> Answer:
    """Posts a form with the hash in a field. Objects and null are sent as JSON text."""
    fields = {"hash": program.hash} | parameters
    anonymous = Program()
    return anonymous.form(path, fields)


def written(value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Returns the user as the console's form sends it back, with the form's additional fields."""
    carried = {
        "menu": None, "block": None, "discount": 0, "discount_min_trackers": 0,
        "discount_end_date": None, "discount_strategy": "no_summing",
    }  # fmt: skip
    plain = {k: float(v) if isinstance(v, Decimal) else v for k, v in value.items()}
    return plain | carried | changes


# --- The journey --------------------------------------------------------------------------------


def test_from_login_to_a_posted_change(db: None) -> None:
    AdministratorFactory(email="root@example.com", password="correct horse")
    user = user_with("5", email="ada@example.com")
    logged_in = console(
        Program(), "account/auth", login="root@example.com", password="correct horse"
    )
    program = Program()
    program.hash = logged_in["hash"]

    assert console(program, "dealer/get_info")["tariff"]["currency"] == "USD"
    assert len(console(program, "timezone/list", locale="en_US")["list"]) > 300
    for path in ("payment_system/list", "paas/plugins/list"):
        assert console(program, path)["list"] == []
    assert console(program, "tariff/defaults/read")["tracker"]["tariff_id"] is None
    assert console(program, "user/menu/default/read")["value"] == []
    assert console(program, "user/mfa/settings/default/read")["value"] is None
    listed = console(
        program, "user/list", page=1, offset=0, limit=50, order_by="creation_date",
        ascending=False, filter="null",
    )  # fmt: skip
    assert [each["id"] for each in listed["list"]] == [user.pk]
    assert console(program, "tracker/list", user_id=user.pk)["list"] == []

    opened = console(program, "user/read", user_id=user.pk)
    assert console(program, "user/menu/read", user_id=user.pk)["value"] == []
    assert {name: opened["discount"][name] for name in ZERO_DISCOUNT} == ZERO_DISCOUNT

    for kind, amount in (("balance", "12.5"), ("bonus", "3")):
        posted = console(
            program, "user/transaction/change_balance", user_id=user.pk, type=kind, amount=amount,
            text="Bank transfer 4711",
        )  # fmt: skip
        assert posted.code is None
    assert ledger.balance(user)[:2] == (Decimal("17.5"), 3)


def test_a_console_creates_a_user(program: Program) -> None:
    answer = console(
        program, "user/create", user=json.dumps(written(INDIVIDUAL, activated=True)),
        discount=json.dumps(ZERO_DISCOUNT), default_tariff_id="null", comment="null",
        **REST_OF_CREATE,
    )  # fmt: skip
    user = User.objects.get(pk=answer["id"])
    assert user.comment == ""
    assert not Subscription.objects.filter(user=user).exists()


def test_a_console_edits_a_user(program: Program, world: World) -> None:
    value = console(program, "user/read", user_id=world.user.pk)["value"]
    answer = console(
        program, "user/update", user=json.dumps(written(value, first_name="Augusta")),
        discount=json.dumps(ZERO_DISCOUNT), default_tariff_id="null", comment="VIP",
    )  # fmt: skip
    assert answer.code is None
    world.user.refresh_from_db()
    assert (world.user.first_name, world.user.comment) == ("Augusta", "VIP")


# --- No discount, and no value ------------------------------------------------------------------


@pytest.mark.parametrize(
    "discount",
    [None, 0, {}, {"value": 0}, {"value": "0.00"}, {"percent": 0.0}, ZERO_DISCOUNT,
     {"percent": None, "end_date": "2027-01-01", "device_limit": 3}],
    ids=json.dumps,
)  # fmt: skip
def test_a_zero_discount_is_no_discount(program: Program, world: World, discount: Any) -> None:
    profile = INDIVIDUAL | {"id": world.user.pk, "activated": True, "login": world.user.email}
    assert program("user/update", user=profile, discount=discount).code is None


@pytest.mark.parametrize(
    "discount", [5, "5", [], True, {"value": 5}, {"percent": "0.01"}, {"value": 0, "percent": 1}]
)
def test_a_discount_of_more_is_refused(program: Program, world: World, discount: Any) -> None:
    profile = INDIVIDUAL | {"id": world.user.pk, "activated": True, "login": world.user.email}
    answer = program("user/update", user=profile, discount=discount)
    assert (answer.code, list(answer.wrong)) == (7, ["discount"])


def test_the_text_null_of_a_form_is_no_value_and_that_of_json_is_a_text(
    program: Program, world: World
) -> None:
    assert console(program, "user/list", limit="null", filter="null")["count"] == 1
    assert program("user/list", filter="null")["count"] == 0
    assert console(program, "user/read", user_id="null").wrong == {"user_id": "Is required"}


# --- What was read can be sent back -------------------------------------------------------------

SHORT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
DIGITS = st.text("0123456789+-() ", max_size=15)
FIELD_TEXTS = {field.attribute: SHORT for field in panel_users.FIELDS.values()} | {
    "email": st.from_regex(
        r"[a-z]{1,9}(\.[a-z]{1,5})?@(x|firm\.example|MÜNCHEN\.de)", fullmatch=True
    ),
    "phone": DIGITS,
    "state_reg_num": SHORT,
    "okpo_code": st.text("0123456789-", max_size=10),
}


class TestWhatWasRead(TestCase):
    """The values may be any that the database holds, not only those that the panel accepts."""

    @given(
        texts=st.fixed_dictionaries(FIELD_TEXTS),
        legal_type=st.sampled_from(User.LegalType.values),
        is_active=st.booleans(),
        comment=st.one_of(SHORT, st.just("c" * 20_000)),
    )
    @settings(max_examples=150)
    def test_can_be_sent_back_for_every_legal_type(
        self, texts: dict[str, str], legal_type: str, is_active: bool, comment: str
    ) -> None:
        user = UserFactory(is_active=is_active)
        User.objects.filter(pk=user.pk).update(**texts, legal_type=legal_type, comment=comment)
        before = User.objects.filter(pk=user.pk).values().get()
        program = Program(AdministratorFactory())
        read = program("user/read", user_id=user.pk)
        back = {
            "user": json.loads(json.dumps(read["value"], default=float)),
            "discount": json.loads(json.dumps(read["discount"], default=float)),
            "default_tariff_id": read["default_tariff_id"],
            "comment": read["value"]["comment"],
        }
        answer = program("user/update", **back)
        assert answer.code is None, answer.wrong
        assert console(program, "user/update", **back).code is None
        assert User.objects.filter(pk=user.pk).values().get() == before


def test_a_blank_address_is_not_taken_along_into_a_company(program: Program, world: World) -> None:
    User.objects.filter(pk=world.user.pk).update(country="", city="")
    profile = LEGAL_ENTITY | {"id": world.user.pk, "activated": True, "post_country": ""}
    assert program("user/update", user=profile).wrong == {
        "user.post_country": "Should not be blank"
    }


# --- Lists --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ascending", [True, False])
def test_users_are_ordered_by_every_column_that_is_shown(
    program: Program, world: World, ascending: bool
) -> None:
    subscribed(user_with("1", email="b@example.com"), PlanFactory(price="0"), device="7")
    columns = program("user/list")["list"][0]
    for column in columns:
        answer = program("user/list", order_by=column, ascending=ascending)
        assert answer.code is None, column
        values = [each[column] for each in answer["list"]]
        if column in ("id", "login", "balance", "trackers_count", "creation_date"):
            assert values == sorted(values, reverse=not ascending), column
    assert set(columns) == set(panel_users.ORDERS)


def test_plans_are_ordered_by_every_column_that_is_shown(program: Program, world: World) -> None:
    shown = program("tariff/list")["list"][0]
    plain = {name for name, value in shown.items() if not isinstance(value, list | dict)}
    assert plain == set(tariffs.ORDERS)
    for column in plain:
        assert program("tariff/list", order_by=column).code is None


@pytest.fixture
def devices(world: World) -> dict[str, Subscription]:
    free, dear = PlanFactory(price="0"), PlanFactory(price="1000")
    other = UserFactory(email="zoe@example.com", first_name="Zoë", last_name="Late")
    subscribed(world.user, free)  # for the account, not for a device
    ended = subscribed(other, free, device="99")
    Subscription.objects.filter(pk=ended.pk).update(status="cancelled", due_on=None)
    return {
        "number": subscribed(world.user, free, device="4711"),
        "name": subscribed(world.user, free, device="Van 7"),
        "waits": subscribed(other, dear, device="0042"),
        "long": subscribed(other, free, device="9" * 19),
    }


def tracker_ids(answer: Answer) -> list[int]:
    return [each["id"] for each in answer["list"]]


def test_a_tracker_is_a_device_with_a_subscription(
    program: Program, world: World, devices: dict[str, Subscription]
) -> None:
    answer = program("tracker/list")
    named, too_long = -devices["name"].pk, -devices["long"].pk
    assert tracker_ids(answer) == sorted([named, too_long, 42, 4711])
    assert answer["count"] == 4
    [told] = [each for each in answer["list"] if each["id"] == 42]
    assert told["label"] == "0042"
    assert told["owner_name"] == "Zoë Late"
    assert told["source"]["blocked"] is True
    assert told["source"]["tariff_id"] == devices["waits"].plan_id
    assert program("tracker/read", tracker_id=42)["value"] == told
    assert program("tracker/read", tracker_id=named)["value"]["label"] == "Van 7"
    assert program("tracker/read", tracker_id=99).code == 201


def test_a_tracker_has_the_number_that_its_transactions_name(program: Program) -> None:
    user = user_with("100")
    subscribed(user, PlanFactory(price="3"), device="0042", day=timezone.now().date())
    listed = program("tracker/list", user_id=user.pk)["list"]
    rows = program(
        "user/transaction/list", user_id=user.pk,
        **{"from": "2026-01-01 00:00:00", "to": "2026-12-31 23:59:59"},
    )  # fmt: skip
    assert rows.code is None
    numbers = {row["tracker_id"] for row in rows["list"]} - {0}
    assert numbers <= {each["id"] for each in listed} == {42}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"filter": "van"}, ["name"]),
        ({"filter": "zoe 42"}, ["waits"]),
        ({"filter": "Zoé LATE"}, ["long", "waits"]),
        ({"filter": "zoe\u0308, van"}, []),
        ({"filter": "99999"}, ["long"]),
        ({"filter": "nobody"}, []),
        ({"order_by": "label", "offset": 1, "limit": 1}, ["number"]),
        ({"clones_filter": "all", "order_by": "creation_date", "limit": 0}, []),
    ],
)
def test_trackers_are_found(
    program: Program, devices: dict[str, Subscription], asked: dict[str, Any], found: list[str]
) -> None:
    answer = program("tracker/list", **asked)
    assert [each["source"]["id"] for each in answer["list"]] == [devices[n].pk for n in found]


def test_trackers_are_ordered_by_every_column(
    program: Program, devices: dict[str, Subscription]
) -> None:
    shown = program("tracker/list")["list"][0]
    assert {name for name in shown if name != "source"} <= set(trackers.ORDERS)
    for column in trackers.ORDERS:
        for ascending in (True, False):
            answer = program("tracker/list", order_by=column, ascending=ascending)
            assert answer.code is None, column


# --- About the installation ---------------------------------------------------------------------


def test_time_zones_need_no_session_and_are_known_everywhere_else(db: None) -> None:
    zones = {zone["zone_id"]: zone for zone in Program()("timezone/list", locale="de")["list"]}
    assert set(zones) <= time_zones()
    assert zones["Asia/Kathmandu"] == {
        "zone_id": "Asia/Kathmandu",
        "description": "Kathmandu",
        "base_offset": Decimal("5.75"),
        "dst_offset": 0,
        "country_code": "NP",
    }
    assert zones["Europe/Dublin"]["base_offset"] == 0
    assert zones["America/Tijuana"]["base_offset"] == -8


def test_a_menu_is_of_a_customer_who_exists(program: Program, world: World) -> None:
    assert program("user/menu/read", user_id=world.user.pk + 1_000).code == 201


def test_the_plan_for_new_users_is_the_default(program: Program, world: World) -> None:
    UserDefaults.objects.create(pk=1, plan=world.plan, bonus="5")
    assert program("tariff/defaults/read")["tracker"] == {
        "tariff_id": world.plan.pk,
        "activation_bonus": 0,
        "free_days": 0,
        "free_days_device_limit": None,
    }


def test_answers_match_the_published_description(program: Program, world: World) -> None:
    """A dealer has all fields of the published description."""
    dealer = program("dealer/get_info").body
    assert set(dealer) == {
        "success", "id", "seller_id", "parent_dealer_id", "contract_type", "tariff_id", "tariff",
        "demo_tariff", "tracker_tariff_end_date", "store_period", "demo_ends", "title",
        "block_status", "legal_name", "active_amount", "active_amount_own",
        "active_amount_subpaas", "active_limit", "locale", "domain", "favicon", "logo", "subpaas",
        "allow_branding", "password_policy", "paas_activation_date", "license_balance",
        "seller_currency", "features", "default_user_time_zone",
    }  # fmt: skip
