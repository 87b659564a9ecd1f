"""The forms about people: profiles, the login of operators, and time zones."""

import json
from collections.abc import Mapping
from typing import Any, cast

from django import forms
from django.conf import settings
from django.http import QueryDict
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.forms import AuthenticationForm, UserCreationForm
from unfold.widgets import UnfoldAdminTextInputWidget

from users.models import ADDRESS_IS_TAKEN, Operator, User, time_zones, validate_time_zone


class LoginForm(AuthenticationForm):
    """The login. Every failure gets the same answer, which does not tell who has an account."""

    error_messages: Mapping[str, str] = {
        "invalid_login": "Please enter the e-mail address and password of an active operator.",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].widget.input_type = "email"


class TimeZoneInput(UnfoldAdminTextInputWidget):
    """A text field that offers matching time zones while one types, without JavaScript."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        list_id = f"{(attrs or {}).get('id', name)}_list"
        field = super().render(name, value, (attrs or {}) | {"list": list_id}, renderer)
        zones = format_html_join(
            "", '<option value="{}">', ((zone,) for zone in sorted(time_zones()))
        )
        return format_html('{}<datalist id="{}">{}</datalist>', field, list_id, zones)


class TimeZoneField(forms.CharField):
    """Takes a time zone's name in any case, and returns it with the usual capitals."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("required", False)
        options.setdefault("label", "Time zone")
        options.setdefault(
            "help_text",
            f"For example Europe/Berlin. Empty: the installation's, {settings.TIME_ZONE}.",
        )
        super().__init__(
            validators=[validate_time_zone],
            widget=TimeZoneInput(attrs={"placeholder": settings.TIME_ZONE}),
            **options,
        )

    def to_python(self, value: Any) -> str:
        typed = str(super().to_python(value) or "").replace(" ", "_")
        return next((zone for zone in time_zones() if zone.lower() == typed.lower()), typed)


class UniqueEmailMixin:
    """Refuses an e-mail address that another user has, with an error at the field."""

    instance: User
    cleaned_data: dict[str, Any]

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"]
        own = User.objects.with_mailbox(email).filter(pk=self.instance.pk)
        others = User.objects.with_mailbox(email).exclude(pk=self.instance.pk)
        if others.exists() and not own.exists():
            raise forms.ValidationError(ADDRESS_IS_TAKEN)
        return email


class PersonForm(UniqueEmailMixin, forms.ModelForm):  # type: ignore[type-arg]
    """The profile of a customer or an operator. The admin class decides which fields it has.

    It saves only the fields that were changed on the page. `seen` holds the values that the page
    showed. A field that somebody else has changed since keeps its new value, unless it was changed
    on the page too: then the form says so and saves nothing until it is sent again.
    """

    time_zone = TimeZoneField()
    seen = forms.CharField(widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.changed_by_both: list[str] = []
        if self.instance.pk:
            now = {
                name: _comparable(field.prepare_value(self.initial.get(name)))
                for name, field in self.fields.items()
                if name != "seen"
            }
            self.initial["seen"] = json.dumps(now)
            if self.is_bound:
                self._go_on_from(now)

    def _go_on_from(self, now: dict[str, Any]) -> None:
        """Changes the data that was sent into what the page would send if it were opened now.

        `now` has the stored values of all fields. Fields that were changed by both are noted.
        """
        data = cast(QueryDict, self.data).copy()
        seen = _read(data.get(self.add_prefix("seen"), ""))
        for name, value in now.items():
            if seen.get(name, value) == value:
                continue
            field, key = self.fields[name], self.add_prefix(name)
            entered = _comparable(field.widget.value_from_datadict(data, self.files, key))
            if entered == seen[name]:
                stored = field.prepare_value(self.initial.get(name))
                data.setlist(key, [str(each) for each in _as_list(stored)])
            elif entered != value:
                self.changed_by_both.append(name)
        data[self.add_prefix("seen")] = self.initial["seen"]
        self.data = data

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        for name in self.changed_by_both:
            self.add_error(
                name,
                f"Nothing was saved: somebody has changed this, since you opened the page, to "
                f"{self._in_words(name)}. Save again to replace it with your entry.",
            )
        if self.instance.is_closed and cleaned.get("is_active"):
            self.add_error("is_active", "A duplicate stays deactivated.")
        return cleaned

    def _in_words(self, name: str) -> str:
        """Returns the stored value of a field, as a message shows it."""
        field, value = self.fields[name], self.initial.get(name)
        if isinstance(field, forms.ModelMultipleChoiceField):
            return ", ".join(map(field.label_from_instance, value or ())) or "nothing"
        if isinstance(field, forms.ChoiceField):
            value = dict(field.choices).get(value, value)  # type: ignore[arg-type]
        return f"“{value}”" if value else "nothing"


def _comparable(value: Any) -> Any:
    """Returns a value in the one form in which values are compared and sent with the page."""
    if isinstance(value, list):
        return sorted(str(each) for each in value)
    return value.replace("\r\n", "\n").strip() if isinstance(value, str) else value


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read(seen: str) -> dict[str, Any]:
    """Parses the hidden field `seen` into values by field name. Returns {} if it is malformed."""
    try:
        values = json.loads(seen)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


class NewOperatorForm(UniqueEmailMixin, UserCreationForm):
    usable_password = None  # no choice: operators always log in with a password
    time_zone = TimeZoneField()

    class Meta:
        model = Operator
        fields = ("email",)


class TimeZoneForm(forms.ModelForm):  # type: ignore[type-arg]
    """An operator's own time zone."""

    time_zone = TimeZoneField()

    class Meta:
        model = User
        fields = ("time_zone",)
