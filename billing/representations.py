"""The JSON of transactions and subscriptions for other programs, in answers and webhooks.

Amounts are texts with four decimals, times RFC 3339 in UTC, days ISO 8601.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from billing.models import Batch, Grant, Reason, Subscription, Transaction


def amount(value: Decimal) -> str:
    return f"{value:.4f}"


def moment(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def day(value: date | None) -> str | None:
    return None if value is None else value.isoformat()


def transaction(row: Transaction) -> dict[str, Any]:
    """Returns a transaction for programs. Like the transaction, it never changes."""
    return {
        "id": row.pk,
        "user_id": row.user_id,
        "number": row.number,
        "type": row.type,
        "subtype": row.subtype,
        "description": row.description,
        "device": row.device,
        "amount": amount(row.amount),
        "old_balance": amount(row.old_balance),
        "new_balance": amount(row.new_balance),
        "bonus_amount": amount(row.bonus_amount),
        "old_bonus": amount(row.old_bonus),
        "new_bonus": amount(row.new_bonus),
        "created_at": moment(row.created_at),
        "actor_id": row.actor_id,
        "channel": row.channel,
        "idempotency_key": row.idempotency_key,
        "reverses": row.reverses,
        "metadata": row.metadata,
        "digest": bytes(row.digest).hex(),
        "payment_date": day(row.payment_date),
        "bonus_expires_at": row.bonus_expires_at and moment(row.bonus_expires_at),
        "reason": row.reason_id,
        "batch": row.batch_id,
    }


def batch(row: Batch) -> dict[str, Any]:
    """Returns a batch for programs, as it is now."""
    return {
        "id": row.pk,
        "kind": row.kind,
        "title": row.title,
        "actor_id": row.actor_id,
        "channel": row.channel,
        "file_name": row.file_name or None,
        "file_hash": row.file_hash or None,
        "created_at": moment(row.created_at),
        "entries": row.entries,
        "posted": row.posted,
        "refused": row.refused,
        "state": row.state,
        "real": amount(row.real),
        "bonus": amount(row.bonus),
        "reverses": row.reverses_id,
    }


def reason(row: Reason) -> dict[str, Any]:
    """Returns a reason for programs, as it is now."""
    return {
        "code": row.code,
        "label": row.label,
        "template": row.template,
        "fields": row.fields,
        "direction": row.direction,
        "balances": row.balances,
        "bonus_days": row.bonus_days,
        "is_comment_required": row.is_comment_required,
        "is_active": row.is_active,
    }


def grant(row: Grant) -> dict[str, Any]:
    """Returns a grant for programs, as it is now."""
    return {
        "number": row.number,
        "amount": amount(row.amount),
        "left": amount(row.remaining),
        "expires_at": row.expires_at and moment(row.expires_at),
    }


def subscription(row: Subscription) -> dict[str, Any]:
    """Returns a subscription for programs. Reads `row.plan` unless it was selected with the row."""
    return {
        "id": row.pk,
        "user_id": row.user_id,
        "plan_id": row.plan_id,
        "plan": row.plan.name,
        "device": row.device,
        "status": row.status,
        "started_on": day(row.started_on),
        "plan_since": day(row.plan_since),
        "status_since": day(row.status_since),
        "suspension_reason": row.suspension_reason or None,
        "charged_from": day(row.charged_from),
        "charged_through": day(row.charged_through),
        "paid": amount(row.paid),
        "charge_number": row.charge_number,
    }
