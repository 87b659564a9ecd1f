"""The page on which the date of a user's gift is changed."""

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from unfold.admin import ModelAdmin

from billing import operations
from billing.admin.pages import (
    PanelForm,
    customer_or_404,
    outages_shown_in,
    page_context,
    page_of_form,
)
from billing.admin.transactions import DayField
from billing.errors import BillingError
from billing.models import Channel, Grant
from users.models import User


class GiftForm(PanelForm):
    """The last day of a gift. Empty: it never expires."""

    last_day = DayField(
        label="Last day", help_text="The last day on which it can be spent. Empty: never expires."
    )

    def __init__(self, grant: Grant, data: Any) -> None:
        super().__init__(data, initial={"last_day": last_day_of(grant.expires_at)})


def last_day_of(expires_at: datetime | None) -> date | None:
    """Returns the last day before a gift expires, in the installation's time zone."""
    if expires_at is None:
        return None
    return (expires_at.astimezone(ZoneInfo(settings.TIME_ZONE)) - timedelta(microseconds=1)).date()


def gift_expiry(
    request: HttpRequest, user_id: int, model_admin: ModelAdmin, *, number: int
) -> HttpResponseBase:
    """Shows and saves the last day of a gift of which something is left."""
    actor = request.user
    if not actor.has_perm("billing.change_balance") or not isinstance(actor, User):
        raise PermissionDenied
    user = customer_or_404(user_id)
    grant = Grant.objects.filter(user=user.pk, number=number).first()
    if grant is None:
        raise Http404("The user has no such gift.")
    form = GiftForm(grant, request.POST if request.method == "POST" else None)
    if form.is_valid() and not form.has_changed():
        # A time within the day, which a program has set, is not moved to the end of the day.
        messages.info(request, f"Gift No. {number} was left as it is.")
        return HttpResponseRedirect(reverse("admin:users_user_change", args=[user.pk]))
    if form.is_valid():
        try:
            with outages_shown_in(form):
                operations.bonus.change_expiry(
                    user.pk,
                    number,
                    form.cleaned_data["last_day"],
                    actor=actor,
                    channel=Channel.PANEL,
                )
        except BillingError as refusal:
            form.add_error("last_day", str(refusal))
        if not form.errors:
            day = form.cleaned_data["last_day"]
            messages.success(
                request,
                f"Gift No. {number} can be spent until the end of {day}."
                if day
                else f"Gift No. {number} never expires.",
            )
            return HttpResponseRedirect(reverse("admin:users_user_change", args=[user.pk]))
    context = page_context(request, model_admin, title="Date of a gift", user=user) | {
        "form": form,
        "grant": grant,
        "zone": settings.TIME_ZONE,
    }
    return page_of_form(request, "billing/gift.html", context, form)
