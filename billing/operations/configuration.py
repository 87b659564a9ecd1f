"""Saving and deleting services, plans, defaults for new users, reasons and vouchers."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Final

from django.db.models import Model

from billing import events
from billing.models import (
    Channel,
    Event,
    Plan,
    Reason,
    Service,
    ServicePrice,
    Subject,
    UserDefaults,
    Voucher,
    WebhookEndpoint,
)
from billing.operations._common import one_transaction, plan_data
from users.models import User

# The fields that events store; neither the secret of a webhook nor the code of a voucher.
KEPT: Final[Mapping[type[Model], tuple[str, ...]]] = {
    Service: ("name", "code", "unit", "is_active"),
    Plan: ("name", "cycle", "price", "proportional_charge", "is_active"),
    UserDefaults: ("bonus", "plan"),
    Reason: (
        *("code", "label", "template", "direction", "balances"),
        *("bonus_days", "is_comment_required", "is_active", "position"),
    ),
    Voucher: (
        *("title", "amount", "bonus", "bonus_days", "bonus_until", "plan"),
        *("uses_max", "valid_until", "is_active"),
    ),
    WebhookEndpoint: ("name", "url", "events", "is_active"),
}
# Prices of a plan by ID of the service; None: the plan does not offer it.
Prices = Mapping[int, Decimal | None]


def save(
    row: Model, *, prices: Prices | None = None, actor: User | None, channel: Channel
) -> Event | None:
    """Saves a service, plan, … and, with `prices`, the prices of a plan's services.

    Returns the event; None if nothing changed. The caller has locked what it read and showed.
    """
    kind = type(row)
    with one_transaction(dry_run=False):
        before = None if row._state.adding else kind._default_manager.filter(pk=row.pk).first()
        if kind is UserDefaults:  # the single row, created when it is first saved
            before = UserDefaults.objects.filter(pk=row.pk).first() or UserDefaults(pk=row.pk)
        old = {} if before is None else values(before)
        old_prices = _prices(row)
        row.save()
        _save_prices(row, prices)
        new = values(row)
        changes = [
            {"field": name, "before": old.get(name), "after": value}
            for name, value in new.items()
            if before is None or old.get(name) != value
        ]
        changes += _price_changes(old_prices, _prices(row))
        if not changes:
            return None
        action = "configured" if before is None else "reconfigured"
        return events.record(
            subject_of(row), row.pk, action, actor=actor, channel=channel, changes=changes
        )


def delete(row: Model, *, actor: User | None, channel: Channel) -> Event:
    """Deletes a row that was never used; the database refuses others."""
    with one_transaction(dry_run=False):
        row_id, name = row.pk, str(row)
        row.delete()
        return events.record(
            subject_of(row), row_id, "deleted", actor=actor, channel=channel, name=name
        )


def subject_of(row: Model) -> Subject:
    """Returns the subject of events about this row."""
    return Subject.REASON if isinstance(row, Reason) else Subject(str(row._meta.model_name))


def values(row: Model) -> dict[str, Any]:
    """Returns what events store of a row, as JSON."""
    return {name: _value(getattr(row, name)) for name in KEPT[type(row)]}


def _value(value: Any) -> Any:
    """Returns a field's value as JSON: an amount or a day as text, a plan as ID and name."""
    if isinstance(value, Decimal):
        return f"{value:.4f}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Plan):
        return plan_data(value)
    return list(value) if isinstance(value, list) else value


def _prices(row: Model) -> dict[int, tuple[str, str]]:
    """Returns the services of a plan by ID, with name and price; {} for other rows."""
    if not isinstance(row, Plan) or row.pk is None:
        return {}
    prices = ServicePrice.objects.filter(plan=row).select_related("service")
    return {price.service_id: (price.service.name, f"{price.price:.4f}") for price in prices}


def _save_prices(plan: Model, prices: Prices | None) -> None:
    for service_id, price in (prices or {}).items():
        rows = ServicePrice.objects.filter(plan=plan.pk, service=service_id)
        if price is None:
            rows.delete()
        elif not rows.update(price=price):
            ServicePrice.objects.create(plan_id=plan.pk, service_id=service_id, price=price)


def _price_changes(
    before: Mapping[int, tuple[str, str]], after: Mapping[int, tuple[str, str]]
) -> list[dict[str, Any]]:
    services = {**before, **after}
    return [
        {
            "field": "service_price",
            "service": {"id": service_id, "name": name},
            "before": before[service_id][1] if service_id in before else None,
            "after": after[service_id][1] if service_id in after else None,
        }
        for service_id, (name, _) in sorted(services.items(), key=lambda each: each[1])
        if before.get(service_id) != after.get(service_id)
    ]
