"""Logging in to the panel, as often as the Panel API lets anybody try."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from billing import access
from users.forms import LoginForm


class LimitedLoginForm(LoginForm):
    """Guessing a password is slowed down per login, and is no faster through two doors."""

    @sensitive_variables()
    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = self.cleaned_data
        login = cleaned.get("username")
        if login is None or not cleaned.get("password"):
            return cleaned  # what is missing, is said beside it
        wait = access.spend_login(login, now=timezone.now())
        if wait is not None:
            seconds = access.whole_seconds(wait)
            raise ValidationError(
                f"Too many logins with this address have failed. Try again in {seconds} "
                f"{'second' if seconds == 1 else 'seconds'}."
            )
        super().clean()
        access.forgive_login(login)
        return cleaned


admin.site.login_form = LimitedLoginForm
