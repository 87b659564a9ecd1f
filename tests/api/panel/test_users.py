"""Customers over the Panel API: finding, reading, creating, changing and exporting them."""

import csv
import io
import json
from decimal import Decimal
from typing import Any
from zipfile import ZipFile

import pytest
from django.db import connection
from django.utils import timezone

from billing import ledger
from billing.api.panel import users as panel_users
from billing.models import Channel, Plan, Subject, Subscription, Transaction, UserDefaults
from tests.api.panel.calls import (
    INDIVIDUAL,
    LEGAL_ENTITY,
    REST_OF_CREATE,
    SOLE_TRADER,
    World,
)
from tests.api.panel.client import Answer, Program
from tests.conftest import Connections
from tests.factories import (
    AdministratorFactory,
    OperatorFactory,
    PlanFactory,
    UserFactory,
    subscribed,
    user_with,
)
from tests.operators import operator_with
from tests.recorded import events_of, sentences_of
from users.models import User

KINDS = {"individual": INDIVIDUAL, "sole_trader": SOLE_TRADER, "legal_entity": LEGAL_ENTITY}
every_kind = pytest.mark.parametrize("profile", KINDS.values(), ids=KINDS)

USER_FIELDS = {
    "id", "dealer_id", "login", "activated", "verified", "phone_verified", "legal_type",
    "first_name", "middle_name", "last_name", "phone", "post_country", "post_index", "post_region",
    "post_city", "post_street_address", "registered_country", "registered_index",
    "registered_region", "registered_city", "registered_street_address", "legal_name", "tin", "iec",
    "state_reg_num", "okpo_code", "balance", "bonus", "trackers_count", "menu_preset_id",
    "mfa_allowed", "creation_date", "comment",
}  # fmt: skip


def create(program: Program, profile: dict[str, Any] = INDIVIDUAL, **given: Any) -> Answer:
    return program("user/create", **({"user": profile, **REST_OF_CREATE} | given))


def update(program: Program, user: User, profile: dict[str, Any], **given: Any) -> Answer:
    profile = {"id": user.pk, "activated": True} | profile
    return program("user/update", user=profile, **given)


def history(user: User | int) -> list[str]:
    user_id = user if isinstance(user, int) else user.pk
    return sentences_of(Subject.USER, user_id)


# --- Reading ------------------------------------------------------------------------------------


def test_a_user_is_told_in_full(program: Program, world: World) -> None:
    for device in ("", "1", "2"):
        subscribed(world.user, world.plan, device=device, day=timezone.now().date())
    answer = program("user/read", user_id=world.user.pk)
    assert set(answer.body) == {
        "success", "value", "discount", "default_tariff_id", "block_parameters",
        "dealer_mfa_settings",
    }  # fmt: skip
    value = answer["value"]
    assert set(value) == USER_FIELDS
    assert value["trackers_count"] == 2
    assert value["login"] == "ada@example.com"
    assert value["creation_date"] == f"{world.user.created_at:%Y-%m-%d %H:%M:%S}"
    assert value["balance"] == ledger.balance(world.user).real
    assert (value["bonus"], value["activated"], value["legal_type"]) == (20, True, "individual")
    assert program("user/list")["list"] == [value]


def test_phones_are_told_in_digits(program: Program, world: World) -> None:
    User.objects.filter(pk=world.user.pk).update(phone="+49 (176) 123-45")
    assert program("user/read", user_id=world.user.pk)["value"]["phone"] == "4917612345"


def test_the_default_plan_is_the_users_own_or_that_of_new_users(
    program: Program, world: World
) -> None:
    def told(program: Program = program) -> int | None:
        return program("user/read", user_id=world.user.pk)["default_tariff_id"]

    assert told() is None
    of_new_users = PlanFactory()
    UserDefaults.objects.create(pk=1, plan=of_new_users)
    assert told() == of_new_users.pk
    subscribed(world.user, world.plan, device="5")
    assert told() == of_new_users.pk
    subscribed(world.user, world.plan)
    assert told() == world.plan.pk
    assert told(Program(operator_with("users.view_user"))) is None


def test_balances_are_for_those_who_may_see_them(world: World) -> None:
    program = Program(operator_with("users.view_user"))
    for told in (
        program("user/read", user_id=world.user.pk)["value"],
        program("user/list")["list"][0],
    ):
        assert set(told) == USER_FIELDS - {"balance", "bonus"}
    for order in ("balance", "bonus"):
        assert program("user/list", order_by=order).code == 13
        assert program("user/export", columns=["id", order]).code == 13
    may = Program(operator_with("users.view_user", "billing.view_balance"))
    assert may("user/list", order_by="balance")["list"][0]["balance"] == 100


@pytest.fixture
def people(db: None) -> dict[str, User]:
    return {
        "ada": user_with("5", email="b@example.com", first_name="Ada", last_name="Lovelace"),
        "grace": user_with("1", "7", email="c@example.com", last_name="Hopper", city="New York"),
        "firm": user_with(
            "9.5",
            email="a@example.com",
            first_name="",
            last_name="",
            legal_name="Lovelace & Sons",
            tin="GB-7",
            is_active=False,
            registered_city="London",
        ),
    }


@pytest.mark.parametrize(
    ("given", "names", "count"),
    [
        ({}, "ada grace firm", 3),
        ({"ascending": False}, "firm grace ada", 3),
        ({"order_by": "login"}, "firm ada grace", 3),
        ({"order_by": "last_name"}, "firm grace ada", 3),
        ({"order_by": "balance"}, "grace ada firm", 3),
        ({"order_by": "bonus", "ascending": "false"}, "grace firm ada", 3),
        ({"order_by": "post_city", "ascending": False, "limit": 1}, "grace", 3),
        ({"offset": 1, "limit": 1}, "grace", 3),
        ({"offset": "1", "limit": "5"}, "grace firm", 3),
        ({"limit": 0}, "", 3),
        ({"offset": 2_147_483_647, "limit": 2_147_483_647}, "", 3),
        ({"filter": "lovelace"}, "ada firm", 2),
        ({"filter": "LOVELACE ada"}, "ada", 1),
        ({"filter": "london"}, "firm", 1),
        ({"filter": "new  york "}, "grace", 1),
        ({"filter": "gb-7"}, "firm", 1),
        ({"filter": "nobody"}, "", 0),
        ({"filter": " "}, "ada grace firm", 3),
        ({"filter": "%"}, "", 0),
        ({"filter": "9" * 40}, "", 0),
        ({"hide_inactive": True}, "ada grace", 2),
    ],
)
def test_the_list(
    program: Program, people: dict[str, User], given: dict[str, Any], names: str, count: int
) -> None:
    answer = program("user/list", **given)
    assert [user["id"] for user in answer["list"]] == [people[name].pk for name in names.split()]
    assert answer["count"] == count


def test_a_number_finds_the_user_with_that_id(program: Program, people: dict[str, User]) -> None:
    found = program("user/list", filter=str(people["firm"].pk))["list"]
    assert people["firm"].pk in [user["id"] for user in found]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (
            {"order_by": "password"},
            f"Should be one of [{', '.join(panel_users.ORDERS)}]",
        ),
        ({"ascending": 2}, "Should be true or false"),
        ({"offset": -1}, "Should be from 0 to 2147483647"),
        ({"offset": 2**63}, "Should be from 0 to 2147483647"),
        ({"limit": "many"}, "Should be a whole number"),
        ({"limit": 10**100}, "Should be a whole number"),
        ({"filter": ["a"]}, "Should be a text"),
        ({"filter": "a\0"}, "Contains a null character"),
        ({"hide_inactive": "?"}, "Should be true or false"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(
    program: Program, given: dict[str, Any], error: str
) -> None:
    answer = program("user/list", **given)
    assert (answer.code, answer.wrong) == (7, {next(iter(given)): error})


def test_a_long_list_is_sent_as_it_is_read(
    program: Program, people: dict[str, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = program("user/list")
    monkeypatch.setattr(panel_users, "FETCHED_TOGETHER", 2)
    monkeypatch.setattr("billing.api.panel.answers.ROWS_TOGETHER", 2)
    streamed = program("user/list")
    assert streamed.response.streaming
    assert not at_once.response.streaming
    assert streamed.content == at_once.content


@pytest.mark.parametrize("call", ["user/list", "user/export"])
def test_a_search_that_takes_too_long_is_given_up(
    program: Program, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def slowly(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "LIKE" in sql:
            return execute("SELECT pg_sleep(60)", None, many, context)
        return execute(sql, params, many, context)

    monkeypatch.setattr(panel_users, "SEARCH_SECONDS", 0.05)
    with connection.execute_wrapper(slowly):
        answer = program(call, filter="nobody")
    assert (answer.code, answer.status) == (7, 400)
    assert "too long" in answer.wrong["filter"]


# --- Creating -----------------------------------------------------------------------------------


@every_kind
def test_what_is_created_can_be_read(
    program: Program, administrator: User, profile: dict[str, Any]
) -> None:
    answer = create(program, profile, comment="By hand")
    assert set(answer.body) == {"success", "id"}
    value = program("user/read", user_id=answer["id"])["value"]
    assert {name: value[name] for name in profile} == profile
    assert (value["comment"], value["activated"], value["balance"]) == ("By hand", True, 0)
    user = User.objects.get(pk=answer["id"])
    assert (user.time_zone, user.is_staff, user.is_superuser) == ("Europe/London", False, False)
    assert not user.has_usable_password()  # customers log in elsewhere
    [event] = events_of(Subject.USER, user.pk)
    assert (event.actor, event.action, event.channel) == (administrator, "added", "api")


@every_kind
def test_every_required_field_is_required(program: Program, profile: dict[str, Any]) -> None:
    for name in profile:
        for profile_without in (
            {key: value for key, value in profile.items() if key != name},
            profile | {name: None},
        ):
            answer = create(program, profile_without)
            assert (answer.code, answer.status) == (7, 400), name
            assert list(answer.wrong) == [f"user.{name}"]
    assert not User.objects.filter(email="new@example.com").exists()


def test_all_mistakes_are_told_at_once(program: Program) -> None:
    answer = program("user/create", user={"legal_type": "individual", "login": "no"}, discount=5)
    assert set(answer.wrong) == {
        *(f"user.{name}" for name in INDIVIDUAL if name != "legal_type"),
        *("password", "locale", "time_zone", "discount"),
    }


@pytest.mark.parametrize("kind", ["sole_trader", "legal_entity"])
def test_companies_leave_no_address_blank(program: Program, kind: str) -> None:
    addresses = [name for name in KINDS[kind] if name.startswith(("post_", "registered_"))]
    assert len(addresses) == 10
    answer = create(program, KINDS[kind] | dict.fromkeys(addresses, "  "))
    assert answer.wrong == {f"user.{name}": "Should not be blank" for name in addresses}
    answer = create(program, LEGAL_ENTITY | {"legal_name": ""})
    assert answer.wrong == {"user.legal_name": "Should not be blank"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("legal_type", "robot"),
        ("legal_type", 5),
        ("login", "no address"),
        ("login", f"{'x' * 250}@example.com"),
        ("first_name", "<script>"),
        ("first_name", "x" * 101),
        ("first_name", 5),
        ("first_name", "a\0b"),
        ("first_name", "\ud800"),
        ("last_name", "a\nb"),
        ("phone", "+49176"),
        ("phone", "٣٣٣"),
        ("phone", "1" * 16),
        ("post_city", "Berlin;"),
        ("post_street_address", "x" * 201),
        ("post_index", "x" * 21),
        ("registered_index", "a\tb"),
        ("tin", "x" * 256),
        ("tin", "=1"),
        ("iec", "a&b"),
        ("legal_name", "x" * 256),
        ("state_reg_num", "12-3"),
        ("state_reg_num", "1" * 16),
        ("okpo_code", "123456789"),
        ("okpo_code", "abcdefgh"),
        ("activated", "perhaps"),
    ],
)
def test_a_wrong_field_is_named(program: Program, name: str, value: Any) -> None:
    answer = create(program, LEGAL_ENTITY | {name: value})
    assert (answer.code, list(answer.wrong)) == (7, [f"user.{name}"])


@pytest.mark.parametrize("value", ["", "12345678", "1234567890"])
def test_an_okpo_code_has_8_or_10_digits(program: Program, value: str) -> None:
    answer = create(program, SOLE_TRADER | {"okpo_code": value, "state_reg_num": "123"})
    told = program("user/read", user_id=answer["id"])["value"]
    assert (told["okpo_code"], told["state_reg_num"]) == (value, "123")


def test_names_of_all_alphabets(program: Program) -> None:
    profile = INDIVIDUAL | {"first_name": "Žofie-Ann", "last_name": "O'Brien, Иванов"}
    assert create(program, profile).code is None


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"user": None}, "user"),
        ({"user": "text"}, "user"),
        ({"user": []}, "user"),
        ({"password": None}, "password"),
        ({"password": ""}, "password"),
        ({"password": 12345678}, "password"),
        ({"locale": None}, "locale"),
        ({"locale": ""}, "locale"),
        ({"time_zone": None}, "time_zone"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"comment": "x" * 256}, "comment"),
        ({"discount": {"percent": 5}}, "discount"),
        ({"default_tariff_id": "x"}, "default_tariff_id"),
    ],
)
def test_a_wrong_parameter_of_create_is_named(
    program: Program, given: dict[str, Any], wrong: str
) -> None:
    answer = create(program, **given)
    assert (answer.code, list(answer.wrong)) == (7, [wrong])


def test_the_object_comes_as_json_in_a_form(program: Program) -> None:
    parameters = {"user": json.dumps(INDIVIDUAL), **REST_OF_CREATE}
    assert program.form("user/create", parameters).code is None
    parameters["user"] = "{nonsense"
    assert program.form("user/create", parameters).wrong == {"user": "Should be JSON"}
    parameters["user"] = "[" * 50_000
    assert program.form("user/create", parameters).wrong == {"user": "Should be JSON"}


def test_what_is_accepted_and_not_kept(program: Program) -> None:
    profile = INDIVIDUAL | {"birth_date": "1906-12-09", "passport": "1", "menu_preset_id": 346}
    answer = create(program, profile, discount=None)
    assert program("user/read", user_id=answer["id"])["value"]["menu_preset_id"] is None


@pytest.mark.parametrize("login", ["ADA@example.com", "operator@example.com"])
def test_a_login_in_use_is_refused(program: Program, world: World, login: str) -> None:
    OperatorFactory(email="operator@example.com")
    other = UserFactory()
    for answer in (
        create(program, INDIVIDUAL | {"login": login}),
        update(program, other, INDIVIDUAL | {"login": login}),
    ):
        assert answer.status == 400
        assert answer["status"] == {"code": 206, "description": "Login already in use"}


def test_one_login_at_once_on_many_connections_is_taken_once(connections: Connections) -> None:
    administrator = AdministratorFactory()
    programs = [Program(administrator) for _ in range(6)]
    outcomes = connections(6, lambda place: create(programs[place]).code)
    assert sorted([outcome.result for outcome in outcomes], key=str) == [206] * 5 + [None]
    assert User.objects.filter(email="new@example.com").count() == 1


def test_a_new_user_is_welcomed(program: Program, administrator: User) -> None:
    plan = PlanFactory()
    UserDefaults.objects.create(pk=1, bonus="15", plan=plan)
    user_id = create(program)["id"]
    gift = Transaction.objects.get(user=user_id)
    assert (gift.subtype, gift.bonus_amount, gift.channel) == ("register", 15, Channel.API)
    assert gift.actor == administrator
    assert Subscription.objects.get(user=user_id).plan == plan


def test_a_plan_of_ones_own_is_in_place_of_that_for_new_users(program: Program) -> None:
    UserDefaults.objects.create(pk=1, bonus="15", plan=PlanFactory())
    plan = PlanFactory(name="Own")
    user_id = create(program, default_tariff_id=plan.pk)["id"]
    [subscription] = Subscription.objects.filter(user=user_id)
    assert (subscription.plan, subscription.device) == (plan, "")
    assert subscription.status == Subscription.Status.SUSPENDED  # until there is money
    assert ledger.balance(user_id) == (0, 15, 1)
    assert "Own" in history(user_id)[0]
    assert program("user/read", user_id=user_id)["default_tariff_id"] == plan.pk


def test_a_user_who_is_not_activated_can_have_a_plan(program: Program) -> None:
    free = PlanFactory(price="0")
    answer = create(program, INDIVIDUAL | {"activated": False}, default_tariff_id=free.pk)
    assert program("user/read", user_id=answer["id"])["value"]["activated"] is False
    assert Subscription.objects.get(user=answer["id"]).plan == free


def test_a_plan_has_to_be_one(program: Program) -> None:
    answer = create(program, default_tariff_id=2**63 - 1)
    assert (answer.code, list(answer.wrong)) == (201, ["default_tariff_id"])
    retired = PlanFactory(is_active=False)
    answer = create(program, default_tariff_id=retired.pk)
    assert (answer.code, list(answer.wrong)) == (7, ["default_tariff_id"])
    # The user was not created without the plan.
    assert not User.objects.filter(email="new@example.com").exists()


def test_subscribing_takes_its_own_permission(world: World) -> None:
    clerk = Program(operator_with("users.add_user", "users.change_user"))
    assert create(clerk, default_tariff_id=world.plan.pk).code == 13
    assert update(clerk, world.user, INDIVIDUAL, default_tariff_id=world.plan.pk).code == 13
    may_add = Program(
        operator_with("users.add_user", "users.change_user", "billing.add_subscription")
    )
    assert create(may_add, default_tariff_id=world.plan.pk).code is None
    subscribed(world.user, PlanFactory())
    assert update(may_add, world.user, INDIVIDUAL, default_tariff_id=world.plan.pk).code == 13
    assert User.objects.get(pk=world.user.pk).email == "ada@example.com"  # nothing was changed


# --- Updating -----------------------------------------------------------------------------------


@every_kind
def test_what_is_updated_can_be_read(
    program: Program, world: World, profile: dict[str, Any]
) -> None:
    answer = update(program, world.user, profile | {"activated": False}, comment="Changed")
    assert answer.body == {"success": True}
    value = program("user/read", user_id=world.user.pk)["value"]
    assert {name: value[name] for name in profile} == profile
    assert (value["comment"], value["activated"]) == ("Changed", False)
    assert value["balance"] == 100


def test_history_says_what_was_changed_and_by_whom(
    program: Program, administrator: User, world: World
) -> None:
    same = {"login": "ada@example.com", "first_name": "Ada", "last_name": world.user.last_name}
    update(program, world.user, INDIVIDUAL | same | {"phone": "123", "activated": False})
    [event] = events_of(Subject.USER, world.user.pk)
    assert (event.actor, event.channel) == (administrator, "api")
    assert history(world.user) == ["Changed: active, phone."]
    update(program, world.user, INDIVIDUAL | same | {"phone": "123", "activated": False})
    assert len(history(world.user)) == 1  # nothing has changed


@pytest.mark.parametrize("name", ["id", "activated"])
@pytest.mark.parametrize("value", ["absent", None])
def test_id_and_activated_are_mandatory(
    program: Program, world: World, name: str, value: Any
) -> None:
    profile = {"id": world.user.pk, "activated": True} | INDIVIDUAL | {name: value}
    if value == "absent":
        del profile[name]
    answer = program("user/update", user=profile)
    assert (answer.code, list(answer.wrong)) == (7, [f"user.{name}"])


def test_what_is_not_given_stays(program: Program, world: World) -> None:
    update(program, world.user, LEGAL_ENTITY | {"okpo_code": "12345678"}, comment="Kept")
    update(program, world.user, LEGAL_ENTITY)
    value = program("user/read", user_id=world.user.pk)["value"]
    assert (value["okpo_code"], value["comment"]) == ("12345678", "Kept")


def test_what_was_read_can_be_sent_back(program: Program, world: World) -> None:
    """This holds also for values that the panel allows and the Panel API refuses."""
    User.objects.filter(pk=world.user.pk).update(
        phone="+49 (176) 123-45 67 89 012", legal_name="Müller & Söhne", comment="x" * 300
    )
    subscribed(world.user, world.plan)
    before = User.objects.values().get(pk=world.user.pk)
    read = program("user/read", user_id=world.user.pk)
    answer = program(
        "user/update",
        user=read["value"] | {"balance": 0, "bonus": 0},
        comment=read["value"]["comment"],
        discount=read["discount"],
        default_tariff_id=read["default_tariff_id"],
    )
    assert answer.code is None
    assert User.objects.values().get(pk=world.user.pk) == before
    assert history(world.user) == []


def test_reading_and_sending_back_subscribes_nobody(program: Program, world: World) -> None:
    UserDefaults.objects.create(pk=1, plan=world.plan)
    read = program("user/read", user_id=world.user.pk)
    assert read["default_tariff_id"] == world.plan.pk
    update(program, world.user, INDIVIDUAL, default_tariff_id=read["default_tariff_id"])
    assert not Subscription.objects.exists()


@pytest.fixture
def other_plan(db: None) -> Plan:
    return PlanFactory(name="Other", price="30")


def test_another_plan_counts_from_the_next_charge_on(
    program: Program, world: World, other_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)  # or the next charge might become due
    subscription = subscribed(world.user, world.plan, day=now.date())
    had = ledger.balance(world.user)
    assert update(program, world.user, INDIVIDUAL, default_tariff_id=other_plan.pk).code is None
    subscription.refresh_from_db()
    assert subscription.plan == other_plan
    assert ledger.balance(world.user) == had
    assert "Other" in history(world.user)[0]


def test_a_plan_for_somebody_without_one_starts_now(
    program: Program, world: World, other_plan: Plan
) -> None:
    update(program, world.user, INDIVIDUAL, default_tariff_id=other_plan.pk)
    assert Subscription.objects.get(user=world.user).plan == other_plan
    assert ledger.balance(world.user).real == Decimal(70)
    assert Transaction.objects.get(user=world.user, number=2).channel == Channel.API


def test_a_plan_along_with_activating_and_deactivating(
    program: Program, world: World, other_plan: Plan
) -> None:
    User.objects.filter(pk=world.user.pk).update(is_active=False)
    asleep = INDIVIDUAL | {"activated": False}
    assert update(program, world.user, asleep, default_tariff_id=other_plan.pk).code is None
    given = Subscription.objects.get(user=world.user)
    assert (given.plan, given.status) == (other_plan, "suspended")
    assert update(program, world.user, INDIVIDUAL, default_tariff_id=other_plan.pk).code is None
    answer = update(program, world.user, asleep, default_tariff_id=world.plan.pk)
    assert answer.code is None
    assert Subscription.objects.get(user=world.user).plan == world.plan


def test_an_update_is_whole_or_not_at_all(program: Program, world: World) -> None:
    User.objects.filter(pk=world.user.pk).update(is_active=False)
    before = User.objects.values().get(pk=world.user.pk)
    retired = PlanFactory(is_active=False)
    answer = update(program, world.user, INDIVIDUAL, default_tariff_id=retired.pk)
    assert (answer.code, list(answer.wrong)) == (7, ["default_tariff_id"])
    assert User.objects.values().get(pk=world.user.pk) == before
    assert history(world.user) == []


def test_nobody_gets_rights_by_an_update(program: Program, world: World) -> None:
    crafted = {"is_staff": True, "is_superuser": True, "password": "x", "balance": 10**6}
    update(program, world.user, INDIVIDUAL | crafted, is_staff=True)
    user = User.objects.get(pk=world.user.pk)
    assert (user.is_staff, user.is_superuser) == (False, False)
    assert ledger.balance(user).real == 100


# --- Exporting ----------------------------------------------------------------------------------


def exported(answer: Answer) -> list[list[str]]:
    assert answer.response["Content-Type"] == "text/csv; charset=utf-8"
    assert ".csv" in answer.response["Content-Disposition"]
    return list(csv.reader(io.StringIO(answer.content.decode())))


def test_an_export_to_csv(program: Program, people: dict[str, User]) -> None:
    rows = exported(program("user/export", format="csv"))
    assert rows[0] == ["id", "login", "first_name", "middle_name", "last_name", "phone"]
    assert [row[0] for row in rows[1:]] == [str(user.pk) for user in people.values()]
    columns = ["balance", "legal_name", "activated", "bonus"]
    rows = exported(program("user/export", format="csv", columns=columns, filter="lovelace"))
    assert rows == [
        columns,
        ["5.0000", "", "true", "0.0000"],
        ["9.5000", "Lovelace & Sons", "false", "0.0000"],
    ]


def test_an_export_by_address(program: Program, people: dict[str, User]) -> None:
    answer = program.get("user/export/", {"format": "csv", "columns": ["login"], "limit": 1})
    assert exported(answer) == [["login"], ["b@example.com"]]


def test_an_export_is_a_workbook_unless_told_otherwise(
    program: Program, people: dict[str, User]
) -> None:
    answer = program("user/export", columns=["login", "balance", "last_name"])
    assert answer.response["Content-Type"] == (
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    )
    assert ".xlsx" in answer.response["Content-Disposition"]
    with ZipFile(io.BytesIO(answer.content)) as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
    for text in ("login", "b@example.com", "Hopper", "<v>9.5"):
        assert text in sheet


@pytest.mark.parametrize("name", list(USER_FIELDS - {"menu_preset_id"}))
def test_every_field_can_be_exported(program: Program, world: World, name: str) -> None:
    value = program("user/read", user_id=world.user.pk)["value"][name]
    [heading, row] = exported(program("user/export", format="csv", columns=[name]))
    assert heading == [name]
    if name in ("balance", "bonus"):
        assert Decimal(row[0]) == value
    else:
        assert row == [str(value).lower() if isinstance(value, bool) else str(value)]


def test_no_cell_is_a_formula(program: Program, world: World) -> None:
    User.objects.filter(pk=world.user.pk).update(last_name="=1+1", comment="@SUM(A1)")
    columns = ["last_name", "comment"]
    rows = exported(program("user/export", format="csv", columns=columns))
    assert rows[1] == ["'=1+1", "'@SUM(A1)"]
    with ZipFile(io.BytesIO(program("user/export", columns=columns).content)) as book:
        assert "<f>" not in book.read("xl/worksheets/sheet1.xml").decode()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"format": "pdf"}, "format"),
        ({"columns": []}, "columns"),
        ({"columns": "id"}, "columns"),
        ({"columns": ["password"]}, "columns"),
        ({"columns": [["id"]]}, "columns"),
        ({"columns": {"id": 1}}, "columns"),
        ({"filter": 5}, "filter"),
    ],
)
def test_what_is_wrong_with_an_export_is_named(
    program: Program, given: dict[str, Any], wrong: str
) -> None:
    answer = program("user/export", **given)
    assert (answer.code, list(answer.wrong)) == (7, [wrong])


def test_more_users_than_a_sheet_holds(
    program: Program, people: dict[str, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.files.exports.XLSX_MAX_ROWS", 2)
    assert program("user/export").wrong.keys() == {"format"}
    assert program("user/export", format="csv").status == 200


def test_an_unknown_user_is_not_found(program: Program, world: World) -> None:
    nobody = world.user.pk + 1_000
    assert program("user/read", user_id=nobody).code == 201
    assert program("user/update", user=INDIVIDUAL | {"id": nobody, "activated": True}).code == 201
