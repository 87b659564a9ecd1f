"""The start page: today's figures, with links to the lists behind them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.http import HttpRequest
from django.utils import timezone

from billing import currencies, reports, webhooks
from billing.admin.pages import midnight
from billing.admin.webhook_endpoints import counted
from billing.money import ZERO
from users.models import User

DAYS: Final = 30


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
    found = reports.turnover_by_day(
        midnight(first), midnight(today + timedelta(days=1)), timezone.get_current_timezone()
    )
    by_day = {timezone.localdate(day.day): day for day in found}
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


def _sum(turnovers: list[reports.Turnover]) -> reports.Turnover:
    refills = sum((turnover.refills for turnover in turnovers), ZERO)
    charges = sum((turnover.charges for turnover in turnovers), ZERO)
    reversals = sum((turnover.reversals for turnover in turnovers), ZERO)
    return reports.Turnover(refills, charges, reversals)
