"""Ends logins: SESSION_HOURS after the login, or SESSION_IDLE_MINUTES after the last request."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

from users.texts import counted

Handler = Callable[[HttpRequest], HttpResponseBase]

BEGUN: Final = "begun"
SEEN: Final = "seen"
# Noting every request would mean one write per request.
SEEN_IS_NOTED_EVERY: Final = timedelta(minutes=1)


def end_sessions(get_response: Handler) -> Handler:
    """Middleware: logs operators out who have been logged in, or idle, for too long.

    A session without a noted beginning counts from this request.
    """

    def handle(request: HttpRequest) -> HttpResponseBase:
        if request.user.is_authenticated:
            _end_or_note(request, timezone.now())
        return get_response(request)

    return handle


def _end_or_note(request: HttpRequest, now: datetime) -> None:
    session = request.session
    begun = _moment(session.get(BEGUN), now)
    seen = _moment(session.get(SEEN), now)
    if now - begun >= timedelta(hours=settings.SESSION_HOURS):
        reason = f"A login lasts {counted(settings.SESSION_HOURS, 'hour')}, and yours has ended."
    elif settings.SESSION_IDLE_MINUTES and now - seen >= timedelta(
        minutes=settings.SESSION_IDLE_MINUTES
    ):
        minutes = counted(settings.SESSION_IDLE_MINUTES, "minute")
        reason = f"You were logged out because you were inactive for {minutes}."
    else:
        if BEGUN not in session:
            session[BEGUN] = begun.timestamp()
        if SEEN not in session or now - seen >= SEEN_IS_NOTED_EVERY:
            session[SEEN] = now.timestamp()
        return
    logout(request)
    if request.method == "GET":  # after a form was sent, the login page says more (users/unsent.py)
        messages.info(request, f"{reason} Please log in again.")


def _moment(seconds: float | None, now: datetime) -> datetime:
    return now if seconds is None else datetime.fromtimestamp(seconds, now.tzinfo)
