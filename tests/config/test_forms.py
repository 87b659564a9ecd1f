"""Fields are drawn without templates, as Django's and Unfold's templates draw them."""

import re
from copy import deepcopy
from datetime import date
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from django import forms
from django.conf import settings
from django.forms.renderers import DjangoTemplates
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from unfold import widgets as unfold

from config.forms import SHORT_CLASSES, Renderer

ODD = "<b>\"&'</b>"
CHOICES = [("", "Nothing"), (1, "One"), ("<2>", ODD), (None, 1234567), (4, Decimal("1.5"))]
GROUPED = [("a", "A"), ("Others", [("b", "B"), (ODD, mark_safe("<i>C</i>"))])]

WIDGETS: list[tuple[forms.Widget, Any]] = [
    (forms.TextInput(), None),
    (forms.TextInput({"class": "a b", "required": True, "disabled": False, "x": 3}), ODD),
    (forms.TextInput({"data-what": mark_safe("&amp;")}), mark_safe("&lt;")),
    (forms.NumberInput(), 1234567),
    (forms.NumberInput(), Decimal("1234.50")),
    (forms.EmailInput(), "ada@example.com"),
    (forms.PasswordInput(), "secret"),
    (forms.HiddenInput(), 0),
    (forms.DateInput(format="%Y-%m-%d"), date(2026, 11, 28)),
    (forms.CheckboxInput(), True),
    (forms.CheckboxInput(), False),
    (forms.CheckboxInput(), "yes"),
    (forms.Select(choices=CHOICES), ""),
    (forms.Select({"class": "z"}, choices=CHOICES), 1),
    (forms.Select(choices=GROUPED), ODD),
    (forms.SelectMultiple(choices=GROUPED), ["a", "b"]),
    (forms.Select(), None),
    (forms.CheckboxSelectMultiple(choices=GROUPED), ["a"]),
    (forms.RadioSelect(choices=CHOICES), 1),
    (forms.Textarea(), ODD),
    (unfold.UnfoldAdminTextInputWidget(), ODD),
    (unfold.UnfoldAdminTextInputWidget({"suffix": "USD"}), "5"),
    (unfold.UnfoldAdminEmailInputWidget(), "ada@example.com"),
    (unfold.UnfoldAdminTextareaWidget(), ODD),
    (unfold.UnfoldAdminSelectWidget(choices=GROUPED), "b"),
    (unfold.UnfoldAdminRadioSelectWidget(choices=CHOICES), 1),
    (unfold.UnfoldAdminRadioSelectWidget(radio_style=1, choices=CHOICES), 1),
    (unfold.UnfoldAdminRadioSelectWidget(choices=GROUPED), "b"),
    (unfold.UnfoldAdminCheckboxSelectMultipleWidget(choices=CHOICES), ["1"]),
    (unfold.UnfoldAdminSplitDateTimeWidget(), None),
    (unfold.UnfoldBooleanWidget(), True),
]


def without_breaks(html: str) -> str:
    """Returns HTML without space that is at the beginning or the end of an element."""
    return re.sub(
        r"\s*([<>])\s*",
        r"\1",
        re.sub(r"\s+", " ", html.replace("flex gap-2  flex", "flex gap-2 flex")),
    )


@pytest.mark.parametrize("number", range(len(WIDGETS)), ids=lambda n: type(WIDGETS[n][0]).__name__)
@pytest.mark.parametrize("attrs", [None, {"id": "id_of_it", "aria-invalid": "true"}])
def test_a_field_is_drawn_as_its_template_draws_it(number: int, attrs: Any) -> None:
    widget, value = deepcopy(WIDGETS[number])  # Unfold's change when they are drawn
    untouched = deepcopy(widget)
    expected = untouched.render("a_name", value, attrs, renderer=DjangoTemplates())
    for long, short in SHORT_CLASSES:
        expected = SafeString(expected.replace(escape(long), short))
    drawn = widget.render("a_name", value, attrs, renderer=Renderer())
    assert without_breaks(drawn) == without_breaks(expected)


def test_all_forms_are_drawn_so() -> None:
    assert isinstance(forms.Form().renderer, Renderer)


def test_the_short_classes_have_a_look_made_from_the_installed_unfold() -> None:
    css = (Path(settings.BASE_DIR) / "billing/static/billing/panel.css").read_text()
    made_from = re.search(r"/\* Looks of Unfold ([\d.]+) that ", css)
    assert made_from
    assert made_from[1] == version("django-unfold"), (
        "Compare the lists of classes in unfold/widgets.py with the looks in panel.css, then "
        "change the version there."
    )
    for _, short in SHORT_CLASSES:
        assert f".{short}" in css
