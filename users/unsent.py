"""Keeps what was typed into a form that is sent after its session has ended.

The form is not processed. The answer is the login page, which says so and carries the typed values
along, signed; nothing is stored on the server for somebody who is not logged in. After the login
the page of the form opens again, with its fields filled in as they were.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.signals import user_logged_in
from django.core import signing
from django.http import HttpRequest, HttpResponseBase, QueryDict
from django.urls import get_script_prefix, resolve, reverse
from django.utils.functional import SimpleLazyObject

Handler = Callable[[HttpRequest], HttpResponseBase]

FIELD: Final = "unsent"  # the name of the field in the login form, and of the key in the session
SALT: Final = "users.unsent"
LASTS_SECONDS: Final = 12 * 3600
MAX_LENGTH: Final = 200_000  # characters that the login page carries along at most
NEVER_KEPT: Final = re.compile(r"password|csrfmiddlewaretoken|secret", re.IGNORECASE)
# Fields that nobody types. Without scripts, the page lists the others, to be typed again.
NOT_TYPED: Final = re.compile(r"_.*|key|seen|expected_number|.*-(TOTAL|INITIAL|M\w+)_\w+|.*-id")


class KeepUnsentForms:
    """Middleware: answers forms of somebody who is not logged in with the login page.

    It comes after the middleware of sessions and of CSRF, so that it sees only the panel's own
    forms.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> HttpResponseBase | None:
        match = request.resolver_match
        if (
            request.method != "POST"
            or match is None
            or match.namespaces != ["admin"]
            or match.url_name in ("login", "logout")
            or request.user.is_authenticated
        ):
            return None
        path = request.get_full_path()
        sent = {"path": path, "fields": _typed(request.POST)}
        unsent = signing.dumps(sent, salt=SALT, compress=True)
        is_kept = len(unsent) <= MAX_LENGTH
        # From here on, treat it as a request for the login page.
        login = reverse("admin:login")
        request.method = "GET"
        request.resolver_match = resolve(login.removeprefix(get_script_prefix().rstrip("/")))
        return admin.site.login(
            request,
            {
                "app_path": f"{login}?{_query(path)}",
                "was_not_done": True,
                "unsent": unsent if is_kept else "",
            },
        )


def _typed(sent: QueryDict) -> dict[str, list[str]]:
    return {name: values for name, values in sent.lists() if not NEVER_KEPT.search(name)}


def _query(path: str) -> str:
    query = QueryDict(mutable=True)
    query[REDIRECT_FIELD_NAME] = path
    return query.urlencode()


def _keep(sender: object, request: HttpRequest | None, **_: Any) -> None:
    """After a login, puts the form that the login page carried into the session."""
    if request is None or FIELD not in request.POST:
        return
    try:
        unsent = signing.loads(request.POST[FIELD], salt=SALT, max_age=LASTS_SECONDS)
    except signing.BadSignature:
        return
    request.session[FIELD] = unsent


user_logged_in.connect(_keep)


def unsent_form(request: HttpRequest) -> Mapping[str, Any]:
    """Context processor for a form that was not processed.

    `unsent_form` has the values that were typed into the form of this page, and can be read once.
    `unsent` is the signed text that the login page carries on after a failed login.
    """

    def find() -> dict[str, Any] | None:
        session = getattr(request, "session", {})
        unsent = session.get(FIELD)
        if request.method != "GET" or not unsent or unsent["path"] != request.get_full_path():
            return None
        del session[FIELD]
        fields: Mapping[str, Sequence[str]] = unsent["fields"]
        return {
            "fields": fields,
            "typed": [
                (name.replace("_", " ").capitalize(), ", ".join(values))
                for name, values in fields.items()
                if any(values) and not NOT_TYPED.fullmatch(name)
            ],
        }

    return {"unsent_form": SimpleLazyObject(find), "unsent": request.POST.get(FIELD, "")}
