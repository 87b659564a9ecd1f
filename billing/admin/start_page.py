"""The start page: today's figures, with links to the lists behind them."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from django.core.cache import cache
from django.http import HttpRequest
from django.utils import timezone

from billing import currencies, reports, webhooks
from billing.admin.pages import midnight
from billing.admin.webhook_endpoints import counted
from billing.money import ZERO
from users.models import User

DAYS: Final = 30
# Past days hardly change: only a transaction that was being written at midnight can be added to
# them. Today's figures are never cached.
PAST_DAYS_CACHE_SECONDS: Final = 600


def start_page_context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Adds what the operator may see. Unfold calls it for the admin's index."""
    context["title"] = "Start page"
    if request.user.has_perm("users.view_user") and request.user.has_perm("billing.view_balance"):
        context["holdings"] = reports.holdings()
    if request.user.has_perm("users.view_user"):
        context["shared_mailboxes"] = _shared_mailboxes()
    if request.user.has_perm("billing.view_transaction"):
        context |= _turnovers() | {"latest": reports.latest(10)}
        context["proofs"] = reports.proof_state(timezone.now())
    if request.user.has_perm("billing.view_webhookendpoint"):
        context["failing_endpoints"] = webhooks.failing(timezone.now())
        context["stalled_since"] = webhooks.stalled_since(timezone.now())
    if request.user.has_perm("billing.view_webhookdelivery"):
        context["given_up"] = counted(webhooks.given_up_lately(timezone.now()))
    if request.user.has_perm("billing.view_chargingrun"):
        context |= _charging(timezone.now())
    return context


def _shared_mailboxes() -> list[str]:
    """Returns mailboxes that several customers share, from before that was refused."""
    customers = User.objects.sharing_mailbox().filter(is_staff=False)
    mailboxes = customers.values_list("email_identity", flat=True)
    return list(dict.fromkeys(mailboxes))


def _charging(now: datetime) -> dict[str, Any]:
    latest = reports.latest_run()
    day = latest and latest.at.astimezone(UTC).date()
    return {
        "overdue": reports.overdue(now),
        "run": latest,
        "run_day": day,
        "runs_of_day": day and reports.runs_of_day(day),
    }


def _turnovers() -> dict[str, Any]:
    today = timezone.localdate()
    first = today - timedelta(days=DAYS - 1)
    by_day = {timezone.localdate(day.day): day for day in _past_days(first, today)}
    for day in _days(today, today + timedelta(days=1)):
        by_day[today] = day
    days = [first + timedelta(days=offset) for offset in range(DAYS)]
    empty = reports.Turnover(ZERO, ZERO, ZERO)
    real = [by_day[day].real if day in by_day else empty for day in days]
    bonus = [by_day[day].bonus if day in by_day else empty for day in days]
    return {
        "today": today,
        "first_day": first,
        "turnover_today": reports.BothTurnovers(real[-1], bonus[-1]),
        "turnover_days": reports.BothTurnovers(_sum(real), _sum(bonus)),
        "moved_days": [
            (day, turnover) for day, turnover in zip(days, real, strict=True) if any(turnover)
        ],
        "chart": json.dumps(
            {
                "kind": "days",
                "decimals": currencies.own_decimals(),
                "days": [day.isoformat() for day in days],
                "refills": [str(turnover.refills) for turnover in real],
                "charges": [str(turnover.charges) for turnover in real],
            }
        ),
    }


def _past_days(first: date, today: date) -> list[reports.Day]:
    key = f"start-page-days:{timezone.get_current_timezone_name()}:{first}"
    days: list[reports.Day] | None = cache.get(key)
    if days is None:
        days = _days(first, today)
        cache.set(key, days, PAST_DAYS_CACHE_SECONDS)
    return days


def _days(first: date, end: date) -> list[reports.Day]:
    return reports.turnover_by_day(
        midnight(first), midnight(end), timezone.get_current_timezone_name()
    )


def _sum(turnovers: list[reports.Turnover]) -> reports.Turnover:
    refills = sum((turnover.refills for turnover in turnovers), ZERO)
    charges = sum((turnover.charges for turnover in turnovers), ZERO)
    reversals = sum((turnover.reversals for turnover in turnovers), ZERO)
    return reports.Turnover(refills, charges, reversals)
