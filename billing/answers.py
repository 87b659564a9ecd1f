"""Stored answers of API calls by idempotency key, so that no call does its work twice.

The ledger stores the keys of postings for good. This is for calls that do something else, or
several things. A key belongs to an operator and an address, so that nobody gets the answer to
another operator's call.

Everything happens in the caller's database transaction, which does the work.
"""

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Q

from billing.errors import AnswerForgotten, KeyUsed
from billing.models import KeptAnswer
from users.models import User

KEPT_FOR: Final = timedelta(days=7)

_TAKE: Final = """
    INSERT INTO billing_keptanswer (owner_id, call, key, fingerprint, answered_at, answer, lasts)
    VALUES (%(owner)s, %(call)s, %(key)s, %(fingerprint)s, %(now)s, '', %(lasts)s)
    ON CONFLICT (owner_id, call, key) DO NOTHING
"""


def fingerprint(body: bytes) -> str:
    """Returns a hash of JSON that does not depend on spaces or the order of fields."""
    try:
        content = json.dumps(json.loads(body), sort_keys=True).encode()
    except (ValueError, RecursionError):
        content = body
    return hashlib.sha256(content).hexdigest()


def take(
    owner: User, *, call: str, key: str, content: str, lasts: bool, now: datetime
) -> dict[str, Any] | None:
    """Takes the key for a call, and returns None; or returns the answer of an earlier such call.

    A second caller waits for the first, and gets its answer, or the key if the first was refused.
    Raises KeyUsed if the key was used with other content, and AnswerForgotten.
    """
    said: dict[str, Any] = {"owner": owner.pk, "call": call, "key": key}
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_TAKE, said | {"fingerprint": content, "now": now, "lasts": lasts})
            if cursor.rowcount:
                return None
            earlier = KeptAnswer.objects.filter(**said).first()
            if earlier is not None:  # otherwise it was just deleted
                break
    if earlier.fingerprint != content:
        raise KeyUsed
    if not earlier.answer:
        raise AnswerForgotten(day=f"{earlier.answered_at:%Y-%m-%d}")
    answer: dict[str, Any] = json.loads(earlier.answer)
    return answer


def keep(owner: User, *, call: str, key: str, answer: dict[str, Any]) -> None:
    """Stores the answer of the call that took the key."""
    KeptAnswer.objects.filter(owner=owner, call=call, key=key).update(answer=json.dumps(answer))


def forget_old(now: datetime) -> None:
    """Deletes old answers. A key that lasts stays used, without its answer."""
    old = KeptAnswer.objects.filter(answered_at__lt=now - KEPT_FOR).exclude(answer="")
    old.filter(lasts=True).update(answer="")
    old.filter(lasts=False).delete()


def forget_about(user_id: int) -> None:
    """Erases the answers to calls about a user. Their keys stay used, with no content."""
    address = Q(call__regex=rf"/users/{user_id}(/|$)")
    # The address of the call that adds a user does not name the user; its answer does.
    added = Q(call__endswith="/users", answer__contains=f'"id": {user_id},')
    # Rows without an answer are of calls that are being answered now.
    rows = KeptAnswer.objects.filter(address | added).exclude(answer="")
    rows.update(answer="", fingerprint="", lasts=True)
