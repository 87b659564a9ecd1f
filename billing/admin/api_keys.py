"""The pages of API keys. A new key is shown once, in the response to the form that adds it.

It is neither stored nor passed on in any other way.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.validators import RegexValidator
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html

from billing import authority, operations, reports
from billing.admin.history import WithHistory
from billing.admin.pages import PanelForm, midnight, page_context, row_or_404
from billing.admin.transactions import DayField, cursor_of
from billing.authority import KeyState
from billing.models import ApiKey, EventChannel, Subject
from billing.models.plans import validate_readable
from users import database
from users.admin.base import titled
from users.admin.groups import PermissionsField
from users.authority import operators_managed_by, permissions_of
from users.models import User
from users.search import Folded, QueryWord, found_by

# A second key of the same name within this time is probably the same form sent twice.
JUST_NOW: Final = timedelta(minutes=10)
# Longer than the start of a key. URLs end up in logs and the browser's history, where no key may be
# found. The pattern works in browsers and in Python.
MORE_THAN_A_BEGINNING: Final = (
    rf"{authority.KEY_BEGINS}[A-Za-z0-9_\-]"
    rf"{{{authority.PREFIX_LENGTH - len(authority.KEY_BEGINS) + 1}}}"
)
ONLY_BEGINNINGS: Final = f"Of a key, only the first {authority.PREFIX_LENGTH} characters."
STATES: Final[dict[KeyState, str]] = {
    "working": "Working",
    "expired": "Expired",
    "revoked": "Revoked",
    "owner inactive": "Owner deactivated",
}


@dataclass(frozen=True)
class KeyReport:
    """A key with what pages show of it."""

    key: ApiKey
    state: KeyState

    @property
    def state_in_words(self) -> str:
        return STATES[self.state]


def report(key: ApiKey, now: datetime) -> KeyReport:
    return KeyReport(key, authority.state_of(key, now))


class KeyFilters(PanelForm):
    state = forms.ChoiceField(
        required=False,
        choices=[("", "All"), ("working", "Working"), ("other", "Not working")],
    )
    q = forms.CharField(
        label="Name, owner or first characters",
        required=False,
        max_length=200,
        # The browser does not submit text that breaks the pattern, so no key gets into a URL.
        widget=forms.TextInput(
            {"pattern": f"(?!.*{MORE_THAN_A_BEGINNING}).*", "title": ONLY_BEGINNINGS}
        ),
        validators=[
            RegexValidator(
                MORE_THAN_A_BEGINNING,
                f"{ONLY_BEGINNINGS} This one was sent: if it works, revoke it.",
                inverse_match=True,
            )
        ],
    )

    def listed(self, now: datetime) -> "QuerySet[ApiKey]":
        """Returns the filtered rows; none if a filter is invalid, which shows its error."""
        if not self.is_valid():
            return ApiKey.objects.none()
        rows = ApiKey.objects.select_related("owner", "created_by")
        state = self.cleaned_data["state"]
        if state == "working":
            rows = rows.filter(pk__in=authority.working_keys(now).values("pk"))
        elif state == "other":
            rows = rows.exclude(pk__in=authority.working_keys(now).values("pk"))
        rows = rows.alias(folded_name=Folded("name"))
        return rows.filter(found_by(self.cleaned_data.get("q", ""), "owner", _of_the_key))


def _of_the_key(word: QueryWord) -> Q:
    of_the_key = Q(prefix=word.typed)
    if word.folded:
        of_the_key |= Q(*(Q(folded_name__contains=each) for each in word.folded))
    return of_the_key


class OwnerField(forms.ModelChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.person_name} · {obj.email}" if obj.person_name else obj.email


class ApiKeyForm(PanelForm):
    """The form for a key. An owner with more permissions than the operator is refused."""

    name = forms.CharField(
        max_length=60,
        validators=[validate_readable],
        help_text="The program that uses it, like Payment gateway. No two working keys share a "
        "name.",
    )
    owner = OwnerField(
        queryset=User.objects.none(),
        empty_label=None,
        help_text="The key acts in this operator's name and may do what the operator may, now and "
        "later. You can choose operators who have no permission that you lack.",
        error_messages={
            "invalid_choice": "Choose an active operator who has no permission that you lack."
        },
    )
    is_read_only = forms.BooleanField(
        label="Read only", required=False, help_text="May read, but change nothing."
    )
    lasts = forms.ChoiceField(
        label="Expires",
        choices=[
            ("30", "In 30 days"),
            ("90", "In 90 days"),
            ("365", "In a year"),
            ("day", "At the end of this day"),
            ("revoked", "Never: it works until it is revoked"),
        ],
        initial="365",
    )
    last_day = DayField(label="Last day")
    requests_per_minute = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=10**6,
        widget=forms.TextInput({"inputmode": "numeric"}),
    )

    def __init__(self, actor: User, now: datetime, data: Any = None) -> None:
        self.actor = actor
        self.now = now
        self.twin: ApiKey | None = None
        super().__init__(data, initial={"owner": actor.pk})
        owners = operators_managed_by(actor).filter(is_active=True)
        self.fields["owner"].queryset = owners.order_by("email")  # type: ignore[attr-defined]
        self.fields["last_day"].help_text = "Used only with “At the end of this day”."
        usual = settings.API_REQUESTS_PER_MINUTE
        self.fields["requests_per_minute"].help_text = (
            f"Empty: the installation's default, {f'{usual:,}' if usual else 'without limit'}. "
            "0: no limit."
        )

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        self.twin = authority.working_keys(self.now).filter(name=name).order_by("-pk").first()
        if self.twin:
            raise forms.ValidationError("Another working key has this name. Choose another name.")
        return name

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        day = cleaned.get("last_day")
        if cleaned.get("lasts") == "day":
            if day is None and "last_day" not in self.errors:
                self.add_error("last_day", "Enter the last day.")
            elif day and day < timezone.localdate(self.now):
                self.add_error("last_day", "This day has passed.")
        elif day:
            self.add_error("last_day", "To use this day, choose “At the end of this day” too.")
        return cleaned

    @property
    def was_sent_twice(self) -> bool:
        """Returns whether the same form has probably just made a key."""
        twin = self.twin
        return (
            twin is not None
            and twin.created_by_id == self.actor.pk
            and self.now - twin.created_at < JUST_NOW
        )

    def save(self) -> tuple[ApiKey, str]:
        chosen = self.cleaned_data
        return operations.keys.add(
            name=chosen["name"],
            owner=chosen["owner"],
            is_read_only=chosen["is_read_only"],
            expires_at=self._expires_at(),
            requests_per_minute=chosen["requests_per_minute"],
            actor=self.actor,
            channel=EventChannel.PANEL,
        )

    def _expires_at(self) -> datetime | None:
        lasts = self.cleaned_data["lasts"]
        if lasts == "revoked":
            return None
        if lasts == "day":
            return midnight(self.cleaned_data["last_day"] + timedelta(days=1))
        return self.now + timedelta(days=int(lasts))


class Right(NamedTuple):
    """What an operator may do with one kind of object."""

    subject: str
    actions: str


def rights_of(key: ApiKey) -> list[Right]:
    """Returns what the key allows: the owner's permissions, or only those to view."""
    shown = PermissionsField(permissions_of(key.owner)).queryset
    assert shown is not None  # noqa: S101 - for the type checker
    if key.is_read_only:
        shown = shown.filter(codename__startswith="view_")
    actions: dict[str, list[str]] = {}
    for permission in shown:
        subject = str(permission.content_type.name)
        actions.setdefault(subject[:1].upper() + subject[1:], []).append(
            permission.codename.split("_")[0]
        )
    return [Right(subject, ", ".join(each)) for subject, each in sorted(actions.items())]


@admin.register(ApiKey)
class ApiKeyAdmin(WithHistory):
    """API keys: they are added and revoked, never edited or deleted."""

    history_subject = Subject.API_KEY

    def get_urls(self) -> list[URLPattern]:
        revoke = self.admin_site.admin_view(self.revoke_view)
        return [
            path("<str:key_id>/revoke/", revoke, name="billing_apikey_revoke"),
            *super().get_urls(),
        ]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        now = timezone.now()
        form = KeyFilters(request.GET)
        found = reports.page_by_id(form.listed(now), cursor_of(request))
        context = page_context(request, self, title="API keys", user=None) | {
            "form": form,
            "page": found,
            "rows": [report(key, now) for key in found.rows],
            "has_conditions": any(form.cleaned_data.values()) or bool(form.errors),
            "may_add": self.has_add_permission(request),
        }
        return TemplateResponse(request, "billing/api_keys.html", context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        if object_id is None:
            return self._add(request)
        key = self._key(request, object_id)
        context = page_context(request, self, title=titled(key, "API key"), user=None) | {
            "original": key,
            "report": report(key, timezone.now()),
            "rights": rights_of(key),
            "usual_requests": settings.API_REQUESTS_PER_MINUTE,
            "may_revoke": self.has_change_permission(request) and key.revoked_at is None,
        }
        return TemplateResponse(request, "billing/api_key.html", context)

    def _add(self, request: HttpRequest) -> HttpResponseBase:
        """Shows the form, and shows the new key in the response to it.

        So the key is in no URL, session or message, and on no page that can be opened again.
        """
        actor = request.user
        if not self.has_add_permission(request) or not isinstance(actor, User):
            raise PermissionDenied
        now = timezone.now()
        if request.method != "POST":
            return self._form(request, ApiKeyForm(actor, now))
        with transaction.atomic():
            # Locks the operator, so that the same form sent twice makes one key.
            database.lock_row(User.objects.filter(pk=actor.pk), actor.pk)
            form = ApiKeyForm(actor, now, request.POST)
            if not form.is_valid():
                return self._form(request, form)
            key, secret = form.save()
        context = page_context(request, self, title="API key added", user=None) | {
            "key": key,
            "secret": secret,
            "may_view": self.has_view_or_change_permission(request),
        }
        return TemplateResponse(request, "billing/api_key_added.html", context)

    def _form(self, request: HttpRequest, form: ApiKeyForm) -> HttpResponseBase:
        context = page_context(request, self, title="Add API key", user=None) | {
            "form": form,
            "may_view": self.has_view_or_change_permission(request),
        }
        return TemplateResponse(request, "billing/api_key_form.html", context)

    def revoke_view(self, request: HttpRequest, key_id: str) -> HttpResponseBase:
        """Asks for confirmation, and revokes a key.

        Operators with the permission may revoke any key: a leaked key must not wait for its owner.
        """
        actor = request.user
        if not self.has_change_permission(request) or not isinstance(actor, User):
            raise PermissionDenied
        key = self._key(request, key_id)
        address = reverse("admin:billing_apikey_change", args=[key.pk])
        if key.revoked_at is not None:
            self.message_user(request, "This key has already been revoked.", messages.INFO)
            return HttpResponseRedirect(address)
        if request.method == "POST":
            operations.keys.revoke(
                key.pk, actor=actor, channel=EventChannel.PANEL, now=timezone.now()
            )
            self.message_user(
                request,
                format_html("“{}” is revoked. It no longer works.", key.name),
                messages.SUCCESS,
            )
            return HttpResponseRedirect(address)
        context = page_context(request, self, title=titled(key, "Revoke"), user=None) | {
            "original": key,
            "report": report(key, timezone.now()),
        }
        return TemplateResponse(request, "billing/api_key_revoke.html", context)

    def _key(self, request: HttpRequest, key_id: object) -> ApiKey:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        keys = ApiKey.objects.select_related("owner", "created_by", "revoked_by")
        return row_or_404(keys, key_id)
