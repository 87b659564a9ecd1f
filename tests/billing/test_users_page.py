"""The list and pages of users: searching, filtering, editing, and permissions."""

import html
import re
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import Event
from tests.factories import (
    AdministratorFactory,
    OperatorFactory,
    PlanFactory,
    UserFactory,
    subscribed,
    user_with,
)
from tests.operators import client_of, operator_with, permission, sent_by
from tests.recorded import all_sentences
from users.models import User

pytestmark = pytest.mark.django_db

LIST = "/admin/users/user/"
MAY_EDIT = ("users.view_user", "users.add_user", "users.change_user")


def page(user: User, name: str = "change") -> str:
    return f"{LIST}{user.pk}/{name}/"


def found(query: str = "") -> list[User]:
    """Returns the users that a viewer's list shows, in its order."""
    answer = client_of(operator_with(group="Viewer")).get(f"{LIST}{query}")
    assert answer.status_code == 200
    return list(answer.context["cl"].result_list)


def filled_in(user: User | None = None, **changes: Any) -> dict[str, Any]:
    """Returns the user's form as the page would send it."""
    names = ("email", "first_name", "last_name", "legal_type", "legal_name", "tin", "phone", "city")
    user = user or User(email="new@example.com")
    return {name: getattr(user, name) for name in names} | {"is_active": "on"} | changes


# --- Searching ----------------------------------------------------------------------------------


@pytest.fixture
def ada(db: None) -> User:
    UserFactory(first_name="Somebody", last_name="Else")
    return UserFactory(
        email="ada@lovelace.example",
        first_name="Ada",
        middle_name="King",
        last_name="Lovelace",
        legal_name="Analytical Engines Ltd.",
        phone="+44 20 7946 0958",
        tin="GB-100%_7",
        city="Łódź",
    )


@pytest.mark.parametrize(
    "words",
    [
        "ada@lovelace",
        "LOVELACE",
        "king",
        "analytical engines",
        "engines  ada",
        "7946 0958",
        "100%_7",
        "łódź",
    ],
)
def test_search_finds_every_word_in_some_field(ada: User, words: str) -> None:
    assert found(f"?q={words.replace('%', '%25').replace('+', '%2B')}") == [ada]


@pytest.mark.parametrize("words", ["ada hopper", "%25%25", "____", "'; DROP TABLE", "nobody"])
def test_search_finds_nothing_where_a_word_is_nowhere(ada: User, words: str) -> None:
    assert found(f"?q={words}") == []


def test_a_number_finds_the_user_with_that_id(ada: User) -> None:
    User.objects.filter(pk=ada.pk).update(phone="", tin="")  # their digits could contain the ID
    assert ada in found(f"?q={ada.pk}")
    assert found(f"?q={ada.pk} lovelace") == [ada]
    assert ada not in found(f"?q={ada.pk + 1}")


@pytest.mark.parametrize(
    "query",
    [
        "?q=%00",
        "?q=a%00da",
        f"?q={9**40}",
        "?q=²³",
        f"?q={'x ' * 3000}",
        "?p=999",
        "?p=x",
        "?o=99.-1.x",
        "?status=sideways",
        "?legal_type__exact=none",
        "?real_from=NaN",
        "?real_from=%00&bonus_to=Infinity",
        f"?real_to={9**40}",
    ],
)
def test_nonsense_in_the_address_is_no_error(ada: User, query: str) -> None:
    client = client_of(operator_with(group="Viewer"))
    assert client.get(f"{LIST}{query}", follow=True).status_code == 200


@pytest.mark.parametrize("people", ["user", "operator"])
@pytest.mark.parametrize(
    "lookup",
    ["password__startswith", "is_superuser", "groups", "balance__real__gt", "comment__contains"],
)
def test_the_address_does_not_probe_other_columns(people: str, lookup: str) -> None:
    operator = operator_with("users.view_user", "users.view_operator")
    answer = client_of(operator).get(f"/admin/users/{people}/?{lookup}=1")
    assert answer.status_code == 400


def test_operators_are_not_among_the_customers() -> None:
    OperatorFactory(first_name="Grace")
    assert found("?q=Grace") == []


def test_filtering_from_a_late_page_shows_the_first() -> None:
    UserFactory.create_batch(51, city="Berlin")
    assert len(found("?q=berlin")) == 50
    assert found("?q=berlin&p=7") == found("?q=berlin")


# --- Filtering and sorting ----------------------------------------------------------------------


@pytest.fixture
def by_balance(db: None) -> list[User]:
    return [user_with(real, bonus) for real, bonus in (("0", "7"), ("10", "0"), ("10.0001", "3"))]


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("?real_from=10", [1, 2]),
        ("?real_to=10", [0, 1]),
        ("?real_from=10&real_to=10", [1]),
        ("?real_from=10.0001", [2]),
        ("?real_from=1,000.00", []),
        ("?real_to= 10.0 ", [0, 1]),
        ("?bonus_from=3&real_from=1", [2]),
        ("?bonus_from=&real_to=", [0, 1, 2]),
    ],
)
def test_balance_ranges_include_both_ends(
    by_balance: list[User], query: str, places: list[int]
) -> None:
    assert {user.pk for user in found(query)} == {by_balance[place].pk for place in places}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("real_from=ten", "This is not a number: ten."),
        ("real_from=NaN", "This is not a number: NaN."),
        ("real_from=1.00001", "An amount has at most four decimals: 1.00001."),
        ("real_from=1000000000000000", "An amount has at most 15 digits"),
    ],
)
def test_a_mistake_in_a_range_is_told_and_nothing_typed_is_lost(
    by_balance: list[User], query: str, message: str
) -> None:
    client = client_of(operator_with(group="Viewer"))
    answer = client.get(f"{LIST}?{query}&bonus_from=3&status=active&q=example")
    assert any(message in str(told) for told in answer.context["messages"])
    assert f'value="{query.split("=")[1]}"' in answer.text
    assert 'value="3"' in answer.text
    assert list(answer.context["cl"].result_list) == [], "there is no answer to a mistake"
    assert "There is a mistake in the filters" in answer.text
    assert "Nothing found" not in answer.text
    assert not re.search(r"\b0\s+(results|users)\b", answer.text), "nothing is counted either"


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("?real_from=10,00", [1, 2]),
        ("?real_to=9,50", [0]),
        ("?real_to=1.000,00 USD", [0, 1, 2]),
    ],
)
def test_a_range_is_read_as_amounts_are_read_everywhere(
    by_balance: list[User], query: str, places: list[int]
) -> None:
    assert {user.pk for user in found(query)} == {by_balance[place].pk for place in places}


@pytest.mark.parametrize("typed", ["1,500", "1.500"])
def test_an_end_that_could_be_two_amounts_is_asked_about_and_lists_nobody(
    by_balance: list[User], typed: str
) -> None:
    client = client_of(operator_with(group="Viewer"))
    answer = client.get(LIST, {"real_from": typed, "bonus_to": "5", "q": "example", "p": "1"})
    assert list(answer.context["cl"].result_list) == []
    [told] = answer.context["messages"]
    assert "no users are listed yet. Did you mean" in str(told)
    addresses = re.findall(r'href="\?([^"]*)"', str(told))
    chosen = [parse_qs(html.unescape(address)) for address in addresses]
    assert chosen == [
        {"real_from": [meant], "bonus_to": ["5"], "q": ["example"]} for meant in ("1.5", "1500")
    ]
    assert f'value="{typed}"' in answer.text
    first = client.get(LIST, {name: values[0] for name, values in chosen[0].items()})
    assert not list(first.context["messages"])


def test_a_range_that_ends_before_it_begins_is_told(by_balance: list[User]) -> None:
    answer = client_of(operator_with(group="Viewer")).get(f"{LIST}?real_from=9&real_to=3")
    assert any("less than" in str(told) for told in answer.context["messages"])


def test_filters_by_status_and_legal_type() -> None:
    gone = UserFactory(is_active=False)
    firm = UserFactory(legal_type="legal_entity", legal_name="Ltd.")
    assert found("?status=inactive") == [gone]
    assert gone not in found("?status=active")
    assert found("?legal_type__exact=legal_entity") == [firm]


@pytest.mark.parametrize("column", ["real_balance", "bonus_balance", "last_transaction", "created"])
def test_sorts_both_ways(by_balance: list[User], column: str) -> None:
    answer = client_of(operator_with(group="Viewer")).get(LIST)
    place = answer.context["cl"].list_display.index(column)
    up, down = (found(f"?o={sign}{place}") for sign in ("", "-"))
    expected = {
        "real_balance": by_balance,
        "bonus_balance": [by_balance[1], by_balance[2], by_balance[0]],
        "last_transaction": by_balance,
        "created": by_balance,
    }[column]
    assert up == expected
    assert down == expected[::-1]


def test_the_list_takes_five_statements_for_fifty_users_and_for_one() -> None:
    """Session; operator with permissions; the number of users; users; their duplicates."""
    client = client_of(operator_with(group="Billing operator"))

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client.get(LIST).status_code == 200
        return len(captured)

    user_with("1", "2")
    queries()  # the first request notes when the session began
    assert queries() == 5
    for _ in range(49):
        user_with("1", "2")
    assert queries() == 5


def test_the_list_shows_balances_and_leads_to_the_transactions() -> None:
    user = user_with("1234567.8901", "5")
    text = client_of(operator_with(group="Viewer")).get(LIST).text
    assert '<span class="money">1,234,567.8901</span>' in text
    assert '<span class="money">5.00</span>' in text
    assert f'href="{page(user, "transactions")}"' in text


def test_balances_are_for_those_who_may_view_them() -> None:
    user = user_with("1234.50")
    client = client_of(operator_with("users.view_user"))
    assert "1,234.50" not in client.get(LIST).text
    assert "1,234.50" not in client.get(page(user)).text


def test_the_page_says_first_of_all_that_a_subscription_is_suspended() -> None:
    user, other = user_with(), user_with("20")
    plan = PlanFactory(price="10")
    for device in ("", "8617"):
        subscribed(user, plan, device=device)
        subscribed(other, plan, device=device)
    viewer = client_of(operator_with(group="Viewer"))
    text = viewer.get(page(user)).text
    assert "2 subscriptions are suspended." in text
    assert f'href="{page(user, "subscriptions")}">See what is missing.' in text
    assert "suspended" not in viewer.get(page(other)).text
    assert "suspended" not in client_of(operator_with("users.view_user")).get(page(user)).text


# --- Creating and editing -----------------------------------------------------------------------


def test_creating_leads_to_the_users_page() -> None:
    client = client_of(operator_with(group="Billing operator"))
    answer = client.post(f"{LIST}add/", filled_in(time_zone="europe/paris"))
    user = User.objects.get(email="new@example.com")
    assert answer["Location"] == page(user)
    assert user.time_zone == "Europe/Paris"
    assert not user.has_usable_password()
    assert user.balance.real == 0


def test_an_address_that_somebody_has_is_a_message_at_the_field(ada: User) -> None:
    client = client_of(operator_with(*MAY_EDIT))
    answer = client.post(f"{LIST}add/", filled_in(email="ADA@Lovelace.example"))
    form = answer.context["adminform"].form
    assert form.errors == {"email": ["Another user has this e-mail address."]}
    assert "Another user has this e-mail address." in answer.text
    other = UserFactory()
    answer = client.post(page(other), filled_in(other, email="ADA@Lovelace.example"))
    assert "email" in answer.context["adminform"].form.errors
    assert client.post(page(ada), filled_in(ada, email="ADA@lovelace.example")).status_code == 302


def test_what_somebody_else_changes_meanwhile_is_not_undone(ada: User) -> None:
    client = client_of(operator_with(*MAY_EDIT))
    ada.comment = "First line\nSecond line"  # a program writes \n, a browser \r\n
    ada.save()
    opened = sent_by(client.get(page(ada)))
    User.objects.filter(pk=ada.pk).update(is_active=False, phone="", comment="Called back")
    assert client.post(page(ada), opened | {"city": "London"}).status_code == 302
    ada.refresh_from_db()
    assert (ada.is_active, ada.phone, ada.comment) == (False, "", "Called back")
    assert ada.city == "London"
    assert all_sentences() == ["Changed: city."]


def test_what_two_change_at_once_is_asked_about_and_nothing_typed_is_lost(ada: User) -> None:
    client = client_of(operator_with(*MAY_EDIT))
    opened = sent_by(client.get(page(ada))) | {"phone": "+49 30 1", "city": "London"}
    User.objects.filter(pk=ada.pk).update(is_active=False, phone="+31 20 2", city="London")
    answer = client.post(page(ada), opened)
    assert answer.context["adminform"].form.errors == {
        "phone": [
            "Nothing was saved: somebody has changed this, since you opened the page, to "
            "“+31 20 2”. Save again to replace it with your entry."
        ]
    }
    ada.refresh_from_db()
    assert (ada.phone, ada.is_active) == ("+31 20 2", False)
    shown_again = sent_by(answer)
    assert shown_again["phone"] == "+49 30 1"
    assert "is_active" not in shown_again
    assert client.post(page(ada), shown_again).status_code == 302
    ada.refresh_from_db()
    assert (ada.phone, ada.city, ada.is_active) == ("+49 30 1", "London", False)


def test_a_page_that_does_not_say_what_it_showed_is_saved_as_it_is(ada: User) -> None:
    client = client_of(operator_with(*MAY_EDIT))
    for seen in ("x", "[]", "{}", "[" * 5000, '{"city": ["1"]}'):
        answer = client.post(page(ada), filled_in(ada, city="London", seen=seen))
        assert answer.status_code in (200, 302)


def test_a_legal_entity_needs_its_name_and_fields_without_scripts_are_all_there() -> None:
    client = client_of(operator_with(*MAY_EDIT))
    answer = client.post(f"{LIST}add/", filled_in(legal_type="legal_entity"))
    assert "legal_name" in answer.context["adminform"].form.errors
    text = client.get(f"{LIST}add/").text
    for field in ("legal_type", "legal_name", "tin", "postal_code", "comment"):
        assert f'name="{field}"' in text


def test_a_users_form_gives_no_rights(ada: User) -> None:
    crafted = {
        "is_staff": "on",
        "is_superuser": "on",
        "groups": ["1", "2", "3"],
        "user_permissions": [permission("users.change_user").pk],
        "password": "md5$x$y",
        "first_name": "Changed",
    }
    client = client_of(operator_with(*MAY_EDIT))
    client.post(page(ada), filled_in(ada, **crafted))
    client.post(f"{LIST}add/", filled_in(**crafted))
    ada.refresh_from_db()
    for user in (ada, User.objects.get(email="new@example.com")):
        assert user.first_name == "Changed", "the form itself must have been taken"
        assert not user.is_staff
        assert not user.is_superuser
        assert not user.groups.exists()
        assert not user.user_permissions.exists()
        assert user.password != "md5$x$y"


@pytest.mark.parametrize("what", ["change", "history"])
def test_operators_are_not_reached_through_the_customers_page(what: str) -> None:
    other = OperatorFactory(first_name="Grace")
    client = client_of(operator_with(*MAY_EDIT))
    assert client.get(page(other, what)).status_code in (302, 404)
    client.post(page(other), filled_in(other, first_name="Changed"))
    client.post(LIST, {"action": "deactivate", "_selected_action": [other.pk]})
    other.refresh_from_db()
    assert other.first_name == "Grace"
    assert other.is_active


def test_saving_never_touches_the_balance() -> None:
    user = user_with("10")
    client = client_of(operator_with(group="Billing operator"))
    client.post(page(user), filled_in(user, real="99", balance="99", first_name="Changed"))
    user.refresh_from_db()
    assert (user.first_name, user.balance.real) == ("Changed", 10)


# --- Activating and deactivating ----------------------------------------------------------------


def test_deactivating_many_says_how_many_and_is_in_their_history() -> None:
    users = [UserFactory(), UserFactory(), UserFactory(is_active=False)]
    operator = operator_with(*MAY_EDIT)
    chosen = {"action": "deactivate", "_selected_action": [user.pk for user in users]}
    answer = client_of(operator).post(LIST, chosen, follow=True)
    assert [str(told) for told in answer.context["messages"]] == [
        "Deactivated: 2. Left unchanged: 1."
    ]
    assert not User.objects.filter(pk__in=[user.pk for user in users], is_active=True).exists()
    logged = Event.objects.filter(actor=operator).values_list("subject", "subject_id", "action")
    assert set(logged) == {("user", user.pk, "deactivated") for user in users[:2]}
    client_of(operator).post(LIST, chosen | {"action": "activate"})
    assert User.objects.filter(pk__in=[user.pk for user in users], is_active=True).count() == 3
    assert "Deactivated." in client_of(operator).get(page(users[0], "history")).text


def test_viewers_deactivate_nobody() -> None:
    user = UserFactory()
    client = client_of(operator_with(group="Viewer"))
    client.post(LIST, {"action": "deactivate", "_selected_action": [user.pk]})
    user.refresh_from_db()
    assert user.is_active
    assert "Deactivate" not in client.get(LIST).text


@pytest.mark.parametrize("who", ["Administrator", "superuser"])
def test_nobody_deletes_users(who: str) -> None:
    user = UserFactory()
    operator = AdministratorFactory() if who == "superuser" else operator_with(group=who)
    client = client_of(operator)
    assert client.post(page(user, "delete"), {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [user.pk], "post": "yes"}
    client.post(LIST, chosen)
    assert User.objects.filter(pk=user.pk).exists()


# --- Permissions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "pages"),
    [
        ("", {}),
        ("Viewer", {"": 200, "add/": 403, "change": 200, "history": 200, "transactions": 200}),
        (
            "Billing operator",
            {"": 200, "add/": 200, "change": 200, "history": 200, "change-balance": 200},
        ),
    ],
)
def test_pages_ask_for_their_permissions(group: str, pages: dict[str, int]) -> None:
    user = UserFactory()
    client = client_of(operator_with(group=group))
    for name in ("", "add/", "change", "history", "transactions", "change-balance"):
        address = page(user, name) if name and name != "add/" else f"{LIST}{name}"
        if name in pages or not group:
            assert client.get(address).status_code == pages.get(name, 403), address


def test_a_viewer_reads_without_fields_and_buttons() -> None:
    user = user_with("12.50")
    client = client_of(operator_with(group="Viewer"))
    text = client.get(page(user)).text
    assert "12.50" in text
    assert 'name="email"' not in text
    assert 'name="_save"' not in text
    assert page(user, "change-balance") not in text
    assert client.post(page(user), filled_in(user)).status_code == 403
    assert f"{LIST}add/" not in client.get(LIST).text


def test_the_profile_leads_to_change_balance_from_the_header_and_from_the_page() -> None:
    user = user_with("12.50", "3")
    text = client_of(operator_with(group="Billing operator")).get(page(user)).text
    assert text.count(f'href="{page(user, "change-balance")}"') == 2


def test_reasons_are_for_those_with_the_permission() -> None:
    address = "/admin/billing/reason/"
    assert client_of(operator_with(group="Viewer")).get(address).status_code == 200
    assert client_of(operator_with(group="Viewer")).get(f"{address}add/").status_code == 403
    client = client_of(operator_with(group="Administrator"))
    sent = {"code": "gift", "label": "Gift", "direction": "both", "balances": "both"}
    short = client.post(f"{address}add/", sent | {"template": "Gift", "position": 0})
    assert set(short.context["adminform"].form.errors) == {"template"}
    added = client.post(f"{address}add/", sent | {"template": "A gift", "position": 0})
    assert added.status_code == 302


def test_a_filter_that_is_left_at_all_leaves_nobody_out(by_balance: list[User]) -> None:
    query = "?status=&real_from=&real_to=&bonus_from=&bonus_to=&legal_type__exact=&q="
    assert len(found(query)) == len(by_balance)
