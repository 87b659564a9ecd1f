"""The pages of the low-balance thresholds: the default, and a user's own threshold."""

from decimal import Decimal

import pytest
from django.test import Client

from billing import ledger, operations
from billing.errors import InvalidAmount
from billing.models import Channel, EventType, LowBalanceThreshold, WebhookEndpoint, WebhookEvent
from billing.thresholds import default_threshold, set_default
from tests.factories import OperatorFactory, UserFactory, user_with
from tests.operators import client_of, operator_with
from tests.recorded import all_sentences
from users.models import User

pytestmark = pytest.mark.django_db

DEFAULT = "/admin/billing/lowbalancethreshold/"
VIEW, CHANGE = "billing.view_lowbalancethreshold", "billing.change_lowbalancethreshold"


def own(user: User) -> str:
    return f"/admin/users/user/{user.pk}/low-balance/"


def thresholds() -> dict[int | None, Decimal | None]:
    return dict(LowBalanceThreshold.objects.values_list("user", "amount"))


def history() -> list[str]:
    return all_sentences()


def test_the_default_is_set_and_says_who_changed_it(panel: Client) -> None:
    assert "Who changed the default" not in panel.get(DEFAULT).text
    assert "told below 1,000.50" in (
        panel.post(DEFAULT, {"when": "amount", "amount": " 1 000.50 "}, follow=True).text
    )
    assert thresholds() == {None: Decimal("1000.5")}
    panel.post(DEFAULT, {"when": "amount", "amount": "1000.5"})  # no change, so no record
    panel.post(DEFAULT, {"when": "never", "amount": "1000.50"})
    assert thresholds() == {None: None}
    assert history() == [
        "By default, programs are told below 1,000.50 (before: never).",
        "By default, programs are told never (before: below 1,000.50).",
    ]
    shown = panel.get(DEFAULT).text
    assert all(each in shown for each in history())


@pytest.mark.parametrize("amount", ["-0.01", "NaN", "0.00001", "1e15"])
def test_a_default_that_is_no_amount_is_refused_whoever_sets_it(db: None, amount: str) -> None:
    set_default("5")
    with pytest.raises(InvalidAmount):
        set_default(amount)
    assert thresholds() == {None: 5}


def test_setting_the_default_says_what_is_another_now(db: None) -> None:
    for amount in ("5", "5.00"):  # the second one changes nothing
        operations.thresholds.set_default(amount, actor=None, channel=Channel.API)
    assert history() == ["By default, programs are told below 5.00 (before: never)."]
    assert set_default(None).after == default_threshold()


def test_a_user_has_a_threshold_of_their_own_or_none(panel: Client) -> None:
    user = UserFactory()
    LowBalanceThreshold.objects.create(user=None, amount=10)
    assert "By default: below 10.00" in panel.get(own(user)).text
    panel.post(own(user), {"when": "amount", "amount": "25"})
    assert thresholds() == {None: 10, user.pk: 25}
    panel.post(own(user), {"when": "never", "amount": "25.00"})
    assert thresholds() == {None: 10, user.pk: None}
    panel.post(own(user), {"when": "default", "amount": ""})
    assert thresholds() == {None: 10}
    panel.post(own(user), {"when": "default", "amount": ""})
    assert history() == [
        "Low balance: programs are told below 25.00 (before: below 10.00, by default).",
        "Low balance: programs are told never (before: below 25.00).",
        "Low balance: programs are told below 10.00, by default (before: never).",
    ]
    shown = panel.get(f"/admin/users/user/{user.pk}/history/").text
    assert all(each in shown for each in history())


def test_a_threshold_that_could_be_two_amounts_is_asked_about(panel: Client) -> None:
    user = UserFactory()
    for path in (DEFAULT, own(user)):
        sent = {"when": "amount", "amount": "1.500"}
        assert 'name="amount_meant" value="1500"' in panel.post(path, sent).text
        panel.post(path, sent | {"amount_meant": "1500"})
    assert set(LowBalanceThreshold.objects.values_list("amount", flat=True)) == {1500}


@pytest.mark.parametrize(
    ("when", "amount", "problem"),
    [
        ("amount", "", "Enter the amount."),
        ("amount", "0", "No balance is below zero."),
        ("amount", "-5", "A threshold cannot be negative."),
        ("amount", "1,500", "Did you mean"),
        ("amount", "NaN", "This is not a number: NaN."),
        ("amount", "0.00001", "decimals"),
        ("amount", "1000000000000000", "at most 15 digits before the decimal point"),
        ("never", "7", "To use this amount"),
        ("sometimes", "5", "Select a valid choice"),
        ("", "5", "This field is required."),
    ],
)
def test_bad_input_changes_nothing_and_stays_in_the_form(
    panel: Client, when: str, amount: str, problem: str
) -> None:
    user = UserFactory()
    LowBalanceThreshold.objects.create(user=None, amount=10)
    LowBalanceThreshold.objects.create(user=user, amount=20)
    before = thresholds()
    for path in (DEFAULT, own(user)):
        answer = panel.post(path, {"when": when, "amount": amount})
        assert problem in answer.text
        form = answer.context["form"]
        assert (form["when"].value(), form["amount"].value()) == (when, amount)
    assert thresholds() == before
    assert not history()


def test_what_is_set_here_is_what_programs_are_told_by(panel: Client) -> None:
    WebhookEndpoint.objects.create(
        name="CRM", url="https://crm.example", secret="x", events=[EventType.BALANCE_LOW]
    )
    by_default, by_own, never = (user_with(real=100) for _ in range(3))
    panel.post(DEFAULT, {"when": "amount", "amount": "50"})
    panel.post(own(by_own), {"when": "amount", "amount": "90"})
    panel.post(own(never), {"when": "never", "amount": ""})
    for user in (by_default, by_own, never):
        for _ in range(2):
            ledger.change_balance(
                user, amount=-20, description="Refund in cash", actor=None, channel=Channel.IMPORT
            )
    assert [*WebhookEvent.objects.values_list("user", flat=True)] == [by_own.pk]
    ledger.change_balance(
        by_default, amount=-20, description="Refund in cash", actor=None, channel=Channel.IMPORT
    )
    assert WebhookEvent.objects.latest("pk").user_id == by_default.pk


@pytest.mark.parametrize(
    ("permissions", "views", "changes"),
    [
        ((), False, False),
        ((VIEW,), True, False),
        ((CHANGE,), True, True),
        (("users.view_user", "users.change_user", "billing.change_balance"), False, False),
    ],
)
def test_pages_ask_for_their_right(
    permissions: tuple[str, ...], *, views: bool, changes: bool
) -> None:
    user = UserFactory()
    client = client_of(operator_with(*permissions))
    for path in (DEFAULT, own(user)):
        page = client.get(path)
        assert page.status_code == (200 if views else 403)
        assert ('name="amount"' in page.text) == changes
        sent = client.post(path, {"when": "amount", "amount": "5"})
        assert sent.status_code == (302 if changes else 403)
    assert thresholds() == ({None: 5, user.pk: 5} if changes else {})
    assert len(history()) == (2 if changes else 0)


def test_the_profile_says_when_programs_are_told() -> None:
    user = UserFactory()
    LowBalanceThreshold.objects.create(user=None, amount=10)
    profile = f"/admin/users/user/{user.pk}/change/"
    text = {
        permissions: client_of(operator_with("users.view_user", *permissions)).get(profile).text
        for permissions in ((), (VIEW,), (VIEW, CHANGE))
    }
    said = "when the balance is low: below 10.00, by default."
    assert [said in each for each in text.values()] == [False, True, True]
    assert [own(user) in each for each in text.values()] == [False, False, True]


def test_customers_alone_have_a_threshold(panel: Client) -> None:
    operator = OperatorFactory()
    assert panel.get(own(operator)).status_code == 404
    assert panel.post(own(operator), {"when": "never"}).status_code == 404
    assert panel.get("/admin/users/user/999999999/low-balance/").status_code == 404


def test_users_with_their_own_are_listed_for_who_may_see_users(panel: Client) -> None:
    user = UserFactory(email="ada@example.com")
    row = LowBalanceThreshold.objects.create(user=user, amount="12.5")
    text = panel.get(DEFAULT).text
    assert "ada@example.com" in text
    assert "12.50" in text
    assert "ada@example.com" not in client_of(operator_with(VIEW)).get(DEFAULT).text
    assert panel.get(f"{DEFAULT}{row.pk}/change/")["Location"] == own(user)


@pytest.mark.parametrize("number", ["0", "99999999999999999999", "x", "+1"])
def test_what_does_not_exist_is_not_found(panel: Client, number: str) -> None:
    assert panel.get(f"{DEFAULT}{number}/change/").status_code == 404


def test_the_default_row_leads_to_its_page(panel: Client) -> None:
    row = LowBalanceThreshold.objects.create(user=None, amount=1)
    assert panel.get(f"{DEFAULT}{row.pk}/change/")["Location"] == DEFAULT
