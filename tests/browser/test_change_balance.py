"""The Change balance page posts a change once, and only to the balance that the operator saw."""

import re

import pytest
from django.db import transaction
from playwright.sync_api import Page, expect

from billing.models import Balance, Reason, Transaction
from tests.browser.conftest import Windows
from tests.browser.panel import (
    change_balance,
    confirm,
    fill_change,
    notice,
    tab,
    transactions,
)
from tests.factories import user_with
from users.models import User

pytestmark = pytest.mark.browser


@pytest.fixture
def customer(committed_db: None) -> User:
    """A user with a real balance of 100 and a bonus balance of 20, from one transaction."""
    return user_with(real=100, bonus=20, first_name="Ada", last_name="Lovelace")


def posted(user: User) -> int:
    return Transaction.objects.filter(user=user).count()


def expect_after_the_change(page: Page, field: str, amount: str) -> None:
    expect(page.locator(f"[data-after={field}]")).to_have_text(f"After the change: {amount}")


def test_the_page_says_whose_balance_it_is(
    windows: Windows, operator: User, customer: User
) -> None:
    page = windows(operator, tab(customer))
    page.get_by_role("link", name="Change balance").click()
    expect(page.locator(".panel-subject")).to_have_text(
        re.compile(rf"ID\s+{customer.pk}\s+Name\s+Ada Lovelace\s+Login\s+{customer.email}\s*")
    )
    expect(page.locator(".panel-card .figure")).to_contain_text(["100.00", "20.00"])
    hints = page.get_by_text("Amount to add (positive) or subtract (negative).")
    expect(hints).to_have_count(2)


def test_the_resulting_balances_are_shown_while_typing(
    windows: Windows, operator: User, customer: User
) -> None:
    page = windows(operator, change_balance(customer))
    expect(page.locator("[data-after=amount]")).to_be_hidden()
    real, bonus = page.get_by_label("Balance changes"), page.get_by_label("Bonus changes")
    real.press_sequentially("-25.5")
    expect_after_the_change(page, "amount", "74.50")
    real.fill("1 000.0001")
    expect_after_the_change(page, "amount", "1,100.0001")
    real.fill("-100.01")
    expect_after_the_change(page, "amount", "−0.01")
    expect(page.locator("[data-after=amount]")).to_have_class(re.compile("negative"))
    bonus.fill("+5")
    expect_after_the_change(page, "bonus_amount", "25.00")
    bonus.fill("five")
    expect(page.locator("[data-after=bonus_amount]")).to_be_hidden()


def test_standard_descriptions_are_offered_in_their_order(
    windows: Windows, operator: User, customer: User
) -> None:
    Reason.objects.create(code="cash", label="Paid in cash", template="Paid in cash", position=2)
    Reason.objects.create(
        code="goodwill", label="Goodwill gift", template="Goodwill gift", position=1
    )
    page = windows(operator, change_balance(customer))
    offered = page.get_by_label("Transaction description").evaluate(
        "input => [...input.list.options].map((option) => option.value)"
    )
    assert offered == ["Goodwill gift", "Paid in cash"]


def test_a_chosen_reason_fills_in_what_nobody_typed(
    windows: Windows, operator: User, customer: User
) -> None:
    Reason.objects.create(
        code="transfer", label="Transfer", template="Transfer {number} of a bank", bonus_days=30
    )
    Reason.objects.create(code="cash", label="Cash", template="Paid in cash")
    page = windows(operator, change_balance(customer))
    reason, description = page.get_by_label("Reason"), page.get_by_label("Transaction description")
    reason.fill("Cash")
    expect(description).to_have_value("Paid in cash")
    reason.fill("transfer")
    expect(description).to_have_value("Transfer {number} of a bank")
    expect(page.get_by_label("Bonus expires on")).to_have_value(re.compile(r"^\d{4}-\d\d-\d\d$"))
    # What stands in braces is typed over.
    reason.press("Tab")
    page.keyboard.type("4711")
    expect(description).to_have_value("Transfer 4711 of a bank")
    reason.fill("Cash")
    expect(description).to_have_value("Transfer 4711 of a bank")  # it was typed by hand
    reason.fill("Transfer")
    page.get_by_label("Balance changes").fill("5")
    page.keyboard.press("Enter")
    expect(notice(page)).to_contain_text("“Transfer 4711 of a bank”")


def test_a_balance_is_changed_with_the_keyboard_alone(
    windows: Windows, operator: User, customer: User
) -> None:
    page = windows(operator, change_balance(customer))
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "description":
            break
    page.keyboard.type("Refund of a double payment")
    page.keyboard.press("Tab")
    page.keyboard.type("-40.25")
    page.keyboard.press("Tab")
    page.keyboard.type("2.5")
    for _ in range(10):  # past the dates with their calendars, and what leaves it as it is
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "submit":
            break
    page.keyboard.press("Enter")
    expect(notice(page)).to_have_text(
        re.compile(
            r"Posted: transaction No\. 2, “Refund of a double payment”\."
            r"\s+Balance 100\.00 → 59\.75 USD\.\s+Bonus 20\.00 → 22\.50 USD\."
        )
    )
    marked = page.locator("tr.marked")
    expect(marked).to_have_count(1)
    expect(marked.locator(".number")).to_have_text("2")
    row = transactions(page)[0]
    assert (row["Amount"], row["Old → new balance"]) == ("−40.25", "100.00 → 59.75")
    assert row["Type, subtype"] == "Deduction Manual or API"
    assert row["Who"] == "Olga Operator Panel"


REFUSALS = [
    ("Correction", "-100.01", "", "amount",
     "Not enough money on the balance: 100.01 needed, 100.00 available."),
    ("Correction", "1", "-20.01", "bonus_amount",
     "Not enough money on the bonus balance: 20.01 needed, 20.00 available."),
    ("Correction", "1.00001", "", "amount", "An amount has at most four decimals: 1.00001."),
    ("Correction", "", "0.12345", "bonus_amount", "An amount has at most four decimals: 0.12345."),
    ("Correction", "", "", "amount", "Nothing would change: both amounts are zero."),
    ("Correction", "0", "0.00", "amount", "Nothing would change: both amounts are zero."),
    ("Correction", "1000000000000000", "", "amount",
     "An amount has at most 15 digits before the decimal point: 1000000000000000."),
    ("Correction", "999999999999999", "", "amount",
     "The new balance would have more than 15 digits before the decimal point."),
    ("Correction", "50 EUR", "", "amount",
     "All money here is USD, and nothing is converted: write the amount in USD, without EUR."),
    ("Correction", "1 5", "", "amount",
     "The digits of 1 5 do not make one number. Write it like 1234.50 or 1,234.50."),
    ("Correction", "ten", "", "amount", "This is not a number: ten."),
    ("abcd", "10", "", "description", "A description has 5 to 200 characters."),
    ("", "10", "", "description", "This field is required."),
]  # fmt: skip


def test_a_refusal_is_said_at_its_field_and_keeps_what_was_typed(
    windows: Windows, operator: User, customer: User, subtests: pytest.Subtests
) -> None:
    page = windows(operator, change_balance(customer))
    for description, real, bonus, field, sentence in REFUSALS:
        with subtests.test(real=real, bonus=bonus, description=description):
            fill_change(page, description, real, bonus)
            with page.expect_navigation():
                confirm(page)
            expect(page.locator(".panel-field .error")).to_have_text([sentence])
            expect(page.locator(f".panel-field.{field} .error")).to_be_visible()
            expect(page.get_by_label("Transaction description")).to_have_value(description)
            expect(page.get_by_label("Balance changes")).to_have_value(real)
            expect(page.get_by_label("Bonus changes")).to_have_value(bonus)
    assert posted(customer) == 1
    fill_change(page, "Correction", "-100", "-20")
    confirm(page)
    expect(notice(page)).to_contain_text("Balance 100.00 → 0.00 USD.")


@pytest.mark.parametrize("java_script", [True, False])
def test_what_could_be_two_amounts_is_answered_by_a_click_and_never_by_the_enter_key(
    windows: Windows, operator: User, customer: User, java_script: bool
) -> None:
    page = windows(operator, change_balance(customer), java_script_enabled=java_script)
    fill_change(page, "Paid at the desk", "1,500", "2.50")
    confirm(page)
    question = page.locator(".panel-field.amount .error")
    expect(question).to_contain_text("Did you mean 1.5 or 1500?")
    with page.expect_navigation():
        page.get_by_label("Balance changes").press("Enter")
    expect(question).to_contain_text("Did you mean 1.5 or 1500?")
    assert posted(customer) == 1
    with page.expect_navigation():
        question.get_by_role("button", name="1500", exact=True).click()
    expect(notice(page)).to_contain_text("Balance 100.00 → 1,600.00 USD.")
    expect(notice(page)).to_contain_text("Bonus 20.00 → 22.50 USD.")
    assert posted(customer) == 2


@pytest.mark.parametrize(
    ("typed", "after"),
    [
        ("1,234.50", "1,334.50"),
        ("1.234,50", "1,334.50"),
        ("−1 234,50 USD", "−1,134.50"),
        ("0.125", "100.1250"),
        ("1,500", None),
        ("50 EUR", None),
    ],
)
def test_the_preview_reads_amounts_as_the_server_does(
    windows: Windows, operator: User, customer: User, typed: str, after: str | None
) -> None:
    page = windows(operator, change_balance(customer))
    page.get_by_label("Balance changes").fill(typed)
    line = page.locator("[data-after=amount]")
    if after is None:
        expect(line).to_be_hidden()
    else:
        expect(line).to_have_text(f"After the change: {after}")


def test_a_change_is_posted_only_on_the_balances_that_the_operator_saw(
    windows: Windows, operator: User, customer: User
) -> None:
    first = windows(operator, change_balance(customer))
    second = windows(operator, change_balance(customer))
    fill_change(first, "Paid at the desk", "10")
    fill_change(second, "Refund in cash", "-30")
    confirm(second)
    expect(notice(second)).to_contain_text("Balance 100.00 → 70.00 USD.")

    confirm(first)
    expect(notice(first)).to_contain_text(
        "Nothing was posted: another transaction came in since you opened this page."
    )
    assert posted(customer) == 2
    expect(first.locator(".panel-card .figure")).to_contain_text(["70.00", "20.00"])
    expect(first.get_by_label("Transaction description")).to_have_value("Paid at the desk")
    expect_after_the_change(first, "amount", "80.00")

    confirm(first)
    expect(notice(first)).to_contain_text("Balance 70.00 → 80.00 USD.")
    assert posted(customer) == 3


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("way", ["click", "Enter"])
def test_confirming_twice_posts_once(
    windows: Windows, operator: User, customer: User, way: str, scripts: bool
) -> None:
    page = windows(operator, change_balance(customer), java_script_enabled=scripts)
    fill_change(page, "Paid at the desk", "10")

    button = page.get_by_role("button", name="Change balance")
    button.scroll_into_view_if_needed()
    place = button.bounding_box()
    assert place

    def send() -> None:
        if way == "click":  # not a locator's click, which waits until the page has changed
            page.mouse.click(place["x"] + 20, place["y"] + 10)
        else:
            page.keyboard.press("Enter")

    with transaction.atomic():
        # The first answer waits for this lock, so that the second confirmation overtakes it.
        Balance.objects.select_for_update().get(pk=customer.pk)
        with page.expect_request(lambda request: request.method == "POST"):
            send()
        if scripts:
            send()
        else:
            with page.expect_request(lambda request: request.method == "POST"):
                send()
    expect(notice(page)).to_contain_text("Balance 100.00 → 110.00 USD.")
    assert posted(customer) == 2


def copy_hidden_fields(source: Page, target: Page) -> None:
    for name in ("key", "expected_number"):
        value = source.locator(f"[name={name}]").input_value()
        target.locator(f"[name={name}]").evaluate("(input, value) => input.value = value", value)


def test_the_same_form_from_two_windows_is_posted_once(
    windows: Windows, operator: User, customer: User
) -> None:
    first = windows(operator, change_balance(customer))
    second = windows(operator, change_balance(customer))
    copy_hidden_fields(first, second)
    for page in (first, second):
        fill_change(page, "Paid at the desk", "10")
        confirm(page)
        expect(notice(page)).to_contain_text("Balance 100.00 → 110.00 USD.")
    expect(notice(first)).to_contain_text("Posted: transaction No. 2")
    expect(notice(second)).to_contain_text("Sent twice, posted once: transaction No. 2")
    assert posted(customer) == 2


def test_reloading_the_result_posts_nothing(
    windows: Windows, operator: User, customer: User
) -> None:
    page = windows(operator, change_balance(customer))
    fill_change(page, "Paid at the desk", "10")
    confirm(page)
    expect(notice(page)).to_contain_text("Posted: transaction No. 2")
    page.reload()
    expect(page.locator("tr.marked")).to_be_visible()
    assert posted(customer) == 2


def test_a_form_that_was_posted_asks_again_before_it_posts_other_content(
    windows: Windows, operator: User, customer: User
) -> None:
    first = windows(operator, change_balance(customer))
    second = windows(operator, change_balance(customer))
    copy_hidden_fields(first, second)
    fill_change(first, "Paid at the desk", "10")
    confirm(first)
    expect(notice(first)).to_contain_text("Posted: transaction No. 2")
    fill_change(second, "Paid at the desk", "11")
    confirm(second)
    expect(notice(second)).to_contain_text("This form was posted already, as transaction No. 2")
    assert posted(customer) == 2
    expect(second.locator(".panel-card .figure").first).to_contain_text("110.00")
    confirm(second)
    expect(notice(second)).to_contain_text("Balance 110.00 → 121.00 USD.")
    assert posted(customer) == 3


def test_going_back_shows_an_empty_form_and_the_new_balances(
    windows: Windows, operator: User, customer: User
) -> None:
    """The browser may not keep the page. The tests above cover a browser that keeps it anyway."""
    page = windows(operator, change_balance(customer))
    fill_change(page, "Paid at the desk", "10")
    confirm(page)
    expect(notice(page)).to_contain_text("Posted: transaction No. 2")
    page.go_back()
    expect(page.locator(".panel-card .figure").first).to_contain_text("110.00")
    expect(page.get_by_label("Balance changes")).to_have_value("")
    confirm(page)
    expect(
        page.locator(".panel-field.amount .error, .panel-field.description .error")
    ).to_have_text(["This field is required."])
    assert posted(customer) == 2
