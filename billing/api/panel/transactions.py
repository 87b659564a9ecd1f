"""Calls about a user's transactions."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from billing import ledger, operations
from billing.api.panel.answers import moment
from billing.api.panel.calls import Call
from billing.api.panel.errors import SPAN_TOO_BIG, Refused
from billing.descriptions import DESCRIPTION_MAX_LENGTH, DESCRIPTION_MIN_LENGTH
from billing.models import Channel
from billing.money import ZERO
from billing.reports import Listing
from users.ids import id_in

DEALER_ID: Final = 1  # one dealer per installation
MOST_ROWS: Final = 20_000
LONGEST_SPAN: Final = timedelta(days=366)  # a year, of any year
# All times are between these; closer to the limits of datetime, arithmetic overflows.
EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)


def list_transactions(call: Call) -> dict[str, Any]:
    """Lists transactions, oldest first. The interval includes the seconds `from` and `to`."""
    parameters = call.parameters
    user = call.customer()
    first, last = parameters.moment("from"), parameters.moment("to")
    limit = parameters.whole("limit", highest=MOST_ROWS, default=MOST_ROWS)
    if first > last:
        raise parameters.wrong("to", "Should not be before “from”")
    if last - first > LONGEST_SPAN:
        raise Refused(SPAN_TOO_BIG)
    listing = Listing(
        user_id=user.pk,
        since=min(max(first, EARLIEST), LATEST),
        until=min(max(last, EARLIEST), LATEST) + timedelta(seconds=1),
    )
    rows = listing.rows.order_by("number").values(
        "id", "description", "type", "subtype", "created_at", "device",
        "amount", "new_balance", "old_balance", "bonus_amount", "new_bonus", "old_bonus",
    )[:limit]  # fmt: skip
    return {"list": [_shown(user.pk, row) for row in rows]}


def _shown(user_id: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "description": row["description"],
        "text": row["description"],
        "type": row["type"],
        "subtype": row["subtype"],
        "timestamp": moment(row["created_at"]),
        "user_id": user_id,
        "dealer_id": DEALER_ID,
        "tracker_id": tracker_id(row["device"]),
        "amount": row["amount"],
        "new_balance": row["new_balance"],
        "old_balance": row["old_balance"],
        "bonus_amount": row["bonus_amount"],
        "new_bonus": row["new_bonus"],
        "old_bonus": row["old_bonus"],
    }


def tracker_id(device: str) -> int:
    """Returns a device's number; 0 for no device, and for one with another name."""
    return id_in(device) or 0


def change_balance(call: Call) -> dict[str, Any]:
    parameters = call.parameters
    user = call.customer()
    amount = parameters.amount("amount")
    kind = parameters.choice("type", ("balance", "main", "bonus"))
    description = parameters.text(
        "text", longest=DESCRIPTION_MAX_LENGTH, shortest=DESCRIPTION_MIN_LENGTH
    )
    key = None
    if parameters.has("idempotency_key"):
        key = ledger.callers_key(parameters.text("idempotency_key", longest=100, shortest=1))
    operations.money.change_balance(
        user.pk,
        amount=ZERO if kind == "bonus" else amount,
        bonus_amount=amount if kind == "bonus" else ZERO,
        description=description,
        idempotency_key=key,
        actor=call.operator,
        channel=Channel.API,
    )
    return {}
