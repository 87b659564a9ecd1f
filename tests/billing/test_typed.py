"""How typed numbers are read. All places use the same reader."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.currencies import UnknownCurrency, decimals_of, is_currency
from billing.money import MAX_MONEY, NotMoney, decimals_for, format_money, to_money
from billing.plans.pricing import to_quantity
from billing.typed import Ambiguous, NotRead, read_number, unambiguous


def amount(text: str) -> Decimal:
    return read_number(text, to_money, money=True)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("10", "10"),
        ("+10", "10"),
        ("-25.50", "-25.5"),
        ("−25,50", "-25.5"),
        ("– 25.5", "-25.5"),
        (".5", "0.5"),
        (",5", "0.5"),
        ("5.", "5"),
        ("12,50", "12.5"),
        ("100,00", "100"),
        ("0.500", "0.5"),
        ("0,125", "0.125"),
        ("-0.125", "-0.125"),
        ("12.3456", "12.3456"),
        ("1,2345", "1.2345"),
        ("1234.567", "1234.567"),
        ("1234,567", "1234.567"),
        ("1,234.50", "1234.5"),
        ("1.234,50", "1234.5"),
        ("1 234,50", "1234.5"),
        ("1 234.50", "1234.5"),
        ("1\u00a0234,50", "1234.5"),
        ("1\u202f234,50", "1234.5"),
        ("1\u2009234,50", "1234.5"),
        ("1\u2007234\u2007567,5", "1234567.5"),
        ("1'234.50", "1234.5"),
        ("1’234.50", "1234.5"),
        ("1,234.500", "1234.5"),
        ("1.234,567", "1234.567"),
        ("1 234,500", "1234.5"),
        ("1 234", "1234"),
        ("1'234", "1234"),
        ("1,234,567", "1234567"),
        ("1.234.567", "1234567"),
        ("1.234.567,8", "1234567.8"),
        ("1,23,456.00", "123456"),
        ("1,23,456", "123456"),
        ("12,34,56,789.5", "123456789.5"),
        ("−1,234.50", "-1234.5"),
        ("+1,234.5678", "1234.5678"),
        ("50 USD", "50"),
        ("50usd", "50"),
        ("USD 50", "50"),
        ("-USD 50", "-50"),
        ("USD -50", "-50"),
        (" −1,234.50 USD ", "-1234.5"),
        ("482.40\n USD", "482.4"),
        ("0.00", "0"),
    ],
)
def test_what_can_only_be_one_number_is_read(typed: str, meant: str) -> None:
    assert amount(typed) == Decimal(meant)


@pytest.mark.parametrize(
    ("typed", "first", "second"),
    [
        ("1,500", "1.5", "1500"),
        ("1.500", "1.5", "1500"),
        ("1.234", "1.234", "1234"),
        ("100,000", "100", "100000"),
        ("-1,500", "-1.5", "-1500"),
        ("−12.345 USD", "-12.345", "-12345"),
    ],
)
def test_one_separator_and_three_digits_are_asked_about(
    typed: str, first: str, second: str
) -> None:
    with pytest.raises(Ambiguous) as question:
        amount(typed)
    assert question.value.readings == (first, second)
    assert str(question.value) == f"Did you mean {first} or {second}?".replace("-", "−")
    for reading in question.value.readings:
        assert amount(unambiguous(reading)) == Decimal(reading), (
            "an answer is not asked about again"
        )


@pytest.mark.parametrize("typed", ["1,500", "1.500"])
def test_quantities_are_asked_about_in_the_same_way(typed: str) -> None:
    with pytest.raises(Ambiguous):
        read_number(typed, to_quantity, money=False)
    assert read_number("1.234,567890", to_quantity, money=False) == Decimal("1234.56789")


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("ten", "This is not a number: ten."),
        ("NaN", "This is not a number: NaN."),
        ("1e5", "This is not a number: 1e5."),
        ("1_000", "This is not a number: 1_000."),
        ("١٠", "This is not a number: ١٠."),
        ("--5", "This is not a number: --5."),
        ("5 apples", "This is not a number: 5 apples."),
        ("10 50", "The digits of 10 50 do not make one number."),
        ("1,234,56", "The digits of 1,234,56 do not make one number."),
        ("1,2.3,4", "The digits of 1,2.3,4 do not make one number."),
        ("1.23,456.7", "The digits of 1.23,456.7 do not make one number."),
        ("1,234 567", "The digits of 1,234 567 do not make one number."),
        ("50 EUR", "All money here is USD, and nothing is converted: write the amount in USD"),
        ("EUR 50", "All money here is USD, and nothing is converted: write the amount in USD"),
        ("€50", "All money here is USD: write the amount without €."),
        ("50 $", "All money here is USD: write the amount without $."),
        ("9" * 70, "This is not a number: 999"),
    ],
)
def test_what_is_no_number_is_refused_in_a_sentence(typed: str, sentence: str) -> None:
    with pytest.raises(NotRead) as refusal:
        amount(typed)
    assert str(refusal.value).startswith(sentence)


def test_a_quantity_has_no_currency() -> None:
    with pytest.raises(NotRead, match="This is not a quantity: 5 USD"):
        read_number("5 USD", to_quantity, money=False)


@pytest.mark.parametrize(
    ("typed", "reason"), [("1.00001", "too_many_decimals"), ("1" + "0" * 15, "out_of_range")]
)
def test_what_is_no_money_is_refused_as_for_programs(typed: str, reason: str) -> None:
    with pytest.raises(NotMoney, match=reason):
        amount(typed)


@pytest.mark.parametrize(
    ("currency", "typed", "meant"),
    [
        ("KWD", "1.500", "1.5"),
        ("KWD", "1.500 KWD", "1.5"),
        ("JPY", "1,500", "1500"),
        ("JPY", "1,500 JPY", "1500"),
    ],
)
def test_what_the_panel_writes_in_this_currency_is_not_asked_about(
    settings: Any, currency: str, typed: str, meant: str
) -> None:
    settings.BILLING_CURRENCY = currency
    assert amount(typed) == Decimal(meant)


@pytest.mark.parametrize(("currency", "typed"), [("KWD", "1,500"), ("JPY", "1.500")])
def test_what_the_panel_would_write_otherwise_is_asked_about(
    settings: Any, currency: str, typed: str
) -> None:
    settings.BILLING_CURRENCY = currency
    with pytest.raises(Ambiguous):
        amount(typed)


@given(
    st.decimals(-MAX_MONEY, MAX_MONEY, places=4),
    st.sampled_from(["USD", "JPY", "KWD", "CLF"]),
    st.booleans(),
    st.booleans(),
)
def test_what_the_panel_shows_can_be_pasted_back(
    number: Decimal, currency: str, signed: bool, in_column: bool
) -> None:
    from django.test import override_settings

    with override_settings(BILLING_CURRENCY=currency):
        text = format_money(number, signed=signed, decimals=4 if in_column else None)
        assert amount(text) == amount(f"{text} {currency}") == number


# --- Currencies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "decimals"), [("USD", 2), ("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("XOF", 0)]
)
def test_a_currency_has_its_decimals(code: str, decimals: int) -> None:
    assert decimals_of(code) == decimals


@pytest.mark.parametrize(
    "code", ["EUS", "ZZZ", "HRK", "BGN", "XXX", "XTS", "XAU", "XDR", "usd", "", "EURO", "€"]
)
def test_what_is_no_currency_in_use_is_known_as_none(code: str) -> None:
    assert not is_currency(code)
    with pytest.raises(UnknownCurrency):
        decimals_of(code)


@pytest.mark.parametrize(
    ("currency", "number", "text"),
    [
        ("USD", "1234.5", "1,234.50"),
        ("USD", "2.4354", "2.4354"),
        ("USD", "2.43", "2.43"),
        ("JPY", "613", "613"),
        ("JPY", "1613", "1,613"),
        ("JPY", "613.5", "613.5000"),
        ("KWD", "1.5", "1.500"),
        ("KWD", "-1.2345", "−1.2345"),
        ("CLF", "1", "1.0000"),
    ],
)
def test_amounts_have_at_least_the_decimals_of_their_currency(
    settings: Any, currency: str, number: str, text: str
) -> None:
    settings.BILLING_CURRENCY = currency
    assert format_money(to_money(number)) == text


def test_amounts_of_one_column_have_one_number_of_decimals() -> None:
    column = [to_money("482.40"), to_money("2.4354")]
    decimals = decimals_for(*column)
    assert [format_money(each, decimals=decimals) for each in column] == ["482.4000", "2.4354"]
    assert decimals_for(to_money("482.40"), to_money("7")) == 2
