"""The table of Django's lists, drawn in one pass.

Unfold draws each cell with several templates and some fourteen classes. Here a cell is one piece of
HTML with the class `field-…`, and panel.css has its look. What a cell says is as Unfold has it; of
its features, tables have those that the panel uses.
"""

from collections.abc import Callable, Iterator
from typing import Any

from django import template
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.templatetags.admin_list import result_hidden_fields
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.utils import quote
from django.core.exceptions import FieldDoesNotExist, ObjectDoesNotExist
from django.db.models import Field, ForeignKey, Model
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe
from unfold.templatetags.unfold_list import result_headers
from unfold.utils import display_for_field, display_for_value
from unfold.views import ChangeList

from users.markup import escaped

register = template.Library()

Cell = Callable[[Model], tuple[Any, str]]  # what it says, and more classes


@register.inclusion_tag("users/result_list.html", takes_context=True)
def panel_result_list(context: dict[str, Any], cl: ChangeList) -> dict[str, Any]:
    headers = list(result_headers(cl))
    return {
        "cl": cl,
        "result_hidden_fields": list(result_hidden_fields(cl)),
        "headers": headers,
        "sorted_count": sum(bool(each.get("sorted")) for each in headers),
        "rows": mark_safe("".join(_rows(cl))),  # noqa: S308 - escaped where the cells are made
        "has_add_permission": cl.model_admin.has_add_permission(context["request"]),
    }


def _rows(cl: ChangeList) -> Iterator[str]:
    """Yields each row, and before it what is wrong with its form as a whole."""
    cells = list(_cells(cl))
    forms = cl.formset.forms if cl.formset else [None] * len(cl.result_list)
    for row, form in zip(cl.result_list, forms, strict=True):
        if form is not None and form.non_field_errors():
            yield f'<tr><td colspan="{len(cells)}">{form.non_field_errors()}</td></tr>'
        yield f"<tr>{''.join(cell(row, form) for cell in cells)}</tr>"


def _cells(cl: ChangeList) -> Iterator[Callable[[Model, Any], str]]:
    """Yields for each column what makes its cells."""
    address = _addresses(cl)
    tag = "th"  # the first link heads the row
    for name in cl.list_display:
        if name == "action_checkbox":
            yield _checkbox
        elif name in (cl.list_display_links or ()):
            yield _linked(cl, name, address, tag=tag)
            tag = "td"
        else:
            yield _plain(cl, name)


def _checkbox(row: Model, form: Any) -> str:
    return (
        f'<td class="action-checkbox"><input type="checkbox" name="{ACTION_CHECKBOX_NAME}" '
        f'value="{escaped(row.pk)}" class="panel-check action-select" '
        'aria-label="Select record"></td>'
    )


def _linked(
    cl: ChangeList, name: str, address: Callable[[Model], str], *, tag: str
) -> Callable[[Model, Any], str]:
    content = _content(cl, name)
    attribute = str(cl.to_field or cl.lookup_opts.pk.attname)

    def cell(row: Model, form: Any) -> str:
        says, classes = content(row)
        classes += " linked" if tag == "td" else ""
        chosen = ""
        if cl.is_popup:
            chosen = f' data-popup-opener="{escaped(row.serializable_value(attribute))}"'
        return (
            f'<{tag} class="field-{name}{classes}"><a href="{address(row)}"{chosen}>'
            f"{escaped(says)}</a></{tag}>"
        )

    return cell


def _plain(cl: ChangeList, name: str) -> Callable[[Model, Any], str]:
    content = _content(cl, name)

    def cell(row: Model, form: Any) -> str:
        if form is not None and name in form.fields:
            field = form[name]
            errors = render_to_string("unfold/helpers/form_errors.html", {"errors": field.errors})
            classes = " group errors" if field.errors else ""
            return f'<td class="field-{name}{classes}">{field}{errors}</td>'
        says, classes = content(row)
        return f'<td class="field-{name}{classes}">{escaped(says)}</td>'

    return cell


def _addresses(cl: ChangeList) -> Callable[[Model], str]:
    """Returns what makes the address of a row's page, with the filters to come back to.

    The addresses differ in nothing but the ID, so that Django has to make only the first.
    """
    if not cl.result_list:
        return lambda row: ""
    first = cl.result_list[0]
    of_first = cl.url_for_result(first)
    kept = {"preserved_filters": cl.preserved_filters, "opts": cl.opts}
    query = add_preserved_filters(kept, of_first).removeprefix(of_first)
    before, _, after = of_first.rpartition(f"/{_id(cl, first)}/")
    after = escaped(f"/{after}{query}")
    return lambda row: f"{before}/{_id(cl, row)}{after}"


def _id(cl: ChangeList, row: Model) -> str:
    return str(quote(getattr(row, cl.pk_attname)))


# --- What a cell says ---------------------------------------------------------------------------


def _content(cl: ChangeList, name: str) -> Cell:
    """Returns what reads a column's value of a row and says it."""
    empty = cl.model_admin.get_empty_value_display()
    field = _field(cl, name)
    if field is not None:
        return _of_field(field, empty)
    read: Callable[[Model], Any]
    if hasattr(cl.model_admin, name):
        read = source = getattr(cl.model_admin, name)
    else:
        source = getattr(cl.model, name)
        read = lambda row: _called(getattr(row, name))  # noqa: E731
    return _of_display(read, source, empty)


def _field(cl: ChangeList, name: str) -> "Field[Any, Any] | None":
    """Returns the model's field of this name; None if there is none, or it is an automatic ID."""
    try:
        field = cl.lookup_opts.get_field(name)
    except FieldDoesNotExist:
        return None
    return None if field.auto_created or not isinstance(field, Field) else field


def _called(value: Any) -> Any:
    return value() if callable(value) else value


def _of_field(field: "Field[Any, Any]", empty: str) -> Cell:
    if isinstance(field, ForeignKey):
        return lambda row: (empty if (one := getattr(row, field.name)) is None else one, "")
    return lambda row: (display_for_field(getattr(row, field.attname), field, empty), "")


def _of_display(read: Callable[[Model], Any], source: Any, empty: str) -> Cell:
    """Returns what says a value as the `display` decorator of its method wants."""
    empty = getattr(source, "empty_value_display", empty)
    labels = getattr(source, "label", None)
    is_header, is_boolean = getattr(source, "header", False), getattr(source, "boolean", False)
    classes = " right" if getattr(source, "formatting", None) == "price" else ""

    def cell(row: Model) -> tuple[Any, str]:
        try:
            value = read(row)
        except ObjectDoesNotExist:
            return empty, classes
        if labels:
            return _label(value, labels), classes
        if is_header:
            return _header(value), classes
        return display_for_value(value, empty, is_boolean), classes

    return cell


def _header(lines: list[str]) -> SafeString:
    """Returns two lines, such as a name and an address."""
    title, more = lines
    return mark_safe(f"<strong>{escaped(title)}</strong><span>{escaped(more)}</span>")  # noqa: S308


def _label(value: Any, kinds: Any) -> SafeString:
    """Returns a value as a label, or several; `kinds` may name the kind of each value."""
    texts = value if isinstance(value, list | tuple) else [value]
    labels = (
        f'<span class="panel-label {kinds.get(each, "") if isinstance(kinds, dict) else ""}">'
        f"{escaped(each)}</span>"
        for each in texts
    )
    return mark_safe("".join(labels))  # noqa: S308
