"""Form fields for amounts, prices and quantities, and their questions about ambiguous input.

A question is shown in place of an error, with a button for each answer. The button's name is the
field's name with `_meant`. It submits the whole form, so it works without scripts. The answer
replaces the typed text; a hidden field remembers that it was answered, so nothing is asked twice.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import currencies
from billing.errors import InvalidAmount, InvalidQuantity
from billing.money import NotMoney, format_money, to_money
from billing.plans.pricing import to_quantity
from billing.typed import Ambiguous, NotRead, finer_than_money, read_number, shown, unambiguous

LONGEST_TYPED: Final = 40


class Reading(str):
    """The text of field `name`. `is_meant`: it is the answer to a question."""

    name: str
    is_meant: bool

    def __new__(cls, text: str, *, name: str, is_meant: bool) -> "Reading":
        answer = super().__new__(cls, text)
        answer.name = name
        answer.is_meant = is_meant
        return answer


class AsksMixin(forms.TextInput):
    """A text widget whose value may be the answer to a question."""

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> Any:
        typed = data.get(name)
        meant = data.get(f"{name}_meant")
        if meant is not None:
            return Reading(meant, name=name, is_meant=True)
        if typed is None:
            return None
        is_meant = bool(typed) and typed == data.get(f"{name}_taken")
        return Reading(typed, name=name, is_meant=is_meant)

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        field = super().render(name, value, attrs, renderer)
        if isinstance(value, Reading) and value.is_meant:
            field += format_html('<input type="hidden" name="{}_taken" value="{}">', name, value)
        return field


class NumberInput(AsksMixin):
    """The widget on the panel's own pages."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"inputmode": "decimal", "class": "panel-input money"} | (attrs or {}))


class AdminNumberInput(AsksMixin, UnfoldAdminTextInputWidget):
    """The widget on Unfold's pages."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"inputmode": "decimal", "autocomplete": "off"} | (attrs or {}))


class TypedField(forms.CharField):
    """A field for a number as people type or paste it. Empty is None."""

    is_money = True
    may_be_finer = True  # more decimals than the currency, without a question
    accepted: Decimal | None = None  # the present value is accepted with any decimals

    def __init__(self, **options: Any) -> None:
        options.setdefault("widget", NumberInput)
        super().__init__(max_length=LONGEST_TYPED, **options)

    def strictly(self, text: str) -> Decimal:
        """Reads a plain number. Raises NotMoney."""
        return to_money(text)

    def why_not(self, problem: NotMoney, text: str) -> str:
        return str(InvalidAmount(field="amount", reason=problem.reason, value=text))

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        name = value.name if isinstance(value, Reading) else ""
        is_meant = isinstance(value, Reading) and value.is_meant
        read: Callable[[str], Decimal] = self.strictly
        try:
            if is_meant:
                return read(text)
            number = read_number(text, read, money=self.is_money)
        except Ambiguous as question:
            raise Question(name, question.readings) from None
        except NotRead as problem:
            raise ValidationError(str(problem)) from None
        except NotMoney as problem:
            raise ValidationError(self.why_not(problem, text)) from None
        if self.may_be_finer or number == self.accepted or not finer_than_money(number):
            return number
        raise finer(number, name)

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.clean(data) != initial)
        except ValidationError:
            return True

    def prepare_value(self, value: Any) -> Any:
        """Returns the value in a form that can be typed again: without commas."""
        return format_money(value).replace(",", "") if isinstance(value, Decimal) else value


class QuantityField(TypedField):
    """A field for a quantity as people type or paste it: 10, 2.5, 1 234."""

    is_money = False

    def strictly(self, text: str) -> Decimal:
        return to_quantity(text)

    def why_not(self, problem: NotMoney, text: str) -> str:
        return str(InvalidQuantity(reason=problem.reason, value=text))


class Question(ValidationError):
    """The question "Did you mean 1.5 or 1500?", raised like a validation error."""

    def __init__(self, name: str, readings: tuple[str, str]) -> None:
        self.readings = readings
        first, second = (_button(name, unambiguous(each), shown(each)) for each in readings)
        html = format_html("{}Did you mean {} or {}?", _default_button(), first, second)
        super().__init__(html, code="ambiguous")


def finer(amount: Decimal, name: str) -> ValidationError:
    decimals = currencies.own_decimals()
    has = {0: "no decimals", 1: "one decimal"}.get(decimals, f"{decimals} decimals")
    plain = format_money(amount).replace(",", "").replace("−", "-")
    exact = plain.rstrip("0")
    html = format_html(
        "{}{} has more decimals than the currency: {} has {}. {}",
        _default_button(),
        shown(exact),
        currencies.own(),
        has,
        _button(name, unambiguous(exact), f"Take {shown(exact)}"),
    )
    return ValidationError(html, code="finer")


def links(answers: Iterable[tuple[str, str]]) -> SafeString:
    """Returns the question of a filter, whose answers are links."""
    return format_html(
        "Did you mean {}?",
        format_html_join(" or ", '<a class="underline" href="{1}">{0}</a>', answers),
    )


def _button(name: str, answer: str, label: str) -> SafeString:
    return format_html(
        '<button class="panel-button small" type="submit" name="{}_meant" value="{}">{}</button>',
        name,
        answer,
        label,
    )


def _default_button() -> SafeString:
    """Returns a hidden first button: the Enter key presses it, and so answers no question."""
    return format_html(
        '<button class="hidden-words" type="submit" tabindex="-1" aria-hidden="true">{}</button>',
        "Send without an answer",
    )
