"""Sessions of the Panel API. A login opens one; it ends after 24 hours or by a logout."""

import secrets
from datetime import datetime, timedelta
from typing import Final

from billing.authority.hashes import hash_of
from billing.models import ApiSession
from users.models import User

SESSION_LASTS: Final = timedelta(hours=24)


def open_session(operator: User, now: datetime) -> str:
    """Opens a session of 24 hours. Returns its hash, 32 hexadecimal digits."""
    session_hash = secrets.token_hex(16)
    ApiSession.objects.filter(expires_at__lte=now).delete()
    ApiSession.objects.create(
        hashed=hash_of(session_hash),
        operator=operator,
        created_at=now,
        expires_at=now + SESSION_LASTS,
    )
    return session_hash


def find_session(session_hash: str, now: datetime) -> ApiSession | None:
    """Returns the session with this hash; None if it has ended or its operator is inactive."""
    return (
        ApiSession.objects.filter(
            hashed=hash_of(session_hash),
            expires_at__gt=now,
            operator__is_active=True,
            operator__is_staff=True,
        )
        .select_related("operator")
        .first()
    )


def end_session(session: ApiSession) -> None:
    session.delete()
