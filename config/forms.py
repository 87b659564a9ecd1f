"""Draws the fields of forms in Python: a page has dozens, each made of several nested templates.

The HTML is that of Django's templates; a test compares them. Where Unfold gives a field some thirty
classes, it gets the one class of panel.css that looks the same.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, cast

from django.contrib.admin.options import HORIZONTAL
from django.forms.renderers import DjangoTemplates
from django.utils.formats import localize
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from unfold import widgets

from users.markup import escaped

Widget = Mapping[str, Any]

INPUTS: Final = frozenset(
    f"django/forms/widgets/{name}.html"
    for name in ("checkbox", "date", "email", "hidden", "input", "number", "password", "text")
)
UNFOLDS_TEXT: Final = "unfold/widgets/text.html"
UNFOLDS_RADIOS: Final = "unfold/widgets/radio.html"
BESIDE_THE_TEXT: Final = ("prefix", "prefix_icon", "suffix", "suffix_icon")
SELECT: Final = "django/forms/widgets/select.html"
OPTION: Final = "django/forms/widgets/select_option.html"

# Unfold's classes → the class of panel.css. Those that begin like others come before them.
SHORT_CLASSES: Final = tuple(
    (" ".join(classes), short)
    for classes, short in (
        (widgets.SELECT_CLASSES, "panel-choice"),
        (widgets.TEXTAREA_CLASSES, "panel-area"),
        (widgets.INPUT_CLASSES, "panel-text"),
        (widgets.CHECKBOX_CLASSES, "panel-check"),
        (widgets.RADIO_CLASSES, "panel-radio"),
    )
)


class Renderer(DjangoTemplates):
    """The renderer of all forms: FORM_RENDERER."""

    def render(self, template_name: str, context: Any, request: Any = None) -> SafeString:
        if "widget" not in context:
            return cast(SafeString, super().render(template_name, context, request))
        widget = context["widget"]
        _shorten(widget)
        if template_name in INPUTS:
            return _input(widget)
        if template_name == SELECT:
            return self._select(widget)
        if template_name == UNFOLDS_TEXT and not any(widget.get(name) for name in BESIDE_THE_TEXT):
            return format_html('<div class="max-w-2xl relative w-full">{}</div>', _input(widget))
        is_plain = context.get("radio_style") != HORIZONTAL
        if template_name == UNFOLDS_RADIOS and is_plain and not _groups(widget):
            return _radios(widget)
        return cast(SafeString, super().render(template_name, context, request))

    def _select(self, widget: Widget) -> SafeString:
        lines = [f'<select name="{_text(widget["name"])}"{_attributes(widget)}>']
        for group, options, _ in widget["optgroups"]:
            if group:
                lines.append(f'  <optgroup label="{_text(group)}">')
            lines += [
                _option(each)
                if each["template_name"] == OPTION
                else super(Renderer, self).render(each["template_name"], {"widget": each})
                for each in options
            ]
            if group:
                lines.append("  </optgroup>")
        return mark_safe("\n".join([*lines, "</select>"]))  # noqa: S308 - escaped above


def _input(widget: Widget) -> SafeString:
    value = widget["value"]
    given = "" if value is None else f' value="{_as_text(value)}"'
    return mark_safe(  # noqa: S308 - escaped above
        f'<input type="{_text(widget["type"])}" name="{_text(widget["name"])}"{given}'
        f"{_attributes(widget)}>"
    )


def _groups(widget: Widget) -> list[str]:
    return [group for group, _, _ in widget["optgroups"] if group]


def _radios(widget: Widget) -> SafeString:
    group_id = widget["attrs"].get("id")
    buttons = [each for _, options, _ in widget["optgroups"] for each in options]
    return format_html(
        '<div{} class="flex gap-2 flex-col">{}</div>',
        format_html(' id="{}"', group_id) if group_id else "",
        format_html_join("", "<div>{}</div>", ([_radio(each)] for each in buttons)),
    )


def _radio(widget: Widget) -> SafeString:
    button_id = widget["attrs"].get("id")
    return format_html(
        '<label{} class="flex flex-row items-center gap-2">{}'
        '<span class="truncate">{}</span></label>',
        format_html(' for="{}"', button_id) if button_id else "",
        _input(widget),
        widget["label"],
    )


def _option(widget: Widget) -> str:
    value, label = _as_text(widget["value"]), _text(widget["label"])
    return f'  <option value="{value}"{_attributes(widget)}>{label}</option>'


def _attributes(widget: Widget) -> str:
    return "".join(
        f" {_text(name)}" if value is True else f' {_text(name)}="{_as_text(value)}"'
        for name, value in widget["attrs"].items()
        if value is not False
    )


def _text(value: Any) -> str:
    """Returns `{{ value }}` of a template."""
    return escaped(value if isinstance(value, str) else localize(value))


def _as_text(value: Any) -> str:
    """Returns `{{ value|stringformat:'s' }}` of a template: numbers as the database has them."""
    return escaped(value if isinstance(value, str) else str(value))


def _shorten(widget: dict[str, Any]) -> None:
    """Shortens the classes of a widget, and of those that it is made of."""
    attrs = widget.get("attrs") or {}
    if classes := attrs.get("class"):
        attrs["class"] = _short(classes)
    for each in widget.get("subwidgets", ()):
        _shorten(each)
    for _, options, _ in widget.get("optgroups", ()):
        for each in options:
            _shorten(each)


@cache
def _short(classes: str) -> str:
    for those_of_unfold, short in SHORT_CLASSES:
        if those_of_unfold in classes:
            return classes.replace(those_of_unfold, short)
    return classes
