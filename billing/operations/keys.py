"""Adding and revoking API keys."""

from datetime import datetime

from billing import authority, events
from billing.events import Note
from billing.models import ApiKey, EventChannel, Subject
from billing.operations._common import one_transaction
from users import database
from users.models import User


def add(
    *,
    name: str,
    owner: User,
    is_read_only: bool,
    expires_at: datetime | None,
    requests_per_minute: int | None = None,
    actor: User,
    channel: EventChannel,
) -> tuple[ApiKey, str]:
    """Makes a key. Returns it and its secret, which nobody can find out later."""
    with one_transaction(dry_run=False):
        key, secret = authority.issue_key(
            name=name,
            owner=owner,
            created_by=actor,
            is_read_only=is_read_only,
            expires_at=expires_at,
            requests_per_minute=requests_per_minute,
        )
        entered = {
            "name": key.name,
            "prefix": key.prefix,
            "owner": owner.pk,  # only the ID: events do not store names
            "is_read_only": is_read_only,
            "expires_at": None if expires_at is None else expires_at.isoformat(),
            "requests_per_minute": requests_per_minute,
        }
        events.record_all(
            [
                Note(Subject.API_KEY, key.pk, "key_made", entered),
                Note(Subject.OPERATOR, owner.pk, "key_added", _named(key)),
            ],
            actor=actor,
            channel=channel,
        )
    return key, secret


def revoke(key_id: int, *, actor: User, channel: EventChannel, now: datetime) -> bool:
    """Revokes a key from the next request on. Returns False if it was already revoked."""
    with one_transaction(dry_run=False):
        rows = ApiKey.objects.filter(pk=key_id)
        key = database.lock_row(rows, key_id, no_key=False)
        if key is None or key.revoked_at is not None:
            return False
        authority.revoke_key(key, by=actor, now=now)
        events.record_all(
            [
                Note(Subject.API_KEY, key.pk, "revoked", {}),
                Note(Subject.OPERATOR, key.owner_id, "key_revoked", _named(key)),
            ],
            actor=actor,
            channel=channel,
        )
    return True


def _named(key: ApiKey) -> dict[str, str | int]:
    return {"key": key.pk, "name": key.name, "prefix": key.prefix}
