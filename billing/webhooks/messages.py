"""The messages: bodies of events, and their signatures by the rules of Standard Webhooks."""

import base64
import hashlib
import hmac
import json
import secrets
from datetime import datetime
from typing import Any, Final

from billing import representations
from billing.models import EventType, Transaction, WebhookEvent

SECRET_BEGINS: Final = "whsec_"  # noqa: S105 - what every one begins with
SECRET_BYTES: Final = 32
TEST_TYPE: Final = "webhook.test"


def new_secret() -> str:
    return SECRET_BEGINS + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Returns the header by which a receiver that has the secret can check the sender."""
    key = base64.b64decode(secret.removeprefix(SECRET_BEGINS))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def headers(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Returns the headers of an attempt made at `at`."""
    timestamp = int(at.timestamp())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, message_id, timestamp, body),
    }


def message_id(event_id: int) -> str:
    return f"evt_{event_id}"


def body_of(event: WebhookEvent, transaction: Transaction | None = None) -> bytes:
    """Returns the body, the same bytes at every attempt.

    `transaction` is the one that the event is about; None: it is looked up if there is one.
    """
    data = dict(event.data)
    if event.number is not None:
        if transaction is None:
            transaction = Transaction.objects.get(user=event.user_id, number=event.number)
        data = {"transaction": representations.transaction(transaction), **data}
    return _body(message_id(event.pk), event.type, event.created_at, event.user_id, data)


def test_body(identity: str, at: datetime) -> bytes:
    """Returns the body of a test message."""
    data = {"text": "This is a test: nothing happened."}
    return _body(identity, TEST_TYPE, at, None, data)


def _body(
    identity: str,
    event_type: EventType | str,
    at: datetime,
    user_id: int | None,
    data: dict[str, Any],
) -> bytes:
    message = {
        "id": identity,
        "type": str(event_type),
        "created_at": representations.moment(at),
        "user_id": user_id,
        "data": data,
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
