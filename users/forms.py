"""The forms about people: who they are, how operators log in, and in which time zone they read."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.conf import settings
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.forms import AuthenticationForm, UserCreationForm
from unfold.widgets import UnfoldAdminTextInputWidget

from users.models import Operator, User, time_zones, validate_time_zone


class LoginForm(AuthenticationForm):
    """One answer to every login that fails, so that it tells nobody who has an account here."""

    error_messages: Mapping[str, str] = {
        "invalid_login": "Please enter the e-mail address and password of an active operator.",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].widget.input_type = "email"


class TimeZoneInput(UnfoldAdminTextInputWidget):
    """A text field that offers all time zones as one types, without any JavaScript."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        list_id = f"{(attrs or {}).get('id', name)}_list"
        field = super().render(name, value, (attrs or {}) | {"list": list_id}, renderer)
        zones = format_html_join(
            "", '<option value="{}">', ((zone,) for zone in sorted(time_zones()))
        )
        return format_html('{}<datalist id="{}">{}</datalist>', field, list_id, zones)


class TimeZoneField(forms.CharField):
    """Takes a time zone's name in upper or lower case and gives it as it is written."""

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
    """Says at the field that somebody else has the e-mail address."""

    instance: User
    cleaned_data: dict[str, Any]

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"]
        if User.objects.with_email(email).exclude(pk=self.instance.pk).exists():
            raise forms.ValidationError("Another user has this e-mail address already.")
        return email


class PersonForm(UniqueEmailMixin, forms.ModelForm):  # type: ignore[type-arg]
    """A customer or an operator; which fields it has is the admin class's business."""

    time_zone = TimeZoneField()


class NewOperatorForm(UniqueEmailMixin, UserCreationForm):
    usable_password = None  # an operator logs in here, with a password
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
