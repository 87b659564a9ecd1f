"""The pages on which users are marked as duplicates or forgotten, and what pages say then."""

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import ledger, operations
from billing.models import Transaction
from tests.billing.histories import BY_PANEL
from tests.factories import OperatorFactory, PlanFactory, UserFactory, subscribed, user_with
from tests.operators import client_of, operator_with, sent_by
from users.models import User

SEES = ("users.view_user", "users.change_user", "billing.view_balance", "billing.view_transaction")


@pytest.fixture
def panel(db: None) -> Client:
    may = ("users.merge_user", "users.forget_user", "billing.change_balance")
    return client_of(operator_with(*SEES, *may, "billing.view_subscription"))


def page_of(user: User, name: str) -> str:
    return f"/admin/users/user/{user.pk}/{name}/"


def text_of(answer: Any) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def merged(user: User, kept: User) -> User:
    day = timezone.now().date()
    operations.duplicates.merge(user.pk, kept.pk, day=day, **BY_PANEL)
    user.refresh_from_db()
    return user


def closed(**fields: Any) -> User:
    return UserFactory(is_active=False, **fields)


# --- Marking as a duplicate ---------------------------------------------------------------------


@pytest.mark.parametrize("named", ["id", "#id", "email"])
def test_a_duplicate_is_marked_after_a_preview(panel: Client, named: str) -> None:
    user, kept = user_with(real=10, last_name="Twin"), user_with(real=1, last_name="Kept")
    at = timezone.now() + timedelta(days=20)
    ledger.give_bonus(user, amount=3, description="A gift", bonus_expires_at=at, **BY_PANEL)
    subscribed(user, PlanFactory(name="Fleet", price=0), device="8617", day=timezone.now().date())
    assert page_of(user, "merge") in panel.get(page_of(user, "change")).text
    assert "Mark Ada Twin as a duplicate" in text_of(panel.get(page_of(user, "merge")))
    to = {"id": f"{kept.pk}", "#id": f" #{kept.pk} ", "email": kept.email.upper()}[named]
    preview = panel.post(page_of(user, "merge"), {"into": to, "preview": "1"})
    said = text_of(preview)
    for words in (
        f"Balance of No. {user.pk} 10.00 → 0.00, bonus 3.00 → 0.00",
        f"Balance of No. {kept.pk} 1.00 → 11.00, bonus 0.00 → 3.00",
        f"Gift 3.00, expires {timezone.localtime(at):%Y-%m-%d %H:%M}",
        "Subscription Fleet, device 8617 goes on with the user who is kept",
        f"User No. {user.pk}",
        f"User No. {kept.pk}",
        "This cannot be undone",
    ):
        assert words in said
    assert ledger.balance(user).real == 10
    seen = preview.context["step"].preview.fingerprint
    done = panel.post(
        page_of(user, "merge"), {"into": to, "seen": seen, "confirm": "1"}, follow=True
    )
    assert done.redirect_chain == [(page_of(kept, "change"), 302)]
    assert f"User No. {user.pk} was marked as a duplicate of this user." in text_of(done)
    assert f"{user.email} (No. {user.pk})" in text_of(done)
    assert ledger.balance(kept)[:2] == (11, 3)


def test_another_payment_meanwhile_is_previewed_again(panel: Client) -> None:
    user, kept = user_with(real=10), UserFactory()
    sent = {"into": f"{kept.pk}"}
    seen = panel.post(page_of(user, "merge"), sent).context["step"].preview.fingerprint
    ledger.change_balance(user, amount=1, description="A payment", **BY_PANEL)
    again = panel.post(page_of(user, "merge"), sent | {"seen": seen, "confirm": "1"})
    assert "something has changed since the preview" in text_of(again)
    assert ledger.balance(user).real == 11


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("nobody@example.com", "There is no user nobody@example.com."),
        ("99999999", "There is no user 99999999."),
        ("", "This field is required."),
        ("{user}", "cannot be a duplicate of the same user."),
        ("{operator}", "There is no user"),
        ("{inactive}", "is deactivated, and takes over nothing."),
        ("{duplicate}", "is a duplicate. The user who is kept has the ID"),
        ("{forgotten}", "was forgotten: the personal data was erased."),
    ],
)
def test_a_mistake_is_said_at_its_field(panel: Client, typed: str, said: str) -> None:
    user, kept, forgotten = user_with(real=10), UserFactory(), closed()
    operations.forgetting.forget(forgotten.pk, **BY_PANEL)
    ids = {
        "user": user.pk,
        "operator": OperatorFactory().pk,
        "inactive": closed().pk,
        "duplicate": merged(UserFactory(), kept).pk,
        "forgotten": forgotten.pk,
    }
    page = panel.post(page_of(user, "merge"), {"into": typed.format(**ids)})
    assert said in " ".join(page.context["form"].errors["into"])
    assert ledger.balance(user).number == 1


def test_a_description_that_is_too_short_is_said_at_its_field(panel: Client) -> None:
    user, kept = user_with(real=10), UserFactory()
    page = panel.post(page_of(user, "merge"), {"into": f"{kept.pk}", "description": "No"})
    assert "5 to 200 characters" in " ".join(page.context["form"].errors["description"])


@pytest.mark.parametrize("page", ["merge", "forget"])
def test_who_lacks_the_permission_gets_neither_page_nor_button(db: None, page: str) -> None:
    user = closed()
    client = client_of(operator_with(*SEES, "billing.change_balance"))
    assert client.get(page_of(user, page)).status_code == 403
    assert page_of(user, page) not in client.get(page_of(user, "change")).text


@pytest.mark.parametrize("page", ["merge", "forget"])
def test_operators_are_not_found(panel: Client, page: str) -> None:
    assert panel.get(page_of(OperatorFactory(), page)).status_code == 404


# --- A duplicate --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["change", "transactions", "subscriptions", "history"])
def test_every_page_of_a_duplicate_leads_to_the_user_who_is_kept(panel: Client, page: str) -> None:
    kept = UserFactory(last_name="Kept")
    user = merged(user_with(real=5), kept)
    answer = panel.get(page_of(user, page))
    assert f"Duplicate of Ada Kept (No. {kept.pk})" in text_of(answer)
    assert page_of(kept, "change") in answer.text
    assert page_of(user, "change-balance") not in answer.text
    assert page_of(user, "merge") not in answer.text
    assert "Duplicate of" not in text_of(panel.get(page_of(kept, page)))


def test_a_transaction_of_a_duplicate_can_be_read_and_not_be_taken_back(panel: Client) -> None:
    user = merged(user_with(real=5), UserFactory())
    row = Transaction.objects.get(user=user, number=1)
    page = panel.get(f"/admin/billing/transaction/{row.pk}/change/")
    assert "Duplicate of" in text_of(page)
    assert "/reverse/" not in page.text
    assert "/move/" not in page.text


def test_a_change_of_a_duplicates_balance_is_refused(panel: Client) -> None:
    kept = UserFactory()
    user = merged(user_with(real=5), kept)
    form = panel.get(page_of(user, "change-balance")).context["form"]
    sent = {name: form[name].value() or "" for name in form.fields}
    sent |= {"amount": "5", "description": "A payment"}
    page = panel.post(page_of(user, "change-balance"), sent)
    assert f"The user who is kept has the ID {kept.pk}." in text_of(page)
    assert ledger.balance(user).real == 0


def test_a_duplicate_can_be_edited_and_not_be_activated(panel: Client) -> None:
    user = merged(UserFactory(), UserFactory())
    sent = sent_by(panel.get(page_of(user, "change")))
    refused = panel.post(page_of(user, "change"), sent | {"is_active": "on"})
    assert "A duplicate stays deactivated." in text_of(refused)
    saved = panel.post(page_of(user, "change"), sent | {"phone": "+49 176 1"})
    assert saved.status_code == 302
    user.refresh_from_db()
    assert (user.phone, user.is_active) == ("+49 176 1", False)
    sent = {"action": "activate", "_selected_action": [user.pk]}
    said = text_of(panel.post("/admin/users/user/", sent, follow=True))
    assert "Activated: 0. Left unchanged: 1." in said


def test_marking_a_duplicate_again_leads_back_to_its_page(panel: Client) -> None:
    user = merged(UserFactory(), UserFactory())
    assert panel.get(page_of(user, "merge"))["Location"] == page_of(user, "change")


def test_the_list_says_who_is_a_duplicate_of_whom(panel: Client) -> None:
    kept = UserFactory(email="new@kept.example", last_name="Kept")
    user = merged(UserFactory(email="old@twin.example", last_name="Twin"), kept)
    page = panel.get("/admin/users/user/?q=old@twin.example")
    assert {each.pk for each in page.context["cl"].result_list} == {user.pk, kept.pk}
    said = text_of(page)
    assert f"old@twin.example · duplicate of Ada Kept (No. {kept.pk})" in said
    assert f"new@kept.example · also old@twin.example (No. {user.pk})" in said
    assert "Duplicate" in said


# --- Forgetting ---------------------------------------------------------------------------------


def test_a_person_is_forgotten_after_typing_the_address(panel: Client) -> None:
    user = closed(phone="+49 176 55512345", city="Strelsau", email="gone@strelsau.example")
    other = merged(UserFactory(email="twin@strelsau.example"), UserFactory())
    User.objects.filter(pk=other.pk).update(duplicate_of=user)
    assert page_of(user, "forget") in panel.get(page_of(user, "change")).text
    page = panel.get(page_of(user, "forget"))
    for words in ("Strelsau", "+49 176 55512345", "twin@strelsau.example", "What stays"):
        assert words in text_of(page)
    wrong = panel.post(page_of(user, "forget"), {"confirmation": "other@strelsau.example"})
    assert "This is not the user's e-mail address." in text_of(wrong)
    user.refresh_from_db()
    assert user.forgotten_at is None
    done = panel.post(
        page_of(user, "forget"), {"confirmation": " Gone@Strelsau.example"}, follow=True
    )
    assert done.redirect_chain == [(page_of(user, "change"), 302)]
    assert f"Forgotten user No. {user.pk}: The personal data was erased." in text_of(done)
    assert "strelsau" not in done.text.lower()
    for name in ("change", "transactions", "subscriptions", "history"):
        said = text_of(panel.get(page_of(user, name)))
        assert f"Forgotten on {timezone.localtime():%Y-%m-%d}" in said
        assert f"forgotten-{user.pk}@forgotten.invalid" in said
    assert "The personal data was erased." in text_of(panel.get(page_of(user, "history")))


def test_who_is_not_closed_is_not_forgotten(panel: Client) -> None:
    user = user_with(real=5)
    assert page_of(user, "forget") not in panel.get(page_of(user, "change")).text
    page = panel.get(page_of(user, "forget"))
    assert "cannot be forgotten yet: the user is active; the balance is 5.00." in text_of(page)
    assert "person_remove" not in page.text
    refused = panel.post(page_of(user, "forget"), {"confirmation": user.email})
    assert "Nothing was erased. The user cannot be forgotten yet" in text_of(refused)


def test_the_page_of_a_forgotten_user_can_only_be_read(panel: Client) -> None:
    user = closed()
    sent = sent_by(panel.get(page_of(user, "change")))
    operations.forgetting.forget(user.pk, **BY_PANEL)
    page = panel.get(page_of(user, "change"))
    assert page.status_code == 200
    assert 'name="first_name"' not in page.text
    assert page_of(user, "forget") not in page.text
    assert panel.post(page_of(user, "change"), sent).status_code == 403
    assert panel.get(page_of(user, "forget"))["Location"] == page_of(user, "change")
    assert panel.get(page_of(user, "merge"))["Location"] == page_of(user, "change")
    assert "Forgotten" in text_of(panel.get(f"/admin/users/user/?q=%23{user.pk}"))


def test_groups_that_are_administrators_may_do_both(db: None) -> None:
    administrator = operator_with(group="Administrator")
    assert administrator.has_perms(["users.merge_user", "users.forget_user"])
    assert not operator_with(group="Billing operator").has_perm("users.merge_user")
