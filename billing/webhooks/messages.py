"""What is sent: the bodies of events, and their signatures, as Standard Webhooks has them."""

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
    """The signature's header: who has the secret can tell that the message is from here."""
    key = base64.b64decode(secret.removeprefix(SECRET_BEGINS))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def headers(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Those of one attempt, made at that time."""
    timestamp = int(at.timestamp())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, message_id, timestamp, body),
    }


def message_id(event_id: int) -> str:
    return f"evt_{event_id}"


def body_of(event: WebhookEvent, transaction: Transaction | None = None) -> bytes:
    """The same bytes at every attempt; `transaction` is the event's, where it is known already."""
    data = dict(event.data)
    if event.number is not None:
        if transaction is None:
            transaction = Transaction.objects.get(user=event.user_id, number=event.number)
        data = {"transaction": representations.transaction(transaction), **data}
    return _body(message_id(event.pk), event.type, event.created_at, event.user_id, data)


def test_body(identity: str, at: datetime) -> bytes:
    """Of a message that tells of nothing, for trying an endpoint."""
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
