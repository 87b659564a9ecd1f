"""E-mail addresses: which there are, and which are the same mailbox.

Which spellings are one mailbox the database says (`users_email_identity`), whoever writes there;
what an address may look like is said here, for every channel.
"""

from typing import Final
from unicodedata import normalize

from django.core.exceptions import ValidationError
from django.core.validators import validate_email as has_usual_form
from django.db.models import Func, TextField, Value
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from users.texts import CANNOT_BE_SEEN, has_unseen

# Installations in closed networks write to "ada@panel.local"; whether mail gets there is not asked.
SPECIAL_USE_DOMAIN_NAMES.clear()

NOT_AN_ADDRESS: Final = "Enter a valid e-mail address."


class Mailbox(Func):
    """In a query: what is the same for all spellings of one mailbox."""

    function = "users_email_identity"
    output_field = TextField(db_collation="C")

    def __init__(self, email: object) -> None:
        super().__init__(Value(email) if isinstance(email, str) else email)


def composed(email: str) -> str:
    """An address as it is stored: as it was written, whatever its letters are put together of."""
    return normalize("NFC", email)


def validate_address(email: str) -> None:
    """Raises ValidationError for what is no e-mail address, whether or not mail can reach it."""
    if has_unseen(email):
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
