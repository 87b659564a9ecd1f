"""Computes the digest of a transaction in Python, from docs/ledger.md alone.

It deliberately does not follow the database's function. Both agree because both do what the page
says. Another program can do the same, to verify the ledger without trusting this code.
"""

import hashlib
import json
from datetime import UTC
from decimal import Decimal
from typing import Any

from billing.models import GrantUse, Transaction

AMOUNTS = (
    "amount",
    "old_balance",
    "new_balance",
    "bonus_amount",
    "old_bonus",
    "new_bonus",
    "refilled",
    "bonus_refilled",
)


def canonical_form(row: Transaction, previous_digest: bytes) -> str:
    fields: list[str | None] = [
        previous_digest.hex(),
        str(row.pk),
        str(row.user_id),
        str(row.number),
        row.type,
        row.subtype,
        row.description,
        row.device,
        *(f"{getattr(row, name):.4f}" for name in AMOUNTS),
        row.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        None if row.actor_id is None else str(row.actor_id),
        row.channel,
        row.idempotency_key,
        None if row.reverses is None else str(row.reverses),
        as_jsonb(row.metadata),
    ]
    if row.form == 2:
        uses = GrantUse.objects.filter(user=row.user_id, number=row.number).order_by("line")
        further = {
            "uses": [[str(each.grant_number), f"{each.amount:.4f}"] for each in uses] or None,
            "payment_date": row.payment_date and row.payment_date.isoformat(),
            "bonus_expires_at": row.bonus_expires_at
            and row.bonus_expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reason": row.reason_id,
            "batch": row.batch_id and str(row.batch_id),
        }
        fields.append(as_jsonb({name: value for name, value in further.items() if value}))
    return json.dumps(fields, ensure_ascii=False)


def digest(row: Transaction, previous_digest: bytes) -> bytes:
    return hashlib.sha256(canonical_form(row, previous_digest).encode()).digest()


def as_jsonb(value: Any) -> str:
    """Returns JSON as jsonb writes it: shorter keys first, numbers without an exponent."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return "{" + ", ".join(f"{as_jsonb(k)}: {as_jsonb(value[k])}" for k in keys) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_jsonb, value)) + "]"
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    return json.dumps(value, ensure_ascii=False)
