"""Who may use the Billing API and the panel, and how often: keys, sessions, limits and logins.

Arguments called `now` are the time: only entry points read the clock.
"""

from billing.authority.hashes import hash_of
from billing.authority.keys import (
    KEY_BEGINS,
    LAST_USE_IS_NOTED_EVERY,
    PREFIX_LENGTH,
    Admission,
    KeyState,
    admit,
    find_key,
    issue_key,
    note_use,
    revoke_key,
    state_of,
    working_keys,
)
from billing.authority.limits import forget_allowances, return_allowance, spend, whole_seconds
from billing.authority.logins import (
    ADDRESS_IS_KNOWN_FOR,
    LOGINS_PER_MINUTE,
    LOGINS_PER_MINUTE_FROM_ANYWHERE,
    accept_login,
    spend_login,
)
from billing.authority.sessions import SESSION_LASTS, end_session, find_session, open_session

__all__ = [
    "ADDRESS_IS_KNOWN_FOR",
    "KEY_BEGINS",
    "LAST_USE_IS_NOTED_EVERY",
    "LOGINS_PER_MINUTE",
    "LOGINS_PER_MINUTE_FROM_ANYWHERE",
    "PREFIX_LENGTH",
    "SESSION_LASTS",
    "Admission",
    "KeyState",
    "accept_login",
    "admit",
    "end_session",
    "find_key",
    "find_session",
    "forget_allowances",
    "hash_of",
    "issue_key",
    "note_use",
    "open_session",
    "return_allowance",
    "revoke_key",
    "spend",
    "spend_login",
    "state_of",
    "whole_seconds",
    "working_keys",
]
