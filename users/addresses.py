"""E-mail addresses: which are valid, and which belong to the same mailbox.

The database decides which spellings are one mailbox (`users_email_identity`), so that this holds
for every writer. This module decides for every channel what a valid address looks like.
"""

from typing import Final
from unicodedata import normalize

from django.core.exceptions import ValidationError
from django.core.validators import validate_email as has_usual_form
from django.db.models import Func, TextField, Value
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from users.texts import CANNOT_BE_SEEN, has_invisible

# Installations in closed networks have addresses like "ada@panel.local"; nobody checks whether mail
# arrives there.
SPECIAL_USE_DOMAIN_NAMES.clear()

NOT_AN_ADDRESS: Final = "Enter a valid e-mail address."


class Mailbox(Func):
    """Query expression: the identity of an address's mailbox, the same for all its spellings."""

    function = "users_email_identity"
    output_field = TextField(db_collation="C")

    def __init__(self, email: object) -> None:
        super().__init__(Value(email) if isinstance(email, str) else email)


def composed(email: str) -> str:
    """Returns an address in the form in which it is stored: with composed characters (NFC)."""
    return normalize("NFC", email)


def validate_address(email: str) -> None:
    """Raises ValidationError for a malformed address. Does not check that mail can reach it."""
    if has_invisible(email):
        raise ValidationError(CANNOT_BE_SEEN)
    email = composed(email)
    has_usual_form(email)
    try:
        validate_email(
            email,
            allow_quoted_local=True,
            allow_domain_literal=True,
            check_deliverability=False,
            globally_deliverable=False,
        )
    except EmailNotValidError as problem:
        raise ValidationError(f"{NOT_AN_ADDRESS} {problem}") from None
