"""Logging in to the panel, with the same limit as the Panel API."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from billing import authority
from users.browsers import browser_of
from users.forms import LoginForm
from users.networks import client_network


class LimitedLoginForm(LoginForm):
    """The login form. Failed attempts count together with those of the Panel API."""

    request: HttpRequest  # login forms always have one

    @sensitive_variables()
    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = self.cleaned_data
        login = cleaned.get("username")
        if login is None or not cleaned.get("password"):
            return cleaned  # the missing field shows its error
        now = timezone.now()
        address = client_network(self.request)
        browser = browser_of(self.request, login)
        wait = authority.spend_login(login, address=address, browser=browser, now=now)
        if wait is not None:
            seconds = authority.whole_seconds(wait)
            raise ValidationError(
                f"Too many failed logins with this address from here. Try again in {seconds} "
                f"{'second' if seconds == 1 else 'seconds'}."
            )
        super().clean()
        authority.accept_login(login, address=address, browser=browser, now=now)
        return cleaned


admin.site.login_form = LimitedLoginForm
