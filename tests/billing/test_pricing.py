"""Costs of plans and services: examples of docs/charging.md, and rules for all dates."""

import calendar
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billing.money import MAX_MONEY, NotMoney
from billing.plans.pricing import (
    MAX_QUANTITY,
    PRICE_IS_PER,
    Charge,
    Cycle,
    Terms,
    charge_on,
    format_period,
    format_quantity,
    month_end,
    next_period,
    remainder,
    service_cost,
    share,
    to_quantity,
)

D = Decimal
DAY = timedelta(days=1)
IN_ADVANCE = (Cycle.MONTHLY, Cycle.ANNUAL)

days = st.dates(date(1999, 1, 1), date(2105, 12, 31))
months = days.map(lambda day: day.replace(day=1))
prices = st.one_of(
    st.sampled_from([D(0), D("0.0001"), D("0.0031"), D("0.3"), D("12.55"), D(30), MAX_MONEY]),
    st.decimals(min_value=0, max_value=1000, places=4),
    st.decimals(min_value=0, max_value=MAX_MONEY, places=4),
)
all_terms = st.builds(Terms, st.sampled_from(Cycle), prices, st.booleans())


def terms(cycle: Cycle, price: str, *, proportional: bool = False) -> Terms:
    return Terms(cycle, D(price), proportional)


# --- The worked examples ------------------------------------------------------------------------


def test_a_month_from_10_april_is_charged_by_its_days_if_proportional() -> None:
    charge = charge_on(date(2026, 4, 10), terms(Cycle.MONTHLY, "12.55", proportional=True))
    assert charge == (date(2026, 4, 10), date(2026, 4, 30), D("8.7850"))
    assert f"{charge.amount}" == "8.7850"


def test_a_month_from_10_april_is_charged_in_full_if_not() -> None:
    charge = charge_on(date(2026, 4, 10), terms(Cycle.MONTHLY, "12.55"))
    assert charge == (date(2026, 4, 10), date(2026, 4, 30), D("12.5500"))


def test_the_days_of_a_month_of_30_cost_what_the_design_says() -> None:
    by_day = terms(Cycle.EVERY_DAY, "30.00")
    charges = [charge_on(date(2026, 1, day), by_day) for day in range(1, 32)]
    assert [charge.amount for charge in charges[:2]] == [D("0.9677"), D("0.9678")]
    assert sum(charge.amount for charge in charges) == D("30.0000")


def test_a_year_from_22_november_is_charged_by_its_days_if_proportional() -> None:
    charge = charge_on(date(2026, 11, 22), terms(Cycle.ANNUAL, "120.00", proportional=True))
    assert charge == (date(2026, 11, 22), date(2026, 12, 31), D("13.1507"))


def test_an_active_day_costs_its_price() -> None:
    day = date(2026, 4, 10)
    assert charge_on(day, terms(Cycle.ACTIVE_DAY, "0.50")) == (day, day, D("0.5000"))


def test_ten_messages_cost_three() -> None:
    assert service_cost(D("0.30"), D(10)) == D("3.0000")


# --- Over all calendars -------------------------------------------------------------------------


@given(months, prices)
@example(date(2024, 2, 1), D("0.0001"))
@example(date(2026, 2, 1), MAX_MONEY)
def test_the_shares_of_any_month_add_up_to_the_price(first: date, price: D) -> None:
    charges = [
        charge_on(first + DAY * n, Terms(Cycle.EVERY_DAY, price, False))
        for n in range(calendar.monthrange(first.year, first.month)[1])
    ]
    assert sum(charge.amount for charge in charges) == price
    assert all(charge.amount >= 0 for charge in charges)
    assert max(c.amount for c in charges) - min(c.amount for c in charges) <= D("0.0001")


@given(days, all_terms)
@example(date(2024, 2, 29), Terms(Cycle.MONTHLY, D("12.55"), True))
@example(date(2024, 12, 31), Terms(Cycle.ANNUAL, D("12.55"), True))
def test_a_charge_covers_its_day_and_is_between_nothing_and_the_price(day: date, t: Terms) -> None:
    charge = charge_on(day, t)
    assert charge.first == day <= charge.last
    assert 0 <= charge.amount <= t.price
    assert charge.amount == round(charge.amount, 4)
    if t.cycle in IN_ADVANCE:
        assert (charge.last + DAY).day == 1
        assert charge.last.year == day.year
        if t.cycle == Cycle.ANNUAL:
            assert (charge.last.month, charge.last.day) == (12, 31)
        else:
            assert charge.last.month == day.month
        if not t.proportional:
            assert charge.amount == t.price
    else:
        assert charge.last == day


@given(days, prices, st.sampled_from(IN_ADVANCE))
@example(date(2024, 5, 5), D("365.00"), Cycle.ANNUAL)
def test_a_whole_period_costs_its_price_and_a_day_less_no_more(
    day: date, price: D, cycle: Cycle
) -> None:
    first = day.replace(day=1, month=1 if cycle == Cycle.ANNUAL else day.month)
    proportional = Terms(cycle, price, True)
    assert charge_on(first, proportional).amount == price
    assert charge_on(first + DAY, proportional).amount <= price
    last = charge_on(day, proportional).last
    length = (last - first).days + 1
    exact = price * ((last - day).days + 1) / length
    assert abs(charge_on(day, proportional).amount - exact) <= D("0.00005")


def test_a_leap_year_has_a_day_more_to_share() -> None:
    annual = terms(Cycle.ANNUAL, "366.00", proportional=True)
    assert charge_on(date(2024, 12, 31), annual).amount == 1
    assert charge_on(date(2023, 12, 31), annual).amount == D("1.0027")
    assert charge_on(date(2024, 2, 29), annual).amount == 307
    monthly = terms(Cycle.MONTHLY, "29.00", proportional=True)
    assert charge_on(date(2024, 2, 29), monthly).amount == 1
    assert charge_on(date(2023, 2, 28), monthly).amount == D("1.0357")


@given(days, all_terms)
def test_periods_follow_each_other_without_gaps(day: date, t: Terms) -> None:
    charge = charge_on(day, t)
    following = charge_on(charge.last + DAY, t)
    assert following.first == charge.last + DAY
    assert next_period(day, t.cycle) == charge.last + DAY


@given(days)
def test_the_end_of_a_month_is_followed_by_a_first(day: date) -> None:
    end = month_end(day)
    assert (end.year, end.month) == (day.year, day.month)
    assert (end + DAY).day == 1


def test_amounts_are_rounded_half_up() -> None:
    assert share(D("0.0001"), 1, 2) == D("0.0001")
    assert share(D("0.0003"), 1, 2) == D("0.0002")
    assert share(D("0.0005"), 1, 2) == D("0.0003")  # half to even would be 0.0002
    assert share(D("0.0001"), 14, 29) == 0
    assert share(D("0.0001"), 15, 29) == D("0.0001")
    assert service_cost(D("0.0001"), D("0.5")) == D("0.0001")
    assert service_cost(D("0.0001"), D("0.499999")) == 0
    assert service_cost(D("0.0003"), D("1.5")) == D("0.0005")


# --- What is left -------------------------------------------------------------------------------


@given(days, st.integers(1, 366), prices, st.integers(-400, 400))
def test_a_remainder_is_between_nothing_and_what_was_paid(
    first: date, length: int, amount: D, offset: int
) -> None:
    paid = Charge(first, first + DAY * (length - 1), amount)
    left = remainder(paid, first + DAY * offset)
    assert 0 <= left <= amount
    if offset <= 0:
        assert left == amount
    if offset >= length:
        assert left == 0
    assert left >= remainder(paid, first + DAY * (offset + 1))


@given(days, st.integers(2, 366), prices, st.data())
def test_what_was_used_and_what_is_left_are_what_was_paid(
    first: date, length: int, amount: D, data: Any
) -> None:
    """The remainder differs from the exact share by half of a ten-thousandth at most."""
    used = data.draw(st.integers(1, length - 1))
    left = remainder(Charge(first, first + DAY * (length - 1), amount), first + DAY * used)
    exact = amount * (length - used) / length
    assert abs(left - exact) <= D("0.00005")


def test_the_rest_of_a_month_is_the_share_of_its_days() -> None:
    paid = Charge(date(2026, 4, 10), date(2026, 4, 30), D("8.7850"))
    assert remainder(paid, date(2026, 4, 20)) == D("4.6017")  # 8.785 × 11 / 21


# --- Quantities ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1, "1"),
        (10, "10"),
        (100, "100"),
        ("10", "10"),
        ("2.50", "2.5"),
        ("+2.5", "2.5"),
        ("007", "7"),
        (".5", "0.5"),
        ("5.", "5"),
        ("0.000001", "0.000001"),
        ("1.123456", "1.123456"),
        (D("1E+2"), "100"),
        (D("2.500000"), "2.5"),
        (MAX_QUANTITY, "999999999999.999999"),
        ("999999999999.999999", "999999999999.999999"),
    ],
)
def test_quantities_are_exact_and_shown_without_idle_zeros(value: Any, shown: str) -> None:
    quantity = to_quantity(value)
    assert quantity == D(value)
    assert format_quantity(quantity) == shown


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0, "wrong_sign"),
        ("0", "wrong_sign"),
        ("0.000000", "wrong_sign"),
        ("-0", "wrong_sign"),
        (-1, "wrong_sign"),
        ("-1", "wrong_sign"),
        (D("-0.000001"), "wrong_sign"),
        ("0.0000001", "too_many_decimals"),
        ("1.0000000", "too_many_decimals"),
        (D("1E-7"), "too_many_decimals"),
        (D("1E-999999"), "too_many_decimals"),
        ("1000000000000", "out_of_range"),
        (D("999999999999.9999991"), "out_of_range"),
        (D("1E+999999"), "out_of_range"),
        pytest.param(10**5000, "out_of_range", id="5001 digits"),
        ("9" * 5000, "out_of_range"),
        (1.5, "not_a_number"),
        (float("nan"), "not_a_number"),
        (True, "not_a_number"),
        (None, "not_a_number"),
        ([], "not_a_number"),
        (b"1", "not_a_number"),
        (D("NaN"), "not_a_number"),
        (D("sNaN"), "not_a_number"),
        (D("Infinity"), "not_a_number"),
        (D("-Infinity"), "not_a_number"),
        ("NaN", "not_a_number"),
        ("Infinity", "not_a_number"),
        ("", "not_a_number"),
        (" ", "not_a_number"),
        (" 1", "not_a_number"),
        ("1 ", "not_a_number"),
        ("1\n", "not_a_number"),
        ("1 000", "not_a_number"),
        ("1_000", "not_a_number"),
        ("1,5", "not_a_number"),
        ("1e3", "not_a_number"),
        ("١٠", "not_a_number"),
        ("１", "not_a_number"),
        ("-", "not_a_number"),
        ("-x", "not_a_number"),
        (".", "not_a_number"),
        ("0x10", "not_a_number"),
        ("½", "not_a_number"),
    ],
)
def test_what_is_no_quantity_is_refused_with_the_reason(value: Any, reason: str) -> None:
    with pytest.raises(NotMoney) as refusal:
        to_quantity(value)
    assert refusal.value.reason == reason


@given(st.decimals(min_value="0.000001", max_value=MAX_QUANTITY, places=6))
def test_a_quantity_survives_being_written_and_read(quantity: D) -> None:
    assert to_quantity(format_quantity(to_quantity(quantity))) == quantity


@given(prices, st.decimals(min_value="0.000001", max_value=MAX_QUANTITY, places=6))
@example(MAX_MONEY, D("0.999999"))
@example(D("0.0001"), MAX_QUANTITY)
def test_a_cost_is_exact_to_four_decimals_or_out_of_range(price: D, quantity: D) -> None:
    """The expected cost is computed in whole numbers, which are exact."""
    exact = int(price.scaleb(4)) * int(quantity.scaleb(6))  # in ten-billionths
    expected = (exact + 500_000) // 1_000_000  # in ten-thousandths, half up
    if expected > int(MAX_MONEY.scaleb(4)):
        with pytest.raises(NotMoney, match="out_of_range"):
            service_cost(price, quantity)
    else:
        assert int(service_cost(price, quantity).scaleb(4)) == expected


# --- Words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (date(2026, 4, 1), date(2026, 4, 30), "April 2026"),
        (date(2026, 4, 10), date(2026, 4, 30), "10–30 April 2026"),
        (date(2026, 4, 1), date(2026, 4, 29), "1–29 April 2026"),
        (date(2026, 4, 30), date(2026, 4, 30), "30 April 2026"),
        (date(2024, 2, 1), date(2024, 2, 29), "February 2024"),
        (date(2024, 2, 1), date(2024, 2, 28), "1–28 February 2024"),
        (date(2026, 1, 1), date(2026, 12, 31), "2026"),
        (date(2026, 1, 2), date(2026, 12, 31), "2 January 2026 – 31 December 2026"),
        (date(2026, 11, 22), date(2026, 12, 31), "22 November 2026 – 31 December 2026"),
        (date(2025, 1, 1), date(2026, 12, 31), "1 January 2025 – 31 December 2026"),
        (date(2026, 12, 1), date(2026, 12, 31), "December 2026"),
    ],
)
def test_a_period_is_named_as_people_name_it(first: date, last: date, words: str) -> None:
    assert format_period(first, last) == words


def test_every_cycle_says_what_its_price_is_per() -> None:
    assert set(PRICE_IS_PER) == set(Cycle)
