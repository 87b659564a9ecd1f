"""Remembers, with a cookie, the browsers in which operators have logged in.

Somebody who knows an operator's address can fail to log in as often as they like. This must not
keep the operator out, who uses a known browser. The cookie lets nobody in: it only gives the
browser its own count of failed logins.
"""

import secrets
from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.core import signing
from django.http import HttpRequest, HttpResponseBase

from users.models import User

Handler = Callable[[HttpRequest], HttpResponseBase]

COOKIE: Final = "known_browser"
SALT: Final = "users.browsers"
LASTS_SECONDS: Final = 180 * 24 * 3600
MOST_OPERATORS: Final = 5  # remembered per browser, latest login first


def browser_of(request: HttpRequest, login: str) -> str | None:
    """Returns the id of this browser, if the operator with this `login` has used it; else None.

    A change of the password makes all of the operator's browsers unknown until the next login.
    """
    operator = User.objects.with_email(login).first()
    if operator is None:
        return None
    for user_id, password, browser in _known(request):
        if user_id == operator.pk and password == _password_of(operator):
            return str(browser)
    return None


def remember_browser(get_response: Handler) -> Handler:
    """Middleware: sets the cookie after a request that logged somebody in."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        operator = getattr(request, "logged_in_by_form", None)
        if operator is not None:
            others = [each for each in _known(request) if each[0] != operator.pk]
            browser = browser_of(request, operator.email) or secrets.token_hex(8)
            known = [[operator.pk, _password_of(operator), browser], *others][:MOST_OPERATORS]
            response.set_cookie(
                COOKIE,
                signing.dumps(known, salt=SALT),
                max_age=LASTS_SECONDS,
                path=settings.SESSION_COOKIE_PATH,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        return response

    return handle


def _note_login(sender: object, request: HttpRequest | None, user: User, **_: Any) -> None:
    if request is not None:
        request.logged_in_by_form = user  # type: ignore[attr-defined]


user_logged_in.connect(_note_login)


def _known(request: HttpRequest) -> list[list[Any]]:
    cookie = request.COOKIES.get(COOKIE, "")
    try:
        known = signing.loads(cookie, salt=SALT, max_age=LASTS_SECONDS)
    except signing.BadSignature:
        return []
    return list(known)


def _password_of(operator: User) -> str:
    """Returns a value that changes with the password and does not reveal it."""
    return operator.get_session_auth_hash()[:16]
